"""What is simulated comes to what can be worked out, where it can be worked out."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import pytest

from growth.failover import drained_after_s, refused_for_s
from growth.lease import RUNS, Lease
from growth.lease import simulate as spend
from growth.primary import Pause, Primary, keeps_up, simulate, size_of, trip_s
from growth.skew import (
    Cell,
    fullest_cell,
    fullest_primary,
    heavy_shares,
    power_sum,
    shard_shares,
    zipf_exponent,
)

ONE_BY_ONE = Primary(
    rate=0, processes=1, lanes=None, batch_max=1, shards=1,
    call_s=60e-6, operation_s=40e-6, network_s=0.0,
)  # fmt: skip


def primary(rate: float, processes: int = 8, shards: int = 1, network_s: float = 5e-4) -> Primary:
    return Primary(rate, processes, 2, 250, shards, 20e-6, 5e-6, network_s)


def at(one: Primary, rate: float) -> Primary:
    return replace(one, rate=rate)


@pytest.mark.parametrize("busy", [0.3, 0.7, 0.85])
def test_calls_one_by_one_wait_as_pollaczek_and_khinchine_say(busy: float) -> None:
    """Poisson arrivals and a fixed time: M/D/1."""
    service_s = ONE_BY_ONE.dearest_s
    seen = simulate(at(ONE_BY_ONE, busy / service_s), 100_000, seed=1)
    wait_s = busy * service_s / (2 * (1 - busy))
    assert fmean(seen.waits) - service_s == pytest.approx(wait_s, rel=0.05)
    assert seen.busy == pytest.approx(busy, rel=0.02)
    at_once = sum(wait < service_s * 1.000001 for wait in seen.waits) / len(seen.waits)
    assert at_once == pytest.approx(1 - busy, abs=0.02)
    assert seen.size == 1


def test_the_network_is_added_and_makes_nobody_wait() -> None:
    near, far = (
        simulate(at(Primary(0, 1, None, 1, 1, 6e-5, 4e-5, trip), 3_000), 20_000, seed=2)
        for trip in (0.0, 0.08)
    )
    assert far.at(0.5) - near.at(0.5) == pytest.approx(0.08, abs=1e-4)


@pytest.mark.parametrize("processes", [1, 8, 100])
@pytest.mark.parametrize("shards", [1, 20])
@pytest.mark.parametrize("load", [0.05, 0.15, 0.4, 0.55])
def test_answers_take_as_long_as_the_closed_form_says(
    processes: int, shards: int, load: float
) -> None:
    """Nearly all within two trips, and not much sooner."""
    one = primary(load * primary(1).most, processes, shards)
    seen = simulate(one, 30_000, seed=3)
    assert trip_s(one) * 0.6 < seen.at(0.99) < 2 * trip_s(one) * 1.4
    assert seen.at(0.5) > one.network_s
    if seen.busy < 0.9:
        assert seen.size == pytest.approx(size_of(one), rel=0.6)


def test_calls_grow_until_the_thread_keeps_up() -> None:
    one = primary(1)
    assert size_of(at(one, one.most)) == pytest.approx(one.batch_max, rel=0.01)
    assert size_of(at(one, 0.9 * one.most)) < one.batch_max
    assert size_of(one) == 1
    assert not keeps_up(at(one, 0.7 * one.most), use=0.6, answer_s=10)
    assert keeps_up(at(one, 0.5 * one.most), use=0.6, answer_s=10)
    assert not keeps_up(at(one, 0.5 * one.most), use=0.6, answer_s=1e-4)


def test_more_gateways_and_more_shards_make_smaller_calls_and_longer_answers() -> None:
    rate = 0.5 * primary(1).most
    few, many, spread = (trip_s(primary(rate, *how)) for how in ((4,), (400,), (4, 32)))
    assert few < many
    assert few < spread


def test_what_waited_in_a_pause_is_done_after_what_is_free_allows() -> None:
    """Nobody gives up, and each operation costs what it did before: pause * busy / free."""
    busy, pause_s = 0.6, 1.0
    one = at(ONE_BY_ONE, busy / ONE_BY_ONE.dearest_s)
    seen = simulate(one, 30_000, 4, Pause(1.0, pause_s, math.inf))
    # Late is who waited longer than a tenth of the pause.
    assert seen.late_until_s - 2.0 == pytest.approx(
        drained_after_s(pause_s, busy) - 0.1 / (1 - busy) * 1.0, rel=0.15
    )
    assert seen.waits[-1] == pytest.approx(pause_s, rel=0.02)
    assert seen.refused == 0


def test_reserves_are_refused_that_would_wait_longer_than_they_may() -> None:
    rate, pause_s = 3_000.0, 5.0
    seen = simulate(primary(rate), 60_000, 5, Pause(2.0, pause_s, 2.0))
    assert refused_for_s(pause_s) == 3.0
    assert seen.refused == pytest.approx(rate / 2 * refused_for_s(pause_s), rel=0.05)
    assert refused_for_s(1.0) == 0


@pytest.mark.parametrize(
    "lease", [Lease(20, 1_000, 50, 1, 1), Lease(5, 200, 100, 2, 0.5), Lease(1, 50, 10, 1, 2)]
)
def test_a_lease_strands_half_a_slice_each_and_loses_half_an_interval(lease: Lease) -> None:
    seen = spend(lease, seed=6)
    half = lease.slice / 2
    assert seen.stranded == pytest.approx((lease.sidecars - 1) * half, rel=0.15, abs=0.1)
    assert seen.stranded_worst <= lease.stranded_max
    assert seen.lost == pytest.approx(lease.lost_max / 2, rel=0.15)
    assert lease.waits_for_home == lease.cost / lease.slice
    assert RUNS >= 100


def test_sums_of_powers_are_what_adding_says() -> None:
    for exponent in (0.0, 0.5, 1.0, 1.7):
        added = sum(k**-exponent for k in range(1, 20_001))
        assert power_sum(20_000, exponent) == pytest.approx(added, rel=1e-6)


@pytest.mark.parametrize(("organisations", "largest"), [(10_000, 0.1), (1_000_000, 0.01), (3, 0.9)])
def test_organisations_have_the_shares_that_were_asked_for(
    organisations: int, largest: float
) -> None:
    shares = heavy_shares(organisations, largest)
    assert shares[0] == pytest.approx(largest, rel=1e-6)
    assert list(shares) == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-9


def test_a_tenth_for_the_largest_of_ten_thousand_is_zipf_itself() -> None:
    """So it was in the year of usage that docs/performance.md has: a ninth for the largest."""
    assert zipf_exponent(10_000, 1 / power_sum(10_000, 1.0)) == pytest.approx(1.0)
    assert 1 / 10.2 < heavy_shares(10_000, 1 / 9)[0] < 1 / 8.8


def test_cells_are_even_until_one_organisation_is_larger() -> None:
    assert fullest_cell(100_000, 0.01, 10).share == pytest.approx(0.1, rel=0.01)
    assert fullest_cell(100_000, 0.3, 10).share == pytest.approx(0.3, rel=0.01)
    assert fullest_cell(1, 1.0, 10) == Cell((0,), 1.0)


def test_shards_and_primaries_are_those_of_the_code() -> None:
    """64 shards on three nodes are 21, 23 and 20, as a real cluster had it."""
    cell = fullest_cell(100_000, 0.00001, 1)
    even = [1 / 64] * 64
    assert fullest_primary(even, 3).shards == 23
    assert fullest_primary(even, 1).shards == 64
    assert sum(shard_shares(100_000, 0.00001, cell, 64)) == pytest.approx(1)
    largest = shard_shares(100_000, 0.2, fullest_cell(100_000, 0.2, 1), 64)
    assert max(largest) > 0.2

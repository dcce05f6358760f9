"""The model comes to what was measured, and says so where it cannot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from growth.bounds import (
    cells_needed,
    gateways_of_cell,
    lay_out,
    memory_rate,
    of_largest,
    on_one_machine,
    primary_rate,
)
from growth.measure import fit, main, measure
from growth.measured import CALL_US, MEASURED, OPERATION_US, PAGE, read_page
from growth.plan import MONTH_S, Plan
from growth.primary import Primary, simulate

THREAD_US = {1: 87.7, 10: 24.6, 100: 14.8, 250: 15.4}
"""What `python -m growth.measure` saw by operations of a call, on 2026-11-30 at a load of 13."""


def test_the_page_has_every_figure() -> None:
    assert MEASURED.script_alone_us > MEASURED.script_batch_us > 0
    assert 50 < MEASURED.account_bytes < 150
    assert MEASURED.hold_bytes > MEASURED.outcome_bytes > MEASURED.event_bytes
    assert MEASURED.meter_per_s > MEASURED.sidecar_per_s > MEASURED.route_per_s
    with pytest.raises(ValueError, match="has no settle_per_s"):
        read_page(PAGE.read_text("utf-8").replace("| events/s |", "| events |"))


def test_a_call_and_its_operations_add_up_to_what_was_measured() -> None:
    for size, thread_us in THREAD_US.items():
        assert CALL_US / size + OPERATION_US == pytest.approx(thread_us, rel=0.1)
    call, operation = fit(THREAD_US)
    assert (call, operation) == pytest.approx((CALL_US, OPERATION_US), rel=0.05)


@pytest.mark.slow  # It starts a server of its own.
async def test_the_two_costs_can_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAXIMETER_REDIS_URL", "redis://elsewhere:6379/0")
    with pytest.raises(SystemExit, match="TAXIMETER_REDIS_URL is set"):
        main()
    monkeypatch.delenv("TAXIMETER_REDIS_URL")
    seen = await measure(tmp_path, rounds=1, least=50)
    assert seen.keys() == THREAD_US.keys()
    assert all(0 < thread_us < 1e5 for thread_us in seen.values())


def test_a_backlog_drains_as_it_was_measured() -> None:
    """A million events behind, 5,000 more each second."""
    assert 1e6 / (MEASURED.drain_per_s - 5_000) == pytest.approx(MEASURED.drain_s, rel=0.1)


def test_one_process_does_not_fill_a_primary() -> None:
    """It was measured to be busy with its own work, and the model has Redis keep up with it."""
    rate = MEASURED.meter_per_s * 2
    one = Primary(rate, 1, 2, 250, 1, CALL_US / 1e6, OPERATION_US / 1e6, 5e-4)
    assert rate < one.most
    # Half of that rate: garbage collection and a shared core come on top (PING had 1.4 and 14 ms).
    seen = simulate(replace(one, rate=MEASURED.meter_per_s), 20_000, seed=1)
    assert 5e-4 < seen.at(0.5) < 1.68e-3
    assert seen.at(0.99) < 15.2e-3


@pytest.mark.parametrize(
    ("script_us", "primaries"), [(4.3, 15), (22.0, 74), (14.9, 50), (93.0, 311)]
)
def test_primaries_of_a_million_requests_by_script_time_alone(
    script_us: float, primaries: int
) -> None:
    """Two operations each, at 60 % of a core, as a quiet and a busy machine had it."""
    plan = Plan(call_us=0.0, operation_us=script_us)
    assert math.ceil(plan.requests / primary_rate(plan, 1)) == primaries


def test_the_sums_on_paper() -> None:
    plan = Plan()
    assert plan.users * MEASURED.account_bytes == pytest.approx(7.5e9, rel=0.01)
    assert plan.requests * plan.hold_s * MEASURED.hold_bytes == pytest.approx(3.1e9, rel=0.02)
    assert plan.requests * plan.outcome_bytes == pytest.approx(54e9, rel=0.01)
    assert plan.requests * plan.wal_bytes == pytest.approx(1.6e9, rel=0.03)
    settling = math.ceil(1e6 / (MEASURED.settle_per_s * 8 * 0.6))
    assert cells_needed(replace(plan, disk_tb=1e6)) == {"WAL": 9, "settling": settling, "disk": 1}
    month = replace(plan, requests=1e10 / MONTH_S, peak=1.0, months=1, id_days=15)
    assert month.requests == pytest.approx(3_858, rel=0.001)
    assert month.month_bytes == pytest.approx(5.33e12, rel=0.01)
    assert month.kept_bytes * month.requests == pytest.approx(7.55e12, rel=0.01)


def test_what_is_full_first_is_first_and_full() -> None:
    plan = Plan(requests=20_000, users=1_000_000)
    bounds = on_one_machine(plan)
    assert [one.requests for one in bounds] == sorted(one.requests for one in bounds)
    by_name = {one.name.split(",")[0].split(" of ")[0]: one.requests for one in bounds}
    assert by_name["settling"] == plan.settle
    assert by_name["WAL"] == pytest.approx(122_000, rel=0.01)
    full = memory_rate(plan)
    taken = full * plan.memory_per_request + plan.events_kept_bytes(full, 1)
    assert taken + plan.users * MEASURED.account_bytes == pytest.approx(64e9 * 0.6, rel=0.001)
    assert memory_rate(replace(plan, memory_gb=0.1)) == 0


def test_the_largest_organisation_is_a_bound_that_machines_do_not_move() -> None:
    plan = Plan(largest=0.1)
    settling = next(one for one in of_largest(plan) if one.name.startswith("settling"))
    assert settling.requests == pytest.approx(plan.settle * 10)
    assert of_largest(replace(plan, cores=64, shards=1_024, requests=5e6)) == of_largest(
        replace(plan, requests=5e6)
    )
    assert lay_out(plan).shard_share >= 0.0999


def test_every_primary_of_a_layout_has_room() -> None:
    plan = Plan()
    layout = lay_out(plan)
    assert layout.fits
    rate = primary_rate(plan, layout.node.shards, gateways_of_cell(plan, layout.cells))
    assert layout.node.share * plan.requests <= rate
    assert layout.cells == max(layout.cells_by.values())
    alone = replace(plan, largest=0.4)
    assert not lay_out(alone).fits

"""Writes what a plan comes to, as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from growth.bounds import (
    CELLS_MAX,
    Bound,
    Layout,
    gateways_of_cell,
    lay_out,
    memory_of,
    of_largest,
    on_one_machine,
    primary_of,
    processes_by_front,
)
from growth.failover import fail_over
from growth.lease import Lease
from growth.lease import simulate as spend
from growth.measured import MEASURED
from growth.plan import Plan
from growth.primary import Primary, simulate

LOADS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""Shares of what a primary can do in the fullest calls there may be."""
FULL: Final = 1.02
"""Busier than always: more came than was done while it was simulated."""
BAR: Final = 24
_UNITS: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def lines(plan: Plan) -> Iterator[str]:
    """Everything that `make growth` says of a plan."""
    layout = lay_out(plan)
    yield (
        f"{plan.requests:,.0f} requests/s, {plan.organisations:,} organisations"
        f" (the largest makes {plan.largest:.2%}), {plan.users:,} users"
    )
    yield from _full_at("One shard, one primary and one Postgres are full at", on_one_machine(plan))
    yield from _full_at("However many machines there are, full at", of_largest(plan))
    yield from _needed(plan, layout)
    fullest = primary_of(
        plan,
        plan.requests * layout.node.share,
        max(1, layout.node.shards),
        gateways_of_cell(plan, layout.cells),
    )
    yield from _latency(plan, fullest)
    yield from _failover(plan, fullest, layout)
    yield from _lease(plan)


def amount(value: float, unit: str) -> str:
    """`7,500,000,000` bytes as `7.5 GB`, to two digits or three."""
    for size, name in _UNITS:
        if value >= size:
            return f"{_digits(value / size)} {name}{unit}"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _rate(value: float) -> str:
    """A rate to three digits."""
    if value <= 0:
        return "0/s"
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{round(value, 2 - math.floor(math.log10(value))):,.{digits}f}/s"


def _full_at(title: str, bounds: list[Bound]) -> Iterator[str]:
    yield ""
    yield title
    for bound in bounds:
        yield f"  {_rate(bound.requests):>14}  {bound.name:<39} {bound.of}"


def _needed(plan: Plan, layout: Layout) -> Iterator[str]:
    by = ", ".join(f"{name} {count:,}" for name, count in layout.cells_by.items())
    yield ""
    yield f"{plan.requests:,.0f} requests/s take"
    if max(layout.cells_by.values()) > CELLS_MAX:
        yield f"  more than {CELLS_MAX:,} cells: {by}"
        return
    yield f"  {layout.cells:>14,}  cells, each with one Postgres: {by}"
    node = layout.node
    if layout.fits:
        yield (
            f"  {layout.primaries:>14,}  primaries a cell; the fullest: {node.shards} shards,"
            f" {_rate(plan.requests * node.share)}, {amount(memory_of(plan, node), 'B')}"
        )
    else:
        yield (
            f"  {'none':>14}  enough: its fullest primary ({node.shards} shards) has"
            f" {_rate(plan.requests * node.share)}"
        )
    kept = plan.events_kept_bytes(plan.requests / layout.cells, plan.shards) * layout.cells
    parts = {
        "accounts": plan.users * MEASURED.account_bytes,
        "holds": plan.requests * plan.hold_bytes,
        "outcomes": plan.requests * plan.outcome_bytes,
        "events": kept,
    }
    named = ", ".join(f"{name} {amount(size, 'B')}" for name, size in parts.items())
    yield f"  {amount(sum(parts.values()), 'B'):>14}  of Redis in all: {named}"
    shard = plan.requests * layout.shard_share
    late = "" if shard <= plan.settle else f", more than the {_rate(plan.settle)} that settle"
    yield f"  {_rate(shard):>14}  in the fullest shard{late}"
    wal = plan.requests * layout.cell.share * plan.wal_bytes
    yield f"  {amount(wal, 'B/s'):>14}  of WAL in the fullest cell"
    fronts = ", ".join(f"{count:,} {name}" for name, count in processes_by_front(plan).items())
    yield f"  {'cores':>14}  of gateways, by front end: {fronts}"
    month = plan.month_bytes
    ids = 2 * plan.id_days * 86_400 * plan.requests / plan.peak * plan.id_bytes
    archived = month * plan.archive_bytes / plan.row_bytes
    yield f"  {amount(month, 'B'):>14}  of usage a month, {amount(archived, 'B')} as an archive"
    yield f"  {amount(ids, 'B'):>14}  of request ids in all"


def _latency(plan: Plan, fullest: Primary) -> Iterator[str]:
    yield ""
    yield "How long an answer of the fullest primary takes, simulated"
    yield "        requests/s  its thread  operations a write   p50, ms   p99, ms"
    rows = []
    for load in LOADS:
        rate = fullest.most * load
        seen = simulate(replace(fullest, rate=rate), plan.operations, plan.seed)
        if seen.busy > FULL:
            break
        rows.append((rate, seen))
    # The bars are as long as the logarithm of p99.
    longest = max(seen.at(0.99) for _, seen in rows)
    shortest = min(seen.at(0.99) for _, seen in rows) / 2
    for rate, seen in rows:
        share = math.log(seen.at(0.99) / shortest) / math.log(longest / shortest)
        yield (
            f"  {_rate(rate / plan.operations_per_request):>16} {min(seen.busy, 1):>11.0%}"
            f" {seen.size:>19.1f} {seen.at(0.5) * 1e3:>9.2f} {seen.at(0.99) * 1e3:>9.2f}"
            f"  {'█' * max(1, round(share * BAR))}"
        )
    if fullest.rate >= fullest.most:
        yield "  With this load it cannot keep up."
        return
    seen = simulate(fullest, plan.operations, plan.seed)
    p50, p99 = seen.at(0.5) * 1e3, seen.at(0.99) * 1e3
    busy = min(seen.busy, 1)
    yield f"  With this load it is {busy:.0%} busy: p50 {p50:.2f} ms, p99 {p99:.2f} ms at home"
    for trip in plan.round_trips_ms:
        part = plan.abroad / len(plan.round_trips_ms)
        yield (
            f"  {part:.1%} of requests from a region {trip:g} ms away:"
            f" p50 {p50 + trip:.1f} ms, p99 {p99 + trip:.1f} ms"
        )


def _failover(plan: Plan, fullest: Primary, layout: Layout) -> Iterator[str]:
    if fullest.rate >= fullest.most or not plan.pause_s:
        return
    yield ""
    seen = fail_over(fullest, plan.pause_s, plan.lag_ms / 1e3, plan.seed, plan.operations)
    share = layout.node.share
    yield f"That primary is away for {plan.pause_s:g} s; {share:.2%} of all requests notice"
    yield f"  {seen.refused:>14,.0f}  reserves are refused with 503, after 2 s each"
    yield f"  {seen.longest_s:>12.1f} s  is the longest wait of what was answered"
    yield f"  {seen.drained_s:>12.1f} s  until what waited is done"
    yield (
        f"  {seen.lost:>14,.0f}  acknowledged operations gone, with a replica"
        f" {plan.lag_ms:g} ms behind; none in M4 and M5"
    )


def _lease(plan: Plan) -> Iterator[str]:
    lease = Lease(plan.sidecars, plan.slice, plan.account_rate, plan.cost, plan.flush_s)
    seen = spend(lease, plan.seed)
    yield ""
    yield (
        f"If {plan.sidecars} processes abroad had leases of {plan.slice:g} credits"
        f" on one account ({plan.account_rate:g}/s of {plan.cost:g})"
    )
    yield (
        f"  {seen.stranded:>14,.0f}  credits stranded when one is refused"
        f" (worst {seen.stranded_worst:,.0f}; others x slice: {lease.stranded_max:,.0f})"
    )
    yield (
        f"  {seen.lost:>14,.1f}  credits lost when all die, flushed every {plan.flush_s:g} s"
        f" (worst {seen.lost_worst:,.0f}; rate x interval: {lease.lost_max:,.0f})"
    )
    yield f"  {lease.waits_for_home:>14.1%}  of requests wait for the home region, instead of all"

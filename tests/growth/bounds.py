"""Finds what fills up first, and how many of everything a load takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from growth.measured import MEASURED
from growth.plan import FRONTS, Plan
from growth.primary import Primary, keeps_up
from growth.skew import Cell, Node, fullest_cell, fullest_primary, shard_shares

PRIMARIES_MAX = 64
CELLS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Bound:
    """Something that is full at `requests` a second."""

    name: str
    requests: float
    of: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How a load is spread, and the fullest part of each kind."""

    cells: int
    cells_by: dict[str, int]
    cell: Cell
    shard_share: float
    primaries: int
    node: Node
    fits: bool
    """Whether the fullest primary stays within its share with any number of them."""


def primary_of(plan: Plan, requests: float, shards: int, processes: int) -> Primary:
    """A primary that so many requests a second reach, from so many gateways."""
    return Primary(
        rate=requests * plan.operations_per_request,
        processes=processes,
        lanes=plan.lanes if plan.batch_max > 1 else None,
        batch_max=plan.batch_max,
        shards=shards,
        call_s=plan.call_us / 1e6,
        operation_s=plan.operation_us / 1e6,
        network_s=plan.network_ms / 1e3,
    )


def primary_rate(plan: Plan, shards: int, processes: int | None = None) -> float:
    """Requests a second that a primary answers in time, from so many gateways, or from as many as
    make that many requests.
    """
    low, high = 0.0, 1e6 / plan.operation_us / plan.operations_per_request
    for _ in range(50):
        middle = (low + high) / 2
        asking = plan.gateways_of(middle) if processes is None else processes
        fits = keeps_up(primary_of(plan, middle, shards, asking), plan.use, plan.answer_ms / 1e3)
        low, high = (middle, high) if fits else (low, middle)
    return low


def on_one_machine(plan: Plan) -> list[Bound]:
    """What fills up on one shard, one primary and one Postgres, whatever is asked of it, first to
    last.
    """
    full = [
        Bound("script time of the primary", primary_rate(plan, 1), in_time(plan)),
        Bound("settling of the shard", plan.settle, "one transaction after the other"),
        Bound("WAL of Postgres", plan.wal_mb * 1e6 / plan.wal_bytes, f"{plan.wal_mb:g} MB/s"),
        Bound(
            f"disk of Postgres, {plan.months:g} months of usage",
            disk_rate(plan),
            f"{plan.disk_tb:g} TB, busiest second {plan.peak:g} times the mean",
        ),
        Bound("memory of the primary", memory_rate(plan), f"{plan.memory_gb:g} GB"),
        Bound(
            "connections of the primary",
            plan.connections / plan.lanes * plan.requests / plan.gateways_of(plan.requests),
            f"{plan.connections:,}, {plan.lanes} a gateway process",
        ),
    ]
    return sorted(full, key=lambda bound: bound.requests)


def of_largest(plan: Plan) -> list[Bound]:
    """What the largest organisation fills, which stays in one shard however many there are."""
    return sorted(
        (
            Bound(
                "settling of the largest organisation",
                plan.settle / plan.largest,
                f"{plan.largest:.2%} of all requests are its",
            ),
            Bound(
                "script time of the largest organisation",
                primary_rate(plan, 1) / plan.largest,
                "alone on a primary",
            ),
        ),
        key=lambda bound: bound.requests,
    )


def in_time(plan: Plan) -> str:
    """What a primary has to keep."""
    return f"answers in {plan.answer_ms:g} ms, {plan.use:.0%} of full calls"


def disk_rate(plan: Plan) -> float:
    """Requests in the busiest second with which one Postgres fills its disk."""
    return plan.disk_tb * 1e12 / plan.kept_bytes * plan.peak


def memory_rate(plan: Plan) -> float:
    """Requests a second with which accounts, holds, outcomes and events fill one primary."""
    left = plan.memory_gb * 1e9 * plan.use - plan.users * MEASURED.account_bytes
    low, high = 0.0, max(0.0, left) / plan.memory_per_request
    for _ in range(60):
        middle = (low + high) / 2
        taken = middle * plan.memory_per_request + plan.events_kept_bytes(middle, 1)
        low, high = (middle, high) if taken < left else (low, middle)
    return low


def cells_needed(plan: Plan) -> dict[str, int]:
    """Cells that each limit of Postgres asks for. A cell has one Postgres."""
    return {
        "WAL": math.ceil(plan.requests * plan.wal_bytes / (plan.wal_mb * 1e6)),
        "settling": math.ceil(plan.requests / (plan.settle * plan.cores * plan.use)),
        "disk": math.ceil(plan.requests / disk_rate(plan)),
    }


def lay_out(plan: Plan) -> Layout:
    """As many cells as Postgres needs, and in each as many primaries as its fullest one needs."""
    by = cells_needed(plan)
    cells = min(max(by.values()), CELLS_MAX)
    cell = fullest_cell(plan.organisations, plan.largest, cells)
    shares = shard_shares(plan.organisations, plan.largest, cell, plan.shards)
    primaries, node = 1, fullest_primary(shares, 1)
    for primaries in range(1, min(PRIMARIES_MAX, plan.shards) + 1):
        node = fullest_primary(shares, primaries)
        rate = primary_rate(plan, max(1, node.shards), gateways_of_cell(plan, cells))
        if node.share * plan.requests <= rate and _memory(plan, node) <= 1:
            return Layout(cells, by, cell, max(shares), primaries, node, True)
    return Layout(cells, by, cell, max(shares), primaries, node, False)


def gateways_of_cell(plan: Plan, cells: int) -> int:
    """Gateway processes of one cell."""
    return -(-plan.gateways_of(plan.requests) // cells)


def _memory(plan: Plan, node: Node) -> float:
    """How much of the memory that a primary may use is used."""
    return memory_of(plan, node) / (plan.memory_gb * 1e9 * plan.use)


def memory_of(plan: Plan, node: Node) -> float:
    """Bytes of a primary: its accounts (by its share of requests), holds, outcomes, events."""
    requests = plan.requests * node.share
    return (
        plan.users * node.share * MEASURED.account_bytes
        + requests * plan.memory_per_request
        + plan.events_kept_bytes(requests, node.shards)
    )


def processes_by_front(plan: Plan) -> dict[str, int]:
    """Processes, each with a core, that every front end would need."""
    return {
        name: replace(plan, front=name, processes=None).gateways_of(plan.requests)
        for name in FRONTS
    }

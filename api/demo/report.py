"""Prints how the demo ended, and compares each figure with what another side knows of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from taximeter.api.demo.scenario import Person
from taximeter.api.demo.settled import Lag
from taximeter.api.demo.traffic import Traffic


def organisations_table(pools: list[Any]) -> Table:
    """Credits of each organisation."""
    table = Table(title="Organisations (credits)", title_justify="left")
    table.add_column("organisation")
    for column in ("total", "allocated", "used", "available"):
        table.add_column(column, justify="right")
    for pool in pools:
        figures = [pool[f"{name}_credits"] for name in ("total", "allocated", "used", "available")]
        table.add_row(pool["org_id"], *[f"{figure:,.3f}" for figure in figures])
    return table


def users_table(people: list[Person], allocations: dict[str, Any], traffic: Traffic) -> Table:
    """Credits and answered requests of each user."""
    table = Table(title="Users (credits)", title_justify="left")
    table.add_column("user")
    for column in ("allocated", "used", "remaining", "answered"):
        table.add_column(column, justify="right")
    for person in people:
        mine = allocations[person.user_id]
        table.add_row(
            person.user_id,
            f"{mine['allocated_credits']:,.3f}",
            f"{mine['used_credits']:,.3f}",
            f"{mine['remaining_credits']:,.3f}",
            f"{traffic.requests[person.user_id]:,}",
        )
    return table


def print_traffic(console: Console, traffic: Traffic, lag: Lag) -> None:
    """Requests, refusals, the hold's latency and the settlement lag, a line each."""
    asked = traffic.answered + sum(traffic.refused.values()) + len(traffic.failures)
    refusals = ", ".join(f"{count:,} x {code}" for code, count in sorted(traffic.refused.items()))
    lines = {
        "requests": f"{asked:,} in {traffic.seconds:.1f} s ({asked / traffic.seconds:,.0f}/s), "
        f"{traffic.answered:,} answered, {traffic.streamed:,} of them streamed",
        "refused": refusals or "none",
        "hold": f"p50 {_quantile(traffic.hold_ms, 0.5):.2f} ms, "
        f"p99 {_quantile(traffic.hold_ms, 0.99):.2f} ms "
        f"({len(traffic.hold_ms):,} holds in an API process under full load)",
        "settlement lag": f"p50 {lag.p50_s:.2f} s, p99 {lag.p99_s:.2f} s ({lag.events:,} charges)",
    }
    for name, line in lines.items():
        console.print(f"  {name:<15} {line}", highlight=False)


def mistakes(
    people: list[Person], allocations: dict[str, Any], traffic: Traffic, lag: Lag
) -> list[str]:
    """What is off: what the clients were told against what the books say, user by user."""
    found = list(dict.fromkeys(traffic.failures))[:10]
    if lag.events < traffic.answered:
        found.append(f"{traffic.answered} requests were answered, {lag.events} charges are settled")
    for person in people:
        mine = allocations[person.user_id]
        used, told = Decimal(str(mine["used_credits"])), traffic.cost[person.user_id]
        remaining = Decimal(str(mine["remaining_credits"]))
        if used != told:
            found.append(f"{person.user_id} was told {told} credits, the books say {used}")
        if used + remaining != person.credits:
            found.append(
                f"{person.user_id}: {used} used + {remaining} left is not {person.credits}"
            )
    if not traffic.refused[402]:
        found.append("nobody ran out of credits, though one user has too few")
    if not traffic.hold_ms:
        found.append("no answer told how long its hold took")
    return found


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0

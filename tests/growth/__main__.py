"""`make growth`, or `PYTHONPATH=tests python -m growth`: what a load takes on paper, and what
breaks first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import click

from growth.plan import FRONTS, Plan
from growth.report import lines
from taximeter.meter.wire.limits import OPERATIONS_PER_CALL_MAX


class RoundTrips(click.ParamType):  # type: ignore[type-arg]  # Generic in newer versions alone.
    """Milliseconds with commas between them."""

    name = "MS,MS"
    _most: Final = 10_000.0

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Read them, one for each other region."""
        if isinstance(value, tuple):
            return value
        try:
            trips = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            trips = (-1.0,)
        if not all(0 <= trip <= self._most for trip in trips):
            said = f"{value!r} is not a list such as 80,150, each 0 to {self._most:g} ms"
            self.fail(said, param, ctx)
        return trips


class Finite(click.FloatRange):
    """A number of a range; `nan`, which is in every range, is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def _number(low: float, high: float) -> Finite:
    return Finite(low, high)


def _count(low: int, high: int) -> click.IntRange:
    return click.IntRange(low, high)


SHARE: Final = _number(0, 1)
OPTIONS: Final[dict[str, tuple[click.ParamType[Any], str]]] = {
    "requests": (_number(1, 1e9), "Requests a second, at the peak."),
    "peak": (_number(1, 1_000), "The busiest second over the mean of a month."),
    "organisations": (_count(1, 10**9), "Organisations."),
    "largest": (_number(1e-9, 1), "Share of all requests that the largest organisation makes."),
    "users": (_count(1, 10**11), "Users, each an account."),
    "hold_s": (_number(0, 86_400), "Seconds for which a request holds credits."),
    "touches": (_number(0, 1_000), "Reports of progress a request."),
    "months": (_number(0.1, 1_200), "Months of usage kept in Postgres."),
    "id_days": (_number(0, 36_500), "Days that request ids are remembered, and twice at most."),
    "front": (click.Choice(list(FRONTS)), "What requests go through."),
    "processes": (_count(1, 10**5), "Gateway processes; as many as are needed when not given."),
    "batch_max": (_count(1, OPERATIONS_PER_CALL_MAX), "Most operations a call; 1: no batches."),
    "lanes": (_count(1, 64), "Connections of a process to a primary."),
    "use": (_number(0.01, 0.95), "Share of a core or of memory that may be used."),
    "answer_ms": (_number(0.01, 60_000), "In which nearly every answer of Redis has to be there."),
    "shards": (_count(1, 1_024), "Shards of a cell."),
    "cores": (_count(1, 1_024), "Cores of a Postgres: shards that it settles side by side."),
    "wal_mb": (_number(0.1, 1e5), "MB of WAL a second that one Postgres writes."),
    "disk_tb": (_number(0.001, 1e5), "TB of disk of one Postgres."),
    "memory_gb": (_number(0.01, 1e5), "GB of memory of one primary."),
    "connections": (_count(1, 10**7), "Connections that one primary takes."),
    "network_ms": (_number(0, 1_000), "Round trip to Redis at home."),
    "call_us": (_number(0, 1e5), "µs of Redis for a script call."),
    "operation_us": (_number(0.01, 1e5), "µs of Redis for each operation in it."),
    "settle": (_number(1, 1e9), "Events a second that one shard settles."),
    "row_bytes": (_number(1, 1e6), "Bytes of Postgres an event, without its request id."),
    "id_bytes": (_number(0, 1e6), "Bytes of Postgres a request id."),
    "wal_bytes": (_number(1, 1e6), "Bytes of WAL an event."),
    "archive_bytes": (_number(0, 1e6), "Bytes of an archive an event."),
    "round_trips_ms": (RoundTrips(), "From a region to each of the others."),
    "abroad": (SHARE, "Share of requests from outside of the home region."),
    "pause_s": (_number(0, 600), "Seconds that a failover takes."),
    "lag_ms": (_number(0, 1e5), "How far a replica is behind."),
    "sidecars": (_count(1, 1_000), "Processes abroad with a lease on one account."),
    "slice": (_number(0.001, 1e6), "Credits of a lease."),
    "account_rate": (_number(0.001, 1e5), "Requests a second of that account."),
    "cost": (_number(0.001, 1e6), "Credits of a request."),
    "flush_s": (_number(0.001, 3_600), "Seconds between two reports of what was spent."),
    "operations": (_count(1_000, 10**7), "Operations of each simulation."),
    "seed": (_count(0, 2**31), "Seed of what comes at random."),
}


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    defaults = {field.name: getattr(Plan(), field.name) for field in fields(Plan)}
    for name, (kind, text) in reversed(OPTIONS.items()):
        shown = defaults[name]
        if isinstance(shown, tuple):
            shown = ",".join(f"{part:g}" for part in shown)
        function = click.option(
            f"--{name.replace('_', '-')}", name, type=kind, default=shown,
            show_default=shown is not None, help=text,
        )(function)  # fmt: skip
    return function


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Say what fills up first on one machine, what a load takes, how long an answer takes, "
    "what a failover costs and what leases between regions would. docs/growth.md explains it.",
)
@_with_options
def command(**given: Any) -> None:
    """Check what depends on each other, compute and print."""
    plan = Plan(**given)
    even = 1 / plan.organisations
    if plan.largest < even:
        raise click.BadParameter(
            f"{plan.largest:g} is less than an even share of {plan.organisations:,} "
            f"organisations, {even:g}.",
            param_hint="'--largest'",
        )
    if plan.organisations == 1 and plan.largest < 1:
        raise click.BadParameter(
            "the one organisation makes all requests: 1.", param_hint="'--largest'"
        )
    if plan.cost > plan.slice:
        raise click.BadParameter(
            f"{plan.cost:g} is more than a lease, {plan.slice:g}.", param_hint="'--cost'"
        )
    for line in lines(plan):
        click.echo(line)


def main() -> int:
    """Run the command; bad input is one line and the exit code 2."""
    try:
        command.main(prog_name="growth", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

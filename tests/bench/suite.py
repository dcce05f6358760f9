"""Which benchmarks there are, and how a run goes through them: one after the other, each in an
event loop of its own.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import uvloop

from bench.conditions import Look, Span
from bench.harness import Figure, Verdict, judge
from bench.servers import Servers

BENCHMARKS: Final[Mapping[str, str]] = {
    "charges": "charges through Meter",
    "requests": "reserve and commit through Meter",
    "server_time": "Redis time of an operation",
    "sidecar": "the sidecar over HTTP",
    "latency": "latency at 1,000/s and at half of the maximum",
    "settle": "settling against a bare COPY",
    "lag": "the settler under charges, and before a backlog",
    "llm": "the LLM route",
    "growth": "growth",
    "processes": "several client processes",
}
"""`bench.<name>.run` measures it, in the order of the targets."""

ON_REQUEST: Final[Mapping[str, str]] = {
    "settle_shards": "settling 1, 2 and 4 shards at once",
    "shards": "1 to 64 shards on one server",
    "primaries": "a cluster of 1, 2 and 3 primaries",
    "many_accounts": "one shard with 10,000,000 accounts (a minute or two)",
    "figures": "the promised figures on a year of usage (10,000,000 rows; minutes)",
    "large_organization": "one organisation of 1,000,000 users (minutes)",
    "one_organization": "5,000 requests/s of one organisation, beside the same spread",
    "durability": "what each promise costs, and what was lost after kill -9",
    "counting": "what counting for /metrics costs of the request path",
    "failover": "a primary of a cluster that dies or hangs under load",
    "open_streams": "many open streams through the LLM route",
    "reopen": "how long a million accounts cannot spend after Redis lost them",
    "slot_move": "what callers feel while a slot of a cluster moves",
}
"""The same, but only run when asked for by name."""

COMPARISON: Final = "against"
"""What `--against` runs, alone."""

Run = Callable[[Servers], Awaitable[list[Figure]]]


@dataclass(slots=True)
class Report:
    """What a run has found."""

    figures: list[Figure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Which benchmark a figure is of, by the figure's name."""
    spans: dict[str, Span] = field(default_factory=dict)
    """The machine before and after each benchmark."""
    failed: dict[str, Exception] = field(default_factory=dict)
    """Why a benchmark has no figures."""

    def verdict(self, figure: Figure) -> Verdict:
        """Met or missed, or withheld when others used the machine during its benchmark."""
        span = self.spans[self.benchmarks[figure.name]]
        return judge(figure, span.calibration, span.busy)

    @property
    def withheld(self) -> bool:
        """Whether of any figure that has a target nothing is said."""
        return any(self.verdict(figure).word == "withheld" for figure in self.figures)


def run_suite(
    servers: Servers,
    names: Iterable[str],
    look: Callable[[], Look],
    progress: Callable[[str], None] = lambda message: None,
) -> Report:
    """Run the named benchmarks, and look at the machine before, between and after them. One that
    fails takes none of the others with it. Raises what a look raises.
    """
    report = Report()
    titles = {**BENCHMARKS, **ON_REQUEST, COMPARISON: "two clones in turns"}
    progress("the machine")
    before = look()
    for name in names:
        progress(titles[name])
        run: Run = importlib.import_module(f"bench.{name}").run
        started = time.monotonic()

        async def measure(run: Run = run) -> list[Figure]:
            return await run(servers)

        found: list[Figure] = []
        try:
            found = uvloop.run(measure())
        except Exception as error:
            report.failed[name] = error
        report.seconds[name] = time.monotonic() - started
        after = look()
        report.figures += found
        report.benchmarks |= dict.fromkeys((one.name for one in found), name)
        report.spans[name] = Span(before, after, os.cpu_count() or 1)
        before = after
    return report

"""Which benchmarks there are, and how a run goes through them: one after the other, each in an
event loop of its own.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import uvloop

from bench.harness import Figure
from bench.servers import Servers

BENCHMARKS: Final[Mapping[str, str]] = {
    "charges": "charges through Meter",
    "requests": "reserve and commit through Meter",
    "server_time": "Redis time of an operation",
    "sidecar": "the sidecar over HTTP",
    "latency": "latency at half of the maximum",
    "settle": "settling against a bare COPY",
    "lag": "the settler under charges, and before a backlog",
    "llm": "the LLM route",
    "growth": "growth",
    "processes": "several client processes",
}
"""`bench.<name>.run` measures it, in the order of the targets."""

ON_REQUEST: Final[Mapping[str, str]] = {
    "shards": "1, 2, 4 and 8 shards",
    "figures": "the promised figures on a year of usage (10,000,000 rows; minutes)",
    "durability": "what each promise costs, and what was lost after kill -9",
    "reopen": "how long a million accounts cannot spend after Redis lost them",
}
"""The same, but only run when asked for by name."""

Run = Callable[[Servers], Awaitable[list[Figure]]]


@dataclass(slots=True)
class Report:
    """What a run has found."""

    figures: list[Figure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Which benchmark a figure is of, by the figure's name."""


def run_suite(
    servers: Servers, names: Iterable[str], progress: Callable[[str], None] = lambda message: None
) -> Report:
    """Run the named benchmarks. Raises BenchFailed, and whatever the servers and clients raise."""
    report = Report()
    titles = {**BENCHMARKS, **ON_REQUEST}
    for name in names:
        progress(titles[name])
        run: Run = importlib.import_module(f"bench.{name}").run
        started = time.monotonic()

        async def measure(run: Run = run) -> list[Figure]:
            return await run(servers)

        found = uvloop.run(measure())
        report.figures += found
        report.benchmarks |= dict.fromkeys((one.name for one in found), name)
        report.seconds[name] = time.monotonic() - started
    return report

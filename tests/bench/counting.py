"""What counting for /metrics costs of the request path: the same load with it and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from bench.harness import Figure, Side, Target, take_turns
from bench.live import LiveShards, make_accounts
from bench.processor import Costs, requests_side
from bench.servers import Servers
from taximeter.meter.lanes.tally import Tally

CALLERS = 100
BOUND = 1.02


async def run(servers: Servers) -> list[Figure]:
    """Processor time of the client's process, an operation: in turns, so that both have the same
    machine.
    """
    scale = servers.scale
    async with servers.redis() as (url, redis):
        live = LiveShards(redis, servers.prefix, make_accounts(scale.users, scale.organisations))
        counted, uncounted = Costs(), Costs()
        silent = requests_side(url, live, [redis], CALLERS, uncounted)

        async def without(seconds: float) -> float:
            with _nobody_counts():
                return await silent(seconds)

        sides: dict[str, Side] = {
            "without": without,
            "with": requests_side(url, live, [redis], CALLERS, counted),
        }
        await take_turns(
            sides, rounds=scale.rounds, seconds=scale.round_s, warm_up_s=scale.warm_up_s
        )
        await live.remove()
    figure, _ = counted.figures(
        "counting", "counting for /metrics", scale.rounds, uncounted, "nobody counts"
    )
    return [
        Figure(
            figure.name,
            figure.title,
            figure.unit,
            figure.ours,
            figure.baseline,
            figure.baseline_title,
            Target(BOUND, "at most"),
        )
    ]


@contextmanager
def _nobody_counts() -> Iterator[None]:
    def silence(*_: object) -> None:
        pass

    with patch.object(Tally, "note", silence):
        yield

"""Target 9: several client processes on one Redis, against one."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from contextlib import ExitStack
from typing import IO

from bench import client
from bench.child_modules import spawn_module
from bench.harness import BenchFailed, Figure, Side, Spread, Target, take_turns
from bench.live import LiveShards, make_accounts
from bench.peers import AMOUNT
from bench.servers import Servers
from taximeter.api.embedded.spawn import Child

PROCESSES = 4
CALLERS = 100
START_UP_S = 5.0
"""Time that a process gets to start and connect before all of them begin; twice as much each time
that one was late, up to START_UP_MAX_S.
"""
START_UP_MAX_S = 40.0
FAIR = 0.8
GRACE_S = 30.0


class _Late(Exception):
    """A process was not up when all of them were to begin."""


async def run(servers: Servers) -> list[Figure]:
    """All processes work between the same two moments."""
    scale = servers.scale
    shares: list[float] = []
    async with servers.redis() as (url, redis):
        accounts = make_accounts(client.USERS, client.ORGANISATIONS)
        live = LiveShards(redis, servers.prefix, accounts)
        seen = await take_turns(
            {"one": _side(url, live, 1, []), "four": _side(url, live, PROCESSES, shares)},
            rounds=scale.process_rounds,
            seconds=scale.round_s,
            warm_up_s=0.0,  # Every process warms up by itself, before the moment they begin.
        )
        await live.remove()
    return [
        Figure(
            "processes_total",
            f"reserve + commit of {PROCESSES} processes, {CALLERS} callers each",
            "/s",
            seen["four"],
            seen["one"],
            "one process",
            Target(1.0, "at least"),
            number=9,
        ),
        Figure(
            "processes_fairness",
            "smallest share of a process to the largest",
            "",
            Spread(tuple(shares[-scale.process_rounds :])),
            target=Target(FAIR, "at least", "value"),
            number=9,
        ),
    ]


def _side(url: str, live: LiveShards, processes: int, shares: list[float]) -> Side:
    """Requests a second of all processes together."""

    start_up_s = START_UP_S

    async def counted(seconds: float) -> list[tuple[int, int]]:
        """The requests of each process, all of them and those between the two moments."""
        nonlocal start_up_s
        while True:
            await live.reset()
            start = time.monotonic() + start_up_s
            try:
                return await asyncio.to_thread(
                    _run_processes, url, live.prefix, processes, start, start + seconds
                )
            except _Late as error:
                start_up_s *= 2
                if start_up_s > START_UP_MAX_S:
                    raise BenchFailed(
                        f"a client process was not up {start_up_s / 2:.0f} s after its start"
                    ) from error

    async def side(seconds: float) -> float:
        counts = await counted(seconds)
        await live.prove(sum(total for total, _ in counts), AMOUNT)
        between = [count for _, count in counts]
        if not max(between):
            raise BenchFailed(f"no request was made in {seconds:g} s")
        shares.append(min(between) / max(between))
        return sum(between) / seconds

    return side


def _run_processes(
    url: str, prefix: str, processes: int, start: float, end: float
) -> list[tuple[int, int]]:
    """(all, counted) requests of each process. Raises BenchFailed with what one of them printed, or
    _Late when all have ended.
    """
    with ExitStack() as stack:
        children = []
        for number in range(processes):
            output: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            arguments = (url, prefix, CALLERS, number, start, end)
            child = spawn_module(client, *arguments, log=output)
            stack.callback(_end, child)
            children.append((child, output))
        counts, late = [], False
        for child, output in children:
            try:
                code = child.wait(end - time.monotonic() + GRACE_S)
            except subprocess.TimeoutExpired as error:
                raise BenchFailed("a client process did not end in time") from error
            output.seek(0)
            text = output.read().decode(errors="replace")
            late = late or code == client.LATE
            if late:
                continue
            if code != 0:
                raise BenchFailed(f"a client process ended with {code}: {text[-2_000:]}")
            total, counted = map(int, text.split())
            counts.append((total, counted))
        if late:
            raise _Late
        return counts


def _end(child: Child) -> None:
    if child.poll() is None:
        child.kill()
        child.wait()

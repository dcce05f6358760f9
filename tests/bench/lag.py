"""Target 6, second half: the real settler under steady charges, and before a backlog."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from bench.books import Books, funded_books
from bench.fill import charges, fill
from bench.harness import BenchFailed, Figure, Target, open_loop, percentile, value
from bench.live import request_ids
from bench.peers import AMOUNT, usage
from bench.servers import Servers
from bench.worker import resident_mb, settler_process
from taximeter.meter import Meter, Overloaded, StoreError
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.named_sql import load_queries

_SQL: Final = load_queries("bench", "bench")
POLL_S: Final = 0.02
SETTLED_S_MAX: Final = 60.0
LAG_S: Final = 2.0
DRAIN_FACTOR: Final = 3.0


@dataclass(slots=True)
class Watch:
    """Follows the watermark: when each event was seen to be settled, and the worker's memory."""

    books: Books
    pid: int
    seq: int = 0
    lags_ms: list[tuple[float, int]] = field(default_factory=list)
    """(milliseconds from Redis time of the event to its commit, how many events)"""
    marks: list[tuple[float, int]] = field(default_factory=list)
    """(moment, watermark)"""
    memory_mb: list[float] = field(default_factory=list)

    async def look(self, *, lags: bool) -> None:
        """Ask Postgres once. The commit was at most one pause of the poll before that."""
        pool = self.books.stores.pool
        seq = await pool.fetchval(_SQL["watermark"])
        now_ms = time.time() * 1000
        self.marks.append((time.perf_counter(), seq))
        self.memory_mb.append(resident_mb(self.pid))
        if seq == self.seq:
            return
        if lags:
            entries = await self.books.live.redis.xrange(
                self.books.live.keys(0).events, f"(1-{self.seq}", f"1-{seq}"
            )
            for entry_id, fields in entries:
                last = int(entry_id.partition(b"-")[2])
                self.lags_ms.append((now_ms - int(fields[b"t"]), last - self.seq))
                self.seq = last
        self.seq = seq


async def run(servers: Servers) -> list[Figure]:
    """Steady charges first; then the worker stops, a backlog grows, and it starts again."""
    scale = servers.scale
    async with funded_books(servers) as books:
        with settler_process(servers, books) as settler:
            steady = Watch(books, settler.pid)
            async with charging(servers, books) as traffic:
                await _warm_up(steady, traffic)
                deadline = time.perf_counter() + scale.lag_s
                while time.perf_counter() < deadline:
                    settler.check_alive()
                    await steady.look(lags=True)
                    await asyncio.sleep(POLL_S)
            await _wait_until_settled(steady)
        before = await books.stores.pool.fetchval(_SQL["watermark"])
        await fill(books.live, charges(books.live.accounts, scale.backlog_events, "backlog"))
        with settler_process(servers, books) as settler:
            drain = Watch(books, settler.pid, seq=before)
            async with charging(servers, books) as traffic:
                seconds, drained = await _drain(drain, scale.backlog_s_max)
                inflow = traffic.done / (time.perf_counter() - traffic.since)
                refused = f", {traffic.refused:,} charges refused" if traffic.refused else ""
    times = sorted(ms for ms, events in steady.lags_ms for _ in range(events))
    first, last = drain.marks[0], drain.marks[-1]
    return [
        Figure(
            "settle_lag_p99",
            f"from event to commit at {scale.lag_rate:,} charges/s, p99",
            "s",
            value(percentile(times, 0.99) / 1000),
            target=Target(LAG_S, "at most", "value", "python"),
            note=f"p50 {percentile(times, 0.5) / 1000:.2f} s, worst {times[-1] / 1000:.2f} s, "
            f"{len(times):,} events in {scale.lag_s:.0f} s",
            number=6,
        ),
        Figure(
            "settle_backlog",
            f"settle with {scale.backlog_events:,} events behind",
            "/s",
            value((last[1] - first[1]) / seconds),
            value(inflow),
            "charges meanwhile",
            Target(DRAIN_FACTOR, "at least"),
            note=f"{'drained' if drained else 'NOT drained'} in {seconds:.0f} s{refused}",
            number=6,
        ),
        Figure(
            "settle_memory",
            "memory of the worker, at most, with the backlog",
            "MB",
            value(max(drain.memory_mb)),
            value(max(steady.memory_mb)),
            "without a backlog",
            number=6,
        ),
    ]


@dataclass(slots=True)
class Traffic:
    """Charges that go on in the background."""

    since: float
    done: int = 0
    refused: int = 0
    """Charges that Redis did not take in time; each of them was told so."""


@asynccontextmanager
async def charging(servers: Servers, books: Books) -> AsyncIterator[Traffic]:
    """Charges at the fixed rate through a Meter while the block runs; each is waited for."""
    scale, pool = servers.scale, books.stores.pool
    accounts, ids = itertools.cycle(books.live.accounts), request_ids(f"t{time.time_ns():x}")
    numbers = itertools.count()
    meter = await Meter.connect(
        books.redis_url, loader=account_loader(pool), key_prefix=books.live.prefix
    )
    traffic = Traffic(time.perf_counter())

    async def charge(_: float) -> None:
        org_id, user_id = next(accounts)
        purpose = usage(next(numbers))
        try:
            await meter.charge(org_id, user_id, AMOUNT, request_id=next(ids), usage=purpose)
        except (
            Overloaded,
            StoreError,
        ):  # A disk that cannot keep up: a finding about this machine.
            traffic.refused += 1
        else:
            traffic.done += 1

    longest = scale.lag_s + scale.backlog_s_max + 2 * SETTLED_S_MAX
    async with meter:
        work: asyncio.Task[Any] = asyncio.create_task(
            open_loop(charge, per_second=scale.lag_rate, seconds=longest)
        )
        try:
            yield traffic
            if work.done():
                raise BenchFailed(f"the traffic stopped: {work.exception()}")
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def _warm_up(watch: Watch, traffic: Traffic) -> None:
    """Let the settler start and settle for the first time; what waited for that is not lag."""
    end = time.perf_counter() + SETTLED_S_MAX
    wanted = 0
    while watch.seq <= wanted:
        if time.perf_counter() > end:
            raise BenchFailed("the settler does not settle")
        await watch.look(lags=False)
        wanted = wanted or traffic.done
        await asyncio.sleep(POLL_S)


async def _wait_until_settled(watch: Watch) -> None:
    """Until the watermark has reached the last event; bounded."""
    live = watch.books.live
    end = time.perf_counter() + SETTLED_S_MAX
    while watch.seq < int(await live.redis.hget(live.keys(0).meta, "seq")):
        if time.perf_counter() > end:
            raise BenchFailed(f"not everything is settled after {SETTLED_S_MAX:.0f} s")
        await watch.look(lags=True)
        await asyncio.sleep(POLL_S)


async def _drain(watch: Watch, seconds_max: float) -> tuple[float, bool]:
    """Seconds from the first batch on until nothing but the last second's charges waits."""
    live = watch.books.live
    start_seq = watch.seq
    end = time.perf_counter() + SETTLED_S_MAX
    while watch.seq == start_seq:
        if time.perf_counter() > end:
            raise BenchFailed("the settler does not settle")
        await watch.look(lags=False)
        await asyncio.sleep(POLL_S)
    del watch.marks[:-1]
    began = watch.marks[0][0]
    while True:
        await asyncio.sleep(10 * POLL_S)
        await watch.look(lags=False)
        spent = watch.marks[-1][0] - began
        behind = int(await live.redis.hget(live.keys(0).meta, "seq")) - watch.seq
        if behind < 10_000 or spent > seconds_max:
            return spent, behind < 10_000

"""Target 6, first half: settling with every guarantee, against a bare COPY and against the guide's
function.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from bench.books import Books, funded_books
from bench.fill import charges, fill
from bench.harness import BenchFailed, Figure, Spread, Target, take_turns, value
from bench.machine import thread_s
from bench.peers import Deductions
from bench.servers import Servers
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.settling.settle import settle_shard

_SQL: Final = load_queries("bench", "bench")
_BATCH: Final[int] = SettlerSettings.model_fields["settle_batch_events"].default
_FOREVER_S: Final = 3_600.0
PROCESSOR_OVER_COPY: Final = 1 / 0.72
"""What Postgres may work for a settled event, in what it works to copy its rows: on a machine with
a core for it, settling is then as fast as 0.72 of COPY.
"""

CLAIMS: Final = (
    "org_id", "request_id", "phase", "user_id", "shard", "epoch", "seq", "amount", "created_at",
)  # fmt: skip
USAGE_ROWS: Final = (
    "org_id", "user_id", "service_type", "service_name", "credits_used", "request_id",
    "request_metadata", "created_at", "shard", "epoch", "seq", "late", "reserved",
)  # fmt: skip


class Rounds:
    """Settles a number of events, then copies the rows that came of it into bare tables."""

    def __init__(self, books: Books, events: int) -> None:
        self._books = books
        self._events = events
        self._round = 0
        self._before = 0
        self.wal: defaultdict[str, list[float]] = defaultdict(list)
        """Bytes an event, of each round, by side."""
        self.processor: defaultdict[str, list[float]] = defaultdict(list)
        """Microseconds of Postgres' connections an event, of each round, by side."""

    async def settle(self, _: float) -> float:
        """Events a second, from the stream to the last commit."""
        books = self._books
        pool = books.stores.pool
        self._round += 1
        self._before = await pool.fetchval(_SQL["watermark"])
        await fill(books.live, charges(books.live.accounts, self._events, f"r{self._round}"))
        async with self._costs("settle"):
            started = time.perf_counter()
            done = await settle_shard(books.stores, 0, batch_events=_BATCH, budget_s=_FOREVER_S)
            seconds = time.perf_counter() - started
        if (done.settled, done.dead, done.lost) != (self._events, 0, 0):
            raise BenchFailed(f"settling {self._events} events came to {done}")
        return self._events / seconds

    async def copy(self, _: float) -> float:
        """Rows a second of the same events, in transactions of the same size, rows made ready."""
        pool: Any = self._books.stores.pool
        claims = list(map(tuple, await pool.fetch(_SQL["settled_claims"], self._before)))
        usage = list(map(tuple, await pool.fetch(_SQL["settled_usage"], self._before)))
        if not len(claims) == len(usage) == self._events:
            raise BenchFailed(f"{self._events} events became {len(claims)} and {len(usage)} rows")
        async with self._costs("copy"):
            started = time.perf_counter()
            async with pool.acquire() as conn:
                for start in range(0, self._events, _BATCH):
                    async with conn.transaction():
                        part = slice(start, start + _BATCH)
                        await _copy(conn, "charged_requests", CLAIMS, claims[part])
                        await _copy(conn, "credit_usage_attribution", USAGE_ROWS, usage[part])
            seconds = time.perf_counter() - started
        return self._events / seconds

    @asynccontextmanager
    async def _costs(self, side: str) -> AsyncIterator[None]:
        """Note what Postgres writes and works meanwhile: it has nobody else's work."""
        pool = self._books.stores.pool
        pids = [row["pid"] for row in await pool.fetch(_SQL["connections"])]
        wal, processor = await pool.fetchval(_SQL["wal_position"]), _processor_s(pids)
        yield
        self.wal[side].append(float(await pool.fetchval(_SQL["wal_position"]) - wal) / self._events)
        if processor is not None:
            took = (_processor_s(pids) or 0) - processor
            self.processor[side].append(took / self._events * 1e6)

    async def sizes(self) -> list[Figure]:
        """Bytes of the tables and indexes that settling adds rows to, a row."""
        rows = await self._books.stores.pool.fetch(_SQL["sizes"])
        return [
            Figure(f"settle_size_{row['name']}", f"{row['name']}, a row", "B", value(row["bytes"]))
            for row in rows
        ]


async def run(servers: Servers) -> list[Figure]:
    """In turn: settle, copy what it wrote, deduct for a while. All tables grow by the same rows."""
    scale = servers.scale
    async with funded_books(servers) as books:
        await books.stores.pool.execute(_SQL["make_copies"])
        rounds = Rounds(books, scale.settle_events)
        deductions = Deductions(books.stores.pool, books.live.accounts, "deduct")
        seen = await take_turns(
            {"settle": rounds.settle, "copy": rounds.copy, "deduct": deductions.round},
            rounds=scale.rounds,
            seconds=scale.round_s,
            warm_up_s=scale.warm_up_s,
        )
        sizes = await rounds.sizes()
    title = f"settle, {_BATCH:,} events a transaction"
    return [
        Figure(
            "settle_over_copy",
            title,
            "/s",
            seen["settle"],
            seen["copy"],
            "bare COPY of the same rows",
            Target(0.6, "at least"),
            number=6,
        ),
        Figure(
            "settle_over_deduct",
            title,
            "/s",
            seen["settle"],
            seen["deduct"],
            "deduct_credits",
            Target(10.0, "at least"),
            number=6,
        ),
        *_beside_copy(
            "wal", "write-ahead log of Postgres an event", "B", rounds.wal, scale.rounds, None
        ),
        *_beside_copy(
            "processor",
            "processor of Postgres' connections an event",
            "µs",
            rounds.processor,
            scale.rounds,
            Target(PROCESSOR_OVER_COPY, "at most"),
        ),
        *sizes,
    ]


def _beside_copy(
    name: str,
    title: str,
    unit: str,
    seen: dict[str, list[float]],
    rounds: int,
    target: Target | None,
) -> list[Figure]:
    """The last rounds, since those before them were to warm up; nothing where it is not known."""
    if not seen:
        return []
    settle, copy = (Spread(tuple(seen[side][-rounds:])) for side in ("settle", "copy"))
    note = "" if target else "with the pages that a checkpoint makes it write whole"
    return [
        Figure(
            f"settle_{name}",
            f"settle: {title}",
            unit,
            settle,
            copy,
            "bare COPY of the same rows",
            target,
            note,
            6,
        )
    ]


def _processor_s(pids: Sequence[int]) -> float | None:
    """What these processes of this machine have worked; None when they are of another one."""
    try:
        return sum(map(thread_s, pids))
    except OSError:
        return None


async def _copy(
    conn: Any, table: str, columns: Sequence[str], records: Sequence[tuple[Any, ...]]
) -> None:
    await conn.copy_records_to_table(table, schema_name="bench", columns=columns, records=records)

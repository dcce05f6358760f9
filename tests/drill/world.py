"""A system that is charged, whose stores are lost and put back, and the log of what it answered."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import asyncpg
from click.testing import CliRunner
from redis.asyncio import Redis
from support.receiving import KEY
from support.waiting import eventually

from drill.postgres import ArchivedPostgres
from taximeter.api.commands import group
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.local.process import LocalProcess
from taximeter.api.processes.migrate import migrate
from taximeter.meter import Meter, Receipt
from taximeter.meter.wire.errors import Overloaded, StoreError
from taximeter.settler.books.accounts import account_loader

BOUND_S: Final = 3_600.0
"""Nothing of a drill is waited for longer: with ten million rows much takes minutes."""
AT_ONCE: Final = 500
USERS: Final = [f"user-{number}" for number in range(20)]
MONEY: Final = 10**12


@dataclass
class Log:
    """What was asked for, and what was answered: millicredits by request id."""

    asked: dict[str, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)


@dataclass
class System:
    """Both stores and a settler, on folders of its own; `backups` may be those of another one."""

    folder: Path
    backups: Path
    log: Log = field(default_factory=Log)
    is_copy: bool = False

    def __post_init__(self) -> None:
        self.postgres = ArchivedPostgres(
            self.folder / "postgres", self.backups, archives=not self.is_copy
        )
        self.valkey = EmbeddedValkey(self.folder / "valkey", ("--appendfsync", "always"))
        self.settler: LocalProcess | None = None

    @property
    def environment(self) -> dict[str, str]:
        """With every secret of the installation: that is what a copy must not need to lack."""
        return {
            "TAXIMETER_DATABASE_URL": self.postgres.url,
            "TAXIMETER_REDIS_URL": self.valkey.url,
            "TAXIMETER_NOTICE_KEYS": KEY,
            "TAXIMETER_NOTICES_ANYWHERE": "true",
            "TAXIMETER_EVENT_RETENTION_S": "86400",
        }

    def start_settler(self) -> None:
        self.settler = LocalProcess(
            "settler", ["settler"], self.environment, self.folder / "settler.log"
        )
        self.settler.start()

    def stop_settler(self) -> None:
        if self.settler is not None:
            self.settler.stop()
            self.settler = None

    def stop(self) -> None:
        self.stop_settler()
        self.valkey.stop()
        self.postgres.stop()

    async def make(self) -> None:
        """Everything at work, and an organisation with credits."""
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(migrate, self.postgres.url)
        await asyncio.to_thread(self.valkey.start)
        async with self.database() as conn:
            await conn.execute(
                "INSERT INTO organizations (id, org_name, slug, created_by)"
                " VALUES ('acme', 'acme', 'acme', 'drill')"
            )
            await conn.execute("SELECT add_credits_to_pool('acme', $1, 1.00)", MONEY)
            await conn.execute(
                "SELECT allocate_credits_to_user('acme', u, $2, 'drill') FROM unnest($1::text[]) u",
                *(USERS, MONEY // 100),
            )
        self.start_settler()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        conn = await asyncpg.connect(self.postgres.url)
        try:
            yield conn
        finally:
            await conn.close()

    async def ask(self, question: str, *values: Any) -> Any:
        async with self.database() as conn:
            return await conn.fetchval(question, *values)

    @asynccontextmanager
    async def meter(self) -> AsyncIterator[Meter]:
        """A gateway's, that finds its accounts in Postgres."""
        async with asyncpg.create_pool(self.postgres.url, min_size=0) as pool:
            made: Meter | None = None

            async def connects() -> bool:
                nonlocal made
                try:
                    made = await Meter.connect(self.valkey.url, loader=account_loader(pool))
                except StoreError:
                    return False
                return True

            await eventually(connects, within_s=BOUND_S, what="a shard that is open")
            assert made is not None
            async with made:
                yield made
            pool.terminate()

    async def stopped(self) -> None:
        """Wait until the guardian has found that this may be a copy: it opens no shard."""

        async def is_stopped() -> bool:
            return bool(await self.ask("SELECT is_stopped FROM taximeter.installation"))

        await eventually(is_stopped, within_s=BOUND_S, what="a guardian that opens nothing")
        async with Redis.from_url(self.valkey.url) as redis:

            async def is_closed() -> bool:
                return bool(await redis.hget("{tm:0}:meta", "epoch") == b"fenced")

            await eventually(is_closed, within_s=BOUND_S, what="a shard that stays closed")

    async def charge(self, meter: Meter, label: str, count: int, *, logged: bool = True) -> None:
        """Charge so many; what meets a closed or full shard is asked again, under its id."""
        waiting = self._charges(label, count)
        again: list[tuple[Any, ...]] = []
        deadline = asyncio.get_running_loop().time() + BOUND_S
        while batch := [*again, *islice(waiting, AT_ONCE - len(again))]:
            again = []
            if logged:
                self.log.asked |= {one[3]: one[2] for one in batch}
            for one, reply in zip(batch, await meter.charge_many(batch), strict=True):
                if isinstance(reply, Receipt):
                    if logged:
                        self.log.answered[one[3]] = one[2]
                elif isinstance(reply, StoreError | Overloaded):
                    again.append(one)
                else:
                    raise reply
            assert asyncio.get_running_loop().time() < deadline, "charges are not taken"
            if again:
                await asyncio.sleep(0.05)

    @staticmethod
    def _charges(label: str, count: int) -> Iterator[tuple[Any, ...]]:
        for number in range(count):
            user = USERS[number % len(USERS)]
            yield ("acme", user, 1 + number % 9, f"{label}-{number:08x}", None)

    async def settled(self) -> None:
        """Wait until every event of the stream is in the books."""
        async with Redis.from_url(self.valkey.url) as redis:

            async def is_settled() -> bool:
                try:
                    meta = await redis.hmget("{tm:0}:meta", "epoch", "seq")
                    mark = await self.ask(
                        "SELECT epoch || ' ' || seq FROM taximeter.watermarks WHERE shard = 0"
                    )
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    return False
                return None not in meta and " ".join(part.decode() for part in meta) == mark

            await eventually(is_settled, within_s=BOUND_S, what="books that have everything")

    async def moment(self) -> datetime:
        """Of Postgres, with everything that was committed before it, and nothing after."""
        async with self.database() as conn:
            now: datetime = await conn.fetchval("SELECT clock_timestamp()")
            # A restore stops at the first commit after the moment: there is always one.
            await conn.execute("SELECT pg_logical_emit_message(true, 'drill', 'after')")
            await conn.execute("SELECT pg_switch_wal()")
        return now

    def copy_redis(self, to: Path) -> None:
        """What is on its disk at one moment."""
        os.kill(self.valkey.pid, signal.SIGSTOP)
        try:
            shutil.copytree(self.valkey.data_dir / "appendonlydir", to)
        finally:
            os.kill(self.valkey.pid, signal.SIGCONT)

    def put_redis_back(self, copy: Path | None) -> None:
        """To that copy, or to nothing. It must be down, and answers when this returns."""
        shutil.rmtree(self.valkey.data_dir / "appendonlydir", ignore_errors=True)
        if copy is not None:
            shutil.copytree(copy, self.valkey.data_dir / "appendonlydir")
        self.valkey.start()

    async def rounds_of_notices(self, many: int = 2) -> None:
        """Wait until the settler has looked so many times whether there is something to send."""
        for _ in range(many):
            before = await self.ask("SELECT clock_timestamp()")

            async def has_looked(before: Any = before) -> bool:
                found = await self.ask(
                    "SELECT max(worked_at) > $1 FROM taximeter.heartbeats WHERE loop = 'notices'",
                    before,
                )
                return bool(found)

            await eventually(has_looked, within_s=BOUND_S, what="a look at the notices")

    async def run(self, *arguments: str) -> tuple[int, str]:
        """A command of ours: its exit code, and what it printed."""
        done = await asyncio.to_thread(
            CliRunner(env=self.environment).invoke, group, list(arguments)
        )
        return done.exit_code, done.output

    async def check(self) -> dict[str, list[str]]:
        """What `taximeter check` objects to, by invariant."""
        code, printed = await self.run("check", "--json")
        assert code in (0, 1, 3), printed
        return {
            one["name"]: one["violations"]
            for one in json.loads(printed)["invariants"]
            if not one["holds"]
        }

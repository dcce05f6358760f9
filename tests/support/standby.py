"""A primary of Debian's Postgres and a standby that follows it until it is cut off and promoted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGQUIT
from typing import Final

import asyncpg
import pytest

from support.debian import own_folder, postgres_versions, server_account, wait_for_port
from support.waiting import eventually
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.spawn import Child, spawn

_PROGRAMS: Final = Path("/usr/lib/postgresql")


@dataclass
class Pair:
    """Two ports on which the same data is; `primary` is the process that takes writes."""

    folder: Path
    programs: Path
    ports: tuple[int, int]
    servers: list[Child]

    @property
    def urls(self) -> tuple[str, str]:
        """Of the primary and of the standby."""
        first, second = (
            f"postgresql://postgres@{LOOPBACK}:{port}/postgres?sslmode=disable"
            for port in self.ports
        )
        return first, second

    async def start_primary(self) -> None:
        """An empty one, that anybody of this machine may use."""
        await asyncio.to_thread(
            self._run,
            *("initdb", "--pgdata", str(self.folder / "primary"), "--auth=trust", "--no-sync"),
            "--username=postgres",
        )
        await self._start("primary", self.ports[0])

    async def follow(self) -> None:
        """Make the standby from the primary, and return when it has what the primary has."""
        primary, standby = self.ports
        await asyncio.to_thread(
            self._run,
            *("pg_basebackup", "--pgdata", str(self.folder / "standby"), "--write-recovery-conf"),
            *("--checkpoint=fast", "--no-sync", "--username=postgres"),
            *("--host", LOOPBACK, "--port", str(primary)),
        )
        await self._start("standby", standby)
        await self.in_step()

    async def in_step(self) -> None:
        """Wait until the standby has everything that is on the primary's disk now."""
        end = await self._asked(0, "SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn")

        async def is_there() -> bool:
            found = await self._asked(
                1, "SELECT coalesce(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0)"
            )
            return bool(found >= end)

        await eventually(is_there, what="the standby to have what the primary has")

    async def cut_off(self) -> None:
        """From now on the standby hears nothing of the primary."""
        conn = await asyncpg.connect(self.urls[1])
        try:
            await conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
            await conn.execute("SELECT pg_reload_conf()")
        finally:
            await conn.close()

        async def hears_nothing() -> bool:
            # One that cannot be asked about itself is not one that streams.
            return await self._asked(0, "SELECT count(*) FROM pg_stat_replication") == 0

        await eventually(hears_nothing, what="the primary without a standby")

    async def fail_over(self) -> None:
        """The primary dies at once, and the standby takes writes with what it has."""
        self.servers[0].send_signal(SIGKILL)
        await asyncio.to_thread(self.servers[0].wait)
        assert await self._asked(1, "SELECT pg_promote()")

    async def _asked(self, which: int, question: str) -> int:
        conn = await asyncpg.connect(self.urls[which])
        try:
            return int(await conn.fetchval(question))
        finally:
            await conn.close()

    def _run(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            process = self._spawn(command, log)
            assert process.wait(120) == 0, (self.folder / f"{command[0]}.log").read_text()

    async def _start(self, name: str, port: int) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.servers.append(
                self._spawn(
                    (
                        *("postgres", "-D", str(self.folder / name), "-p", str(port)),
                        *("-c", f"listen_addresses={LOOPBACK}", "-c", "hot_standby=on"),
                        *("-k", str(self.folder)),
                    ),
                    log,
                )
            )
        await asyncio.to_thread(wait_for_port, port)

        async def answers() -> bool:
            try:
                await self._asked(len(self.servers) - 1, "SELECT 1")
            except asyncpg.CannotConnectNowError:
                return False
            return True

        await eventually(answers, what=f"the {name} that takes connections")

    def _spawn(self, command: Sequence[str], log: object) -> Child:
        return spawn(
            [str(self.programs / command[0]), *command[1:]],
            log=log,  # type: ignore[arg-type]
            death_signal=SIGQUIT,
            identity=server_account("postgres"),
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        )


@asynccontextmanager
async def primary_and_standby(folder: Path) -> AsyncIterator[Pair]:
    """A primary that is empty; its standby comes with `follow`. The folder is empty, and all may
    enter it. Skips, and says why, where Debian's package is missing.
    """
    if not postgres_versions():
        pytest.skip("NOT TESTED: install Debian's package postgresql")
    programs = _PROGRAMS / str(postgres_versions()[-1]) / "bin"
    pair = Pair(
        own_folder(folder, server_account("postgres")), programs, (free_port(), free_port()), []
    )
    try:
        await pair.start_primary()
        yield pair
    finally:
        for server in pair.servers:
            if server.poll() is None:
                server.send_signal(SIGQUIT)
        for server in pair.servers:
            await asyncio.to_thread(server.wait, 30)

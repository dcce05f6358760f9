"""A second embedded Postgres that follows a first one by streaming, until it is promoted."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import asyncpg

from support.waiting import eventually
from taximeter.api.embedded.machine import LOOPBACK
from taximeter.api.embedded.postgres import SUPERUSER, EmbeddedPostgres, postgres_program

_BYTES = "- '0/0'::pg_lsn"


def standby_of(primary: EmbeddedPostgres, folder: Path) -> EmbeddedPostgres:
    """Make it from the primary, which runs, and start it; the caller stops it."""
    standby = EmbeddedPostgres(folder)
    standby.cluster.mkdir(parents=True, mode=0o700)
    if standby.identity.uid != -1:
        os.chown(standby.cluster, standby.identity.uid, standby.identity.gid)
    standby.run_to_end(
        [
            str(postgres_program("pg_basebackup")),
            *(f"--pgdata={standby.cluster}", "--write-recovery-conf", "--checkpoint=fast"),
            *("--no-sync", f"--username={SUPERUSER}", f"--host={LOOPBACK}"),
            f"--port={primary.port}",
        ],
        what="pg_basebackup",
    )
    standby.start()
    return standby


def both(*servers: EmbeddedPostgres) -> str:
    """The address that names them all, in this order."""
    places = ",".join(f"{LOOPBACK}:{server.port}" for server in servers)
    alone = f"{LOOPBACK}:{servers[0].port}"
    return servers[0].url.replace(alone, places)


async def ask(server: EmbeddedPostgres, question: str) -> int:
    conn = await asyncpg.connect(server.url)
    try:
        return int(await conn.fetchval(question) or 0)
    finally:
        await conn.close()


async def tell(server: EmbeddedPostgres, *statements: str) -> None:
    conn = await asyncpg.connect(server.url)
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()


async def in_step(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Wait until the standby has replayed what is on the primary's disk now."""
    end = await ask(primary, f"SELECT pg_current_wal_flush_lsn() {_BYTES}")

    async def is_there() -> bool:
        return await ask(standby, f"SELECT pg_last_wal_replay_lsn() {_BYTES}") >= end

    await eventually(is_there, what="the standby to have what the primary has")


async def cut_off(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """From now on the standby hears nothing of the primary."""
    await tell(standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")

    async def hears_nothing() -> bool:
        # One that cannot be asked about itself is not one that streams.
        return await ask(primary, "SELECT count(*) FROM pg_stat_replication") == 0

    await eventually(hears_nothing, what="the primary without a standby")


async def promote(standby: EmbeddedPostgres) -> None:
    """Let it take writes with what it has."""
    assert await ask(standby, "SELECT pg_promote()::int")


async def as_standby_of_nobody(server: EmbeddedPostgres) -> None:
    """Start one that is stopped in recovery, as somebody does who wants to promote it."""
    signal = server.cluster / "standby.signal"
    signal.touch()
    if server.identity.uid != -1:
        os.chown(signal, server.identity.uid, server.identity.gid)
    await asyncio.to_thread(server.start)

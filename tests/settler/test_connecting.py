"""Sessions in Postgres are what our transactions are written for, whatever its settings say; and a
Postgres that may lose what it confirms, or that is not reached itself, is refused with a sentence.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World, eventually
from support.postgres_once import PostgresOnce
from support.settlers import settler_process

from taximeter.api.commands import price_list_database
from taximeter.api.commands.common import refuse_unsafe_database
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.processes.database import process_pool
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.settler.books import connections as connecting
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.connections import SafeConnect, UnsafeDatabase
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, is_away, open_pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.own_database]

PGBOUNCER = Path("/usr/sbin/pgbouncer")
WAYS = {
    "server": ("ALTER SYSTEM SET {0} = {1}", "SELECT pg_reload_conf()"),
    "database": ("ALTER DATABASE taximeter SET {0} = {1}",),
    "role": ("ALTER ROLE postgres SET {0} = {1}",),
}


async def run(url: str, *statements: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()


@pytest.mark.parametrize("way", WAYS)
async def test_settings_of_others_do_not_reach_our_sessions(
    postgres_server: EmbeddedPostgres, way: str
) -> None:
    url = postgres_server.url
    bad = {
        "synchronous_commit": "off",
        "default_transaction_isolation": "serializable",
        "statement_timeout": "1234",
        "lock_timeout": "1",
    }
    early = await open_pool(StoreSettings(database_url=url))
    for name, value in bad.items():
        await run(url, *(one.format(name, value) for one in WAYS[way]))
    late = await open_pool(StoreSettings(database_url=url))
    for pool in (early, late):
        async with pool.acquire() as conn:
            assert await conn.fetchval("SHOW synchronous_commit") == "on"
            assert await conn.fetchval("SHOW transaction_isolation") == "read committed"
            assert await conn.fetchval("SHOW statement_timeout") == "65s"
            assert await conn.fetchval("SHOW lock_timeout") == "0"
        await pool.close()


async def test_a_postgres_that_is_read_only_by_default_settles_when_it_takes_writes_again(
    database_url: str, redis: redis_asyncio.Redis, key_prefix: str
) -> None:
    """Somebody wants no writes: the settler waits, as for one that is away, and loses nothing."""
    name = urlsplit(database_url).path.removeprefix("/")
    async with await open_pool(StoreSettings(database_url=database_url)) as pool:
        world = World(Stores(pool, redis, key_prefix))
        await world.start()
        await world.organization("acme", ann=1_000)
        await world.charge("ann", 10)
        await run(database_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await pool.expire_connections()
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as refused:
            await world.settle()
        assert is_away(refused.value)
        assert await world.used("ann") == 0
        await run(
            database_url,
            "SET default_transaction_read_only = off",
            f'ALTER DATABASE "{name}" RESET ALL',
        )
        await pool.expire_connections()
        await world.charge("ann", 20)
        await world.assert_books()
        assert await world.used("ann") == 30


async def test_a_stronger_commit_stays_as_it_is(postgres_server: EmbeddedPostgres) -> None:
    await run(postgres_server.url, "ALTER ROLE postgres SET synchronous_commit = remote_apply")
    pool = await open_pool(StoreSettings(database_url=postgres_server.url))
    await run(postgres_server.url, "ALTER ROLE postgres SET synchronous_commit = off")
    await pool.expire_connections()
    assert await pool.fetchval("SHOW synchronous_commit") == "remote_apply"
    await pool.close()


async def test_a_commit_that_no_standby_has_is_not_answered_as_done(
    postgres_server: EmbeddedPostgres,
) -> None:
    """A server that gives up such a commit by its own time-out answers it as done, with a warning;
    ours is later than the time-out of whoever asked.
    """
    await run(
        postgres_server.url,
        "CREATE TABLE said (word text)",
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    )
    pool = make_pool(
        postgres_server.url,
        size_max=1,
        command_timeout_s=0.5,
        wait_s=30.0,
        server_settings={},
    )
    async with pool:

        async def waits() -> bool:
            return bool(await pool.fetchval("SHOW synchronous_standby_names", timeout=30))

        await eventually(waits)
        # In a process that is busy our own time-out comes after what came from the server.
        asyncio.get_running_loop().call_later(0.3, time.sleep, 1.0)
        with pytest.raises(TimeoutError):
            await pool.execute("INSERT INTO said VALUES ('yes')")


@pytest.mark.parametrize("weak", ["fsync", "full_page_writes"])
async def test_a_postgres_that_may_lose_what_it_confirms_is_refused(
    tmp_path: Path,
    redis_url: str,
    key_prefix: str,
    migrated_postgres: PostgresOnce,
    weak: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with migrated_postgres(tmp_path / "postgres", ("-c", f"{weak}=off")) as server:
        with pytest.raises(UnsafeDatabase, match=f"Postgres has {weak} off"):
            await open_pool(StoreSettings(database_url=server.url))
        env = {
            "TAXIMETER_DATABASE_URL": server.url,
            "TAXIMETER_REDIS_URL": redis_url,
            "TAXIMETER_KEY_PREFIX": key_prefix,
        }
        with settler_process(env, tmp_path / "log") as settler:
            assert await asyncio.to_thread(settler.process.wait, 60) == 1
        said = (tmp_path / "log").read_text().splitlines()[-1]
        assert said.startswith(f"Error: cannot start on this Postgres: Postgres has {weak} off")
        accepted = StoreSettings(database_url=server.url, database_durability="none")
        pool = await open_pool(accepted)
        assert await pool.fetchval("SELECT 1") == 1
        await pool.close()
        sidecar = SidecarSettings(database_url=server.url, database_durability="none")
        async with process_pool(sidecar, "keys", size_max=1) as pool:
            assert await pool.fetchval("SELECT 1") == 1
        with pytest.raises(UnsafeDatabase):
            async with price_list_database.open_pool(server.url) as pool:
                await pool.fetchval("SELECT 1")
        monkeypatch.setenv("TAXIMETER_DATABASE_DURABILITY", "none")
        async with price_list_database.open_pool(server.url) as pool:
            assert await pool.fetchval("SELECT 1") == 1


@contextmanager
def pgbouncer(postgres: EmbeddedPostgres, folder: Path, ignored: str) -> Iterator[StoreSettings]:
    """In transaction mode, in front of it. As root it runs as somebody else, as it insists on."""
    port = free_port()
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n"
        f"taximeter = host={LOOPBACK} port={postgres.port} dbname=taximeter user=postgres\n"
        f"[pgbouncer]\nlisten_addr = {LOOPBACK}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = transaction\nserver_tls_sslmode = disable\n"
        f"ignore_startup_parameters = {ignored}\n"
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    command = [str(PGBOUNCER), str(folder / "pgbouncer.ini")]
    options: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection((LOOPBACK, port), timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.02)
        yield StoreSettings(
            database_url=f"postgresql://postgres@{LOOPBACK}:{port}/taximeter?sslmode=disable"
        )
    finally:
        process.kill()
        process.wait()


async def test_a_postgres_that_is_too_old_is_refused(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "OLDEST_POSTGRES", 1000)
    with pytest.raises(UnsafeDatabase, match=r"Postgres \d+ is too old: 1000 or newer"):
        await connecting.check_database(database_url, accept_loss=False)


async def test_a_user_named_as_our_schema_finds_the_contract_first(database_url: str) -> None:
    """By default a user's path begins with the schema of the user's own name."""
    conn = await SafeConnect()(database_url, server_settings={})
    try:
        assert await conn.fetchval("SHOW search_path") == "public"
    finally:
        await conn.close()


OURS = (
    "extra_float_digits,statement_timeout,lock_timeout,idle_session_timeout,synchronous_commit,"
    "default_transaction_isolation,idle_in_transaction_session_timeout,tcp_keepalives_idle,"
    "tcp_keepalives_interval,tcp_keepalives_count,search_path"
)


@pytest.mark.skipif(not PGBOUNCER.exists(), reason="Debian's package pgbouncer is missing")
@pytest.mark.parametrize("ignored", [OURS, f"{OURS},taximeter.started_with", "extra_float_digits"])
async def test_a_pgbouncer_in_between_is_refused(
    postgres_server: EmbeddedPostgres, ignored: str
) -> None:
    """With transactions on any connection, locks of sessions are nobody's, and commits wait for the
    disk where that happens to be the default.
    """
    # Its user must reach the folder, which that of the test is not for.
    with (
        TemporaryDirectory(prefix="taximeter-pgbouncer-") as folder,
        pgbouncer(postgres_server, Path(folder), ignored) as settings,
    ):
        with pytest.raises(UnsafeDatabase, match="do not reach Postgres"):
            await open_pool(settings)
        with pytest.raises(Exception, match="cannot start on this Postgres"):
            await asyncio.to_thread(refuse_unsafe_database, settings)


async def test_statement_time_outs_that_end_leave_nothing_behind(
    postgres_server: EmbeddedPostgres,
    redis: redis_asyncio.Redis,
    redis_url: str,
    key_prefix: str,
    tmp_path: Path,
) -> None:
    """Sessions that began while a time-out was on would have kept it after it was lifted."""
    url = postgres_server.url
    await run(url, "ALTER ROLE postgres SET statement_timeout = 1")
    env = {
        "TAXIMETER_DATABASE_URL": url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_QUEUE": f"{key_prefix}:queue",
        "TAXIMETER_KEY_PREFIX": key_prefix,
    }
    with settler_process(env, tmp_path / "log"):
        pool = await open_pool(StoreSettings(database_url=url))
        world = World(Stores(pool, redis, key_prefix))

        async def is_open() -> bool:
            return bool(await redis.hget(world.keys().meta, "run_id"))

        await eventually(is_open, 60.0)
        await world.organization("acme", ann=1_000)
        await world.charge("ann", 10)

        async def is_booked() -> bool:
            return await world.used("ann") == 10

        await eventually(is_booked)
        await pool.close()

"""A standby of Postgres is promoted, and the old primary comes back: clients of both addresses find
the one that counts, and nothing is read from the other one or written to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World, eventually
from support.postgres_once import PostgresOnce
from support.replica import (
    as_standby_of_nobody,
    ask,
    both,
    cut_off,
    in_step,
    promote,
    standby_of,
    tell,
)
from support.silent import silent_server
from support.waiting import answered

from taximeter.api.commands.cell import _connected
from taximeter.api.embedded.machine import LOOPBACK
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.meter import Meter, ShardFenced
from taximeter.settler.archive.by_itself import archiving
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.addresses import check_address, one_by_one
from taximeter.settler.books.connections import SafeConnect, primary_of
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, is_away, open_pool
from taximeter.settler.books.timelines import (
    NoPrimary,
    SupersededPostgres,
    Timelines,
    following,
    later_history,
)
from taximeter.settler.books.watermarks import read_mark
from taximeter.settler.moves.relay import load
from taximeter.settler.settling.read_your_writes import CatchUp
from taximeter.settler.settling.settle import settle_once
from taximeter.settler.shards.drain import rebuild_on_demand
from taximeter.settler.shards.guardian import guard


@pytest.fixture
def primary(tmp_path: Path, migrated_postgres: PostgresOnce) -> Iterator[EmbeddedPostgres]:
    with migrated_postgres(tmp_path / "primary") as server:
        yield server


@pytest.fixture
def standby(primary: EmbeddedPostgres, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = standby_of(primary, tmp_path / "standby")
    yield server
    server.stop()


@asynccontextmanager
async def opened(url: str, redis: redis_asyncio.Redis, prefix: str) -> AsyncIterator[World]:
    pool = await open_pool(StoreSettings(database_url=url), size_min=0)
    try:
        yield World(Stores(pool, redis, prefix))
    finally:
        pool.terminate()


async def usable(world: World) -> str:
    """What the guardian has done until the shard is usable; Postgres may be away meanwhile."""
    actions: list[str] = []

    async def is_usable() -> bool:
        try:
            found = await guard(world.stores, 0, 1)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if not is_away(error):
                raise
            return False
        actions.append(found.action)
        return found.usable

    await eventually(is_usable)
    return actions[-1]


@pytest.mark.parametrize("behind", [False, True], ids=["in step", "behind"])
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_clients_of_both_addresses_go_on_with_the_promoted_one_alone(
    primary: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    redis: redis_asyncio.Redis,
    redis_url: str,
    key_prefix: str,
    behind: bool,
) -> None:
    url = both(primary, standby)
    async with opened(url, redis, key_prefix) as world:
        await world.start()
        await world.organization("acme", ann=10_000, bob=5_000)
        await world.charge("ann", 10)
        await world.settle()
        await in_step(primary, standby)
        if behind:
            await cut_off(primary, standby)
        await world.charge("ann", 20)
        await world.settle()
        await world.charge("ann", 30)
        if not behind:
            await in_step(primary, standby)
        primary.kill()
        await promote(standby)
        # A promotion is another history, whatever it has lost: the shard is rebuilt either way.
        assert await usable(world) == "rebuilt"
        await world.assert_books()
        assert await world.used("ann") == 60
        assert await ask(standby, "SELECT count(*) FROM taximeter.charged_requests") == 3

        primary.start()
        epoch = (await world.mark())["epoch"]
        before = await ask(primary, "SELECT seq FROM taximeter.watermarks")
        # Who has never heard of either takes the later one, in whatever order they are named.
        assert await primary_of(url) == one_by_one(url)[1]
        assert await load(world.stores, await read_mark(world.pool, 0), ("acme", "ann"))
        await world.charge("ann", 5)
        async with opened(primary.url, redis, key_prefix) as old:
            with pytest.raises(SupersededPostgres, match="timeline 1, and timeline 2"):
                await settle_once(old.stores, 0)
            assert not (await CatchUp(old.stores, 5.0).of_org("acme")).complete
            loader = account_loader(old.pool)
            meter = await Meter.connect(redis_url, loader=loader, key_prefix=key_prefix)
            async with meter:
                # Bob is not live since the rebuild; what the old primary says of him is not taken.
                with pytest.raises(ShardFenced):
                    await answered(lambda: meter.charge("acme", "bob", 1))
            with pytest.raises(SupersededPostgres):
                await rebuild_on_demand(old.stores, 0, reason="by mistake", wait_s=0.0, force=True)
            found = await guard(old.stores, 0, 1)
            assert (found.action, found.usable) == ("superseded", False)
            # From the guardian's look on this process does not even connect to it.
            with pytest.raises(SupersededPostgres):
                await guard(old.stores, 0, 1)
        assert await usable(world) == "nothing"
        await world.assert_books()
        assert await world.used("ann") == 65
        assert (await world.mark())["epoch"] == epoch, "the old primary has closed the shard"
        assert await ask(primary, "SELECT seq FROM taximeter.watermarks") == before


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_process_with_sessions_on_an_old_primary_leaves_it_as_soon_as_it_hears(
    primary: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    redis: redis_asyncio.Redis,
    key_prefix: str,
) -> None:
    """Both take writes at once, and the old one never died. To go on with it all the same, a person
    promotes it.
    """
    async with opened(both(primary, standby), redis, key_prefix) as world:
        await world.start()
        await world.organization("acme", ann=1_000)
        timelines = Timelines()
        settings = StoreSettings(database_url=primary.url)
        api = await open_pool(settings, size_min=1, timelines=timelines)
        async with following(timelines, redis, key_prefix):
            await promote(standby)
            async with opened(both(standby, primary), redis, key_prefix) as other:
                assert await usable(other) == "rebuilt"

            async def is_refused() -> bool:
                try:
                    await api.fetchval("SELECT 1")
                except SupersededPostgres:
                    return True
                return False

            await eventually(is_refused)
        api.terminate()
        assert await usable(world) == "nothing"
        assert await world.pool.fetchval("SELECT inet_server_port()") == standby.port
    standby.stop()
    primary.stop()
    await as_standby_of_nobody(primary)
    async with opened(primary.url, redis, key_prefix) as world:
        with pytest.raises(NoPrimary):
            await guard(world.stores, 0, 1)
        await promote(primary)
        assert await usable(world) == "rebuilt"
        await world.assert_books()


async def test_a_server_that_hangs_keeps_nobody_from_the_one_that_takes_writes(
    database_url: str,
) -> None:
    """A machine that is gone answers nothing, and that is why another one was promoted."""
    parts = urlsplit(database_url)
    login, _, place = parts.netloc.rpartition("@")
    with silent_server() as server:
        url = parts._replace(netloc=f"{login}@{LOOPBACK}:{server.port},{place}").geturl()
        connect = SafeConnect()
        for _ in range(2):
            async with asyncio.timeout(120):
                conn = await connect(url, server_settings={}, timeout=3_600.0)
            assert await conn.fetchval("SELECT 1") == 1
            await conn.close()
        # The first look alone asked it.
        assert server.connections == 1


def test_an_address_of_several_servers_is_taken_apart() -> None:
    assert one_by_one("postgresql://u:p%2Cw@a:1,b:2/db?target_session_attrs=read-write&x=1") == [
        "postgresql://u:p%2Cw@a:1/db?x=1",
        "postgresql://u:p%2Cw@b:2/db?x=1",
    ]
    # Python 3.14 refuses the whole as a URL.
    several = check_address("postgresql://u@a:1,[::1]:2/db")
    assert one_by_one(several) == ["postgresql://u@a:1/db", "postgresql://u@[::1]:2/db"]
    assert one_by_one("postgresql:///db?host=/run") == ["postgresql:///db?host=/run"]
    with pytest.raises(ValueError, match="target_session_attrs must be read-write"):
        check_address("postgresql://a,b/db?target_session_attrs=any")


def test_a_history_is_later_within_one_system_alone() -> None:
    assert later_history("7/00000001", ["7/0000000A", "7/00000002", None, "8/000000FF"]) == (
        "7/0000000A"
    )
    for others in (["7/00000001"], ["8/00000002"], ["", "7", "7/x"], []):
        assert later_history("7/00000001", others) is None
    assert later_history(None, ["7/00000001"]) is None


@pytest.mark.slow
async def test_sessions_of_owners_go_to_the_server_that_takes_writes(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    """Whichever stands first: months are archived and organisations moved where commits stay."""
    weak = urlsplit(primary.url)
    await tell(primary, f"ALTER DATABASE {weak.path[1:]} SET synchronous_commit = off")
    await in_step(primary, standby)
    for url in (both(standby, primary), both(primary, standby)):
        for opens in (archiving(url), _connected("--database-url", url)):
            async with opens as conn:
                assert not await conn.fetchval("SELECT pg_is_in_recovery()")
                assert await conn.fetchval("SHOW synchronous_commit") == "on"

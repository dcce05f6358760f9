"""A server that lacks what it had acknowledged is found out by the clients that were told, also
where no event is missing and the numbers fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from settler_world import World
from support.aof import command_ends, incremental_file
from support.proxy import Proxy
from support.servers import ValkeyFactory
from support.shard import ScriptedShard
from support.waiting import eventually

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterSettings, ShardFenced, StoreError
from taximeter.meter.server.acknowledged import Acknowledged
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards.guardian import guard

pytestmark = pytest.mark.slow

QUICK = {"lanes_per_server": 1, "take_timeout_s": 0.5, "resolve_timeout_s": 0.5}


def cut_tail(server: EmbeddedValkey, commands: int) -> None:
    """Take the newest commands from the file of a server that is down."""
    log = incremental_file(server.data_dir)
    data = log.read_bytes()
    log.write_bytes(data[: command_ends(data)[-1 - commands]])


async def test_a_lost_release_is_found_and_the_shard_rebuilt(
    pool: asyncpg.Pool, valkey_server: ValkeyFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A release leaves no event: to the stores the server looks whole, and its hold is back."""
    server = valkey_server("--appendfsync", "always")
    async with Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis))
        await world.start()
        await world.organization("acme", ann=10_000)
        await world.charge("ann", 5, "before")
        await world.settle()
        settings = MeterSettings(**QUICK)  # type: ignore[arg-type]
        async with await Meter.connect(server.url, settings=settings) as meter:
            hold = await meter.reserve("acme", "ann", 100)
            await hold.touch(40)
            kept = len(command_ends(incremental_file(server.data_dir).read_bytes()))
            await hold.release()
            lost = len(command_ends(incremental_file(server.data_dir).read_bytes())) - kept
            server.kill()
            await redis.connection_pool.disconnect()
            cut_tail(server, lost)
            server.start()
            assert await redis.hlen(world.keys().holds) == 1, "the release was not lost"
            with pytest.raises(StoreError):
                await meter.reserve("acme", "ann", 1)
            assert await redis.hget(world.keys().meta, "missing") == b"1"
            assert "has lost 1 calls that it had acknowledged" in caplog.text
            ((_, _, pressure),) = meter.pressure()
            assert pressure.missing == 1
            guarded = await guard(world.stores, 0, 1)
            assert (guarded.action, guarded.usable) == ("rebuilt", True)
            assert "1 calls" in guarded.reason
            assert await redis.hget(world.keys().meta, "missing") is None

            async def admitted() -> bool:
                try:
                    await (await meter.reserve("acme", "ann", 1)).release()
                except StoreError:
                    return False
                return True

            await eventually(admitted)
        assert (await guard(world.stores, 0, 1)).action == "nothing"


@pytest.fixture
async def shard(valkey_server: ValkeyFactory) -> Any:
    server = valkey_server("--appendfsync", "always", "--repl-diskless-sync-delay", "0")
    redis = Redis.from_url(server.url)
    made = ScriptedShard(redis, ShardKeys("tm", 0))
    await made.open()
    await made.load("org/u", 1000)
    yield made
    await redis.aclose()


def url_of(shard: ScriptedShard) -> str:
    arguments = shard.redis.connection_pool.connection_kwargs
    return f"redis://127.0.0.1:{arguments['port']}/0"


async def missing(shard: ScriptedShard) -> bytes | None:
    found: bytes | None = await shard.redis.hget(shard.keys.meta, "missing")
    return found


async def test_a_server_that_lost_data_under_the_same_run_id(
    connect: Callable[..., Any], shard: ScriptedShard, valkey_server: ValkeyFactory
) -> None:
    """It was made a replica of a stale copy of itself, and promoted again: no connection breaks."""
    url = url_of(shard)
    stale = valkey_server("--replicaof", "127.0.0.1", url.rpartition(":")[2].partition("/")[0])
    async with Redis.from_url(stale.url) as copy:

        async def in_step() -> bool:
            found = await copy.info("replication")
            return found["role"] == "master" or found["master_link_status"] == "up"

        meter: Meter = await connect(url, **QUICK)
        await meter.charge("org", "u", 1)
        await eventually(in_step)
        await shard.redis.execute_command("WAIT", "1", "10000")
        await copy.execute_command("REPLICAOF", "NO", "ONE")
        for _ in range(5):
            await (await meter.reserve("org", "u", 1)).release()
        run_id = (await shard.redis.info("server"))["run_id"]
        await shard.redis.execute_command("REPLICAOF", "127.0.0.1", str(stale.port))

        async def is_a_copy() -> bool:
            found = await shard.redis.info("replication")
            return bool(found.get("master_link_status") == "up")

        await eventually(is_a_copy)
        await shard.redis.execute_command("REPLICAOF", "NO", "ONE")
        assert (await shard.redis.info("server"))["run_id"] == run_id
        await meter.charge("org", "u", 1)

        async def reported() -> bool:
            return await missing(shard) == b"9"  # 10 calls were lost, and one was made since.

        await eventually(reported)


async def go_back_to(shard: ScriptedShard, writes: int) -> None:
    """The server of now has only so many calls, and is approved."""
    await shard.redis.hset(shard.keys.meta, "writes", writes)
    await approve(shard)


async def approve(shard: ScriptedShard) -> None:
    run_id = (await shard.redis.info("server"))["run_id"]
    await load_script("approve").call(shard.redis, [shard.keys.meta], [1, run_id])


async def test_who_comes_back_late_compares_with_what_the_server_began_with(
    connect: Callable[..., Any], valkey_server: ValkeyFactory
) -> None:
    """Others have gone on past the numbers that were lost."""
    server = valkey_server("--appendfsync", "always")
    async with Redis.from_url(server.url) as redis:
        shard = ScriptedShard(redis, ShardKeys("tm", 0))
        await shard.open()
        await shard.load("org/u", 1000)
        idle: Meter = await connect(server.url, **QUICK)
        for _ in range(4):
            await idle.charge("org", "u", 1)
        server.kill()
        await redis.connection_pool.disconnect()
        server.start()
        await go_back_to(shard, 2)
        for number in range(9):
            await shard.one("charge", f"other-{number}", 1)
        assert await missing(shard) is None
        await idle.charge("org", "u", 1)

        async def reported() -> bool:
            return await missing(shard) == b"2"

        await eventually(reported)


async def test_what_a_process_lost_by_a_promotion_is_found_by_who_connects_again(
    connect: Callable[..., Any], shard: ScriptedShard
) -> None:
    """What was known when the client connected last is of the start before, without a doubt."""
    async with Proxy(url_of(shard)) as proxy:
        idle: Meter = await connect(proxy.url, **QUICK)
        for _ in range(4):
            await idle.charge("org", "u", 1)
        proxy.reset_all()
        await idle.charge("org", "u", 1)  # The connection was made at 4.
        await go_back_to(shard, 2)
        for number in range(9):
            await shard.one("charge", f"other-{number}", 1)
        proxy.reset_all()
        await idle.charge("org", "u", 1)

        async def reported() -> bool:
            return await missing(shard) == b"2"

        await eventually(reported)


async def test_who_was_idle_over_a_promotion_takes_nothing_for_lost(
    connect: Callable[..., Any], shard: ScriptedShard
) -> None:
    """A process that was made a replica and promoted keeps its clients' connections: what is
    answered on one is more than that start began with.
    """
    async with Proxy(url_of(shard)) as proxy:
        idle: Meter = await connect(proxy.url, **QUICK)
        for _ in range(2):
            await idle.charge("org", "u", 1)
        await approve(shard)
        for _ in range(3):
            await idle.charge("org", "u", 1)
        proxy.reset_all()
        await idle.charge("org", "u", 1)
        ((_, _, pressure),) = idle.pressure()
        assert pressure.missing == 0
        assert await missing(shard) is None


async def test_a_restart_that_lost_nothing_is_not_reported(
    connect: Callable[..., Any], shard: ScriptedShard
) -> None:
    meter: Meter = await connect(url_of(shard), **QUICK)
    other: Meter = await connect(url_of(shard), **QUICK)
    for _ in range(5):
        await meter.charge("org", "u", 1)
        await other.charge("org", "u", 1)
    run_id = (await shard.redis.info("server"))["run_id"]
    await load_script("approve").call(shard.redis, [shard.keys.meta], [1, run_id])
    await load_script("fence").call(shard.redis, [shard.keys.meta], ["test"])
    with pytest.raises(ShardFenced):
        await meter.charge("org", "u", 1)
    await shard.open(epoch=2)
    await shard.load("org/u", 1000)
    await meter.charge("org", "u", 1)
    await other.charge("org", "u", 1)
    assert await missing(shard) is None


def test_answers_that_overtake_each_other_are_no_loss() -> None:
    known = Acknowledged(ShardKeys("tm", 0))
    first, second = known.told, known.told
    assert known.note(second, "1", 2)
    assert known.note(first, "1", 1)
    assert known.told.writes == 2
    assert known.missing == 0
    # A loss that two lanes notice is one loss, of the calls that were known before both were sent.
    first, second = known.told, known.told
    assert not known.note(first, "1", 1)
    assert not known.note(second, "1", 0)
    assert known.missing == 1

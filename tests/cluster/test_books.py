"""The settler on a real cluster, and both on a primary behind Sentinel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from redis.exceptions import RedisError
from settler_world import World
from support.cluster import SHARDS, Cluster, MeterFactory, until
from support.servers import ValkeyFactory

from taximeter.api.embedded.machine import free_port
from taximeter.api.embedded.valkey import EmbeddedValkey, valkey_binary
from taximeter.meter import Meter, StoreError
from taximeter.meter.places.places import SentinelServer
from taximeter.meter.server.permissions import SETTLER, MissingPermission
from taximeter.meter.wire.errors import UnsafeServer
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.shards.drain import rebuild_on_demand
from taximeter.settler.shards.fill import Filler
from taximeter.settler.shards.guardian import guard
from taximeter.settler.shards.reshard import reshard
from taximeter.settler.status.lag import shard_statuses
from taximeter.settler.worker.main import run_worker


def settings_of(url: str, **more: object) -> SettlerSettings:
    return SettlerSettings(redis_url=url, redis_timeout_s=60.0, **more)  # type: ignore[arg-type]


@pytest.fixture
async def world(pool: asyncpg.Pool, cluster: Cluster) -> AsyncIterator[World]:
    """Opened, with an organisation on each shard."""
    client = open_redis(settings_of(cluster.url(*cluster.nodes[3:])))
    made = World(Stores(pool, client))
    await made.start(SHARDS)
    for org in organisations(SHARDS):
        await made.organization(org, u=1000)
    yield made
    await client.aclose()


def organisations(shards: int) -> list[str]:
    """One of each shard."""
    names = [f"org{number}" for number in range(99)]
    return [next(one for one in names if shard_of(one, shards) == n) for n in range(shards)]


async def test_everything_of_a_settler(
    world: World, cluster: Cluster, connect: MeterFactory
) -> None:
    stores, orgs = world.stores, organisations(SHARDS)
    meter = await connect()
    for org in orgs:
        await meter.charge(org, "u", 10, request_id="charged")
        await meter.reserve(org, "u", 10, request_id="held", ttl_s=3000)
    assert [one.unsettled_events for one in await shard_statuses(stores)] == [1] * SHARDS
    await world.assert_books()
    done = await Filler(stores).fill()
    assert sorted(done.complete) == list(range(SHARDS))
    rebuilt = await rebuild_on_demand(stores, 1, reason="a test", wait_s=0, force=True)
    assert rebuilt.holds_kept == 1
    for wanted in (SHARDS + 2, 2, SHARDS):
        assert await reshard(stores, wanted, wait_s=0, force=True) == world.shards
        world.shards = wanted
        await world.assert_books()
    for org in orgs:
        await meter.commit(org, "u", "held", 5)
    await world.assert_books()
    assert [await world.used("u", org) for org in orgs] == [15] * SHARDS
    assert [await world.live("u", org) for org in orgs] == [(985, 0, 1)] * SHARDS


async def test_a_promoted_node_that_is_not_fit_is_not_approved(
    world: World, cluster: Cluster, connect: MeterFactory
) -> None:
    heir = cluster.replica_of(cluster.nodes[1])
    for node in cluster.nodes:
        node.ask("ACL SETUSER", "books", "on", ">secret", *SETTLER.rules("tm").split(" "))
    url = cluster.url(*cluster.nodes).replace("redis://", "redis://books:secret@")
    client = open_redis(settings_of(url))
    stores = Stores(world.pool, client, durability="everysec")
    meter = await connect()
    await meter.charge(organisations(SHARDS)[1], "u", 10, request_id="before")
    try:
        assert (await guard(stores, 1, SHARDS)).action == "nothing"
        heir.ask("ACL SETUSER", "books", "-xtrim")
        heir.ask("CONFIG SET", "appendonly", "no")
        cluster.fail_over(heir)
        with pytest.raises(UnsafeServer, match=f"{heir.name}: appendonly is off"):
            await guard(stores, 1, SHARDS)
        heir.ask("CONFIG SET", "appendonly", "yes")
        with pytest.raises(MissingPermission, match=rf"on {heir.name} \(XTRIM\)"):
            await guard(stores, 1, SHARDS)
        heir.ask("ACL SETUSER", "books", "+xtrim")
        charging = asyncio.create_task(
            meter.charge(organisations(SHARDS)[1], "u", 10, request_id="after")
        )
        for shard in range(SHARDS):
            assert (await guard(stores, shard, SHARDS)).usable
        assert (await charging).available == 980
        await world.assert_books()
    finally:
        heir.ask("CONFIG SET", "appendonly", "yes")
        await client.aclose()
        for node in cluster.nodes:
            node.ask("ACL DELUSER", "books")


async def test_arq_wants_a_server_of_its_own(
    world: World, cluster: Cluster, settler_database_url: str
) -> None:
    settings = settings_of(
        cluster.url(),
        database_url=settler_database_url,
        settler_port=free_port(),
        durability="everysec",
    )
    async with asyncio.timeout(60):
        with pytest.raises(StoreError, match=r"arq.* cannot use a cluster: set TAXIMETER_ARQ_RED"):
            await run_worker(settings)


class SentinelNode(EmbeddedValkey):
    """Watches one primary, and is enough by itself to call a failover."""

    def __init__(self, folder: Path, primary: EmbeddedValkey) -> None:
        super().__init__(folder)
        folder.mkdir()
        self._config = folder / "sentinel.conf"
        self._config.write_text(f"sentinel monitor main 127.0.0.1 {primary.port} 1\n")

    def command(self) -> list[str]:
        options = ("--sentinel", "--port", str(self.port), "--bind", "127.0.0.1")
        return [str(valkey_binary()), str(self._config), *options]


async def test_behind_sentinel(
    pool: asyncpg.Pool, valkey_server: ValkeyFactory, tmp_path: Path
) -> None:
    """The same URL: its hosts are the Sentinels', its login and database the primary's."""
    first = valkey_server()
    second = valkey_server("--replicaof", "127.0.0.1", str(first.port))
    until(lambda: _info(second)["master_link_status"] == "up")
    with SentinelNode(tmp_path / "sentinel", first) as sentinel:
        url = f"redis://127.0.0.1:{sentinel.port}/2"
        client = open_redis(settings_of(url))
        assert isinstance(await client.places(), SentinelServer)
        world = World(Stores(pool, client))
        await world.start(2)
        await world.organization(u=1000)
        loader = account_loader(pool)
        async with await Meter.connect(url, loader=loader) as meter:
            await meter.charge("acme", "u", 10, request_id="before")
            await world.settle()
            until(lambda: _masters(sentinel)["num-slaves"] == 1)
            _ask(sentinel, "SENTINEL FAILOVER", "main")
            until(lambda: _masters(sentinel)["port"] == second.port)
            until(lambda: _info(second)["role"] == "master")
            charging = asyncio.create_task(meter.charge("acme", "u", 10, request_id="after"))
            while not charging.done():
                for shard in range(2):
                    with suppress(RedisError):  # Old connections are cut, soon.
                        await guard(world.stores, shard, 2)
                await asyncio.sleep(0.02)
            assert (await charging).available == 980
            await world.assert_books()
        with pytest.raises(StoreError, match="does not watch service_name 'other', but main"):
            await Meter.connect(f"{url}?service_name=other")
        await client.aclose()


def _ask(server: EmbeddedValkey, *command: str) -> Any:
    with redis.Redis(port=server.port) as client:
        return client.execute_command(*command)


def _info(server: EmbeddedValkey) -> Any:
    with redis.Redis(port=server.port) as client:
        return client.info("replication")


def _masters(sentinel: EmbeddedValkey) -> Any:
    with redis.Redis(port=sentinel.port) as client:
        return client.sentinel_masters()["main"]

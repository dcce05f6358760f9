"""The settler on a real cluster, and both on a primary behind Sentinel."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from redis.exceptions import RedisError
from settler_world import World, eventually
from support.cluster import (
    SHARDS,
    Cluster,
    MeterFactory,
    fail_over,
    organisations,
    pause,
    refusal,
    resume,
    settings_of,
    until,
    waits_for_a_reply,
)
from support.servers import ValkeyFactory

from taximeter.api.embedded.machine import free_port
from taximeter.api.embedded.valkey import EmbeddedValkey, valkey_binary
from taximeter.meter import Meter, MeterSettings, RequestConflict, StoreError
from taximeter.meter.places import standing
from taximeter.meter.places.places import SentinelServer
from taximeter.meter.server.permissions import SETTLER, MissingPermission
from taximeter.meter.wire.errors import UnsafeServer
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.shards.drain import rebuild_on_demand
from taximeter.settler.shards.fill import Filler
from taximeter.settler.shards.guardian import ensure_shards, guard
from taximeter.settler.shards.reshard import reshard
from taximeter.settler.status.lag import shard_statuses
from taximeter.settler.worker.main import run_worker


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


async def test_from_one_server_to_a_cluster_and_back(
    pool: asyncpg.Pool, cluster: Cluster, redis_url: str
) -> None:
    """As docs/cluster.md says: when everything is settled, Postgres knows all there is."""
    loader = account_loader(pool)
    for url, wanted in ((redis_url, 1), (cluster.url(), SHARDS), (redis_url, 2)):
        client = open_redis(settings_of(url))
        world = World(Stores(pool, client), await ensure_shards(Stores(pool, client), None))
        for shard in range(world.shards):
            guarded = await guard(world.stores, shard, world.shards)
            assert (guarded.usable, guarded.lost) == (True, 0)
        if wanted == 1:
            await world.organization(u=1000)
        await reshard(world.stores, wanted, wait_s=0)
        world.shards = wanted
        async with await Meter.connect(url, loader=loader) as meter:
            await meter.charge("acme", "u", 10, request_id=f"on-{wanted}")
            left = (await meter.balance("acme", "u")).available
        await world.assert_books()
        assert left == 1000 - await world.used("u")
        await client.aclose()
    assert await pool.fetchval("SELECT sum(used_credits) FROM user_credit_allocations") == 30


async def test_a_promoted_node_that_is_not_fit_is_not_approved(
    world: World, cluster: Cluster, connect: MeterFactory
) -> None:
    heir = cluster.replica_of(cluster.nodes[1])
    for node in cluster.nodes:
        node.ask("ACL SETUSER", "books", "on", ">secret", *cluster.rules(SETTLER))
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
        hasty = await connect(take_timeout_s=0.5)
        refused = await refusal(hasty, organisations(SHARDS)[1], "refused")
        assert str(refused).startswith(f"{heir.name}: shard 1 is on a server that the settler's gu")
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

    def __init__(self, folder: Path, primary: EmbeddedValkey, binary: Path | None) -> None:
        super().__init__(folder, binary=binary)
        folder.mkdir()
        self._config = folder / "sentinel.conf"
        self._config.write_text(f"sentinel monitor main 127.0.0.1 {primary.port} 1\n")

    def command(self) -> list[str]:
        options = ("--sentinel", "--port", str(self.port), "--bind", "127.0.0.1")
        return [str(self._binary or valkey_binary()), str(self._config), *options]


async def test_behind_sentinel(
    pool: asyncpg.Pool,
    valkey_server: ValkeyFactory,
    tmp_path: Path,
    redis_binary: Path | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same URL: its hosts are the Sentinels', its login and database the primary's."""
    monkeypatch.setattr(standing, "TRUSTED_S", 0.0)  # The first was frozen for longer than that.
    first = valkey_server(binary=redis_binary)
    second = valkey_server("--replicaof", "127.0.0.1", str(first.port), binary=redis_binary)
    until(lambda: _info(second)["master_link_status"] == "up")
    with SentinelNode(tmp_path / "sentinel", first, redis_binary) as sentinel:
        url = f"redis://127.0.0.1:{sentinel.port}/2"
        client = open_redis(settings_of(url))
        assert isinstance(await client.places(), SentinelServer)
        world = World(Stores(pool, client))
        await world.start(2)
        await world.organization(u=1000)
        loader = account_loader(pool)
        settings = MeterSettings(call_timeout_s=60.0, take_timeout_s=60.0, lanes_per_server=1)
        async with await Meter.connect(url, loader=loader, settings=settings) as meter:
            await meter.charge("acme", "u", 10, request_id="before")
            await world.settle()
            until(lambda: _masters(sentinel)["num-slaves"] == 1)
            _ask(first, "WAIT", "1", "60000")
            pause(first)
            try:
                charging = asyncio.create_task(meter.charge("acme", "u", 10, request_id="after"))
                await eventually(waits_for_a_reply(meter))
                fail_over(partial(_ask, sentinel))
                until(lambda: _masters(sentinel)["port"] == second.port)
                until(lambda: _info(second)["role"] == "master")
            finally:
                resume(first)
            # It answers what has waited for it, and is a primary until a Sentinel says otherwise.
            while not charging.done():
                await client.connection_pool.disconnect()
                for shard in range(2):
                    with suppress(RedisError):
                        await guard(world.stores, shard, 2)
                await asyncio.sleep(0.02)
            assert (await charging).available == 980
            await world.assert_books()
            assert await world.used("u") == 20
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


@pytest.mark.parametrize("layout", ["one shard", "several shards", "cluster"])
async def test_one_id_of_two_users_is_a_conflict_on_every_layout(
    layout: str, pool: asyncpg.Pool, cluster: Cluster, redis_url: str, key_prefix: str
) -> None:
    """An organisation is in one shard with all its users, so that an id is known to all of them;
    with a shard for each account both would be charged, and the ledger would give one back.
    """
    url = cluster.url() if layout == "cluster" else redis_url
    client = open_redis(settings_of(url))
    world = World(Stores(pool, client, key_prefix))
    await world.start(1 if layout == "one shard" else SHARDS)
    users, orgs = "abcdefgh", organisations(world.shards)
    for org in orgs:
        await world.organization(org, **dict.fromkeys(users, 1000))
    meter = await Meter.connect(url, loader=account_loader(pool), key_prefix=key_prefix)
    async with meter:
        for org in orgs:
            await meter.charge(org, users[0], 7, request_id="same")
            for user in users[1:]:
                with pytest.raises(RequestConflict):
                    await meter.charge(org, user, 7, request_id="same")
                with pytest.raises(RequestConflict):
                    await meter.reserve(org, user, 7, request_id="same")
    await world.assert_books()
    assert {await world.used(user, org) for user in users[1:] for org in orgs} == {0}
    assert {await world.used("a", org) for org in orgs} == {7}
    assert await world.dead_letters() == []
    await client.aclose()

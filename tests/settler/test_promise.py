"""Credits are kept on no server that would lose them, and what a server promises is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import asyncpg
import pytest
from redis.asyncio import Redis
from settler_world import World
from structlog.testing import capture_logs
from support.servers import ValkeyFactory

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterSettings, UnsafeServer
from taximeter.meter.server.durability import read_facts
from taximeter.meter.server.permissions import METER, check_permissions
from taximeter.meter.settings import Durability
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.waits import Wait, Waits
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.worker.jobs import Settler

Opened = Callable[..., Stores]


@pytest.fixture
def on(pool: asyncpg.Pool, key_prefix: str) -> Opened:
    """Stores of a private server."""

    def make(server: EmbeddedValkey, durability: Durability = "everysec") -> Stores:
        return Stores(pool, Redis.from_url(server.url), key_prefix, durability)

    return make


@pytest.mark.parametrize(
    ("arguments", "append_only", "durability", "objection"),
    [
        (("--maxmemory-policy", "allkeys-lru"), True, "none", "maxmemory-policy is allkeys-lru"),
        (("--maxmemory-policy", "volatile-ttl"), True, "none", "volatile-ttl"),
        ((), False, "everysec", "appendonly is off"),
        ((), True, "always", "appendfsync is everysec"),
    ],
)
async def test_an_unsafe_server_is_refused(
    valkey_server: ValkeyFactory,
    on: Opened,
    arguments: tuple[str, ...],
    append_only: bool,
    durability: Durability,
    objection: str,
) -> None:
    stores = on(valkey_server(*arguments, append_only=append_only), durability)
    settler = Settler(stores, SettlerSettings())
    with pytest.raises(UnsafeServer, match=objection):
        await settler.start()
    with capture_logs() as logs:
        await settler.settle()  # nor does it let anybody in later
    assert [line["failed"] for line in logs if line["log_level"] == "error"] == ["UnsafeServer"]
    assert not await stores.redis.exists(stores.keys(0).meta)
    await stores.redis.aclose()


async def test_a_replica_is_refused(valkey_server: ValkeyFactory, on: Opened) -> None:
    primary = valkey_server()
    stores = on(valkey_server("--replicaof", "127.0.0.1", str(primary.port)))
    with pytest.raises(UnsafeServer, match="it is a replica"):
        await stores.check_server(0)
    await stores.redis.aclose()


async def test_a_meter_refuses_a_server_that_evicts(
    world: World, redis_url: str, key_prefix: str
) -> None:
    await world.stores.redis.config_set("maxmemory-policy", "allkeys-random")
    try:
        with pytest.raises(UnsafeServer, match="allkeys-random"):
            await Meter.connect(redis_url, key_prefix=key_prefix)
    finally:
        await world.stores.redis.config_set("maxmemory-policy", "noeviction")


async def test_a_policy_that_somebody_changes_is_found_by_the_next_reconcile(
    world: World,
) -> None:
    await world.organization(ann=100)
    settler = Settler(world.stores, SettlerSettings())
    await settler.start()
    await world.stores.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with capture_logs() as logs:
            await settler.reconcile()
    finally:
        await world.stores.redis.config_set("maxmemory-policy", "noeviction")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["unsafe_server"]


@pytest.mark.parametrize(
    ("arguments", "append_only", "commit_wait", "mode"),
    [
        ((), False, "none", "M0"),
        ((), True, "none", "M1"),
        (("--appendfsync", "always"), True, "none", "M2"),
        ((), True, "fsync", "M2"),
        ((), True, "replica", "M4"),
        ((), True, "replica-fsync", "M5"),
    ],
)
async def test_the_promise_is_that_of_the_server(
    valkey_server: ValkeyFactory,
    arguments: tuple[str, ...],
    append_only: bool,
    commit_wait: Wait,
    mode: str,
) -> None:
    redis = Redis.from_url(valkey_server(*arguments, append_only=append_only).url)
    facts = await read_facts(redis)
    settings = MeterSettings(commit_wait=commit_wait)
    assert facts.promise(settings.waits).startswith(f"{mode}: ")
    assert facts.product == "valkey"
    with_replica = replace(facts, replicas=1)
    assert with_replica.promise().startswith("M3: ") is (mode == "M1" or commit_wait != "none")
    await redis.aclose()


async def test_of_a_server_that_hides_its_configuration_the_operator_is_believed(
    valkey_server: ValkeyFactory,
) -> None:
    server = valkey_server()
    redis = Redis.from_url(server.url)
    await redis.execute_command("ACL", "SETUSER", "root", "on", ">for-tests", "+@all", "~*")
    await redis.execute_command("ACL", "SETUSER", "default", "-config")
    facts = await read_facts(redis)
    assert facts.appendfsync is None
    assert facts.eviction == "noeviction"  # INFO knows
    assert facts.promise().startswith("?: ")
    assert facts.promise(Waits("none", "fsync", 1, 0.1)).startswith("M2: ")
    assert facts.promise(durability="everysec").startswith("M1: ")
    assert facts.promise(durability="always").startswith("M2: ")
    assert "TAXIMETER_DURABILITY says" in facts.promise(durability="always")
    assert "TAXIMETER_DURABILITY" not in facts.promise(Waits("none", "fsync", 1, 0.1), "always")
    assert facts.objections("everysec") == facts.objections("always") == []
    with_no_aof = replace(facts, append_only=False)
    assert "appendonly is off" in with_no_aof.objections("always")[0]
    async with Redis.from_url(server.url, username="root", password="for-tests") as root:
        assert await root.acl_log() == []  # Who watches it is told of no refusal that is no attack.
    await redis.aclose()


@pytest.mark.parametrize("name", ["", "for-the-provider-alone"])
async def test_a_server_without_config_is_one_that_hides_its_configuration(
    valkey_server: ValkeyFactory, name: str
) -> None:
    """As managed services have it: not refused, and nothing is claimed."""
    async with Redis.from_url(valkey_server("--rename-command", "CONFIG", name).url) as redis:
        facts = await read_facts(redis)
        assert facts.appendfsync is None
        assert facts.promise().startswith("?: ")
        await check_permissions(redis, METER, ShardKeys("tm", 0).meta)


async def test_a_replica_and_a_server_that_refuses_writes_say_what_they_are(
    valkey_server: ValkeyFactory,
) -> None:
    """Else their refusal of a script would hide why credits must not be kept there."""
    lonely = valkey_server("--min-replicas-to-write", "1")
    replica = valkey_server("--replicaof", "127.0.0.1", str(lonely.port))
    for server, is_primary in ((lonely, True), (replica, False)):
        async with Redis.from_url(server.url) as redis:
            facts = await read_facts(redis)
            assert (facts.is_primary, facts.appendfsync) == (is_primary, "everysec")

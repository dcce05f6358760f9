"""A meter on a real cluster: found from any node, and sent on wherever a slot has gone."""

from __future__ import annotations

import asyncio
from os import kill
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest
from support.cluster import (
    NODE_TIMEOUT_MS,
    PRIMARIES,
    SHARDS,
    Cluster,
    Live,
    MeterFactory,
    refusal,
    until,
)
from support.waiting import answered, eventually

from taximeter.api.access.rate_limits import Limit, RateLimiter
from taximeter.api.embedded.machine import free_port
from taximeter.meter import Meter, StoreError, StoreUnavailable
from taximeter.meter.places.places import ClusterPlaces
from taximeter.meter.places.seeds import read_seeds
from taximeter.meter.server.permissions import METER, MissingPermission
from taximeter.meter.wire.errors import UnsafeServer


async def charge_everywhere(meter: Meter, live: Live, request: str) -> None:
    await asyncio.gather(*(meter.charge(org, "u", 1, request_id=request) for org in live.orgs))


async def test_any_node_is_a_seed(live: Live, cluster: Cluster, connect: MeterFactory) -> None:
    """Also the replicas, of which nothing but the map is asked."""
    for number, node in enumerate(cluster.nodes):
        await charge_everywhere(await connect(cluster.url(node)), live, f"r{number}")
    dead = f"127.0.0.1:{free_port()}"
    hosts = f"{dead},{cluster.nodes[0].name}"
    await charge_everywhere(await connect(f"redis://{hosts}/0"), live, "dead-first")
    meter = await connect(cluster.url(*cluster.nodes))
    await charge_everywhere(meter, live, "several")
    assert await meter.missing() == ()
    await meter.ready()
    for shard, org in enumerate(live.orgs):
        assert (await meter.balance(org, "u")).available == 1000 - 8
        found = await meter.request(org, "several")
        assert found is not None
        assert found.charged == 1
        assert (await live.charged(shard))[-2:] == ["dead-first", "several"]
    for command in ("eval", "evalsha", "hmget", "hget"):
        asked = cluster.calls(command)
        assert not any(asked[node.name] for node in cluster.nodes[PRIMARIES:]), command


async def test_urls_that_do_not_fit(live: Live, cluster: Cluster, redis_url: str) -> None:
    with pytest.raises(StoreError, match="a cluster has database 0 alone, and the URL names 3"):
        await Meter.connect(cluster.url().replace("/0", "/3"))
    one = redis_url.removeprefix("redis://").partition("/")[0]
    with pytest.raises(StoreError, match=f"several hosts are for .*, and {one} is a single"):
        await Meter.connect(f"redis://{one},{cluster.nodes[0].name}/0")


async def test_a_look_asks_one_node_and_comes_once_for_all(cluster: Cluster) -> None:
    places = await ClusterPlaces(read_seeds(cluster.url(*cluster.nodes))).open()
    loop = asyncio.get_running_loop()
    looks, began = 1, loop.time()
    for _ in range(3):
        for _ in range(50):
            places.heed(ConnectionError("away"))
        assert places._looking is not None
        await places._looking
        looks += 1
    assert loop.time() - began >= 3 * 0.1
    assert sum(cluster.calls("cluster|slots").values()) == looks
    # Who comes in the pause after a look has another one by himself.
    places.heed(ConnectionError("away"))
    await places._looked.wait()
    if places._looking is not None:
        places.heed(ConnectionError("away"))
        looks += 1
    looks += 1

    async def has_looked() -> bool:
        return sum(cluster.calls("cluster|slots").values()) == looks

    await eventually(has_looked)
    while places._looking is not None:
        await asyncio.wait((places._looking,))
    # Nobody is waited for again who has said nothing: there are others to ask.
    before = cluster.calls("cluster|slots")
    places._silent = {read_seeds(cluster.url(one)).addresses[0] for one in cluster.nodes[1:]}
    for _ in range(3):
        assert await places._look() is None
    after = cluster.calls("cluster|slots")
    asked = {name: after[name] - before[name] for name in after if after[name] > before[name]}
    assert asked == {cluster.nodes[0].name: 3}
    await places.aclose()


async def test_a_slot_that_has_moved(live: Live, cluster: Cluster, connect: MeterFactory) -> None:
    meter = await connect()
    await charge_everywhere(meter, live, "before")
    to = cluster.nodes[(live.owner(0) + 1) % PRIMARIES]
    cluster.move_slot(live.slot(0), to)
    # Nothing is told of the move: the old owner says where the slot is, to all of them.
    assert (await meter.balance(live.orgs[0], "u")).available == 999
    charging = asyncio.create_task(meter.charge(live.orgs[0], "u", 1, request_id="after"))
    await live.approve(0)
    assert (await charging).available == 998
    assert await live.charged(0) == ["before", "after"]
    assert await meter.charge(live.orgs[0], "u", 1, request_id="after") is not None
    assert await live.charged(0) == ["before", "after"]


async def fill(live: Live, shard: int) -> None:
    """All eight keys of the shard are there, as a server wants that sends a call on as a whole."""
    one, org = live.shards[shard], live.orgs[shard]
    assert await one.batch(
        ["reserve", f"{org}/u", f"{org}/h1", 1, 600_000, "", ""],
        ["reserve", f"{org}/u", f"{org}/h2", 1, 600_000, "", ""],
        ["charge", f"{org}/u", f"{org}/old", 1, 0, "", ""],
    )
    await one.redis.hset(one.keys.meta, "rotated_ms", 1)
    assert await one.rotate(1000)
    await one.batch(["charge", f"{org}/u", f"{org}/new", 1, 0, "", ""])
    assert await one.redis.exists(*one.keys.batch()) == 8


async def test_a_slot_that_is_on_its_way(
    live: Live, cluster: Cluster, connect: MeterFactory
) -> None:
    """Nothing of a call is done while the keys are in two places; it is sent on when they are all
    in the new one, and that is asked behind ASKING.
    """
    await fill(live, 0)
    source, to = cluster.nodes[0], cluster.nodes[1]
    meter, hasty = await connect(), await connect(take_timeout_s=0.5)
    slot, org, keys = live.slot(0), live.orgs[0], live.shards[0].keys
    to.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.node_id)
    source.ask("CLUSTER SETSLOT", slot, "MIGRATING", to.node_id)
    source.ask("MIGRATE", "127.0.0.1", to.port, keys.holds, 0, 10_000)
    refused = await refusal(hasty, org, "split")
    assert isinstance(refused, StoreUnavailable)
    charging = asyncio.create_task(meter.charge(org, "u", 1, request_id="asked"))
    cluster.move_slot(slot, to, finish=False)
    with to.sync as client:
        run_id = client.info("server")["run_id"]
    await live.redis.hset(keys.meta, "run_id", run_id)
    assert (await charging).charged == 1
    assert cluster.calls("asking")[to.name] > 0
    assert (await meter.balance(org, "u")).available == 1000 - 5
    cluster.finish_move(slot, to)
    await meter.charge(org, "u", 1, request_id="split")
    assert await live.charged(0) == ["old", "new", "asked", "split"]


async def test_a_slot_that_nobody_has(live: Live, cluster: Cluster, connect: MeterFactory) -> None:
    meter, hasty = await connect(), await connect(take_timeout_s=0.5)
    slot, owner = live.slot(0), cluster.owner(live.slot(0))
    for node in cluster.nodes:
        node.ask("CLUSTER DELSLOTS", slot)
    refused = await refusal(hasty, live.orgs[0], "r")
    assert isinstance(refused, StoreUnavailable)
    assert "CLUSTERDOWN" in str(refused)
    other = next(number for number in range(1, SHARDS) if live.owner(number) == 0)
    done = await answered(lambda: hasty.charge(live.orgs[other], "u", 1, request_id="other"))
    assert done.charged == 1
    charging = asyncio.create_task(meter.charge(live.orgs[0], "u", 1, request_id="r"))
    owner.ask("CLUSTER ADDSLOTS", slot)
    owner.ask("CLUSTER BUMPEPOCH")
    assert (await charging).charged == 1
    assert await live.charged(0) == ["r"]


async def test_a_hung_node_delays_no_other_and_has_two_lanes(
    live: Live, cluster: Cluster, connect: MeterFactory
) -> None:
    meter = await connect(take_timeout_s=50.0)
    before = {node.name: lanes_of(node) for node in cluster.nodes}
    for number in range(3):
        await charge_everywhere(meter, live, f"before{number}")
    for node in cluster.nodes:
        assert len(lanes_of(node) - before[node.name]) <= 2
    for node in cluster.nodes:
        node.ask("CONFIG SET", "cluster-node-timeout", 60_000)  # Nobody takes its place.
    hung = cluster.nodes[0]
    theirs = [number for number in range(SHARDS) if live.owner(number) == 0]
    kill(hung.pid, SIGSTOP)
    try:
        charging = [
            asyncio.create_task(meter.charge(org, "u", 1, request_id="during")) for org in live.orgs
        ]
        others = set(range(SHARDS)) - set(theirs)
        for again in range(5):
            await asyncio.gather(
                *(meter.charge(live.orgs[one], "u", 1, request_id=f"r{again}") for one in others)
            )
        await asyncio.gather(*(charging[number] for number in others))
        assert not any(charging[number].done() for number in theirs)
    finally:
        kill(hung.pid, SIGCONT)
        for node in cluster.nodes:
            node.ask("CONFIG SET", "cluster-node-timeout", NODE_TIMEOUT_MS)
    await asyncio.gather(*charging)
    for number in theirs:
        assert (await live.charged(number))[-1] == "during"


def lanes_of(node: Any) -> set[str]:
    """Connections to it."""
    with node.sync as client:
        mine = str(client.client_id())
        return {one["id"] for one in client.client_list() if one["id"] != mine}


async def test_a_primary_dies(live: Live, cluster: Cluster, connect: MeterFactory) -> None:
    for node in cluster.nodes:
        node.ask("CONFIG SET", "cluster-node-timeout", 1000)
    try:
        meter = await connect(cluster.url(*cluster.nodes))
        await charge_everywhere(meter, live, "before")
        gone = [number for number in range(SHARDS) if live.owner(number) == 0]
        heir = cluster.replica_of(cluster.nodes[0])
        cluster.nodes[0].ask("WAIT", 1, 10_000)
        cluster.nodes[0].kill()
        charging = {
            number: asyncio.create_task(meter.charge(org, "u", 1, request_id="during"))
            for number, org in enumerate(live.orgs)
        }
        for number in set(range(SHARDS)) - set(gone):
            assert (await charging[number]).charged == 1
        assert not any(charging[number].done() for number in gone)
        # A new process is not stopped by a node that is away, nor are the other shards.
        other = next(number for number in range(SHARDS) if number not in gone)
        late = await connect(cluster.url(*cluster.nodes)) if 0 not in gone else meter
        await late.charge(live.orgs[other], "u", 1, request_id="late")
        await asyncio.to_thread(until, heir.is_primary)
        for number in gone:
            await _approve_when_found(live, number)
            assert (await charging[number]).charged == 1
            assert await live.charged(number) == ["before", "during"]
    finally:
        cluster.restore()
        for node in cluster.nodes:
            node.ask("CONFIG SET", "cluster-node-timeout", NODE_TIMEOUT_MS)


async def _approve_when_found(live: Live, number: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await live.approve(number)
            except Exception:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (
            ("ACL SETUSER", "gateway", "-xadd"),
            MissingPermission,
            r"the Redis user 'gateway' lacks a permission on {name} \(XADD\)",
        ),
        (
            ("CONFIG SET", "maxmemory-policy", "allkeys-lru"),
            UnsafeServer,
            "{name}: maxmemory-policy is allkeys-lru",
        ),
    ],
    ids=["rule", "eviction"],
)
async def test_a_promoted_node_that_is_not_fit(
    live: Live,
    cluster: Cluster,
    connect: MeterFactory,
    wrong: tuple[Any, ...],
    error: type[StoreError],
    says: str,
) -> None:
    for node in cluster.nodes:
        node.ask("ACL SETUSER", "gateway", "on", ">secret", *cluster.rules(METER))
    heir = cluster.replica_of(cluster.nodes[0])
    heir.ask(*wrong)
    try:
        url = cluster.url(*cluster.nodes).replace("redis://", "redis://gateway:secret@")
        meter, hasty = await connect(url), await connect(url, take_timeout_s=0.5)
        await charge_everywhere(meter, live, "before")
        cluster.fail_over(heir)
        await _approve_when_found(live, 0)
        refused = await refusal(hasty, live.orgs[0], "refused")
        assert isinstance(refused, error)
        with pytest.raises(error, match=says.format(name=heir.name)):
            raise refused
        with pytest.raises(error, match=says.format(name=heir.name)):
            await connect(url)
        other = next(number for number in range(SHARDS) if live.owner(number) in (1, 2))
        await answered(lambda: hasty.charge(live.orgs[other], "u", 1, request_id="other"))
        charging = asyncio.create_task(meter.charge(live.orgs[0], "u", 1, request_id="r"))
        heir.ask("ACL SETUSER", "gateway", "+xadd")
        heir.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        assert (await charging).charged == 1
        assert await live.charged(0) == ["before", "r"]
    finally:
        heir.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        for node in cluster.nodes:
            node.ask("ACL DELUSER", "gateway")


async def test_rate_limits_on_every_slot(
    live: Live, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = RateLimiter(live.redis, "tm", {"reads": Limit(5, 60)})
    for caller in range(40):
        await limiter.admit("reads", f"user{caller}")
        await limiter.give_back("reads", f"user{caller}")
        await limiter.admit("reads", f"user{caller}")
    assert not caplog.records
    kept = [sum(b":limit:" in key for key in node.ask("KEYS", "*")) for node in cluster.nodes]
    assert sum(kept[:PRIMARIES]) == 40
    assert all(kept[:PRIMARIES])

"""Waiting for disks and replicas: what was answered is there when the server is not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from os import kill
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from support.proxy import Proxy
from support.servers import ValkeyFactory
from support.shard import ScriptedShard
from support.sidecar import exposed
from support.waiting import answered, confirmed, eventually

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import (
    Charge,
    InsufficientCredits,
    InvalidRequest,
    Meter,
    MeterSettings,
    NotConfirmed,
    StoreError,
)
from taximeter.meter.server import wait_poll
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.wire.keys import ShardKeys, shard_of
from taximeter.meter.wire.waits import Waits

pytestmark = pytest.mark.slow


@dataclass
class Pair:
    """A server with an open shard, and its replica."""

    server: EmbeddedValkey
    replica: EmbeddedValkey
    shard: ScriptedShard
    replica_client: Redis

    async def on_replica(self) -> list[list[str]]:
        return await ScriptedShard(self.replica_client, self.shard.keys).events()


SHARDS = 64


@asynccontextmanager
async def paired(valkey_server: ValkeyFactory, *options: str) -> AsyncIterator[Pair]:
    server = valkey_server("--repl-diskless-sync-delay", "0", *options)
    shard = ScriptedShard(Redis.from_url(server.url), ShardKeys("tm", 0))
    await shard.open()
    await shard.load("org/u", 1000)
    replica = valkey_server("--replicaof", "127.0.0.1", str(server.port), *options)
    client = Redis.from_url(replica.url)

    async def in_step() -> bool:
        return (await client.info("replication"))["master_link_status"] == "up"

    await eventually(in_step)
    yield Pair(server, replica, shard, client)
    await shard.redis.aclose()
    await client.aclose()


@pytest.fixture
async def pair(valkey_server: ValkeyFactory) -> AsyncIterator[Pair]:
    async with paired(valkey_server) as pair:
        yield pair


async def test_a_commit_waits_for_a_replica_and_a_reserve_does_not(
    connect: Any, pair: Pair
) -> None:
    meter = await connect(
        pair.server.url, commit_wait="replica", wait_timeout_s=0.1, resolve_timeout_s=0.5
    )
    hold = await meter.reserve("org", "u", 10)
    await confirmed(lambda: hold.commit(4))
    assert [event[1] for event in await pair.on_replica()] == ["commit"]
    kill(pair.replica.pid, signal.SIGSTOP)
    try:
        hold = await meter.reserve("org", "u", 10)  # answered without the replica
        with pytest.raises(NotConfirmed, match="0 of 1 replicas have the write"):
            await hold.commit(5)
        # It took effect, once; the repeat did not pass for confirmed because it wrote nothing.
        assert await pair.shard.account() == (991, 0, 1)
        told = await meter.charge_many([Charge("org", "u", 1, "m"), Charge("org", "u", 992)])
        assert [type(one) for one in told] == [NotConfirmed, InsufficientCredits]
    finally:
        kill(pair.replica.pid, signal.SIGCONT)
    receipt = await confirmed(lambda: hold.commit(5))
    assert (receipt.charged, receipt.replayed) == (5, True)
    assert len(await pair.on_replica()) == 3
    assert await pair.shard.account() == (990, 0, 1)


async def test_what_was_answered_survives_the_machine(connect: Any, pair: Pair) -> None:
    meter = await connect(pair.server.url, commit_wait="replica-fsync")
    acknowledged = [(await meter.charge("org", "u", 1)).request_id for _ in range(20)]
    pair.server.kill()
    pair.replica.kill()  # even the replica's memory is gone: its disk has it
    pair.replica.start()
    client = Redis.from_url(pair.replica.url)
    events = await ScriptedShard(client, pair.shard.keys).events()
    assert [event[3].partition("/")[2] for event in events] == acknowledged
    await client.aclose()


async def test_a_local_fsync_needs_no_replica(connect: Any, valkey_server: ValkeyFactory) -> None:
    # A server of its own: the one that all tests share may be older than WAITAOF.
    server = valkey_server()
    shard = ScriptedShard(Redis.from_url(server.url), ShardKeys("tm", 0))
    await shard.open()
    await shard.load("org/u", 1000)
    meter = await connect(server.url, commit_wait="fsync")
    await shard.redis.script_flush()
    assert (await meter.charge("org", "u", 1)).available == 999
    assert (await meter.charge("org", "u", 1)).available == 998
    told = await meter.charge_many([Charge("org", "u", 1), Charge("org", "u", 997)] * 2)
    assert [getattr(one, "available", type(one)) for one in told] == [997, 0] + [
        InsufficientCredits
    ] * 2
    await shard.redis.aclose()


async def test_a_server_that_cannot_wait_says_so(
    connect: Any, valkey_server: ValkeyFactory
) -> None:
    server = valkey_server(append_only=False)
    shard = ScriptedShard(Redis.from_url(server.url), ShardKeys("tm", 0))
    await shard.open()
    await shard.load("org/u", 1000)
    meter = await connect(server.url, commit_wait="fsync", take_timeout_s=0.2)
    with pytest.raises(StoreError, match="WAITAOF"):
        await answered(lambda: meter.charge("org", "u", 1, request_id="r"))
    await shard.redis.aclose()


def test_a_reserve_waits_for_its_own_and_all_else_for_the_other() -> None:
    waits = Waits("replica", "fsync", 2, 0.1)
    assert [waits.of(op) for op in ("reserve", "commit", "void")] == ["replica", "fsync", "fsync"]
    assert not waits.goal("replica").is_met((1,))
    assert waits.goal("replica").missing((1,)) == "1 of 2 replicas have the write"
    assert waits.goal("fsync").is_met((1, 0))
    assert waits.goal("replica-fsync").missing((0, 1)) == (
        "it is not on the server's disk yet, 1 of 2 replicas have it on disk"
    )


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("commit_wait", {"commit_wait": "always"}),
        ("reserve_wait", {"reserve_wait": ""}),
        ("wait_replicas", {"wait_replicas": 0}),
        ("wait_timeout_s", {"wait_timeout_s": 0}),
    ],
)
def test_bad_settings_are_refused(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must be"):
        MeterSettings(**values)


async def test_reserves_pass_while_charges_wait_for_a_replica_that_is_away(
    connect: Any, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """They share a shard, its lanes and its batches, and not the wait that they did not ask for."""
    meter = await connect(
        pair.server.url,
        commit_wait="replica",
        wait_timeout_s=2.0,
        take_timeout_s=30.0,
        resolve_timeout_s=30.0,
        lanes_per_server=1,
    )
    await meter.charge("org", "u", 1)
    kill(pair.replica.pid, signal.SIGSTOP)
    try:
        charges = [asyncio.create_task(meter.charge("org", "u", 1)) for _ in range(20)]
        holds = await asyncio.gather(*(meter.reserve("org", "u", 1) for _ in range(20)))
        assert not any(charge.done() for charge in charges), "reserves waited behind charges"
        found = await asyncio.gather(*charges, return_exceptions=True)
        assert {type(error) for error in found} == {NotConfirmed}
        assert await meter.missing() == ("0 of 1 replicas have the write",)
        await said_by_the_sidecar(meter)
    finally:
        kill(pair.replica.pid, signal.SIGCONT)
    ((_, _, pressure),) = meter.pressure()
    assert pressure.unconfirmed == 21
    assert "0 of 1 replicas have the write" in caplog.text
    for hold in holds:
        assert (await hold.release()).state == "released"
    assert await meter.missing() == ()


async def said_by_the_sidecar(meter: Meter) -> None:
    """Who does not confirm is named in the answer, to whoever looks after it, and counted."""
    sidecar = httpx.ASGITransport(create_sidecar(meter, metrics=exposed(meter)))
    async with httpx.AsyncClient(transport=sidecar, base_url="http://sidecar") as client:
        ready = await client.get("/readyz")
        body = {"status": "degraded", "missing": ["0 of 1 replicas have the write"]}
        assert (ready.status_code, ready.json()) == (200, body)
        fields = {"org_id": "org", "user_id": "u", "request_id": "c", "amount_millicredits": 1}
        refused = await client.post("/v1/charge", json=fields)
        assert refused.status_code == 503
        error = refused.json()["error"]
        assert error["code"] == "OUTCOME_UNKNOWN"
        assert error["details"] == {"wait": "replica", "missing": "0 of 1 replicas have the write"}
        assert "It was done" in error["message"]
        metrics = (await client.get("/metrics")).text
        assert 'taximeter_unconfirmed_answers_total{shard="0"} 21.0' in metrics


async def test_what_another_server_has_done_is_not_confirmed_by_this_one(
    connect: Any, pair: Pair, valkey_server: ValkeyFactory
) -> None:
    """The primary is lost between the write and its confirmation, and a server without the write
    takes its place: it has to be asked for the id, and not for its replicas.
    """
    second = valkey_server("--repl-diskless-sync-delay", "0")
    other = ScriptedShard(Redis.from_url(second.url), pair.shard.keys)
    await other.open()
    await other.load("org/u", 1000)
    replica = valkey_server("--replicaof", "127.0.0.1", str(second.port))
    replica_client = Redis.from_url(replica.url)

    async def in_step() -> bool:
        return (await replica_client.info("replication"))["master_link_status"] == "up"

    await eventually(in_step)
    async with Proxy(pair.server.url) as proxy:
        meter = await connect(proxy.url, commit_wait="replica", wait_timeout_s=20.0)
        await meter.charge("org", "u", 1, request_id="warm")
        kill(pair.replica.pid, signal.SIGSTOP)
        try:
            charge = asyncio.create_task(meter.charge("org", "u", 7, request_id="r"))

            async def done_there() -> bool:
                return len(await pair.shard.events()) == 2

            await eventually(done_there)
            proxy.target = ("127.0.0.1", second.port)
            proxy.reset_all()
            assert (await charge).charged == 7
        finally:
            kill(pair.replica.pid, signal.SIGCONT)
    assert [event[3:5] for event in await other.events()] == [["org/r", "7"]]
    await other.redis.aclose()
    await replica_client.aclose()


@pytest.fixture
async def synced(valkey_server: ValkeyFactory) -> AsyncIterator[Pair]:
    """Both sync with every write, so that a disk has what its server has answered."""
    async with paired(valkey_server, "--appendfsync", "always") as pair:
        yield pair


async def questions(pair: Pair) -> int:
    """How often the server was asked how far its write has come."""
    asked = (await pair.shard.redis.info("commandstats")).get("cmdstat_waitaof", {"calls": 0})
    return int(asked["calls"])


async def test_a_lone_charge_takes_one_question(
    connect: Any, synced: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked together with its write, a replica says no: it has not synced."""
    monkeypatch.setattr(wait_poll, "_ASK_AGAIN_S", 60.0)
    meter = await connect(synced.server.url, commit_wait="replica-fsync")
    await meter.charge("org", "u", 1)
    before = await questions(synced)
    for _ in range(20):
        await meter.charge("org", "u", 1)
    # A slow machine may answer a question in between; asked too early, each takes two.
    assert await questions(synced) - before < 30


async def test_a_replica_that_was_away_is_asked_again_and_again(connect: Any, synced: Pair) -> None:
    """Unasked it tells once a second."""
    meter = await connect(
        synced.server.url, commit_wait="replica-fsync", wait_timeout_s=60, call_timeout_s=60
    )
    await meter.charge("org", "u", 1)
    before = await questions(synced)
    kill(synced.replica.pid, signal.SIGSTOP)
    try:
        charge = asyncio.create_task(meter.charge("org", "u", 1))

        async def is_asked_again() -> bool:
            return await questions(synced) - before > 25

        await eventually(is_asked_again, within_s=30)
        assert not charge.done()
    finally:
        kill(synced.replica.pid, signal.SIGCONT)
    assert (await charge).charged == 1


async def test_a_server_has_one_connection_for_each_kind_of_wait(
    connect: Any, synced: Pair
) -> None:
    """For all its shards together, beside the two lanes."""
    await synced.shard.redis.flushall()
    shards = [ScriptedShard(synced.shard.redis, ShardKeys("tm", n)) for n in range(SHARDS)]
    orgs = dict.fromkeys(range(SHARDS), "")
    orgs |= {shard_of(name, SHARDS): name for name in (f"org{number}" for number in range(2000))}
    for number, shard in enumerate(shards):
        await shard.open(shards=SHARDS)
        await shard.load(f"{orgs[number]}/u", 1000)
    before = await clients(synced)
    meter = await connect(
        *(synced.server.url,),
        **{"reserve_wait": "replica", "commit_wait": "replica-fsync", "wait_timeout_s": 60},
        **{"call_timeout_s": 60, "take_timeout_s": 60, "resolve_timeout_s": 60},
    )
    holds = await asyncio.gather(*(meter.reserve(orgs[n], "u", 10) for n in range(SHARDS)))
    receipts = await asyncio.gather(
        *(hold.commit(4) for hold in holds),
        *(meter.charge(orgs[n], "u", 1) for n in range(SHARDS)),
    )
    assert [receipt.charged for receipt in receipts] == [4] * SHARDS + [1] * SHARDS
    made = await clients(synced) - before
    # One more is for whatever is asked beside charges: what kind of server it is.
    assert len(made) <= 2 + 2 + 1
    asked = (await synced.shard.redis.info("commandstats"))["cmdstat_waitaof"]["calls"]
    # A shard is not waited for on its own: what is done meanwhile is confirmed together.
    assert asked < SHARDS
    for number in range(SHARDS):
        on_replica = await ScriptedShard(synced.replica_client, ShardKeys("tm", number)).events()
        assert sorted(event[1] for event in on_replica) == ["charge", "commit"]


async def clients(pair: Pair) -> set[str]:
    """Connections to the primary, without those of its replica."""
    found = await pair.shard.redis.client_list()
    return {one["id"] for one in found if "S" not in one["flags"]}

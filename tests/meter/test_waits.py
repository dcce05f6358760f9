"""Waiting for disks and replicas: what was answered is there when the server is not."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from os import kill
from typing import Any

import pytest
from redis.asyncio import Redis
from support.servers import ValkeyFactory
from support.shard import ScriptedShard
from support.waiting import eventually

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import InvalidRequest, MeterSettings, OutcomeUnknown, StoreError
from taximeter.meter.keys import ShardKeys
from taximeter.meter.waits import Waits

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


@pytest.fixture
async def pair(valkey_server: ValkeyFactory) -> AsyncIterator[Pair]:
    server = valkey_server("--repl-diskless-sync-delay", "0")
    shard = ScriptedShard(Redis.from_url(server.url), ShardKeys("tm", 0))
    await shard.open()
    await shard.load("org/u", 1000)
    replica = valkey_server("--replicaof", "127.0.0.1", str(server.port))
    client = Redis.from_url(replica.url)

    async def in_step() -> bool:
        return (await client.info("replication"))["master_link_status"] == "up"

    await eventually(in_step)
    yield Pair(server, replica, shard, client)
    await shard.redis.aclose()
    await client.aclose()


async def test_a_commit_waits_for_a_replica_and_a_reserve_does_not(
    connect: Any, pair: Pair
) -> None:
    meter = await connect(
        pair.server.url, commit_wait="replica", wait_timeout_s=0.1, resolve_timeout_s=0.5
    )
    hold = await meter.reserve("org", "u", 10)
    await hold.commit(4)
    assert [event[1] for event in await pair.on_replica()] == ["commit"]
    kill(pair.replica.pid, signal.SIGSTOP)
    try:
        hold = await meter.reserve("org", "u", 10)  # answered without the replica
        with pytest.raises(OutcomeUnknown, match="WAIT 1 100"):
            await hold.commit(5)
        # It took effect, once; the repeat did not pass for confirmed because it wrote nothing.
        assert await pair.shard.account() == (991, 0, 1)
    finally:
        kill(pair.replica.pid, signal.SIGCONT)
    receipt = await hold.commit(5)
    assert (receipt.charged, receipt.replayed) == (5, True)
    assert len(await pair.on_replica()) == 2
    assert await pair.shard.account() == (991, 0, 1)


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
        await meter.charge("org", "u", 1)
    await shard.redis.aclose()


def test_a_batch_waits_for_the_stronger_of_its_operations() -> None:
    waits = Waits("replica", "fsync", 1, 0.1)
    assert waits.of(["reserve", "commit"]) == "replica"
    assert waits.of(["commit", "touch"]) == "fsync"
    assert Waits("none", "replica", 1, 0.1).of(["reserve", "reserve"]) == "none"


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

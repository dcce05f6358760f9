"""A real cluster of Valkey or Redis: three primaries with one replica each, made by hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from support.shard import ScriptedShard
from taximeter.api.embedded.cluster import (
    PATIENCE_S,
    PRIMARIES,
    ClusterNode,
    EmbeddedCluster,
    until,
)
from taximeter.api.embedded.machine import LOOPBACK
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterError
from taximeter.meter.places.routed import RoutedRedis, server_of
from taximeter.meter.server.permissions import Role
from taximeter.meter.wire.keys import ShardKeys, shard_of
from taximeter.settler.books.settings import SettlerSettings

NODE_TIMEOUT_MS: Final = 60_000
"""So long that no node is taken for dead because the machine is busy; who wants an election sets
less."""
SHARDS: Final = 6
"""Two of them on each primary, with the prefix `tm`."""
MeterFactory = Callable[..., Awaitable[Meter]]


def fail_over(ask: Callable[..., Any]) -> None:
    """Have the Sentinel that `ask` asks promote the replica: it knows of it for a while before it
    takes it for fit.
    """

    def begins() -> bool:
        try:
            ask("SENTINEL FAILOVER", "main")
        except ResponseError as error:
            if not str(error).startswith("NOGOODSLAVE"):
                raise
            return False
        return True

    until(begins)


class Cluster(EmbeddedCluster):
    """With what only tests do to it."""

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        super().__init__(folder, binary=binary, node_timeout_ms=NODE_TIMEOUT_MS)
        self._moved: set[int] = set()

    def restore(self) -> None:
        """Start whoever is down, and give the first nodes what they had; nothing is in it then."""
        for node in self.nodes:
            if not node.running:
                node.start()
        self.wait_until_whole()
        for primary in self.nodes[:PRIMARIES]:
            if not primary.is_primary():
                self.fail_over(primary)
            primary.ask("FLUSHALL")
        for slot in self._moved:
            home = self.nodes[sum(edge <= slot for edge in self.edges) - 1]
            for node in self.nodes[:PRIMARIES]:
                node.ask("CLUSTER SETSLOT", slot, "STABLE")
            if self.owner(slot) is not home:
                self.move_slot(slot, home)
        self._moved.clear()
        self.wait_until_whole()

    def migrate(self, slot: int, to: ClusterNode) -> None:
        """As the engine moves it; it comes home before the next test."""
        self._moved.add(slot)
        super().migrate(slot, to)

    def slot_of(self, key: str) -> int:
        return int(key_slot(key.encode()))

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """A replica that follows it now."""
        with primary.sync as client:
            return self.by_port(int(client.info("replication")["slave0"]["port"]))

    def fail_over(self, replica: ClusterNode) -> None:
        """Promote it when it has everything, and wait until all agree.

        Not by votes: Redis 7.0 counts those of the election that a node has won last once more, and
        it is primary for a moment at an epoch that is over.
        """
        with replica.sync as client:
            primary = self.by_port(int(client.info("replication")["master_port"]))
        until(lambda: _offset(replica) >= _offset(primary))
        self.take_over(replica)
        self.wait_until_whole()

    def take_over(self, replica: ClusterNode) -> None:
        """Promote it whatever its primary does, which may hang."""
        replica.ask("CLUSTER FAILOVER", "TAKEOVER")
        until(replica.is_primary)

    def shards_of(self, node: ClusterNode, shards: int = SHARDS) -> list[int]:
        """The shards that it has now."""
        metas = [ShardKeys("tm", number).meta for number in range(shards)]
        return [n for n, meta in enumerate(metas) if self.owner(self.slot_of(meta)) is node]

    def rules(self, role: Role) -> list[str]:
        """What makes a user of that role, as servers of this version understand it."""
        with self.nodes[0].sync as client:
            version = client.info("server")["redis_version"]
        return role.rules("tm", tuple(map(int, version.split(".")))).split(" ")

    def move_slot(self, slot: int, to: ClusterNode, *, finish: bool = True) -> None:
        """Key by key, as every release can; without `finish` the last step is left out."""
        self._moved.add(slot)
        source = self.owner(slot)
        to.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.node_id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", to.node_id)
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            for key in keys:
                source.ask("MIGRATE", LOOPBACK, to.port, key, 0, int(PATIENCE_S * 1000))
        if finish:
            self.finish_move(slot, to)

    def finish_move(self, slot: int, to: ClusterNode) -> None:
        """The new owner first, then everybody."""
        for node in (to, *self.nodes):
            if node.is_primary():
                node.ask("CLUSTER SETSLOT", slot, "NODE", to.node_id)

    def calls(self, command: str) -> dict[str, int]:
        """How often each node was asked this, refusals included, by its name."""
        found: dict[str, int] = {}
        for node in self.nodes:
            with node.sync as client:
                stats = client.info("commandstats").get(f"cmdstat_{command}", {})
            found[node.name] = int(stats.get("calls", 0)) + int(stats.get("rejected_calls", 0))
        return found


def waits_for_a_reply(meter: Meter) -> Callable[[], Awaitable[bool]]:
    """Whether something that was written has none yet."""

    async def has_written() -> bool:
        servers = meter._shards._running
        return any(line.sent_at < float("inf") for one in servers for line in one._lines)

    return has_written


def pause(node: EmbeddedValkey) -> None:
    """Let it hang: its connections stay, and nobody answers there."""
    os.kill(node.pid, signal.SIGSTOP)


def resume(node: EmbeddedValkey) -> None:
    """Let it go on, if it was paused."""
    os.kill(node.pid, signal.SIGCONT)


def run_id(node: ClusterNode) -> str:
    """Of the process that runs now."""
    with node.sync as client:
        return str(client.info("server")["run_id"])


def _offset(node: ClusterNode) -> int:
    with node.sync as client:
        said = client.info("replication")
    return int(said.get("slave_repl_offset", said["master_repl_offset"]))


def settings_of(url: str, **more: object) -> SettlerSettings:
    """Of a settler that waits as long as a test may take."""
    settings: dict[str, Any] = {"redis_url": url, "redis_timeout_s": PATIENCE_S, **more}
    return SettlerSettings(**settings)


def organisations(shards: int) -> list[str]:
    """One of each shard."""
    names = [f"org{number}" for number in range(99)]
    return [next(one for one in names if shard_of(one, shards) == n) for n in range(shards)]


async def refusal(meter: Meter, org: str, request: str) -> MeterError:
    """What is said when its time is over. A slow machine may not have asked anybody by then."""
    while True:
        with pytest.raises(MeterError) as refused:
            await meter.charge(org, "u", 1, request_id=request)
        if "could not be reached in time" not in str(refused.value):
            return refused.value


@dataclass
class Live:
    """The shards of a cluster, as a settler opens them, and an organisation on each of them."""

    cluster: Cluster
    redis: RoutedRedis
    shards: list[ScriptedShard] = field(default_factory=list)
    orgs: list[str] = field(default_factory=list)

    async def open(self) -> None:
        self.orgs = organisations(SHARDS)
        for number in range(SHARDS):
            self.shards.append(ScriptedShard(self.redis, ShardKeys("tm", number)))
            await self.open_shard(number)

    async def open_shard(self, number: int) -> None:
        """With 1,000 millicredits for one user."""
        shard = self.shards[number]
        await shard.open(shards=SHARDS, run_id=await self.run_id(number))
        await shard.settler_was_there()
        await shard.load(f"{self.orgs[number]}/u", 1000)

    async def run_id(self, shard: int) -> str:
        """Of the server that has it now."""
        server = await server_of(self.redis, ShardKeys("tm", shard).meta)
        return str((await server.info("server"))["run_id"])

    async def approve(self, shard: int) -> None:
        """As a guardian that finds nothing missing."""
        keys = ShardKeys("tm", shard)
        await self.redis.hset(keys.meta, "run_id", await self.run_id(shard))

    def slot(self, shard: int) -> int:
        return self.cluster.slot_of(ShardKeys("tm", shard).meta)

    def owner(self, shard: int) -> int:
        """Number of the node that has it."""
        return self.cluster.nodes.index(self.cluster.owner(self.slot(shard)))

    async def charged(self, shard: int) -> list[str]:
        """The requests that the events of a shard name, in their order."""
        return [line[3].partition("/")[2] for line in await self.shards[shard].events()]

"""A real cluster of Valkey or Redis: three primaries with one replica each, made by hand."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from redis.crc import key_slot

from support.shard import ScriptedShard
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter
from taximeter.meter.places.routed import RoutedRedis, server_of
from taximeter.meter.places.slot_map import SLOTS
from taximeter.meter.wire.keys import ShardKeys, shard_of

PRIMARIES: Final = 3
PATIENCE_S: Final = 60.0
NODE_TIMEOUT_MS: Final = 5_000
SHARDS: Final = 6
"""Two of them on each primary, with the prefix `tm`."""
MeterFactory = Callable[..., Awaitable[Meter]]


class ClusterNode(EmbeddedValkey):
    """One server of it."""

    @property
    def sync(self) -> Any:
        """A client for looking at it, and for leading it; closed by `close`."""
        return redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=PATIENCE_S)

    def ask(self, *command: str | int) -> Any:
        with self.sync as client:
            return client.execute_command(*command)

    @property
    def node_id(self) -> str:
        return str(self.ask("CLUSTER MYID").decode())

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{LOOPBACK}:{self.port}"

    def is_primary(self) -> bool:
        with self.sync as client:
            return bool(client.info("replication")["role"] == "master")


class Cluster:
    """`nodes` are the primaries first, as it was made."""

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self._edges = [round(number * SLOTS / PRIMARIES) for number in range(PRIMARIES + 1)]
        self._moved: set[int] = set()
        self.nodes = [
            ClusterNode(
                folder / f"node{number}",
                (
                    *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                    *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
                    *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
                ),
                binary=binary,
            )
            for number in range(2 * PRIMARIES)
        ]

    def start(self) -> Cluster:
        for node in self.nodes:
            node.start()
        primaries, replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        for number, node in enumerate(primaries):
            node.ask("CLUSTER ADDSLOTSRANGE", self._edges[number], self._edges[number + 1] - 1)
        for number, node in enumerate(self.nodes, 1):
            node.ask("CLUSTER SET-CONFIG-EPOCH", number)
        for node in self.nodes[1:]:
            port = int(self.nodes[0].extra_args[3])
            node.ask("CLUSTER MEET", LOOPBACK, self.nodes[0].port, port)
        until(lambda: all(self._known(node) == len(self.nodes) for node in self.nodes))
        for primary, replica in zip(primaries, replicas, strict=True):
            replica.ask("CLUSTER REPLICATE", primary.node_id)
        self.wait_until_whole()
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

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
            home = self.nodes[sum(edge <= slot for edge in self._edges) - 1]
            for node in self.nodes[:PRIMARIES]:
                node.ask("CLUSTER SETSLOT", slot, "STABLE")
            if self.owner(slot) is not home:
                self.move_slot(slot, home)
        self._moved.clear()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Every node lives and agrees, and each replica follows its primary."""
        until(lambda: all(self._is_well(node) for node in self.nodes))
        until(lambda: len({self._view(node) for node in self.nodes}) == 1)

    def url(self, *nodes: ClusterNode) -> str:
        """Of these as seeds, in this order; the first primary when none is named."""
        hosts = ",".join(node.name for node in nodes or self.nodes[:1])
        return f"redis://{hosts}/0"

    def by_port(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.port == port)

    def owner(self, slot: int) -> ClusterNode:
        """The primary of a slot, as the first node knows it that runs."""
        asked = next(node for node in self.nodes if node.running)
        for low, high, (_, port, *_), *_ in asked.ask("CLUSTER SLOTS"):
            if low <= slot <= high:
                return self.by_port(port)
        raise LookupError(f"no node has slot {slot}")

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """A replica that follows it now."""
        with primary.sync as client:
            return self.by_port(int(client.info("replication")["slave0"]["port"]))

    def fail_over(self, replica: ClusterNode) -> None:
        """Promote it in good order, and wait until all agree."""
        replica.ask("CLUSTER FAILOVER")
        until(replica.is_primary)
        self.wait_until_whole()

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

    def _known(self, node: ClusterNode) -> int:
        known = node.ask("CLUSTER NODES").values()
        return sum("handshake" not in one["flags"] for one in known)

    def _is_well(self, node: ClusterNode) -> bool:
        try:
            if node.ask("CLUSTER INFO")["cluster_state"] != "ok":
                return False
            with node.sync as client:
                state = client.info("replication")
        except redis.RedisError:
            return False
        return state["role"] == "master" or state["master_link_status"] == "up"

    def _view(self, node: ClusterNode) -> tuple[object, ...]:
        """Who has what as this node sees it; of its own where a replica is missing."""
        found = node.ask("CLUSTER SLOTS")
        if any(len(servers) < 2 for _, _, *servers in found):
            return (node.name,)
        ranges = (
            (low, high, first[1], *sorted(one[1] for one in others))
            for low, high, first, *others in found
        )
        return tuple(sorted(ranges))


def until(condition: Callable[[], bool]) -> None:
    """Look again and again, since no server wakes us."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the cluster does not come to it"
        time.sleep(0.02)


@dataclass
class Live:
    """The shards of a cluster, as a settler opens them, and an organisation on each of them."""

    cluster: Cluster
    redis: RoutedRedis
    shards: list[ScriptedShard] = field(default_factory=list)
    orgs: list[str] = field(default_factory=list)

    async def open(self) -> None:
        for number in range(SHARDS):
            self.shards.append(ScriptedShard(self.redis, ShardKeys("tm", number)))
            names = map("org{}".format, range(999))
            self.orgs.append(next(one for one in names if shard_of(one, SHARDS) == number))
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
        return int(key_slot(ShardKeys("tm", shard).meta.encode()))

    def owner(self, shard: int) -> int:
        """Number of the node that has it."""
        return self.cluster.nodes.index(self.cluster.owner(self.slot(shard)))

    async def charged(self, shard: int) -> list[str]:
        """The requests that the events of a shard name, in their order."""
        return [line[3].partition("/")[2] for line in await self.shards[shard].events()]

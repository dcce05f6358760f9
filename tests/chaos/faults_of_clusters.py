"""Faults of the nodes of a cluster: their shards have trouble, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

from redis.crc import key_slot
from support.cluster import NODE_TIMEOUT_MS
from support.cluster import Cluster as RedisCluster

from chaos.cluster import ORGS, Cluster
from chaos.scene import BOUND_S, FELT_S, Loss, Scene, Struck
from taximeter.api.embedded.cluster import ClusterNode
from taximeter.meter.wire.keys import ShardKeys, shard_of

AHEAD_EVENTS = 20
"""What is settled at least while the replica hears nothing."""
ELECTED_S = 60.0
ELECTION_MS = 5_000
"""Node time-out while a fault wants an election."""


async def failover(scene: Scene) -> Struck:
    """A primary is killed, and its replica is elected."""
    pair = await _pick(scene)
    settled = await scene.settled()
    in_step = await _in_step(scene, pair)
    began = time.time()
    await asyncio.to_thread(pair.primary.kill)
    killed = time.time()
    bit = await _is_replaced(scene, pair, killed)
    await asyncio.to_thread(pair.primary.start)
    return await _ended(scene, pair, "failover", began, bit, _loss(in_step, killed, settled, pair))


async def hung_node(scene: Scene) -> Struck:
    """A primary hangs until its replica is elected, and then goes on with what waited for it: of
    what it answers then nobody is told.
    """
    pair = await _pick(scene)
    settled = await scene.settled()
    in_step = await _in_step(scene, pair)
    began = time.time()
    os.kill(pair.primary.pid, signal.SIGSTOP)
    hung = time.time()
    try:
        bit = await _is_replaced(scene, pair, hung)
    finally:
        os.kill(pair.primary.pid, signal.SIGCONT)
    await scene.until(_follows(pair.primary), "the old primary to follow the new one")
    loss = _loss(in_step, hung, settled, pair)
    return await _ended(scene, pair, "hung_node", began, bit, loss)


async def uncovered_slot(scene: Scene) -> Struck:
    """A primary and its replica are killed: nobody has their slots until they are back."""
    pair = await _pick(scene)
    settled = await scene.settled()
    in_step = await _in_step(scene, pair)
    began = time.time()
    await asyncio.gather(asyncio.to_thread(pair.primary.kill), asyncio.to_thread(pair.replica.kill))
    killed = time.time()
    felt = await scene.felt(killed)
    others = await scene.served(time.time(), of=lambda org_id: org_id not in pair.orgs)
    await asyncio.sleep(scene.random.uniform(1.0, 3.0))
    await asyncio.to_thread(pair.primary.start)
    await asyncio.to_thread(pair.replica.start)
    # Which of the two is primary then is the cluster's to say.
    loss = _loss(in_step, killed, settled, pair)
    return await _ended(scene, pair, "uncovered_slot", began, felt and others, loss)


async def flap(scene: Scene) -> Struck:
    """A primary, a replica that lags, the primary again, while no settler looks: it has its run id
    still, and not what was settled last.
    """
    pair, cluster = await _pick(scene), scene.cluster
    old, new = pair.primary, pair.replica
    await _in_step(scene, pair)
    epochs = await scene.epochs(pair.shards)
    os.kill(new.pid, signal.SIGSTOP)
    began = cut_off = time.time()
    try:
        await asyncio.to_thread(old.ask, "CLIENT", "KILL", "TYPE", "replica")
        base = await scene.numbers()

        async def is_ahead() -> bool:
            marks = await scene.settled_numbers()
            return sum(marks[n] - base[n] for n in pair.shards) >= AHEAD_EVENTS

        ahead = await scene.comes(is_ahead, BOUND_S)
        async with cluster.without("settler"):
            settled = await scene.settled()
            os.kill(old.pid, signal.SIGSTOP)
            try:
                os.kill(new.pid, signal.SIGCONT)
                await asyncio.to_thread(_take_over, new)
                await scene.until(_is_primary(new), "the replica to be primary")
            finally:
                os.kill(old.pid, signal.SIGCONT)
            await scene.until(_follows(old), "the old primary to follow the new one")
            gone = time.time()
            await asyncio.to_thread(_take_over, old)
            await scene.until(_is_primary(old), "the old primary to be one again")
    finally:
        os.kill(new.pid, signal.SIGCONT)
    rebuilt = await scene.rebuilt(epochs, pair.shards)
    loss = Loss("redis", cut_off, gone, settled, pair.orgs)
    return await _ended(scene, pair, "flap", began, ahead and rebuilt, loss)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A primary, its replica, and whom their shards are of."""

    primary: ClusterNode
    replica: ClusterNode
    shards: list[int]
    orgs: frozenset[str]
    others: list[int]
    """Ports of who has the other shards."""


async def _pick(scene: Scene) -> _Pair:
    return await asyncio.to_thread(_pick_of, scene)


def _pick_of(scene: Scene) -> _Pair:
    """The primary of some organisation's shard, which not all of them are on."""
    nodes, count = _nodes(scene.cluster), scene.cluster.run.shards
    nodes.wait_until_whole()
    owners = [_owner(nodes, shard) for shard in range(count)]
    by_org = {org: owners[shard_of(org, count)] for org in ORGS}
    assert len(set(by_org.values())) > 1, "all organisations are on one node"
    primary = by_org[scene.random.choice(ORGS)]
    with primary.sync as client:
        replica = nodes.by_port(int(client.info("replication")["slave0"]["port"]))
    orgs = frozenset(org for org, owner in by_org.items() if owner is primary)
    shards = [n for n in range(count) if owners[n] is primary]
    _set_time_out(nodes, ELECTION_MS)
    return _Pair(primary, replica, shards, orgs, _others(scene.cluster, shards))


def _others(cluster: Cluster, shards: list[int]) -> list[int]:
    every = range(cluster.run.shards)
    return [_owner(_nodes(cluster), n).port for n in every if n not in shards]


def _set_time_out(nodes: RedisCluster, time_out_ms: int) -> None:
    for node in nodes.nodes:
        node.ask("CONFIG SET", "cluster-node-timeout", time_out_ms)


def _owner(nodes: RedisCluster, shard: int) -> ClusterNode:
    return nodes.owner(int(key_slot(ShardKeys("tm", shard).meta.encode())))


def _nodes(cluster: Cluster) -> RedisCluster:
    assert cluster.nodes is not None, "the run is on a cluster"
    return cluster.nodes


def _offset(node: ClusterNode) -> int:
    with node.sync as client:
        said = client.info("replication")
    return int(said.get("slave_repl_offset", said["master_repl_offset"]))


async def _in_step(scene: Scene, pair: _Pair) -> float:
    """Returns a moment of just now at which the replica had everything."""
    moment = time.time()

    async def is_in_step() -> bool:
        nonlocal moment
        moment = time.time()
        ours = await asyncio.to_thread(_offset, pair.primary)
        return await asyncio.to_thread(_offset, pair.replica) >= ours

    await scene.until(is_in_step, "the replica to be in step")
    return moment


def _loss(in_step: float, struck: float, settled: dict[Any, int], pair: _Pair) -> Loss:
    """What the primary had on its own."""
    return Loss("redis", in_step, struck, settled, pair.orgs)


async def _is_replaced(scene: Scene, pair: _Pair, since: float) -> bool:
    """Whether the others went on meanwhile, the replica was elected, and its shards are back."""
    others = await scene.served(time.time(), of=lambda org_id: org_id not in pair.orgs)
    felt = await scene.felt(since, within_s=FELT_S)
    await scene.until(_is_primary(pair.replica), "the replica to be elected", ELECTED_S)
    await scene.usable()
    back = await scene.served(time.time(), of=lambda org_id: org_id in pair.orgs)
    return others and felt and back


async def _ended(
    scene: Scene, pair: _Pair, name: str, began: float, bit: bool, loss: Loss
) -> Struck:
    await asyncio.to_thread(_nodes(scene.cluster).wait_until_whole)
    await scene.usable()
    await asyncio.to_thread(_set_time_out, _nodes(scene.cluster), NODE_TIMEOUT_MS)
    if await asyncio.to_thread(_others, scene.cluster, pair.shards) != pair.others:
        # The machine was so busy that another one was taken for dead.
        bit, loss = False, replace(loss, orgs=None)
    detail = {"shards": pair.shards, "orgs": sorted(pair.orgs)}
    return Struck(name, began, time.time(), bit, detail, loss)


def _take_over(node: ClusterNode) -> None:
    node.ask("CLUSTER FAILOVER", "TAKEOVER")


def _is_primary(node: ClusterNode) -> Any:
    async def is_primary() -> bool:
        return await asyncio.to_thread(node.is_primary)

    return is_primary


def _follows(node: ClusterNode) -> Any:
    def said() -> bool:
        with node.sync as client:
            state = client.info("replication")
        return bool(state["role"] == "slave" and state["master_link_status"] == "up")

    async def follows() -> bool:
        return await asyncio.to_thread(said)

    return follows


async def slot_move(scene: Scene) -> Struck:
    """A slot moves to another primary, at once or key by key: nothing is lost but what open holds
    had reported, and no shard is closed and brought back.
    """
    nodes = scene.cluster.nodes
    assert nodes is not None
    shard = scene.random.randrange(scene.cluster.run.shards)
    slot = nodes.slot_of(ShardKeys("tm", shard).meta)
    at_once = scene.random.random() < 0.75 and nodes.moves_at_once()
    source = nodes.owner(slot)
    others = [node for node in nodes.nodes if node.is_primary() and node is not source]
    target = scene.random.choice(others)
    epochs = await scene.epochs()
    began = time.time()
    await asyncio.to_thread(nodes.migrate if at_once else nodes.move_slot, slot, target)
    moved = time.time()
    await scene.usable()
    served = await scene.served(time.time())
    whole = await scene.epochs() == epochs
    detail = {
        "shard": shard,
        "at once": at_once,
        "troubled": scene.troubled(began),
        "closed ms": round((time.time() - began) * 1000),
    }
    bit = nodes.owner(slot) is target and served and whole
    return Struck("slot_move", began, time.time(), bit, detail, Loss("start", began, moved))


FAULTS = {
    "slot_move": slot_move,
    "failover": failover,
    "flap": flap,
    "hung_node": hung_node,
    "uncovered_slot": uncovered_slot,
}

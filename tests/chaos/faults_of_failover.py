"""Faults that put a replica in the place of the primary, one that lacks writes or has others."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from chaos.cluster import add_replica
from chaos.scene import BOUND_S, FELT_S, Loss, Scene, Struck
from chaos.valkey import ChaosValkey

AHEAD_BYTES = 2_000
"""More than the pings of a primary without traffic: some writes that the replica lacks."""
AHEAD_EVENTS = 400
"""More than a settler books at a time under this load, so that it stops inside of them."""


async def promotion(scene: Scene) -> Struck:
    """The primary dies, and a replica that lacks its last writes takes its place."""
    cluster = scene.cluster
    old, new = _pair(scene)
    if not await _in_step(scene):
        return _not_in_step("promotion")
    assert cluster.replication is not None
    cut_off = time.time()
    cluster.replication.black_hole(True)
    await asyncio.sleep(scene.random.uniform(0.5, 1.5))

    async def is_ahead() -> bool:
        ours, theirs = await _place(scene, old), await _place(scene, new)
        return ours.history == theirs.history and ours.offset >= theirs.offset + AHEAD_BYTES

    ahead = await scene.comes(is_ahead, FELT_S)
    settled = await scene.settled()
    began = time.time()
    at = await _place(scene, old)
    killed = await _promote(scene, old, new)
    left = await _place(scene, new)
    # Offsets of two histories say nothing about each other.
    lost_bytes = at.offset - left.offset if at.history == left.history else None
    await _replicaof_no_one(scene, new)
    cluster.point_to(new)
    await scene.usable()
    await _new_replica(scene)
    loss = Loss("redis", cut_off, killed, settled)
    bit = ahead and lost_bytes is not None and lost_bytes > 0
    return Struck("promotion", began, time.time(), bit, {"bytes_lost": lost_bytes}, loss)


async def stale_promotion(scene: Scene) -> Struck:
    """The primary comes back without its last writes, is let in and goes on; then a replica that
    still has those writes, and none since, takes its place. Its epoch and numbers fit: what is
    settled of the numbers that both gave is not in its balances.
    """
    cluster = scene.cluster
    old, new = _pair(scene)
    if not await _in_step(scene):
        return _not_in_step("stale_promotion")
    assert cluster.replication is not None
    async with cluster.without("settler"):
        kept_at = time.time()
        kept = old.log_of_writes.stat().st_size
        base = sum((await scene.numbers(old)).values())

        async def is_ahead() -> bool:
            return sum((await scene.numbers(new)).values()) >= base + AHEAD_EVENTS

        ahead = await scene.comes(is_ahead, FELT_S)
        cluster.replication.black_hole(True)
        began = time.time()
        await asyncio.to_thread(old.kill)
        cluster.replication.reset_all()
        os.truncate(old.log_of_writes, kept)
        await asyncio.to_thread(old.start)
        branch = await scene.numbers(old)
    await scene.usable()

    async def goes_on() -> bool:
        marks = await scene.settled_numbers()
        return any(marks[shard] > seq for shard, seq in branch.items())

    went_on = await scene.comes(goes_on, BOUND_S)
    epochs = await scene.epochs()
    async with cluster.without("settler"):
        settled, marks = await scene.settled(), await scene.settled_numbers()
        theirs = await scene.numbers(new)
        diverged = [shard for shard, seq in branch.items() if seq < marks[shard] <= theirs[shard]]
        killed = await _promote(scene, old, new)
        await _replicaof_no_one(scene, new)
        cluster.point_to(new)
    rebuilt = await scene.rebuilt(epochs)
    await _new_replica(scene)
    loss = Loss("redis", kept_at, killed, settled)
    detail = {"branch": branch, "settled": marks, "replica": theirs, "rebuilt": rebuilt}
    bit = ahead and went_on and bool(diverged) and rebuilt
    return Struck("stale_promotion", began, time.time(), bit, detail, loss)


async def replica_away(scene: Scene) -> Struck:
    """The replica hears nothing. With a wait for it, charges end as unknown and reserves do not
    wait; without one nobody notices.
    """
    cluster = scene.cluster
    assert cluster.replication is not None
    if not await _in_step(scene):
        return _not_in_step("replica_away")
    waits = cluster.run.commit_wait != "none"
    began = time.time()
    cluster.replication.black_hole(True)
    try:
        felt = await scene.felt(began, "OUTCOME_UNKNOWN", "ReadTimeout") if waits else True

        async def a_reserve_passes() -> bool:
            return any(
                one.op == "reserve" and one.outcome == "ok" and one.at >= began
                for one in scene.attempts()
            )

        passes = await scene.comes(a_reserve_passes, FELT_S)
        await asyncio.sleep(scene.random.uniform(1.0, 3.0))
    finally:
        cluster.replication.heal()
    served = await scene.served(time.time())
    detail = {"waits": waits, "reserves pass": passes}
    return Struck("replica_away", began, time.time(), felt and passes and served, detail)


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a server is (bytes) in which history of writes."""

    history: str
    offset: int


async def _place(scene: Scene, server: ChaosValkey) -> _Place:
    async with scene.cluster.redis(server) as client:
        said = await client.info("replication")
    offset = said.get("slave_repl_offset", said["master_repl_offset"])
    return _Place(said["master_replid"], int(offset))


async def _in_step(scene: Scene) -> bool:
    """Wait until the replica has what the primary that runs now had a moment ago."""
    old, new = _pair(scene)

    async def is_in_step() -> bool:
        # The primary first: it goes on meanwhile.
        ours = await _place(scene, old)
        async with scene.cluster.redis(new) as client:
            said = await client.info("replication")
        return bool(
            said["role"] == "slave"
            and said["master_link_status"] == "up"
            and said["master_replid"] == ours.history
            and int(said["slave_repl_offset"]) >= ours.offset
        )

    return await scene.comes(is_in_step, BOUND_S)


def _pair(scene: Scene) -> tuple[ChaosValkey, ChaosValkey]:
    assert scene.cluster.replica is not None
    return scene.cluster.valkey, scene.cluster.replica


def _not_in_step(fault: str) -> Struck:
    now = time.time()
    return Struck(fault, now, now, False, {"why": "the replica did not come into step"})


async def _promote(scene: Scene, old: ChaosValkey, new: ChaosValkey) -> float:
    """The primary dies, and what was on its way dies with its network; returns when."""
    assert scene.cluster.replication is not None
    await asyncio.to_thread(old.kill)
    killed = time.time()
    scene.cluster.replication.reset_all()
    return killed


async def _replicaof_no_one(scene: Scene, server: ChaosValkey) -> None:
    async with scene.cluster.redis(server) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")


async def _new_replica(scene: Scene) -> None:
    assert scene.cluster.replication is not None
    scene.cluster.replication.heal()
    await add_replica(scene.cluster)


FAULTS = {
    "promotion": promotion,
    "stale_promotion": stale_promotion,
    "replica_away": replica_away,
}

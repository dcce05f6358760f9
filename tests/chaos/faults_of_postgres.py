"""Faults of Postgres that lose nothing: killed, paused, its sessions ended."""

from __future__ import annotations

import asyncio
import random
import time

from chaos.scene import Scene, Struck

TURNS, TURNS_MAX = 30, 400
ENDED_MIN = 3


async def kill_postgres(scene: Scene) -> Struck:
    """SIGKILL of the server and all its sessions, wherever they are; charges go on meanwhile."""
    server = scene.cluster.postgres
    began = time.time()
    await asyncio.to_thread(server.kill)
    served = await scene.served(time.time())
    await asyncio.sleep(scene.random.uniform(0.5, 2.0))
    await asyncio.to_thread(server.start)
    return Struck("kill_postgres", began, time.time(), served)


async def pause_postgres(scene: Scene) -> Struck:
    """Every process of Postgres is stopped for a while: sessions are open and nobody answers."""
    server = scene.cluster.postgres
    began = time.time()
    await _signal_all(server.pid, "-STOP")
    served = await scene.served(time.time())
    await asyncio.sleep(scene.random.uniform(1.0, 2.5))
    await _signal_all(server.pid, "-CONT")
    return Struck("pause_postgres", began, time.time(), served)


async def terminate_backends(scene: Scene) -> Struck:
    """pg_terminate_backend of every session of ours, again and again, at any point of any
    transaction.
    """
    began, ended = time.time(), 0
    conn = await scene.cluster.database()
    try:
        for turn in range(TURNS_MAX):
            # A session may be idle whenever we look: then some more times.
            if turn >= TURNS and ended >= ENDED_MIN:
                break
            rows = await conn.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'taximeter%' AND state <> 'idle'"
            )
            ended += len(rows)
            # Not the dice of the run: how often it is looked is not in the seed's hand.
            await asyncio.sleep(random.uniform(0.0, 0.1))
    finally:
        await conn.close()
    return Struck("terminate_backends", began, time.time(), ended >= ENDED_MIN, {"sessions": ended})


async def _signal_all(pid: int, name: str) -> None:
    # The sessions are children of the server; a stopped parent alone would leave them at work.
    children = await asyncio.create_subprocess_exec(
        "ps", "-o", "pid=", "--ppid", str(pid), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await children.communicate()
    pids = [str(pid), *output.decode().split()]
    process = await asyncio.create_subprocess_exec(
        "kill", name, *pids, stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()


FAULTS = {
    "kill_postgres": kill_postgres,
    "pause_postgres": pause_postgres,
    "terminate_backends": terminate_backends,
}

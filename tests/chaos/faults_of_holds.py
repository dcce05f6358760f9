"""Faults that are aimed at the life of a hold: its writes lost up to any command, and credits taken
by SQL while it is open.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import asyncpg
import httpx
from support.aof import command_ends

from chaos.caller import Caller
from chaos.cluster import USERS
from chaos.scene import Loss, Scene, Struck

HOLDS = 9
TAIL_COMMANDS = 40
DEDUCTING_S = 3.0
TTL_S = 5.0


async def cut_hold(scene: Scene) -> Struck:
    """Holds are taken, reported on and ended, all of it acknowledged; then the server dies, and its
    file ends at one of the last commands.
    """
    server, began = scene.cluster.valkey, time.time()
    log = server.log_of_writes
    settled = await scene.settled()
    size = log.stat().st_size
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
        lives = [_life(scene, client, number) for number in range(HOLDS)]
        ended = sum(await asyncio.gather(*lives))
    await asyncio.to_thread(server.kill)
    killed = time.time()
    same = log == server.log_of_writes
    ends = [size + end for end in command_ends(log.read_bytes()[size:])][-TAIL_COMMANDS:]
    cut = scene.random.choice(ends[:-1] or [size])
    lost = sum(end > cut for end in ends)
    if same:
        os.truncate(log, cut)
    await asyncio.to_thread(server.start)
    await scene.usable()
    loss = Loss("redis", began, killed, settled)
    detail = {"ended": ended, "commands lost": lost}
    return Struck("cut_hold", began, time.time(), same and ended > 0 and lost > 0, detail, loss)


async def _life(scene: Scene, client: httpx.AsyncClient, number: int) -> bool:
    """Reserve, touch, and an end that charges less than was reported; whether all was told OK."""
    caller = Caller(scene, f"cut-{number}")
    # Some may have been removed, or have nothing left.
    account, request = USERS[number % len(USERS)], f"cut-{time.time_ns()}-{number}"
    url = scene.cluster.links["gateway-1>sidecar-1"].url
    steps = [("reserve", 50), ("touch", 40), ("commit", 10) if number % 2 else ("release", 0)]
    try:
        for op, amount in steps:
            if await caller.post(client, url, op, account, request, amount, TTL_S) != "ok":
                return False
    finally:
        caller.close()
    return True


async def sql_deductions(scene: Scene) -> Struck:
    """`deduct_credits` while holds are open and charges are not settled: what it was told true is
    booked once, what it was told false not, and nobody spends what was spent.
    """
    began, taken = time.time(), 0
    caller = Caller(scene, "sql")
    conn = await scene.cluster.database()
    try:
        while time.time() < began + DEDUCTING_S:
            account = scene.random.choice(USERS)
            request = f"sql-{time.time_ns()}"
            amount = scene.random.choice((1, 50, 5_000, 200_000))
            attempt = caller.invoke("deduct", account, request, amount)
            try:
                done = await conn.fetchval(
                    "SELECT success FROM deduct_credits($1, $2, $3, 'llm_inference', 'sql', $4)",
                    *account.split("/"), amount, request,
                )  # fmt: skip
            except asyncpg.ObjectNotInPrerequisiteStateError:
                done = False  # No settler has looked for a while: refused, and nothing was done.
            receipt = {"state": "charged", "charged_millicredits": amount if done else 0}
            caller.answer(attempt, "ok" if done else "refused", receipt)
            taken += bool(done)
    finally:
        await conn.close()
        caller.close()
    return Struck("sql_deductions", began, time.time(), taken > 0, {"deducted": taken})


FAULTS: dict[str, Callable[[Scene], Awaitable[Struck]]] = {
    "cut_hold": cut_hold,
    "sql_deductions": sql_deductions,
}

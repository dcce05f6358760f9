"""A fault of credit lines: Redis dies, requests are admitted on credit, and a sidecar that admitted
some is killed before Redis is back. Each that was acknowledged is booked once, and none that was
refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import httpx

from chaos.caller import Caller
from chaos.cluster import ITS_USERS, LINE
from chaos.faults_of_redis import POSTPONED_S
from chaos.history import open_in
from chaos.scene import BOUND_S, Key, Loss, Scene, Struck

ANSWER_S: Final = 10.0
PAUSE_S: Final = 0.1
TTL_S: Final = 2.0
AT_ONCE: Final = 8
RICH, _, POOR = ITS_USERS
MORE_THAN_POSTGRES_KNOWS: Final = LINE // 2
"""Within the line, and more than the poor user was ever given."""
Told = tuple[str, str, str]


@dataclass
class _Outage:
    """What callers do meanwhile. `dying` and `other`: the addresses of the two sidecars.

    `owed`: the least that must be booked of each request when all is over, millicredits.
    """

    scene: Scene
    client: httpx.AsyncClient
    dying: str
    other: str
    owed: dict[Key, int] = field(default_factory=dict)

    async def ask(
        self, url: str, op: str, request: str, amount: int = 0, user: str = RICH, *, once: bool
    ) -> str:
        """Ask under the same id until there is a definite answer, or only once."""
        caller = Caller(self.scene, f"credit-{request}-{op}")
        end = time.monotonic() + BOUND_S
        try:
            while True:
                told = await caller.post(self.client, url, op, user, request, amount, TTL_S)
                if told in ("ok", "refused") or once or time.monotonic() > end:
                    break
                await asyncio.sleep(PAUSE_S)
        finally:
            caller.close()
        if told == "ok" and op in ("charge", "commit", "touch"):
            self.owed[user.partition("/")[0], request] = amount
        return told

    async def live(self, url: str, request: str, *steps: tuple[str, int]) -> bool:
        """The steps of one request, one after the other; whether all were told OK."""
        for op, amount in steps:
            if await self.ask(url, op, request, amount, once=False) != "ok":
                return False
        return True


async def credit_lines_restarted(scene: Scene) -> Struck:
    """Bites if requests were admitted on credit, the sidecar had some of them when it was killed,
    and it came back before Redis did.
    """
    cluster = scene.cluster
    server = cluster.valkey
    name, other = scene.random.sample(["sidecar-1", "sidecar-2"], 2)
    async with httpx.AsyncClient(timeout=ANSWER_S, trust_env=False) as client:
        urls = [cluster.links[f"gateway-1>{sidecar}"].url for sidecar in (name, other)]
        await _knows_redis(scene, client, urls)
        settled = await scene.settled()
        began = time.time()
        await asyncio.to_thread(server.kill)
        killed = time.time()
        outage = _Outage(scene, client, *urls)
        try:
            admitted = await _admit(outage)
            unanswered = await _kill(outage, name)
            kept = len(open_in(cluster.journal(name)))
            waits = await _comes_back(scene, name)
        finally:
            await asyncio.to_thread(server.start)
        await scene.usable()
        await _finish(outage, unanswered)

    async def is_booked() -> bool:
        booked = await scene.settled()
        journals = (open_in(cluster.journal(sidecar)) for sidecar in (name, other))
        return not any(journals) and all(
            booked.get(key, 0) >= amount for key, amount in outage.owed.items()
        )

    # Later faults may take what Redis has, not what is settled.
    booked = await scene.comes(is_booked, BOUND_S)
    loss = Loss("start", began, killed)
    if cluster.run.fsync != "always":
        loss = Loss("redis", began - POSTPONED_S, killed, settled)
    detail = {"process": name, "admitted": admitted, "in its journal": kept, "booked": booked}
    bit = admitted > 0 and kept > 0 and waits
    return Struck("credit_lines_restarted", began, time.time(), bit, detail, loss)


def _id(kind: str) -> str:
    return f"{kind}-{time.time_ns()}"


async def _knows_redis(scene: Scene, client: httpx.AsyncClient, urls: list[str]) -> None:
    """One that starts while Redis is away does not know the shards, and admits nobody."""

    async def is_ready() -> bool:
        answers = await asyncio.gather(*(client.get(f"{url}/readyz") for url in urls))
        return all(answer.status_code == 200 for answer in answers)

    await scene.until(is_ready, "both sidecars to be connected to Redis")


async def _admit(outage: _Outage) -> int:
    """Requests of every kind, on both sidecars; how many were acknowledged to their end."""
    asked = []
    for url in (outage.dying, outage.other):
        for op, amount, user in (
            # More than the line, and more than Postgres knows that this user has.
            ("charge", LINE + 1, RICH),
            ("charge", MORE_THAN_POSTGRES_KNOWS, POOR),
            ("reserve", MORE_THAN_POSTGRES_KNOWS, POOR),
        ):
            asked.append(outage.ask(url, op, _id("credit-not"), amount, user, once=True))
        asked += [
            outage.live(url, _id("credit-charged"), ("charge", 7)),
            outage.live(url, _id("credit-held"), ("reserve", 50), ("touch", 20), ("commit", 35)),
            outage.live(url, _id("credit-above"), ("reserve", 50), ("commit", 80)),
            outage.live(url, _id("credit-given-back"), ("reserve", 50), ("release", 0)),
            outage.live(url, _id("credit-left"), ("reserve", 50), ("touch", 12)),
            outage.live(url, _id("credit-forgotten"), ("reserve", 50)),
        ]
    told = await asyncio.gather(*asked)
    return sum(one is True for one in told)


async def _kill(outage: _Outage, name: str) -> list[Told]:
    """Kill the sidecar while answers are on their way, and holds open. Returns what its callers do
    when it is back: address, what, and the id.
    """
    both, held, taken_elsewhere = _id("credit-both"), _id("credit-held"), _id("credit-moved")
    # A client that repeats its charge at the other one, of which this one knows nothing.
    await asyncio.gather(
        outage.live(outage.dying, both, ("charge", 9)),
        outage.live(outage.dying, held, ("reserve", 50), ("touch", 20)),
        outage.live(outage.dying, taken_elsewhere, ("reserve", 50), ("touch", 20)),
        outage.live(outage.other, both, ("charge", 9)),
    )
    unanswered = [_id(f"credit-cut-{number}") for number in range(AT_ONCE)]
    asking = [
        asyncio.create_task(outage.ask(outage.dying, "charge", request, 11, once=True))
        for request in unanswered
    ]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    worker = outage.scene.cluster.workers[name]
    await asyncio.to_thread(worker.kill)
    await asyncio.gather(*asking)
    # The last of those that were cut is never asked about again.
    return [
        (outage.dying, "commit", held),
        (outage.other, "commit", taken_elsewhere),
        *((outage.dying, "charge", request) for request in unanswered[:-1]),
    ]


async def _comes_back(scene: Scene, name: str) -> bool:
    """Wait until it was started again, and has found that Redis is away."""
    worker = scene.cluster.workers[name]
    said = worker.log().count("waiting for Redis")

    async def is_waiting() -> bool:
        return worker.running and worker.log().count("waiting for Redis") > said

    return await scene.comes(is_waiting, BOUND_S)


async def _finish(outage: _Outage, unanswered: Iterable[Told]) -> None:
    amounts = {"commit": 35, "charge": 11}
    await asyncio.gather(
        *(outage.ask(url, op, request, amounts[op], once=False) for url, op, request in unanswered)
    )


FAULTS: dict[str, Callable[[Scene], Awaitable[Struck]]] = {
    "credit_lines_restarted": credit_lines_restarted,
}

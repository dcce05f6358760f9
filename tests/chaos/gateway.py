"""A simulated gateway: many callers that hold, stream, charge, ask and retry by id, one by one, in
batches and by forward auth, and sometimes forget.

`python -m chaos.gateway NAME SEED HISTORY USERS URL...` runs until SIGTERM, then lets its callers
finish what they are at. A commit is retried until it is through, a reserve only for a while.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
from pathlib import Path
from typing import Final

from chaos.asking import Answer, Sidecars, Wanted, Way
from chaos.history import Recorder

CALLERS: Final = 12
PAUSE_VARIABLE: Final = "CHAOS_PAUSE_S"
"""Longest pause of a caller between two requests, in seconds."""
GATE_HOLD_S: Final = 3.0
"""TAXIMETER_FORWARD_AUTH_HOLD_S of the sidecars."""
SWEPT_S: Final = 1.3
"""The settler's sweep comes so long after a deadline, unless a fault keeps it away."""
TOUCH_PATIENCE_S: Final = 0.5
RESERVE_PATIENCE_S: Final = 4.0
CHARGE_PATIENCE_S: Final = 12.0
COMMIT_PATIENCE_S: Final = 45.0
Who = tuple[str, str, str]


class Gateway:
    """Calls sidecars by turns; whichever answers."""

    def __init__(
        self, name: str, seed: int, recorder: Recorder, users: list[str], urls: list[str]
    ) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._random = random.Random(f"{seed}/{name}")
        self._users = [user.split("/") for user in users]
        self._pause_s = float(os.environ[PAUSE_VARIABLE])
        self._numbers = itertools.count()
        self._done: list[Wanted] = []
        self.stopping = asyncio.Event()
        self._sidecars = Sidecars(self._name, recorder, urls, self._random, CALLERS)

    async def run(self) -> None:
        callers = [asyncio.create_task(self._caller()) for _ in range(CALLERS)]
        await asyncio.gather(*callers)
        await self._sidecars.aclose()

    async def _caller(self) -> None:
        weights = {self._hold: 52, self._charge: 24, self._batch: 6, self._gate: 10}
        while not self.stopping.is_set():
            again = {self._again: 8} if self._done else {}
            kinds = {**weights, **again}
            await self._random.choices(list(kinds), weights=list(kinds.values()))[0]()
            await asyncio.sleep(self._random.uniform(0.0, self._pause_s))

    def _new(self) -> Who:
        org_id, user_id = self._random.choice(self._users)
        return org_id, user_id, f"{self._name}-{next(self._numbers)}"

    async def _charge(self) -> None:
        wanted = Wanted("charge", *self._new(), self._random.randint(1, 60))
        if (await self._ask(wanted, CHARGE_PATIENCE_S)).outcome == "ok":
            self._done.append(wanted)

    async def _again(self) -> None:
        """A client that repeats an old id: never a second charge."""
        await self._ask(self._random.choice(self._done[-200:]), RESERVE_PATIENCE_S)

    async def _hold(self) -> None:
        pick, who = self._random, self._new()
        ttl_s, actual = pick.choice((0.8, 1.5, 3.0)), pick.randint(0, 120)
        if not await self._reserved(Wanted("reserve", *who, pick.randint(1, 100), ttl_s)):
            return
        progress = 0
        for _ in range(pick.choice((0, 0, 1, 2))):
            await asyncio.sleep(pick.uniform(0.0, 0.2))
            progress = pick.randint(progress, actual)
            await self._ask(Wanted("touch", *who, progress, ttl_s), TOUCH_PATIENCE_S)
        end = pick.choices(
            ("commit", "late", "release", "expire", "forget"), weights=(70, 9, 8, 5, 8)
        )[0]
        if end in ("late", "expire"):
            await asyncio.sleep(ttl_s + SWEPT_S)
        if end in ("commit", "late"):
            await self._ended(Wanted("commit", *who, actual), COMMIT_PATIENCE_S)
        elif end == "release":
            await self._ended(Wanted("release", *who), CHARGE_PATIENCE_S)
        elif end == "expire":
            # It has ended by itself, and whoever asks, or releases it, is told what that has cost.
            await self._ask(Wanted("lookup", *who), RESERVE_PATIENCE_S)
            if pick.random() < 0.5:
                await self._ask(Wanted("release", *who), RESERVE_PATIENCE_S)

    async def _ended(self, end: Wanted, patience_s: float) -> None:
        """End it; now and then say so twice, ask what became of it, or do what comes too late and
        changes nothing.
        """
        if (await self._ask(end, patience_s)).outcome != "ok" or self._random.random() > 0.2:
            return
        more = [end, end._replace(op="lookup", amount=0)]
        if end.op == "commit":
            more += [end._replace(op="release", amount=0), end._replace(op="touch", ttl_s=1.0)]
        await self._ask(self._random.choice(more), RESERVE_PATIENCE_S)

    async def _batch(self) -> None:
        """Charges and holds in one body; then all that these holds still need, in another one."""
        pick, sidecars = self._random, self._sidecars
        taken = [
            Wanted("charge", *self._new(), pick.randint(1, 60))
            if pick.random() < 0.4
            else Wanted("reserve", *self._new(), pick.randint(1, 100), 3.0)
            for _ in range(pick.randint(2, 6))
        ]
        told = await sidecars.ask(taken, RESERVE_PATIENCE_S, sidecars.batch)
        ends: list[Wanted] = []
        for one, answer in zip(taken, told, strict=True):
            if one.op != "reserve" or not _stands(answer):
                continue
            if answer.code == "REPLAYED" or pick.random() < 0.15:
                ends.append(one._replace(op="release", amount=0))
                continue
            actual = pick.randint(0, 120)
            if pick.random() < 0.5:
                ends.append(one._replace(op="touch", amount=pick.randint(0, actual)))
            if pick.random() < 0.9:
                ends.append(one._replace(op="commit", amount=actual))
        if ends:
            await sidecars.ask(ends, COMMIT_PATIENCE_S, sidecars.batch)

    async def _gate(self) -> None:
        """A request that is let through for a price, or for what it is then said to have cost."""
        pick, who, way = self._random, self._new(), self._sidecars.gate
        price = pick.randint(1, 100)
        if pick.random() < 0.4:
            await self._ask(Wanted("charge", *who, price), CHARGE_PATIENCE_S, way)
            return
        if not await self._reserved(Wanted("reserve", *who, price), way):
            return
        if pick.random() < 0.1:
            await asyncio.sleep(GATE_HOLD_S + SWEPT_S)
        end = pick.random()
        if end < 0.75:
            cost = Wanted("commit", *who, pick.randint(0, 120))
            await self._ask(cost, COMMIT_PATIENCE_S, way)
        elif end < 0.9:
            await self._ask(Wanted("release", *who), CHARGE_PATIENCE_S, way)

    async def _reserved(self, reserve: Wanted, way: Way | None = None) -> bool:
        """Whether its hold may be used. One whose answer was lost may be used on, if it is still
        open; as here, it may be given up.
        """
        answer = await self._ask(reserve, RESERVE_PATIENCE_S, way)
        if answer.code == "REPLAYED":
            await self._ask(reserve._replace(op="release", amount=0), RESERVE_PATIENCE_S, way)
        return answer.outcome == "ok"

    async def _ask(self, wanted: Wanted, patience_s: float, way: Way | None = None) -> Answer:
        return (await self._sidecars.ask([wanted], patience_s, way))[0]


def _stands(answer: Answer) -> bool:
    return answer.outcome == "ok" or answer.code == "REPLAYED"


async def main(arguments: list[str]) -> None:
    name, seed, history, users, *urls = arguments
    recorder = Recorder(Path(history))
    gateway = Gateway(name, int(seed), recorder, users.split(","), urls)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, gateway.stopping.set)
    await gateway.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

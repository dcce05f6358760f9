"""A gateway that embeds the meter and has no Postgres to load accounts from.

`python -m chaos.embedded NAME SEED HISTORY USERS REDIS_URL` runs until SIGTERM. Each call is made
once: what it ends as is what its caller is told.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from chaos.history import Recorder
from taximeter.meter import (
    AccountNotFound,
    InsufficientCredits,
    Meter,
    MeterError,
    OutcomeUnknown,
    Receipt,
    RequestConflict,
    RequestReplayed,
    StoreOutOfMemory,
    UnknownHold,
)

CALLERS: Final = 4
TTL_S: Final = 2.0
CODES: Final[dict[type[MeterError], tuple[str, str]]] = {
    OutcomeUnknown: ("unknown", "OUTCOME_UNKNOWN"),
    AccountNotFound: ("refused", "ACCOUNT_NOT_FOUND"),
    InsufficientCredits: ("refused", "INSUFFICIENT_CREDITS"),
    RequestReplayed: ("refused", "REPLAYED"),
    RequestConflict: ("refused", "CONFLICT"),
    UnknownHold: ("refused", "UNKNOWN_HOLD"),
    StoreOutOfMemory: ("failed", "OUT_OF_MEMORY"),
}


class Embedded:
    """Callers of one meter."""

    def __init__(self, name: str, seed: int, recorder: Recorder, users: list[str]) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._random = random.Random(f"{seed}/{name}")
        self._recorder = recorder
        self._users = [user.split("/") for user in users]
        self._numbers = itertools.count()
        self.stopping = asyncio.Event()

    async def run(self, url: str) -> None:
        while not self.stopping.is_set():
            # A shard that is not open yet is no reason to end.
            with suppress(MeterError):
                async with await Meter.connect(url) as meter:
                    await asyncio.gather(*(self._caller(meter) for _ in range(CALLERS)))
                return
            await asyncio.sleep(0.2)

    async def _caller(self, meter: Meter) -> None:
        pick = self._random
        while not self.stopping.is_set():
            org, user = pick.choice(self._users)
            request = f"{self._name}-{next(self._numbers)}"
            if pick.random() < 0.4:
                amount = pick.randint(1, 60)
                await self._tell("charge", org, user, request, amount,
                                 meter.charge(org, user, amount, request_id=request))  # fmt: skip
            else:
                await self._hold(meter, org, user, request)
            await asyncio.sleep(pick.uniform(0.0, 0.1))

    async def _hold(self, meter: Meter, org: str, user: str, request: str) -> None:
        amount = self._random.randint(1, 100)
        reserve = meter.reserve(org, user, amount, request_id=request, ttl_s=TTL_S)
        if await self._tell("reserve", org, user, request, amount, reserve) != "ok":
            return
        actual = self._random.randint(0, amount)
        if self._random.random() < 0.5:
            touch = meter.touch(org, user, request, actual // 2, ttl_s=TTL_S)
            await self._tell("touch", org, user, request, actual // 2, touch)
        end = self._random.random()
        if end < 0.8:
            commit = meter.commit(org, user, request, actual)
            await self._tell("commit", org, user, request, actual, commit)
        elif end < 0.9:
            await self._tell("release", org, user, request, 0, meter.release(org, user, request))

    async def _tell(
        self, op: str, org: str, user: str, request: str, amount: int, call: Awaitable[Any]
    ) -> str:
        attempt = f"{self._name}:{next(self._numbers)}"
        self._recorder.write(
            "invoke", attempt=attempt, op=op, org=org, user=user, request=request, amount=amount
        )
        outcome, code, receipt = "ok", "OK", None
        try:
            said = await call
            if isinstance(said, Receipt):
                receipt = {
                    "state": said.state, "charged_millicredits": said.charged,
                    "available_millicredits": said.available, "replayed": said.replayed,
                    "late": said.late,
                }  # fmt: skip
        except MeterError as error:
            # Whatever else it raises says that nothing was done.
            outcome, code = CODES.get(type(error), ("failed", type(error).__name__))
        self._recorder.write("answer", attempt=attempt, outcome=outcome, code=code, receipt=receipt)
        return outcome


async def main(arguments: list[str]) -> None:
    name, seed, history, users, url = arguments
    embedded = Embedded(name, int(seed), Recorder(Path(history)), users.split(","))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, embedded.stopping.set)
    await embedded.run(url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

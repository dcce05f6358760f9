"""A gateway that embeds the meter and has no Postgres to load accounts from.

`python -m chaos.embedded NAME SEED HISTORY USERS REDIS_URL` runs until SIGTERM. Each call is made
once: what it ends as is what its caller is told. Some callers leave before that.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.gateway import PAUSE_VARIABLE
from chaos.history import Recorder
from taximeter.meter import (
    AccountNotFound,
    Hold,
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
UNUSED_TTL_S: Final = 30.0
"""Of a hold that its caller has left, so long that it does not end by itself in time."""
ASKS_S: Final = 25.0
PAUSE_S: Final = 0.1
"""Longest pause of a caller between two requests, where gateways make hardly one."""
CANCELLED: Final = "CANCELLED"
"""The code of a call whose caller has left before the answer."""
CODES: Final[dict[type[MeterError], tuple[str, str]]] = {
    OutcomeUnknown: ("unknown", "OUTCOME_UNKNOWN"),
    AccountNotFound: ("refused", "ACCOUNT_NOT_FOUND"),
    InsufficientCredits: ("refused", "INSUFFICIENT_CREDITS"),
    RequestReplayed: ("refused", "REPLAYED"),
    RequestConflict: ("refused", "CONFLICT"),
    UnknownHold: ("refused", "UNKNOWN_HOLD"),
    StoreOutOfMemory: ("failed", "OUT_OF_MEMORY"),
}
Who = tuple[str, str, str]


class Told(NamedTuple):
    """What a call came to; `said` is what it has returned."""

    outcome: str
    code: str
    said: Any = None


class _Broken(Exception):
    """What befalls a caller inside of a hold's block."""


class Embedded:
    """Callers of one meter."""

    def __init__(self, name: str, seed: int, recorder: Recorder, users: list[str]) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._random = random.Random(f"{seed}/{name}")
        self._recorder = recorder
        self._users = [user.split("/") for user in users]
        self._pause_s = max(PAUSE_S, float(os.environ[PAUSE_VARIABLE]) / 2)
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
            who = org, user, f"{self._name}-{next(self._numbers)}"
            amount = pick.randint(1, 60)
            kind = pick.choices(("charge", "hold", "left"), weights=(35, 57, 8))[0]
            if kind == "charge":
                charge = meter.charge(org, user, amount, request_id=who[2])
                await self._tell("charge", who, amount, charge)
            elif kind == "hold":
                await self._hold(meter, who, pick.randint(1, 100))
            else:
                await self._left(meter, who, amount)
            await asyncio.sleep(pick.uniform(0.0, self._pause_s))

    async def _hold(self, meter: Meter, who: Who, amount: int) -> None:
        org, user, request = who
        reserve = meter.reserve(org, user, amount, request_id=request, ttl_s=TTL_S)
        told = await self._tell("reserve", who, amount, reserve)
        if told.outcome != "ok":
            return
        actual = self._random.randint(0, amount)
        if self._random.random() < 0.5:
            touch = meter.touch(*who, actual // 2, ttl_s=TTL_S)
            await self._tell("touch", who, actual // 2, touch)
        end = self._random.choices(
            ("commit", "release", "block", "left", "forget"), weights=(50, 10, 20, 10, 10)
        )[0]
        if end == "commit":
            await self._tell("commit", who, actual, meter.commit(*who, actual))
        elif end == "release":
            await self._tell("release", who, 0, meter.release(*who))
        elif end == "block":
            # Its caller breaks inside of it: what was spent so far is committed.
            spent = self._random.choice((None, actual))
            op = "release" if spent is None else "commit"
            await self._tell(op, who, spent or 0, _break(told.said, spent))
        elif end == "left":
            await self._leave("commit", who, actual, meter.commit(*who, actual))
            await self._tell("commit", who, actual, meter.commit(*who, actual))

    async def _left(self, meter: Meter, who: Who, amount: int) -> None:
        """A reserve whose caller has left before it was answered, and who comes again under the
        same id: what it took is given back by itself, and not at its deadline.
        """
        org, user, request = who

        def reserve() -> Awaitable[Any]:
            return meter.reserve(org, user, amount, request_id=request, ttl_s=UNUSED_TTL_S)

        told = await self._leave("reserve", who, amount, reserve())
        end = time.monotonic() + ASKS_S
        while told.outcome != "ok" and told.code != "INSUFFICIENT_CREDITS":
            if time.monotonic() > end:
                break
            told = await self._tell("reserve", who, amount, reserve())
            await asyncio.sleep(0.2)
        if told.outcome == "ok" or told.code == "REPLAYED":
            await self._tell("release", who, 0, meter.release(*who))

    async def _leave(self, op: str, who: Who, amount: int, call: Awaitable[Any]) -> Told:
        """Ask, and be gone before the answer, unless that is there already."""
        attempt = self._invoke(op, who, amount)
        asking = asyncio.ensure_future(_outcome_of(call))
        await asyncio.sleep(self._random.choice((0.0, 0.0005, 0.001)))
        asking.cancel()
        await asyncio.wait((asking,))
        told = Told("unknown", CANCELLED) if asking.cancelled() else asking.result()
        self._note(attempt, told)
        return told

    async def _tell(self, op: str, who: Who, amount: int, call: Awaitable[Any]) -> Told:
        attempt = self._invoke(op, who, amount)
        told = await _outcome_of(call)
        self._note(attempt, told)
        return told

    def _invoke(self, op: str, who: Who, amount: int) -> str:
        attempt = f"{self._name}:{next(self._numbers)}"
        org, user, request = who
        self._recorder.write(
            "invoke", attempt=attempt, op=op, org=org, user=user, request=request, amount=amount
        )
        return attempt

    def _note(self, attempt: str, told: Told) -> None:
        said, receipt = told.said, None
        if isinstance(said, Receipt):
            receipt = {
                "state": said.state, "charged_millicredits": said.charged,
                "available_millicredits": said.available, "replayed": said.replayed,
                "late": said.late,
            }  # fmt: skip
        self._recorder.write(
            "answer", attempt=attempt, outcome=told.outcome, code=told.code, receipt=receipt
        )


async def _outcome_of(call: Awaitable[Any]) -> Told:
    try:
        return Told("ok", "OK", await call)
    except MeterError as error:
        # Whatever else it raises says that nothing was done.
        outcome, code = CODES.get(type(error), ("failed", type(error).__name__))
        return Told(outcome, code, error.outcome if isinstance(error, RequestReplayed) else None)


async def _break(hold: Hold, spent: int | None) -> Receipt | None:
    """Leave its block by an error."""
    with suppress(_Broken):
        async with hold:
            if spent is not None:
                hold.spent(spent)
            raise _Broken
    return hold.receipt


async def main(arguments: list[str]) -> None:
    name, seed, history, users, url = arguments
    embedded = Embedded(name, int(seed), Recorder(Path(history)), users.split(","))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, embedded.stopping.set)
    await embedded.run(url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

"""Callers that go on while the slots of a cluster move, and what each of them was told."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field

from taximeter.meter import Meter, MeterError

RESERVED = 5
SPENT = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One that was answered: of which shard, and when it began and ended (monotonic seconds)."""

    shard: int
    began: float
    ended: float


@dataclass
class Traffic:
    """`callers` for each shard: one charges, the next holds and commits, the next holds and
    releases, and so on. Each request is asked once; `charged` is what its ledger must have, in
    millicredits by organisation and request.
    """

    meter: Meter
    orgs: Mapping[int, Sequence[str]]
    """Organisations of each shard, each with a user `u`."""
    callers: int = 3
    pause_s: float = 0.0
    charged: dict[tuple[str, str], int] = field(default_factory=dict)
    answered: list[Call] = field(default_factory=list)
    failed: list[tuple[int, float, str]] = field(default_factory=list)
    """Shard, when it ended, and what was said."""
    doubtful: set[tuple[str, str]] = field(default_factory=set)
    """Organisation and request of those: they may have been charged."""
    ended: Counter[int] = field(default_factory=Counter)
    """Requests that are over, by shard."""
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Traffic:
        self._tasks = [
            asyncio.create_task(self._caller(shard, number))
            for shard in self.orgs
            for number in range(self.callers)
        ]
        await self.goes_on()
        return self

    async def __aexit__(self, *_: object) -> None:
        """What was begun is brought to its end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def goes_on(self) -> None:
        """Return when each caller has begun and ended a request after now, whatever came of it."""
        before = Counter(self.ended)
        while not all(self.ended[shard] >= before[shard] + 2 * self.callers for shard in self.orgs):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)

    async def _caller(self, shard: int, number: int) -> None:
        for count in itertools.count():
            if self._stopping:
                return
            orgs = self.orgs[shard]
            org, request = orgs[count % len(orgs)], f"s{shard}-c{number}-{count}"
            try:
                await self._request(shard, number % 3, org, request)
            except MeterError as error:
                self.failed.append((shard, time.monotonic(), f"{type(error).__name__} {error}"))
                self.doubtful.add((org, request))
            self.ended[shard] += 1
            await asyncio.sleep(self.pause_s)

    async def _request(self, shard: int, kind: int, org: str, request: str) -> None:
        meter = self.meter
        if kind == 0:
            await self._timed(shard, meter.charge(org, "u", SPENT, request_id=request))
            self.charged[org, request] = SPENT
            return
        await self._timed(shard, meter.reserve(org, "u", RESERVED, request_id=request))
        if kind == 1:
            await self._timed(shard, meter.commit(org, "u", request, SPENT))
            self.charged[org, request] = SPENT
        else:
            await self._timed(shard, meter.release(org, "u", request))

    async def _timed(self, shard: int, call: Awaitable[object]) -> None:
        began = time.monotonic()
        await call
        self.answered.append(Call(shard, began, time.monotonic()))

"""A simulated gateway: many callers that hold, stream, charge, retry by id, and sometimes forget.

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
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from chaos.history import Line, Recorder

CALLERS: Final = 12
PAUSE_VARIABLE: Final = "CHAOS_PAUSE_S"
"""Longest pause of a caller between two requests, in seconds."""
ANSWER_TIMEOUT_S: Final = 2.5
RESERVE_PATIENCE_S: Final = 4.0
CHARGE_PATIENCE_S: Final = 12.0
COMMIT_PATIENCE_S: Final = 45.0
PAUSE_S: Final = 0.1
NOTHING_WAS_DONE: Final = frozenset(
    {"FENCED", "UNAVAILABLE", "OUT_OF_MEMORY", "OVERLOADED", "DRAINING"}
)


@dataclass
class Answer:
    """outcome is that of the last attempt; `maybe` says that an attempt before it is unknown."""

    outcome: str
    code: str = ""
    receipt: Line = field(default_factory=dict)
    maybe: bool = False


class Gateway:
    """Calls sidecars by turns; whichever answers."""

    def __init__(
        self, name: str, seed: int, recorder: Recorder, users: list[str], urls: list[str]
    ) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._random = random.Random(f"{seed}/{name}")
        self._recorder = recorder
        self._users = [tuple(user.split("/")) for user in users]
        self._urls = urls
        self._pause_s = float(os.environ[PAUSE_VARIABLE])
        self._numbers = itertools.count()
        self._done: list[tuple[str, str, int]] = []
        self.stopping = asyncio.Event()
        limits = httpx.Limits(max_keepalive_connections=CALLERS)
        self._client = httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, trust_env=False, limits=limits)

    async def run(self) -> None:
        callers = [asyncio.create_task(self._caller()) for _ in range(CALLERS)]
        await asyncio.gather(*callers)
        await self._client.aclose()

    async def _caller(self) -> None:
        while not self.stopping.is_set():
            kind = self._random.choices(
                ("hold", "charge", "again"), weights=(60, 32, 8 if self._done else 0)
            )[0]
            await getattr(self, f"_{kind}")()
            await asyncio.sleep(self._random.uniform(0.0, self._pause_s))

    def _new(self) -> tuple[str, str, str]:
        org_id, user_id = self._random.choice(self._users)
        return org_id, user_id, f"{self._name}-{next(self._numbers)}"

    async def _charge(self) -> None:
        who = self._new()
        amount = self._random.randint(1, 60)
        answer = await self._call("charge", who, amount, CHARGE_PATIENCE_S)
        if answer.outcome == "ok":
            self._done.append((f"{who[0]}/{who[1]}", who[2], amount))

    async def _again(self) -> None:
        """A client that repeats an old id: never a second charge."""
        account, request_id, amount = self._random.choice(self._done[-200:])
        org_id, user_id = account.split("/")
        await self._call("charge", (org_id, user_id, request_id), amount, RESERVE_PATIENCE_S)

    async def _hold(self) -> None:
        who = self._new()
        pick = self._random
        estimate = pick.randint(1, 100)
        ttl_s = pick.choice((0.8, 1.5, 3.0))
        actual = pick.randint(0, 120)
        answer = await self._call("reserve", who, estimate, RESERVE_PATIENCE_S, ttl_s=ttl_s)
        if answer.code == "REPLAYED":
            # An earlier attempt's answer was lost. The hold may be used on, if it is still open; as
            # here, it may be given up.
            await self._call("release", who, 0, RESERVE_PATIENCE_S)
        if answer.outcome != "ok":
            return
        progress = 0
        for _ in range(pick.choice((0, 0, 1, 2))):
            await asyncio.sleep(pick.uniform(0.0, 0.2))
            progress = pick.randint(progress, actual)
            await self._call("touch", who, progress, 0.5, ttl_s=ttl_s)
        end = pick.random()
        if end < 0.10:
            await asyncio.sleep(ttl_s + 1.3)  # The settler's sweep comes first; then it is late.
        if end < 0.86:
            await self._call("commit", who, actual, COMMIT_PATIENCE_S)
        elif end < 0.93:
            await self._call("release", who, 0, CHARGE_PATIENCE_S)
        # Otherwise it is forgotten, and expires.

    async def _call(
        self, op: str, who: tuple[str, str, str], amount: int, patience_s: float, **more: Any
    ) -> Answer:
        """Call until there is a definite answer, under the same id, or patience is over."""
        body: dict[str, Any] = {"org_id": who[0], "user_id": who[1], "request_id": who[2], **more}
        if op != "release":
            body["amount_millicredits"] = amount
        first = self._random.randrange(len(self._urls))
        end = time.monotonic() + patience_s
        maybe = False
        for number in itertools.count(first):
            attempt = f"{self._name}:{next(self._numbers)}"
            self._recorder.write(
                "invoke", attempt=attempt, op=op, org=who[0], user=who[1], request=who[2],
                amount=amount,
            )  # fmt: skip
            answer = await self._ask(self._urls[number % len(self._urls)], op, body)
            self._recorder.write(
                "answer",
                attempt=attempt,
                outcome=answer.outcome,
                code=answer.code,
                receipt=answer.receipt,
            )
            answer.maybe = maybe
            if answer.outcome in ("ok", "refused") or time.monotonic() > end:
                return answer
            maybe = maybe or answer.outcome == "unknown"
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("it counts for ever")

    async def _ask(self, url: str, op: str, body: dict[str, Any]) -> Answer:
        try:
            response = await self._client.post(f"{url}/v1/{op}", json=body)
            answer: Line = response.json()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Answer("failed", type(error).__name__)
        except (httpx.TransportError, ValueError) as error:
            return Answer("unknown", type(error).__name__)
        if response.status_code == 200:
            return Answer("ok", "OK", answer)
        code = answer["error"]["code"]
        if code in NOTHING_WAS_DONE:
            return Answer("failed", code)
        if response.status_code >= 500:
            return Answer("unknown", code)
        return Answer("refused", code)


async def main(arguments: list[str]) -> None:
    name, seed, history, users, *urls = arguments
    recorder = Recorder(Path(history))
    gateway = Gateway(name, int(seed), recorder, users.split(","), urls)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, gateway.stopping.set)
    await gateway.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

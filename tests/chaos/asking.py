"""Asks sidecars, one or the other, under the same ids until each answer is definite, and writes
down what was asked and told.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import httpx

from chaos.history import Line, Recorder
from taximeter.meter.wire.credits import text_of_credits

ANSWER_TIMEOUT_S: Final = 2.5
PAUSE_S: Final = 0.1
NOTHING_WAS_DONE: Final = frozenset(
    {"FENCED", "UNAVAILABLE", "OUT_OF_MEMORY", "OVERLOADED", "DRAINING"}
)
TAKES_TTL: Final = frozenset({"reserve", "touch"})
HAS_AMOUNT: Final = frozenset({"reserve", "touch", "commit", "charge"})


class Wanted(NamedTuple):
    """One operation on one id: reserve, touch, commit, release, charge, or lookup, which asks what
    became of it. amount: millicredits.
    """

    op: str
    org_id: str
    user_id: str
    request_id: str
    amount: int = 0
    ttl_s: float = 0.0

    def body(self) -> Line:
        """Its fields, as a sidecar takes them."""
        body: Line = {
            "org_id": self.org_id,
            "user_id": self.user_id,
            "request_id": self.request_id,
        }
        if self.op in HAS_AMOUNT:
            body["amount_millicredits"] = self.amount
        if self.op in TAKES_TTL:
            body["ttl_s"] = self.ttl_s
        return body


@dataclass
class Answer:
    """outcome: as that of Attempt. receipt: what is recorded for the id, where the answer says."""

    outcome: str
    code: str = ""
    receipt: Line = field(default_factory=dict)


Way = Callable[[str, Sequence[Wanted]], Awaitable[list[Answer]]]
"""How several are asked for at once: the address of a sidecar, and what is wanted of it."""


class Sidecars:
    """Whichever answers is asked; `dice` choose the first."""

    def __init__(
        self, name: str, recorder: Recorder, urls: list[str], dice: random.Random, connections: int
    ) -> None:
        self._name = name
        self._recorder = recorder
        self._urls = urls
        self._dice = dice
        self._numbers = itertools.count()
        limits = httpx.Limits(max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, trust_env=False, limits=limits)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def ask(
        self, wanted: Sequence[Wanted], patience_s: float, way: Way | None = None
    ) -> list[Answer]:
        """Ask until all have a definite answer, or patience is over; their last answers."""
        answers = [Answer("unknown") for _ in wanted]
        due = list(range(len(wanted)))
        first = self._dice.randrange(len(self._urls))
        end = time.monotonic() + patience_s
        for number in itertools.count(first):
            asked = [wanted[place] for place in due]
            attempts = [self._invoke(one) for one in asked]
            told = await (way or self.post)(self._urls[number % len(self._urls)], asked)
            for place, attempt, answer in zip(due, attempts, told, strict=True):
                self._recorder.write("answer", attempt=attempt, outcome=answer.outcome,
                                     code=answer.code, receipt=answer.receipt)  # fmt: skip
                answers[place] = answer
            due = [place for place in due if answers[place].outcome in ("failed", "unknown")]
            if not due or time.monotonic() > end:
                break
            await asyncio.sleep(PAUSE_S)
        return answers

    def _invoke(self, wanted: Wanted) -> str:
        attempt = f"{self._name}:{next(self._numbers)}"
        self._recorder.write(
            "invoke", attempt=attempt, op=wanted.op, org=wanted.org_id, user=wanted.user_id,
            request=wanted.request_id, amount=wanted.amount,
        )  # fmt: skip
        return attempt

    # Ways.

    async def post(self, url: str, wanted: Sequence[Wanted]) -> list[Answer]:
        """Each in a request of its own, one after the other; a look-up asks for the record."""
        answers = []
        for one in wanted:
            if one.op == "lookup":
                query = {"org_id": one.org_id, "request_id": one.request_id}
                said = await self._send("GET", f"{url}/v1/operations", params=query)
            else:
                said = await self._send("POST", f"{url}/v1/{one.op}", json=one.body())
            answers.append(said if isinstance(said, Answer) else answer_of(*said))
        return answers

    async def batch(self, url: str, wanted: Sequence[Wanted]) -> list[Answer]:
        """All in one body."""
        operations = [{"op": one.op, **one.body()} for one in wanted]
        said = await self._send("POST", f"{url}/v1/batch", json={"operations": operations})
        if isinstance(said, Answer):
            return [said] * len(wanted)
        status, told = said
        if status != 200:
            return [answer_of(status, told)] * len(wanted)
        return [answer_of(one["status"], one) for one in told["results"]]

    async def gate(self, url: str, wanted: Sequence[Wanted]) -> list[Answer]:
        """As a gateway asks that lets requests through: by headers, the price in the path. A commit
        names the cost; a release says that the request has failed.
        """
        answers = []
        for one in wanted:
            headers = {
                "X-Org-Id": one.org_id,
                "X-User-Id": one.user_id,
                "X-Request-Id": one.request_id,
            }
            path = f"{one.op}/{text_of_credits(one.amount)}"
            if one.op == "commit":
                path, headers["X-Taximeter-Cost"] = "settle", text_of_credits(one.amount)
            elif one.op == "release":
                path, headers["X-Taximeter-Status"] = "settle", "502"
            said = await self._send("GET", f"{url}/auth/{path}", headers=headers)
            answers.append(said if isinstance(said, Answer) else answer_of(*said))
        return answers

    async def _send(self, method: str, url: str, **what: Any) -> tuple[int, Line] | Answer:
        """Status and body, or what is known of one that was not answered."""
        try:
            response = await self._client.request(method, url, **what)
            body: Line = response.json()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Answer("failed", type(error).__name__)
        except (httpx.TransportError, ValueError) as error:
            return Answer("unknown", type(error).__name__)
        return response.status_code, body


def answer_of(status: int, body: Line) -> Answer:
    """What a sidecar says about one operation. A repeat that is refused says what is recorded."""
    if status == 200:
        return Answer("ok", "OK", body)
    code, details = body["error"]["code"], body["error"].get("details", {})
    if code in NOTHING_WAS_DONE:
        return Answer("failed", code)
    if status >= 500:
        return Answer("unknown", code)
    return Answer("refused", code, details if code == "REPLAYED" else {})

"""Callers of the LLM route: whole answers and streams, each under an Idempotency-Key, some of them
left in the middle, and asked again where no answer came.

`python -m chaos.completions NAME SEED HISTORY USERS URL FOLDER` runs until SIGTERM, then lets its
callers finish what they are at. FOLDER has the key of the API's tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, Final

import httpx

from chaos.asking import Answer
from chaos.history import Line, Recorder
from taximeter.api.access.dev_tokens import load_dev_key

CALLERS: Final = 4
CHAT: Final = "/api/v1/llm/chat/completions"
ANSWER_TIMEOUT_S: Final = 10.0
PAUSE_S: Final = 0.3
TRIES: Final = 3
CHUNK_DELAY_S: Final = 0.02
BROKEN: Final = 0.05
"""The part of the upstream's answers that fail, and of its streams that break."""


class Completions:
    """Callers of one API."""

    def __init__(
        self, name: str, seed: int, recorder: Recorder, users: list[str], url: str, folder: Path
    ) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._random = random.Random(f"{seed}/{name}")
        self._recorder = recorder
        self._users = [user.split("/") for user in users]
        self._key = load_dev_key(folder)
        self._numbers = itertools.count()
        self.stopping = asyncio.Event()
        self._client = httpx.AsyncClient(base_url=url, timeout=ANSWER_TIMEOUT_S, trust_env=False)

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))
        await self._client.aclose()

    async def _caller(self) -> None:
        while not self.stopping.is_set():
            await self._complete()
            await asyncio.sleep(self._random.uniform(0.0, PAUSE_S))

    async def _complete(self) -> None:
        """One request; where no definite answer came it is asked again under its key."""
        pick = self._random
        org, user = pick.choice(self._users)
        key = f"{self._name}-{next(self._numbers)}"
        body: dict[str, Any] = {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": key * pick.randint(1, 20)}],
            "max_tokens": pick.randint(1, 60),
        }
        leaves_after: int | None = None
        if pick.random() < 0.6:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
            leaves_after = pick.choice((None, None, None, pick.randint(0, 20)))
        for _ in range(TRIES):
            attempt = f"{self._name}:{next(self._numbers)}"
            self._recorder.write("invoke", attempt=attempt, op="complete", org=org, user=user,
                                 request=_request_id(user, key), amount=0)  # fmt: skip
            answer = await self._ask(org, user, key, body, leaves_after)
            self._recorder.write("answer", attempt=attempt, outcome=answer.outcome,
                                 code=answer.code, receipt=answer.receipt)  # fmt: skip
            if answer.outcome in ("ok", "refused") or leaves_after is not None:
                return
            await asyncio.sleep(PAUSE_S)

    async def _ask(
        self, org: str, user: str, key: str, body: dict[str, Any], leaves_after: int | None
    ) -> Answer:
        headers = {
            "Authorization": f"Bearer {self._key.mint(user, ttl_s=3_600)}",
            "X-Org-Id": org,
            "Idempotency-Key": key,
        }
        try:
            async with self._client.stream("POST", CHAT, json=body, headers=headers) as response:
                if response.status_code == 200 and body.get("stream"):
                    return await _read_stream(response, leaves_after)
                await response.aread()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Answer("failed", type(error).__name__)
        except httpx.TransportError as error:
            return Answer("unknown", type(error).__name__)
        return _read_whole(response)


def _request_id(user: str, key: str) -> str:
    """What the API calls the request of this key: an answer that is lost does not say it."""
    digest = hashlib.sha256(json.dumps([user, key]).encode()).hexdigest()
    return f"key-{digest[:48]}"


async def _read_stream(response: httpx.Response, leaves_after: int | None) -> Answer:
    """The cost stands in the usage, the last event of an answer that is whole."""
    told, events = "", 0
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            return Answer("ok", "OK", _charged(told)) if told else Answer("unknown", "NO_USAGE")
        event = json.loads(line.removeprefix("data: "))
        if (event.get("usage") or {}).get("cost_incurred") is not None:
            told = str(event["usage"]["cost_incurred"])
        events += 1
        if leaves_after is not None and events > leaves_after:
            return Answer("unknown", "LEFT")
    return Answer("unknown", "BROKEN")


def _read_whole(response: httpx.Response) -> Answer:
    status, cost = response.status_code, response.headers.get("X-Cost-Incurred", "")
    if status == 200:
        return Answer("ok", "OK", _charged(cost))
    body = response.json()
    code, details = body["error"]["code"], body["error"].get("details") or {}
    if status == 409 and details.get("state") == "committed":
        return Answer("refused", "REPLAYED", _charged(cost))
    if status == 502:
        return Answer("failed", code)  # Nothing is charged.
    if status >= 500 or status == 409:
        return Answer("unknown", code)
    return Answer("refused", code)


def _charged(cost: str) -> Line:
    return {"state": "committed", "charged_millicredits": round(float(cost) * 1000)}


async def main(arguments: list[str]) -> None:
    name, seed, history, users, url, folder = arguments
    recorder = Recorder(Path(history))
    callers = Completions(name, int(seed), recorder, users.split(","), url, Path(folder))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, callers.stopping.set)
    await callers.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

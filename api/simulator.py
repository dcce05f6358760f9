"""A simulated LLM provider, plainly labelled as one: answers like OpenAI's API, from nothing but
the request.

The same request always gets the same answer. How it behaves comes from settings, and for a single
request from a `simulate` object in its body: `{"simulate": {"latency_s": 0.5, "status": 500,
"break_after": 3, "usage": false}}`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

MODELS = ("gpt-3.5-turbo", "gpt-4o", "gpt-4o-mini")
LABEL_HEADERS = {"X-Simulated-Provider": "true"}
FINGERPRINT = "simulated"
CREATED = 1_700_000_000  # No real time: the same request gets the same answer.
OUTPUT_TOKENS_DEFAULT = 48
OUTPUT_TOKENS_MAX = 16_384
N_MAX = 128
_OPENING = ("This ", "is ", "a ", "simulated ", "answer: ")
_WORDS = ("meter ", "credit ", "ledger ", "stream ", "token ", "balance ", "request ", "settle ")


class SimulatorSettings(BaseSettings):
    """How the simulated provider behaves, from variables with the prefix TAXIMETER_SIMULATOR_."""

    model_config = SettingsConfigDict(env_prefix="TAXIMETER_SIMULATOR_", extra="ignore")

    latency_s: float = Field(
        default=0.0, ge=0.0, le=600.0, description="Wait before the first byte of every answer."
    )
    chunk_delay_s: float = Field(
        default=0.0, ge=0.0, le=60.0, description="Wait before each chunk of a stream."
    )
    failure_rate: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Part of the requests that fail with status 500."
    )
    break_rate: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Part of the streams that break off in the middle."
    )


class Simulate(BaseModel):
    """What one request may ask of the simulator."""

    model_config = ConfigDict(extra="forbid")

    latency_s: float | None = Field(default=None, ge=0.0, le=600.0)
    chunk_delay_s: float | None = Field(default=None, ge=0.0, le=60.0)
    status: int | None = Field(default=None, ge=400, le=599)
    break_after: int | None = Field(default=None, ge=0)
    usage: bool = True
    cached_tokens: int = Field(default=0, ge=0)


class _Broken(Exception):
    """The stream breaks off here, as asked."""


def _error(status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
    content = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(content, status, LABEL_HEADERS)


def count_tokens(value: object) -> int:
    """Tokens of a prompt, as this provider counts them: four bytes each, at least one per text."""
    if isinstance(value, str):
        return max(1, -(-len(value.encode("utf-8", "surrogatepass")) // 4))
    if isinstance(value, Mapping):
        return sum(count_tokens(part) for part in value.values())
    if isinstance(value, list):
        return sum(count_tokens(part) for part in value)
    return 0


def words_of(seed: str, tokens: int) -> list[str]:
    """The text of one answer: a word is a token."""
    chooser = random.Random(seed)
    body = (chooser.choice(_WORDS) for _ in range(max(0, tokens - len(_OPENING))))
    return [*_OPENING[:tokens], *body]


class _Completion:
    """One request, and everything that its answer is made of."""

    def __init__(self, body: Mapping[str, Any], simulate: Simulate) -> None:
        visible = {
            key: value for key, value in body.items() if key not in ("stream", "stream_options")
        }
        canonical = json.dumps(visible, sort_keys=True).encode()
        self.seed = hashlib.sha256(canonical).hexdigest()
        self.model = str(body["model"])
        self.n = body.get("n") or 1
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        wanted = OUTPUT_TOKENS_DEFAULT if limit is None else min(limit, OUTPUT_TOKENS_MAX)
        natural = 16 + int(self.seed[:4], 16) % OUTPUT_TOKENS_DEFAULT
        self.tokens = wanted if limit is not None and wanted < natural else natural
        self.finish_reason = "length" if self.tokens < natural else "stop"
        self.simulate = simulate
        prompt = count_tokens(body["messages"]) + 4 * len(body["messages"])
        self.usage = {
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens * self.n,
            "total_tokens": prompt + self.tokens * self.n,
            "prompt_tokens_details": {"cached_tokens": min(simulate.cached_tokens, prompt)},
        }
        options = body.get("stream_options")
        self.include_usage = bool(
            simulate.usage and isinstance(options, dict) and options.get("include_usage")
        )

    def words(self, index: int) -> list[str]:
        return words_of(f"{self.seed}/{index}", self.tokens)

    def envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-simulated-{self.seed[:24]}",
            "object": kind,
            "created": CREATED,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def answer(self) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": "".join(self.words(index)),
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": self.finish_reason,
            }
            for index in range(self.n)
        ]
        answer = {**self.envelope("chat.completion"), "choices": choices}
        return {**answer, "usage": self.usage} if self.simulate.usage else answer

    async def chunks(self, delay_s: float, break_after: int | None) -> AsyncIterator[bytes]:
        sent = 0
        for index in range(self.n):
            role = {"role": "assistant", "content": ""}
            yield self._chunk(index, role, None)
            for word in self.words(index):
                if break_after is not None and sent >= break_after:
                    raise _Broken
                if delay_s:
                    await asyncio.sleep(delay_s)
                yield self._chunk(index, {"content": word}, None)
                sent += 1
            yield self._chunk(index, {}, self.finish_reason)
        if self.include_usage:
            chunk = {**self.envelope("chat.completion.chunk"), "choices": [], "usage": self.usage}
            yield _event(chunk)
        yield b"data: [DONE]\n\n"

    def _chunk(self, index: int, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self.envelope("chat.completion.chunk"), "choices": [choice]}
        # As the real one does: with usage asked for, every chunk has the field, and all but the
        # last have null.
        return _event({**chunk, "usage": None} if self.include_usage else chunk)


# One encoder for all: json.dumps would make a new one for every chunk.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + _encode(document).encode() + b"\n\n"


def _check(body: object) -> str | None:
    """What is wrong with a body, or None."""
    if not isinstance(body, dict):
        return "The body must be a JSON object."
    if body.get("model") not in MODELS:
        return (
            f"The model `{body.get('model')}` does not exist here; there are {', '.join(MODELS)}."
        )
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "'messages' must be a list of at least one message."
    if not all(isinstance(message, dict) for message in messages):
        return "'messages' must be a list of objects."
    for name, most in (("n", N_MAX), ("max_tokens", 10**9), ("max_completion_tokens", 10**9)):
        value = body.get(name)
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            return f"'{name}' must be a whole number from 1 to {most}."
    return None


def create_simulator(settings: SimulatorSettings | None = None) -> Starlette:
    """The provider as an ASGI application. It checks no key. `app.state.requests` counts
    completions asked for.
    """
    settings = settings or SimulatorSettings()
    chance = random.Random(0)

    async def models(_: Request) -> Response:
        listed = [
            {"id": model, "object": "model", "created": CREATED, "owned_by": "simulated"}
            for model in MODELS
        ]
        return JSONResponse({"object": "list", "data": listed}, headers=LABEL_HEADERS)

    async def complete(request: Request) -> Response:
        request.app.state.requests += 1
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            return _error(400, "The body is not valid JSON.")
        if (wrong := _check(body)) is not None:
            return _error(404 if "does not exist" in wrong else 400, wrong)
        try:
            simulate = Simulate.model_validate(body.get("simulate") or {})
        except ValidationError as error:
            return _error(400, f"'simulate' is not valid: {error.errors()[0]['msg']}")
        latency = settings.latency_s if simulate.latency_s is None else simulate.latency_s
        if latency:
            await asyncio.sleep(latency)
        if simulate.status is not None:
            return _error(simulate.status, "Simulated failure.", "simulated_failure")
        if chance.random() < settings.failure_rate:
            return _error(500, "Simulated failure.", "simulated_failure")
        completion = _Completion(body, simulate)
        if not body.get("stream"):
            return JSONResponse(completion.answer(), headers=LABEL_HEADERS)
        break_after = simulate.break_after
        if break_after is None and chance.random() < settings.break_rate:
            break_after = completion.tokens // 2
        delay = settings.chunk_delay_s if simulate.chunk_delay_s is None else simulate.chunk_delay_s
        return StreamingResponse(
            completion.chunks(delay, break_after),
            media_type="text/event-stream",
            headers={**LABEL_HEADERS, "Cache-Control": "no-cache"},
        )

    app = Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/chat/completions", complete, methods=["POST"]),
        ]
    )
    app.state.requests = 0
    return app

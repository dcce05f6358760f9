"""Makes the answers of the simulated provider: of nothing but the request, always the same for the
same one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

CREATED = 1_700_000_000  # No real time: the same request gets the same answer.
_FINGERPRINT = "simulated"
_OUTPUT_TOKENS_DEFAULT = 48
_OUTPUT_TOKENS_MAX = 16_384
_OPENING = ("This ", "is ", "a ", "simulated ", "answer: ")
_WORDS = ("meter ", "credit ", "ledger ", "stream ", "token ", "balance ", "request ", "settle ")

# One encoder for all: json.dumps would make a new one for every chunk.
_encode = json.JSONEncoder(separators=(",", ":")).encode


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


def _tool_of(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """Kind and name of the tool that is called: the one that is chosen, or the first where one is
    required. With `auto` this provider calls none.
    """
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not isinstance(tools, list) or not tools or choice in (None, "auto", "none"):
        return None
    chosen = choice if isinstance(choice, Mapping) else tools[0]
    kind = chosen.get("type") if isinstance(chosen, Mapping) else None
    if kind not in ("function", "custom") or not isinstance(chosen.get(kind), Mapping):
        return None
    return kind, str(chosen[kind].get("name"))


class Completion:
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
        wanted = _OUTPUT_TOKENS_DEFAULT if limit is None else min(limit, _OUTPUT_TOKENS_MAX)
        natural = 16 + int(self.seed[:4], 16) % _OUTPUT_TOKENS_DEFAULT
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
        self.tool = _tool_of(body)
        self.sounds = "audio" in (body.get("modalities") or ())
        if self.tool is not None:
            self.finish_reason = "tool_calls"
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
            "system_fingerprint": _FINGERPRINT,
        }

    def answer(self) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": self._message(index),
                "logprobs": None,
                "finish_reason": self.finish_reason,
            }
            for index in range(self.n)
        ]
        answer = {**self.envelope("chat.completion"), "choices": choices}
        return {**answer, "usage": self.usage} if self.simulate.usage else answer

    def _message(self, index: int) -> dict[str, Any]:
        text = "".join(self.words(index))
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.tool is not None:
            message |= {"content": None, "tool_calls": [self._call(index, text)]}
        elif self.sounds:
            data = base64.b64encode(bytes(4800)).decode()
            sound = {"id": f"audio_{self.seed[:24]}", "data": data, "transcript": text}
            message |= {"content": None, "audio": {**sound, "expires_at": CREATED + 3600}}
        return message

    def _call(self, index: int, text: str) -> dict[str, Any]:
        kind, name = self.tool or ("function", "")
        said = {"name": name, "arguments": json.dumps({"text": text})}
        if kind == "custom":
            said = {"name": name, "input": text}
        return {"id": f"call_{self.seed[:20]}_{index}", "type": kind, kind: said}

    async def chunks(self, delay_s: float, break_after: int | None) -> AsyncIterator[bytes]:
        sent = 0
        for index in range(self.n):
            role = {"role": "assistant", "content": ""}
            yield self._chunk(index, role, None)
            if self.tool is not None:
                call = {"index": 0, **self._call(index, "".join(self.words(index)))}
                yield self._chunk(index, {"tool_calls": [call]}, None)
                yield self._chunk(index, {}, self.finish_reason)
                continue
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
            yield event(chunk)
        yield b"data: [DONE]\n\n"

    def _chunk(self, index: int, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self.envelope("chat.completion.chunk"), "choices": [choice]}
        # As the real one does: with usage asked for, every chunk has the field, and all but the
        # last have null.
        return event({**chunk, "usage": None} if self.include_usage else chunk)


def event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + _encode(document).encode() + b"\n\n"

"""Serves the other routes of the simulated provider, in the shapes that OpenAI's clients read:
embeddings, older completions, responses, images, moderation and speech.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import struct
import wave
from collections.abc import AsyncIterator, Callable, Mapping
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

from taximeter.api.simulator.answers import CREATED, Simulate, count_tokens, event, words_of

IMAGE_TOKENS = 4_160
_DIMENSIONS = 8
_LISTED_MAX = 2048
_CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")
# A picture of one point, as PNG.
_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)

Body = Mapping[str, Any]


class Wrong(ValueError):
    """What is wrong with a body."""


def seed_of(body: Body) -> str:
    """The same for the same request."""
    visible = {key: value for key, value in body.items() if key not in ("stream", "simulate")}
    return hashlib.sha256(json.dumps(visible, sort_keys=True).encode()).hexdigest()


def embeddings(body: Body) -> dict[str, Any]:
    """A vector of length one for each input, as numbers or packed in Base64."""
    inputs = _inputs(body, "input")
    size = body.get("dimensions") or _DIMENSIONS
    if type(size) is not int or not 1 <= size <= _LISTED_MAX:
        raise Wrong(f"'dimensions' must be a whole number from 1 to {_LISTED_MAX}.")
    data = []
    for index, one in enumerate(inputs):
        digest = hashlib.shake_256(json.dumps(one).encode()).digest(size)
        numbers = [byte / 127.5 - 1 for byte in digest]
        length = sum(number * number for number in numbers) ** 0.5 or 1.0
        vector = [number / length for number in numbers]
        packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        shown = packed if body.get("encoding_format") == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = sum(len(one) if isinstance(one, list) else count_tokens(one) for one in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def images(body: Body) -> dict[str, Any]:
    """As many as are asked for, all alike, each of one point."""
    if not isinstance(body.get("prompt"), str):
        raise Wrong("'prompt' must be text.")
    count = _whole(body, "n", 1, 10)
    made = count_tokens(body["prompt"])
    usage = {
        "input_tokens": made,
        "output_tokens": count * IMAGE_TOKENS,
        "total_tokens": made + count * IMAGE_TOKENS,
        "input_tokens_details": {"text_tokens": made, "image_tokens": 0},
    }
    return {"created": CREATED, "data": [{"b64_json": _PICTURE}] * count, "usage": usage}


def moderations(body: Body) -> dict[str, Any]:
    """Flags nothing but texts with the word `violence` in them."""
    results = []
    for one in _inputs(body, "input"):
        text = json.dumps(one)
        found = {name: name == "violence" and "violence" in text for name in _CATEGORIES}
        results.append(
            {
                "flagged": any(found.values()),
                "categories": found,
                "category_scores": {name: float(is_so) for name, is_so in found.items()},
                "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
            }
        )
    return {
        "id": f"modr-simulated-{seed_of(body)[:24]}",
        "model": body["model"],
        "results": results,
    }


def speech(body: Body) -> bytes:
    """A tenth of a second of silence for each word, as WAV."""
    if not isinstance(body.get("input"), str) or not body["input"]:
        raise Wrong("'input' must be text.")
    return silence(len(body["input"].split()) or 1)


def silence(tenths: int) -> bytes:
    """So many tenths of a second, as WAV of 8,000 samples a second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600) * tenths)
    return file.getvalue()


def transcription(content: bytes, fields: Mapping[str, str]) -> dict[str, Any] | str:
    """What is said in a file: words made of its bytes, as many as it has thousands of them."""
    if not content:
        raise Wrong("'file' must be sent.")
    words = words_of(hashlib.sha256(content).hexdigest(), min(5 + len(content) // 1000, 200))
    text = "".join(words).strip()
    if fields.get("response_format") == "text":
        return text + "\n"
    usage = {
        "type": "tokens",
        "input_tokens": 1 + len(content) // 1600,
        "output_tokens": len(words),
        "total_tokens": 1 + len(content) // 1600 + len(words),
    }
    return {"text": text, "usage": usage}


def multipart(content_type: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    """The file of a form, and its other fields: of what clients send, no more than is needed."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    form = message_from_bytes(head + body, policy=HTTP)
    content, fields = b"", {}
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        value = part.get_payload(decode=True)
        if not isinstance(value, bytes):
            continue
        if name == "file":
            content = value
        else:
            fields[str(name)] = value.decode("utf-8", "replace")
    return content, fields


class TextCompletion:
    """One request of the older route."""

    def __init__(self, body: Body, simulate: Simulate) -> None:
        self.prompts = _inputs(body, "prompt")
        self.n = _whole(body, "n", 1, 128)
        self.tokens = min(_whole(body, "max_tokens", 16, 10**9), 16_384)
        self.body, self.simulate, self.seed = body, simulate, seed_of(body)
        prompt = sum(len(p) if isinstance(p, list) else count_tokens(p) for p in self.prompts)
        made = self.tokens * self.n * len(self.prompts)
        self.usage = {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
        }

    def _envelope(self) -> dict[str, Any]:
        return {
            "id": f"cmpl-simulated-{self.seed[:24]}",
            "object": "text_completion",
            "created": CREATED,
            "model": self.body["model"],
        }

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def answer(self) -> dict[str, Any]:
        choices = [
            self._choice(index, "".join(words_of(f"{self.seed}/{index}", self.tokens)), "length")
            for index in range(self.n * len(self.prompts))
        ]
        answer = {**self._envelope(), "choices": choices}
        return {**answer, "usage": self.usage} if self.simulate.usage else answer

    async def chunks(self, delay_s: float) -> AsyncIterator[bytes]:
        for index in range(self.n * len(self.prompts)):
            for word in words_of(f"{self.seed}/{index}", self.tokens):
                if delay_s:
                    await asyncio.sleep(delay_s)
                yield event({**self._envelope(), "choices": [self._choice(index, word, None)]})
            yield event({**self._envelope(), "choices": [self._choice(index, "", "length")]})
        options = self.body.get("stream_options")
        if self.simulate.usage and isinstance(options, dict) and options.get("include_usage"):
            yield event({**self._envelope(), "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


class ResponsesAnswer:
    """One request of the responses route: a message, or a call of the first function."""

    def __init__(self, body: Body, simulate: Simulate) -> None:
        text = body.get("input")
        if not isinstance(text, str | list) or not text:
            raise Wrong("'input' must be text or a list of items.")
        self.body, self.simulate, self.seed = body, simulate, seed_of(body)
        natural = 16 + int(self.seed[:4], 16) % 48
        limit = _whole(body, "max_output_tokens", 10**9, 10**9)
        self.tokens = min(natural, limit)
        self.is_cut = limit < natural
        prompt = count_tokens(text) + count_tokens(body.get("instructions") or "") + 4
        self.usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + self.tokens,
        }

    def _message(self, text: str, status: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {
            "id": f"msg_simulated_{self.seed[:24]}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [part] if text or status == "completed" else [],
        }

    def answer(self, *, done: bool = True) -> dict[str, Any]:
        status = ("incomplete" if self.is_cut else "completed") if done else "in_progress"
        words = words_of(self.seed, self.tokens)
        return {
            "id": f"resp_simulated_{self.seed[:24]}",
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if done and self.is_cut else None,
            "instructions": self.body.get("instructions"),
            "metadata": {},
            "model": self.body["model"],
            "output": [self._message("".join(words), "completed")] if done else [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": self.body.get("tools") or [],
            "top_p": 1.0,
            "usage": self.usage if done and self.simulate.usage else None,
        }

    async def chunks(self, delay_s: float) -> AsyncIterator[bytes]:
        number = 0

        def named(kind: str, **fields: Any) -> bytes:
            nonlocal number
            number += 1
            document = {"type": kind, "sequence_number": number - 1, **fields}
            return f"event: {kind}\n".encode() + event(document)

        begun, words = self._message("", "in_progress"), words_of(self.seed, self.tokens)
        place: dict[str, Any] = {"item_id": begun["id"], "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield named("response.created", response=self.answer(done=False))
        yield named("response.in_progress", response=self.answer(done=False))
        yield named("response.output_item.added", output_index=0, item=begun)
        yield named("response.content_part.added", **place, part=part)
        for word in words:
            if delay_s:
                await asyncio.sleep(delay_s)
            yield named("response.output_text.delta", **place, delta=word, logprobs=[])
        text = "".join(words)
        yield named("response.output_text.done", **place, text=text, logprobs=[])
        yield named("response.content_part.done", **place, part={**part, "text": text})
        item = self._message(text, "completed")
        yield named("response.output_item.done", output_index=0, item=item)
        kind = "response.incomplete" if self.is_cut else "response.completed"
        yield named(kind, response=self.answer())


Whole = Callable[[Body], dict[str, Any]]
WHOLE: Mapping[str, Whole] = {
    "embeddings": embeddings,
    "images/generations": images,
    "moderations": moderations,
}


def _inputs(body: Body, name: str) -> list[Any]:
    value = body.get(name)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not 1 <= len(value) <= _LISTED_MAX:
        raise Wrong(f"'{name}' must be text, or a list of at most {_LISTED_MAX} texts.")
    return [value] if type(value[0]) is int else value


def _whole(body: Body, name: str, usual: int, most: int) -> int:
    value = body.get(name)
    if value is None:
        return usual
    if type(value) is not int or not 1 <= value <= most:
        raise Wrong(f"'{name}' must be a whole number from 1 to {most}.")
    return value

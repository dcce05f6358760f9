"""Counts tokens without a usage object: bounds before a request, counts where usage is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from taximeter.api.openai.output import BYTES_PER_TOKEN

MESSAGE_OVERHEAD_TOKENS = 8
REPLY_OVERHEAD_TOKENS = 16
FIELDS_AT_ONCE = 2_000
"""So many fields of a prompt are measured before others have their turn: a millisecond or two."""

# Most tokens of one image, by the start of the model's name: a tile has many times the tokens in
# the small models of OpenAI, whose tokens cost so much less.
_IMAGE_TOKENS = {"gpt-4o-mini": 48_200, "": 5_000}
_SMALL_IMAGE_TOKENS = {"gpt-4o-mini": 2_900, "": 300}
IMAGE_TOKENS_GUESSED = 2_000
# Providers count at most 32 tokens a second. Sound is sent as WAV of at least 8,000 bytes a second,
# or compressed to no less than 1,000.
WAV_BYTES_PER_TOKEN = 250
COMPRESSED_BYTES_PER_TOKEN = 31
# A file that is named and not sent can be as long as the model reads.
NAMED_FILE_TOKENS = 1_000_000
_MEDIA = frozenset(("image_url", "input_image", "input_audio", "file", "input_file"))


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What a prompt has of everything that is charged as input."""

    text_bytes: int
    fields: int
    messages: int
    images: int
    small_images: int
    audio_tokens: int
    named_files: int
    prompt_kind: str

    def bound(self, model: str, bytes_per_token: int = 1) -> int:
        """The most tokens that all but the audio can be: with a byte for a token nothing is more,
        since every token of a byte-level tokenizer stands for at least one.
        """
        return (
            -(-self.text_bytes // bytes_per_token)
            + self.fields
            + self.images * _of_model(_IMAGE_TOKENS, model)
            + self.small_images * _of_model(_SMALL_IMAGE_TOKENS, model)
            + self.named_files * NAMED_FILE_TOKENS
            + self.messages * MESSAGE_OVERHEAD_TOKENS
            + REPLY_OVERHEAD_TOKENS
        )

    @property
    def guess(self) -> int:
        """A fair guess at its tokens, for a charge when the upstream sent no usage."""
        images = self.images + self.small_images
        text = -(-self.text_bytes // BYTES_PER_TOKEN) + self.messages * 4
        return text + images * IMAGE_TOKENS_GUESSED + self.audio_tokens


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


async def measure(body: Mapping[str, Any]) -> PromptSize:
    """Measure a prompt, in slices between which others are served."""
    measuring = _measuring(body)
    while True:
        try:
            next(measuring)
        except StopIteration as end:
            size: PromptSize = end.value
            return size
        await asyncio.sleep(0)


def _measuring(body: Mapping[str, Any]) -> Generator[None, None, PromptSize]:
    """Measure everything in a body that is charged as input. No recursion: the nesting is foreign.

    Images, audio and files are not read as text: theirs is a count of tokens that the model makes
    of them, for which this has a bound.
    """
    names = ("messages", "tools", "functions", "response_format", "prediction")
    waiting: list[Any] = [body[name] for name in names if name in body]
    text_bytes = fields = images = small_images = audio_tokens = named_files = 0
    kind, pause_at = "input", FIELDS_AT_ONCE
    while waiting:
        value = waiting.pop()
        fields += 1
        if fields >= pause_at:
            pause_at = fields + FIELDS_AT_ONCE
            yield
        if isinstance(value, str):
            text_bytes += _bytes_of(value)
        elif isinstance(value, dict):
            what = value.get("type")
            if not isinstance(what, str) or what not in _MEDIA:
                text_bytes += sum(map(_bytes_of, value))
                waiting.extend(value.values())
            elif what in ("image_url", "input_image"):
                if _detail(value) == "low":
                    small_images += 1
                else:
                    images += 1
            elif what == "input_audio":
                audio_tokens += _audio_tokens(value.get("input_audio"))
            elif (data := _file_data(value)) is None:
                named_files += 1
            else:
                text_bytes += len(data)
            cached = value.get("cache_control")
            if isinstance(cached, dict) and kind != "cache_write_1h":
                kind = "cache_write_1h" if cached.get("ttl") == "1h" else "cache_write"
        elif isinstance(value, list):
            if set(map(type, value)) == {int}:  # Tokens, of which there can be many.
                fields += len(value)
                text_bytes += len(str(value)) - 2 * len(value)
            else:
                waiting.extend(value)
        else:
            text_bytes += len(str(value))
    return PromptSize(
        text_bytes,
        fields,
        len(body["messages"]),
        images,
        small_images,
        audio_tokens,
        named_files,
        kind,
    )


def _of_model(table: Mapping[str, int], model: str) -> int:
    name = model.lower().rpartition("/")[2]
    return next(count for prefix, count in table.items() if name.startswith(prefix))


def _detail(part: Mapping[str, Any]) -> object:
    inner = part.get("image_url")
    return part.get("detail") or (inner.get("detail") if isinstance(inner, dict) else None)


def _audio_tokens(part: object) -> int:
    if not isinstance(part, Mapping) or not isinstance(part.get("data"), str):
        return 0
    sent_bytes = len(part["data"]) * 3 // 4
    is_wav = part.get("format") in ("wav", "pcm16")
    return 1 + sent_bytes // (WAV_BYTES_PER_TOKEN if is_wav else COMPRESSED_BYTES_PER_TOKEN)


def _file_data(part: Mapping[str, Any]) -> str | None:
    """What is in a file, in Base64; None for one that is elsewhere."""
    inner = part.get("file")
    data = (inner if isinstance(inner, Mapping) else part).get("file_data")
    return data if isinstance(data, str) else None

"""Works out what usage objects cost, from published prices and by hand: fractions and nothing else.

The counts come first. Each provider's usage object is made of them in that provider's words, and
the cost is the sum of count times price, so the reading of a usage object is not used to check
itself. `WRITE_ANSWERS=1 make test ARGS=tests/prices` writes the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any, Final

from support.published_prices import PAGES, PUBLISHED, Published

MILLICREDITS_PER_DOLLAR: Final = 100_000
"""At 100 credits a dollar, without a markup."""

Counts = dict[str, int]

# By name: how many of each kind. None of a request's tokens is counted twice here.
_PATTERNS: Final[dict[str, Counts]] = {
    "plain": {"input": 1234, "output": 567},
    "tiny": {"input": 1, "output": 1},
    "prompt": {"input": 81_919},
    "tiny_prompt": {"input": 3},
    "reasoning": {"input": 911, "output": 203, "reasoning": 1792},
    "thoughts": {"input": 911, "output": 203, "reasoning": 1792},
    "cached": {"input": 877, "cache_read": 6144, "output": 321},
    "written": {"input": 5, "cache_write": 4097, "output": 89},
    "all": {
        "input": 13,
        "cache_read": 20_011,
        "cache_write": 1_009,
        "cache_write_1h": 2_003,
        "output": 701,
    },
    "audio": {"input": 143, "input_audio": 977, "output": 31, "output_audio": 1201},
    "heard": {"input": 143, "input_audio": 1921, "output": 77},
    "cached_audio": {
        "input": 143,
        "input_audio": 977,
        "cache_read": 512,
        "cache_read_audio": 256,
        "output": 31,
    },
    "picture": {"input": 47, "output_image": 4160},
    "edit": {"input": 47, "input_image": 323, "output_image": 1056},
    "drawn": {"input": 47, "output": 19, "output_image": 1290},
    "transcript": {"input": 17, "input_audio": 613, "output": 88},
    "speech": {"audio_hour": 133},
}


def _counts(one: Published, kind: str) -> Counts:
    start = one.tier[0] if one.tier else 0
    match kind:
        case "edge":  # Exactly as many as the tier begins after.
            return {"input": start, "output": 1009}
        case "above":
            return {"input": start + 1, "output": 1009}
        case "above_by_cache":  # What the cache had counts as context.
            return {"input": 7, "cache_read": start, "output": 1009}
        case _:
            return dict(_PATTERNS[kind])


def _of(counts: Counts, *names: str) -> int:
    return sum(counts.get(name, 0) for name in names)


_AUDIO = ("input_audio", "cache_read_audio")
_IMAGE = ("input_image", "cache_read_image")
_CACHED = ("cache_read", "cache_read_audio", "cache_read_image")
_PROMPT = ("input", "input_audio", "input_image", *_CACHED, "cache_write", "cache_write_1h")
_OUTPUT = ("output", "reasoning", "output_audio", "output_image")


def _chat(counts: Counts) -> dict[str, Any]:
    prompt, output = _of(counts, *_PROMPT), _of(counts, *_OUTPUT)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {
            "cached_tokens": _of(counts, *_CACHED),
            "audio_tokens": _of(counts, *_AUDIO),
        },
        "completion_tokens_details": {
            "reasoning_tokens": _of(counts, "reasoning"),
            "audio_tokens": _of(counts, "output_audio"),
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _responses(counts: Counts) -> dict[str, Any]:
    prompt, output = _of(counts, *_PROMPT), _of(counts, *_OUTPUT)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": _of(counts, *_CACHED),
            "audio_tokens": _of(counts, *_AUDIO),
            "text_tokens": _of(counts, "input", "cache_read"),
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": _of(counts, "reasoning")},
        "total_tokens": prompt + output,
    }


def _realtime(counts: Counts) -> dict[str, Any]:
    prompt, output = _of(counts, *_PROMPT), _of(counts, *_OUTPUT)
    return {
        "total_tokens": prompt + output,
        "input_tokens": prompt,
        "output_tokens": output,
        "input_token_details": {
            "text_tokens": _of(counts, "input", "cache_read"),
            "audio_tokens": _of(counts, *_AUDIO),
            "image_tokens": 0,
            "cached_tokens": _of(counts, *_CACHED),
            "cached_tokens_details": {
                "text_tokens": _of(counts, "cache_read"),
                "audio_tokens": _of(counts, "cache_read_audio"),
            },
        },
        "output_token_details": {
            "text_tokens": _of(counts, "output"),
            "audio_tokens": _of(counts, "output_audio"),
        },
    }


def _images(counts: Counts) -> dict[str, Any]:
    prompt, output = _of(counts, *_PROMPT), _of(counts, *_OUTPUT)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "image_tokens": _of(counts, *_IMAGE),
            "text_tokens": _of(counts, "input"),
        },
        "output_tokens": output,
        "total_tokens": prompt + output,
    }


def _anthropic(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": _of(counts, "input"),
        "cache_creation_input_tokens": _of(counts, "cache_write", "cache_write_1h"),
        "cache_read_input_tokens": _of(counts, "cache_read"),
        "cache_creation": {
            "ephemeral_5m_input_tokens": _of(counts, "cache_write"),
            "ephemeral_1h_input_tokens": _of(counts, "cache_write_1h"),
        },
        "output_tokens": _of(counts, "output"),
        "service_tier": "standard",
    }


def _litellm(counts: Counts) -> dict[str, Any]:
    """Anthropic's figures as LiteLLM hands them on: in OpenAI's words, the total with the cached."""
    return {
        "prompt_tokens": _of(counts, *_PROMPT),
        "completion_tokens": _of(counts, *_OUTPUT),
        "total_tokens": _of(counts, *_PROMPT, *_OUTPUT),
        "prompt_tokens_details": {
            "cached_tokens": _of(counts, "cache_read"),
            "cache_creation_tokens": _of(counts, "cache_write", "cache_write_1h"),
            "cache_creation_token_details": {
                "ephemeral_5m_input_tokens": _of(counts, "cache_write"),
                "ephemeral_1h_input_tokens": _of(counts, "cache_write_1h"),
            },
        },
        "cache_creation_input_tokens": _of(counts, "cache_write", "cache_write_1h"),
        "cache_read_input_tokens": _of(counts, "cache_read"),
    }


def _gemini(counts: Counts) -> dict[str, Any]:
    prompt = _of(counts, *_PROMPT)
    found: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": _of(counts, "output", "output_image"),
        "totalTokenCount": prompt + _of(counts, *_OUTPUT),
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": _of(counts, "input", "cache_read")},
            {"modality": "AUDIO", "tokenCount": _of(counts, *_AUDIO)},
        ],
        "candidatesTokensDetails": [
            {"modality": "IMAGE", "tokenCount": _of(counts, "output_image")}
        ],
    }
    if cached := _of(counts, *_CACHED):
        found["cachedContentTokenCount"] = cached
        found["cacheTokensDetails"] = [
            {"modality": "AUDIO", "tokenCount": _of(counts, "cache_read_audio")}
        ]
    if "reasoning" in counts:
        found["thoughtsTokenCount"] = counts["reasoning"]
    return found


def _deepseek(counts: Counts) -> dict[str, Any]:
    return {
        **_chat(counts),
        "prompt_cache_hit_tokens": _of(counts, "cache_read"),
        "prompt_cache_miss_tokens": _of(counts, "input"),
    }


def _x_ai(counts: Counts) -> dict[str, Any]:
    """The total of the output is without the reasoning, which is billed all the same."""
    return {**_chat(counts), "completion_tokens": _of(counts, "output")}


def _bedrock(counts: Counts) -> dict[str, Any]:
    return {
        "inputTokens": _of(counts, "input"),
        "outputTokens": _of(counts, *_OUTPUT),
        "totalTokens": _of(counts, *_PROMPT, *_OUTPUT),
        "cacheReadInputTokens": _of(counts, "cache_read"),
        "cacheWriteInputTokens": 0,
    }


def _embeddings(counts: Counts) -> dict[str, Any]:
    return {"prompt_tokens": counts["input"], "total_tokens": counts["input"]}


def _seconds(counts: Counts) -> dict[str, Any]:
    return {"type": "duration", "seconds": counts["audio_hour"]}


_SHAPES: Final = {
    "chat": _chat,
    "responses": _responses,
    "realtime": _realtime,
    "images": _images,
    "anthropic": _anthropic,
    "litellm": _litellm,
    "gemini": _gemini,
    "deepseek": _deepseek,
    "x-ai": _x_ai,
    "bedrock": _bedrock,
    "embeddings": _embeddings,
    "seconds": _seconds,
}
_PER: Final = {"request": 1, "audio_hour": 3600}


def _dollars(one: Published, counts: Counts) -> Fraction:
    prices = dict(one.prices)
    if one.tier and _of(counts, *_PROMPT) > one.tier[0]:
        prices |= one.tier[1]
    prices.setdefault("reasoning", prices.get("output", "0"))
    total = Fraction(prices.get("request", "0"))
    for kind, count in counts.items():
        total += Fraction(prices[kind]) * count / _PER.get(kind, 1_000_000)
    return total


def answers() -> Iterator[dict[str, Any]]:
    """The table, a row a pair of model and usage."""
    for one in PUBLISHED:
        for shape in one.shapes:
            for kind in one.kinds:
                counts = _counts(one, kind)
                dollars = _dollars(one, counts)
                row: dict[str, Any] = {
                    "provider": one.provider,
                    "model": one.model,
                    "page": PAGES[one.provider],
                    "as_of": one.date,
                    "dollars_per_million": one.prices,
                    "above": [one.tier[0], one.tier[1]] if one.tier else None,
                    "counts": counts,
                    "usage": _SHAPES[shape](counts),
                    "dollars": f"{Decimal(dollars.numerator) / Decimal(dollars.denominator):f}",
                    "millicredits": ceil(dollars * MILLICREDITS_PER_DOLLAR),
                }
                if one.differs:
                    row["list_differs"] = one.differs
                yield row


def table() -> str:
    """The file: one row a line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in answers()) + "\n]\n"

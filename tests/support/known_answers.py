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
from itertools import product
from math import ceil
from typing import Any, Final

from support.published_as_asked import ASKED
from support.published_elsewhere import ELSEWHERE
from support.published_prices import OPENAI, PAGES, Published
from support.published_since import SINCE
from support.spelled_models import SPELLED
from support.usage_shapes import PROMPT, SHAPES, Counts, of

MILLICREDITS_PER_DOLLAR: Final = 100_000
"""At 100 credits a dollar, without a markup."""

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
    "read_out": {"input": 211, "output_audio": 1807},
    "talk": {
        **{"input": 31, "input_audio": 640, "input_image": 258},
        **{"output": 12, "output_audio": 925},
    },
    "drawn_apart": {"input": 47, "input_image": 323, "output": 61, "output_image": 1056},
    "transcript": {"input": 17, "input_audio": 613, "output": 88},
    "speech": {"audio_hour": 133},
    "kept": {"input": 7, "cache_read": 512, "cache_write": 1_009, "cache_write_12h": 3_001},
    "searched": {"input": 877, "output": 321, "search": 3},
    "seen": {
        **{"input": 31, "input_image": 258, "input_video": 301},
        **{"cache_read": 1_009, "cache_read_image": 5_160, "cache_read_video": 9_001},
        "output": 88,
    },
    "stored": {
        **{"input": 7, "cache_read": 512, "cache_write": 1_009, "cache_write_1h": 4_001},
        "output": 89,
    },
    "researched": {
        **{"input": 33, "output": 7_163, "reasoning": 73_997},
        **{"citation": 20_016, "search": 18},
    },
    "thought": {"input": 877, "cache_read": 6144, "output": 203, "reasoning": 1792},
    "thought_alone": {"input": 911, "reasoning": 1792},
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


_PER: Final = {"request": 1, "audio_hour": 3600, "search": 1000}
_TRAFFIC: Final = {"priority": "ON_DEMAND_PRIORITY", "flex": "ON_DEMAND_FLEX"}


def _dollars(one: Published, counts: Counts) -> Fraction:
    prices = dict(one.prices)
    if one.tier and of(counts, *PROMPT) > one.tier[0]:
        prices |= one.tier[1]
    prices.setdefault("reasoning", prices.get("output", "0"))
    total = Fraction(prices.get("request", "0"))
    for kind, used in counts.items():
        count = min(used, 1) if kind == "search" and one.search_once else used
        total += Fraction(prices[kind]) * count / _PER.get(kind, 1_000_000)
    return total


def answers() -> Iterator[dict[str, Any]]:
    """The table, a row a pair of model and usage."""
    for one in (*OPENAI, *ELSEWHERE, *SPELLED, *SINCE, *ASKED):
        spellings = [(name, None) for name in one.names] or [(one.model, one.provider)]
        for (model, provider), shape, kind in product(spellings, one.shapes, one.kinds):
            counts = _counts(one, kind)
            dollars = _dollars(one, counts)
            row: dict[str, Any] = {
                "provider": provider,
                "model": model,
                "page": one.page or PAGES[one.provider],
                "as_of": one.date,
                "dollars_per_million": one.prices,
                "above": [one.tier[0], one.tier[1]] if one.tier else None,
                "counts": counts,
                "usage": _usage(one, shape, counts),
                "dollars": f"{Decimal(dollars.numerator) / Decimal(dollars.denominator):f}",
                "millicredits": ceil(dollars * MILLICREDITS_PER_DOLLAR),
            }
            if one.differs:
                row["list_differs"] = one.differs
            yield row


def _usage(one: Published, shape: str, counts: Counts) -> dict[str, Any]:
    usage = SHAPES[shape](counts)
    if shape == "gemini" and one.service_tier:
        usage["trafficType"] = _TRAFFIC[one.service_tier]
    elif one.service_tier:
        usage["service_tier"] = one.service_tier
    if searches := counts.get("search"):
        if shape == "anthropic":
            usage["server_tool_use"] = {"web_search_requests": searches}
        else:
            usage["web_searches"] = searches
    return usage


def table() -> str:
    """The file: one row a line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in answers()) + "\n]\n"

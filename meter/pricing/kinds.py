"""Lists what a model call is counted in: kinds of tokens, and the few things besides that have a
price.

A count is of one kind and no other: a cached token is not also counted as an input token. What a
kind costs where a price list does not say is that of its parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Side = Literal["prompt", "output", "other"]

TOKENS_MAX: Final = 10**9
"""No count is read as more than this."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `per` is how many of them a published price is for; `parents` are asked for the
    price in their order where there is none.
    """

    side: Side
    per: int
    words: str
    parents: tuple[str, ...] = ()


_MILLION = 1_000_000
# Who publishes no price of output publishes one of images, or sells prompts alone: no output is
# free.
_OUTPUTS = ("output", "output_image", "output_audio", "input")

# Those of the prompt in the order in which they fill it: what was read from a cache is its start.
KINDS: Final[Mapping[str, Kind]] = {
    "cache_read": Kind("prompt", _MILLION, "prompt tokens read from the cache", ("input",)),
    "cache_read_audio": Kind(
        "prompt",
        _MILLION,
        "audio tokens read from the cache",
        ("input_audio", "cache_read", "input"),
    ),
    "cache_read_image": Kind(
        "prompt",
        _MILLION,
        "image tokens read from the cache",
        ("input_image", "cache_read", "input"),
    ),
    "cache_read_video": Kind(
        "prompt",
        _MILLION,
        "video tokens read from the cache",
        ("input_video", "cache_read", "input"),
    ),
    "cache_write": Kind("prompt", _MILLION, "prompt tokens written to the cache", ("input",)),
    "cache_write_1h": Kind(
        "prompt", _MILLION, "prompt tokens cached for an hour", ("cache_write", "input")
    ),
    "cache_write_12h": Kind(
        "prompt", _MILLION, "prompt tokens cached for half a day", ("cache_write", "input")
    ),
    "input": Kind("prompt", _MILLION, "prompt tokens"),
    "input_audio": Kind("prompt", _MILLION, "audio tokens of the prompt", ("input",)),
    "input_image": Kind("prompt", _MILLION, "image tokens of the prompt", ("input",)),
    "input_video": Kind("prompt", _MILLION, "video tokens of the prompt", ("input",)),
    "output": Kind("output", _MILLION, "output tokens", _OUTPUTS),
    "reasoning": Kind("output", _MILLION, "reasoning tokens", _OUTPUTS),
    "output_audio": Kind("output", _MILLION, "audio tokens of the output", _OUTPUTS),
    "output_image": Kind("output", _MILLION, "image tokens of the output", _OUTPUTS),
    "citation": Kind("other", _MILLION, "tokens of citations", ("input",)),
    "image": Kind("other", 1, "images made"),
    "request": Kind("other", 1, "requests"),
    "search": Kind("other", 1_000, "web searches"),
    "audio_hour": Kind("other", 3_600, "seconds of audio"),
}
"""Name of the kind, as in a price file, -> what it is."""

CAN_STAND_ALONE: Final = frozenset(("input", "output", "image", "request", "audio_hour"))
"""A price without any of these is no price of a model call."""

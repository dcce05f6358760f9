"""Reads the usage that a provider reports where it can be true, and takes it for missing otherwise.

What is missing is estimated. A usage that cannot be read would cost nothing, and one that is larger
than the model can be would cost any amount.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from taximeter.meter.pricing import Price
from taximeter.meter.pricing.kinds import TOKENS_MAX
from taximeter.meter.pricing.usage_objects import counts_of

UNKNOWN_CONTEXT: Final = 10_000_000
"""What a model of unknown size can read or write at most."""

_TOTALS: Final = (
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("promptTokenCount", "candidatesTokenCount"),
    ("prompt_token_count", "candidates_token_count"),
    ("inputTokens", "outputTokens"),
)
"""The totals of each shape: of the prompt and of the output."""
_SUMS: Final = ("total_tokens", "totalTokenCount", "total_token_count", "totalTokens")
"""Where one of these is there, that of the output may be left out."""


_OTHERS_MAX: Final = {
    "search": 1_000,
    "citation": UNKNOWN_CONTEXT,
    "image": 1_000,
    "audio_hour": 86_400,
}
"""The most of what is no token that one request can have used: searches, tokens of citations,
images and seconds.
"""
_CALLED: Final = {
    "search": "web_searches",
    "citation": "citation_tokens",
    "image": "images",
    "audio_hour": "seconds",
}


class Bounds(NamedTuple):
    """The most that one request can have used: tokens of its prompt and of its output."""

    prompt: int
    output: int


class ReportedUsage(NamedTuple):
    """A usage that can be charged. `is_capped`: it said more than can be, and was cut."""

    usage: Mapping[str, Any]
    is_capped: bool


def bounds_of(price: Price, *, prompt_bound: int, limit: int | None, n: int, inputs: int) -> Bounds:
    """What the model's context allows, or what was sent and allowed where that is more: lists of
    models are late.
    """
    context = price.context_window or UNKNOWN_CONTEXT
    output = max(context, price.max_output or 0, limit or 0)
    return Bounds(max(context * inputs, prompt_bound), output * n)


def read_usage(
    usage: Mapping[str, Any] | None, bounds: Bounds, *, delivered: int, makes_output: bool
) -> ReportedUsage | None:
    """The usage if it can be true, else None. `delivered`: output tokens that were counted;
    `makes_output`: whether there must be any figure of an output.
    """
    if not usage:
        return None
    found = _best_shape(usage, makes_output)
    if found is None:
        return None
    counts = counts_of(found)
    others = {kind: count for kind, count in counts.kinds.items() if kind in _OTHERS_MAX}
    if not counts.prompt or (delivered and makes_output and not counts.output):
        return None  # No prompt has no tokens, and no answer that has some.
    if (
        counts.prompt <= bounds.prompt
        and counts.output <= bounds.output
        and all(count <= _OTHERS_MAX[kind] for kind, count in others.items())
    ):
        return ReportedUsage(found, is_capped=False)
    capped = {
        "prompt_tokens": min(counts.prompt, bounds.prompt),
        "completion_tokens": min(counts.output, bounds.output),
        **{_CALLED[kind]: min(count, _OTHERS_MAX[kind]) for kind, count in others.items()},
    }
    return ReportedUsage(capped, is_capped=True)


def _best_shape(usage: Mapping[str, Any], makes_output: bool) -> Mapping[str, Any] | None:
    """The usage with whole totals and those of one shape alone: of two shapes that it has, the one
    that says more. None when no shape has sane totals.
    """
    whole = {name: _whole(value) for name, value in usage.items()}
    has_sum = any(_is_count(whole.get(name)) for name in _SUMS)
    sane: dict[tuple[str, str], int] = {}
    for first, second in _TOTALS:
        if whole.get(first) is None and whole.get(second) is None:
            continue
        output = whole.get(second)
        if output is None and (has_sum or not makes_output):
            output = 0
        if _is_count(whole.get(first)) and _is_count(output):
            sane[first, second] = whole[first] + output
    if not sane:
        return None
    best = max(sane, key=sane.__getitem__)
    others = {name for shape in _TOTALS if shape != best for name in shape}
    return {name: value for name, value in whole.items() if name not in others}


def _whole(value: object) -> Any:
    """12.0 is 12: some languages have no other numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= TOKENS_MAX

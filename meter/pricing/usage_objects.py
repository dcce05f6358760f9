"""Reads the usage objects of the providers, of any shape, as counts that do not overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from taximeter.meter.pricing.kinds import TOKENS_MAX
from taximeter.meter.pricing.usage_parts import count_of, first_told, part_of
from taximeter.meter.pricing.usage_shapes import split_usage


class Counts(NamedTuple):
    """What was used, by kind. `prompt` and `output` are the sums of their token kinds."""

    kinds: Mapping[str, int]
    prompt: int
    output: int


class UnknownUsage(ValueError):
    """A usage object of none of the known shapes, or with a count that is none."""

    def __init__(self, field: str, limit: str) -> None:
        super().__init__(f"{field} must be {limit}")
        self.field = field
        self.limit = limit


def counts_of(usage: Mapping[str, object]) -> Counts:
    """Counts of a usage object of any known shape. Never raises: what is no sane count reads as
    none, and parts that contradict their total are charged as the plain kind.
    """
    if usage.keys() <= _PLAIN and (counts := _plain_chat(usage)) is not None:
        return counts
    prompt, output = split_usage(usage)
    kinds = {**prompt, **output}
    _other(usage, kinds)
    return Counts(kinds, sum(prompt.values()), sum(output.values()))


_TOTALS = {
    "prompt_tokens": "completion_tokens",
    "input_tokens": "output_tokens",
    "promptTokenCount": "candidatesTokenCount",
    "prompt_token_count": "candidates_token_count",
    "inputTokens": "outputTokens",
    "images": None,
    "seconds": None,
}
"""What each shape must have: its first figure, and the one of the output."""
_WITHOUT_OUTPUT = ("total_tokens", "totalTokenCount", "total_token_count")
"""Where one of these is there, the figure of the output may be left out: there was none."""


def checked_counts(usage: Mapping[str, object]) -> Counts:
    """As `counts_of`, for callers who can be told. Raises UnknownUsage when a total is missing or
    is no count.
    """
    first = next((name for name in _TOTALS if name in usage), None)
    if first is None:
        raise UnknownUsage(
            "prompt_tokens", "given, or the totals of another provider's usage object"
        )
    output = _TOTALS[first]
    wanted = [first]
    if output is not None and (output in usage or usage.keys().isdisjoint(_WITHOUT_OUTPUT)):
        wanted.append(output)
    for name in wanted:
        value = usage.get(name)
        if isinstance(value, float) and name == "seconds":
            continue
        if type(value) is not int or not 0 <= value <= TOKENS_MAX:
            raise UnknownUsage(name, f"given, as a whole number from 0 to {TOKENS_MAX}")
    return counts_of(usage)


_PLAIN = frozenset(
    (
        *("prompt_tokens", "completion_tokens", "total_tokens"),
        *("prompt_tokens_details", "completion_tokens_details"),
    )
)


def _plain_chat(usage: Mapping[str, object]) -> Counts | None:
    """OpenAI's chat where nothing is unusual, as in nearly all requests, in a tenth of the time:
    sane totals that add up, of which some were cached or reasoning. None where there is more to it.
    """
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(output) is not int:
        return None
    if not (0 <= prompt <= TOKENS_MAX and 0 <= output <= TOKENS_MAX):
        return None
    if usage.get("total_tokens", prompt + output) != prompt + output:
        return None
    cached = _only(usage.get("prompt_tokens_details"), "cached_tokens", prompt)
    reasoning = _only(usage.get("completion_tokens_details"), "reasoning_tokens", output)
    if cached is None or reasoning is None:
        return None
    kinds = {}
    if cached:
        kinds["cache_read"] = cached
    if prompt > cached:
        kinds["input"] = prompt - cached
    if reasoning:
        kinds["reasoning"] = reasoning
    if output > reasoning:
        kinds["output"] = output - reasoning
    return Counts(kinds, prompt, output)


def _only(details: object, name: str, total: int) -> int | None:
    """The one count of the details that is not nothing, if it is this one; else None."""
    if details is None:
        return 0
    if type(details) is not dict:
        return None
    found = 0
    for key, count in details.items():
        if not count:
            continue
        if key != name or type(count) is not int or not 0 < count <= total:
            return None
        found = count
    return found


def _other(usage: Mapping[str, object], kinds: dict[str, int]) -> None:
    called = part_of(part_of(usage, "tool_calls_details"), "search_web")
    searches = (
        count_of(part_of(usage, "server_tool_use"), "web_search_requests")
        or first_told(usage, "web_searches", "num_search_queries")
        or count_of(called, "invocation")
    )
    found = {
        "search": searches,
        "image": count_of(usage, "images"),
        "audio_hour": _seconds(usage.get("seconds", usage.get("billable_audio_seconds"))),
        "citation": count_of(usage, "citation_tokens"),
    }
    kinds.update({name: count for name, count in found.items() if count})


def _seconds(value: object) -> int:
    """Whole seconds, and a begun one in full."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 10**9:
        return 0
    return -int(-value // 1)

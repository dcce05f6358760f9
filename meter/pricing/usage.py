"""Reads the usage objects of the providers, each in its own shape, as counts that do not overlap.

Where they differ is what has made other meters charge cached tokens twice or not at all:

- OpenAI (chat, responses, images, embeddings) and Gemini: the prompt's total includes the cached;
- Anthropic and Bedrock: it does not, and what was written to the cache is not in it either;
- OpenAI and Anthropic: the output's total includes the reasoning; Gemini and x.ai: it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from taximeter.meter.pricing.kinds import TOKENS_MAX
from taximeter.meter.pricing.parts import (
    count_of,
    modalities,
    part_of,
    plain,
    split_output,
    split_prompt,
    written_of,
)


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
    if usage.keys() <= _USUAL and (usual := _usual(usage)) is not None:
        return usual
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        prompt, output = _chat(usage)
    elif "input_tokens" in usage or "output_tokens" in usage:
        prompt, output = _messages(usage) if _is_anthropic(usage) else _responses(usage)
    elif "promptTokenCount" in usage or "totalTokenCount" in usage:
        prompt, output = _gemini(usage)
    elif "prompt_token_count" in usage or "total_token_count" in usage:
        prompt, output = _gemini({_camel(name): value for name, value in usage.items()})
    elif "inputTokens" in usage or "outputTokens" in usage:
        prompt, output = _bedrock(usage)
    else:
        prompt, output = {}, {}
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


_USUAL = frozenset(
    (
        *("prompt_tokens", "completion_tokens", "total_tokens"),
        *("prompt_tokens_details", "completion_tokens_details"),
    )
)


def _usual(usage: Mapping[str, object]) -> Counts | None:
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


def _chat(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """OpenAI's chat and embeddings, and what others send under the same names."""
    prompt, output = count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens")
    total = count_of(usage, "total_tokens")
    details = part_of(usage, "prompt_tokens_details")
    made = part_of(usage, "completion_tokens_details")
    cached = count_of(
        {**usage, **details}, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"
    )
    written, written_1h = written_of(usage, details)
    surplus = total - prompt - output
    # Gateways in front of Anthropic use these names; some of them leave its parts out of the total.
    outside = count_of(usage, "cache_read_input_tokens") + count_of(
        usage, "cache_creation_input_tokens"
    )
    if outside and (surplus == outside or outside > prompt):
        prompt += cached + written
    elif surplus > 0:
        output += surplus  # Reasoning that is billed and stands in no other figure.
    return (
        split_prompt(prompt, details, cached=cached, written=written, written_1h=written_1h),
        split_output(output, made),
    )


def _responses(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """OpenAI's responses, images, transcriptions and realtime."""
    details = part_of(usage, "input_tokens_details", "input_token_details")
    made = part_of(usage, "output_tokens_details", "output_token_details")
    cached = count_of(details, "cached_tokens")
    written, written_1h = written_of({}, details)
    prompt = count_of(usage, "input_tokens")
    return (
        split_prompt(prompt, details, cached=cached, written=written, written_1h=written_1h),
        split_output(count_of(usage, "output_tokens"), made),
    )


def _is_anthropic(usage: Mapping[str, object]) -> bool:
    names = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")
    return any(name in usage for name in names)


def _messages(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Anthropic's messages: three figures of the prompt, beside each other."""
    cached = count_of(usage, "cache_read_input_tokens")
    written, written_1h = written_of(usage, {})
    prompt = count_of(usage, "input_tokens") + cached + written
    return (
        split_prompt(prompt, {}, cached=cached, written=written, written_1h=written_1h),
        plain(0, count_of(usage, "output_tokens"))[1],
    )


def _bedrock(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    cached = count_of(usage, "cacheReadInputTokens", "cacheReadInputTokenCount")
    written = count_of(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    prompt = count_of(usage, "inputTokens") + cached + written
    return (
        split_prompt(prompt, {}, cached=cached, written=written, written_1h=0),
        plain(0, count_of(usage, "outputTokens"))[1],
    )


def _gemini(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Gemini's usageMetadata: thoughts and the prompts of tools stand beside the totals."""
    prompt = count_of(usage, "promptTokenCount") + count_of(usage, "toolUsePromptTokenCount")
    thoughts = count_of(usage, "thoughtsTokenCount")
    output = count_of(usage, "candidatesTokenCount") + thoughts
    surplus = count_of(usage, "totalTokenCount") - prompt - output
    output += max(surplus, 0)
    details = {
        **modalities(usage, "promptTokensDetails"),
        "cached_tokens_details": modalities(usage, "cacheTokensDetails"),
    }
    made = {**modalities(usage, "candidatesTokensDetails"), "reasoning_tokens": thoughts}
    cached = count_of(usage, "cachedContentTokenCount")
    return (
        split_prompt(prompt, details, cached=cached, written=0, written_1h=0),
        split_output(output, made),
    )


def _other(usage: Mapping[str, object], kinds: dict[str, int]) -> None:
    searches = count_of(part_of(usage, "server_tool_use"), "web_search_requests") or count_of(
        usage, "web_searches", "num_search_queries"
    )
    found = {
        "search": searches,
        "image": count_of(usage, "images"),
        "audio_hour": _seconds(usage.get("seconds")),
    }
    kinds.update({name: count for name, count in found.items() if count})


def _seconds(value: object) -> int:
    """Whole seconds, and a begun one in full."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 10**9:
        return 0
    return -int(-value // 1)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)

"""Splits usage objects of each shape into the parts of prompt and output.

Where they differ is what has made other meters charge cached tokens twice or not at all:

- OpenAI (chat, responses, images, embeddings) and Gemini: the prompt's total includes the cached;
- Anthropic and Bedrock: it does not, and what was written to the cache is not in it either;
- OpenAI and Anthropic: the output's total includes the reasoning; Gemini and x.ai: it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from taximeter.meter.pricing.usage_parts import (
    count_of,
    first_told,
    modalities,
    part_of,
    plain,
    split_output,
    split_prompt,
    written_of,
)


def split_usage(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens of the prompt and of the output, by kind; none of either for no known shape. Of
    several shapes the first that says anything counts: some gateways fill OpenAI's with zeros.
    """
    split: tuple[dict[str, int], dict[str, int]] = {}, {}
    for names, read in _SHAPES:
        if not usage.keys().isdisjoint(names):
            split = read(usage)
            if any(split):
                break
    return split


def _chat(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """OpenAI's chat and embeddings, and what others send under the same names."""
    prompt, output = count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens")
    total = count_of(usage, "total_tokens")
    details = part_of(usage, "prompt_tokens_details")
    made = part_of(usage, "completion_tokens_details")
    cached = first_told(
        {**usage, **details},
        *("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"),
        "cached_prompt_text_tokens",
    )
    written = written_of(usage, details)
    surplus = total - prompt - output
    # Gateways in front of Anthropic use these names; some of them leave its parts out of the total.
    outside = count_of(usage, "cache_read_input_tokens") + count_of(
        usage, "cache_creation_input_tokens"
    )
    beside = 0 if made else count_of(usage, "reasoning_tokens")
    if outside and (surplus == outside or outside > prompt):
        prompt += cached + written.written
        surplus = 0
    if surplus > 0:
        # Reasoning that is billed and stands in no other figure; citations are counted apart.
        citations = count_of(usage, "citation_tokens")
        surplus -= citations if citations <= surplus else 0
        output += surplus
    if beside and (surplus >= beside or _is_perplexity(usage, beside)):
        output += beside if surplus < beside else 0
        made = {"reasoning_tokens": beside}
    return (
        split_prompt(prompt, details, cached=cached, **written._asdict()),
        split_output(output, made),
    )


def _is_perplexity(usage: Mapping[str, object], reasoning: int) -> bool:
    """Its deep research counts what was thought beside the output, and not in it."""
    names = ("citation_tokens", "num_search_queries")
    return any(name in usage for name in names) or reasoning > count_of(usage, "completion_tokens")


def _responses(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """OpenAI's responses, images, transcriptions and realtime."""
    details = part_of(usage, "input_tokens_details", "input_token_details")
    made = part_of(usage, "output_tokens_details", "output_token_details")
    cached = first_told(details, "cached_tokens", "cache_read_input_tokens")
    written = written_of({}, details)
    prompt = count_of(usage, "input_tokens")
    return (
        split_prompt(prompt, details, cached=cached, **written._asdict()),
        split_output(count_of(usage, "output_tokens"), made),
    )


def _is_anthropic(usage: Mapping[str, object]) -> bool:
    names = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")
    return any(name in usage for name in names)


def _messages(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Anthropic's messages: three figures of the prompt, beside each other."""
    cached = count_of(usage, "cache_read_input_tokens")
    written = written_of(usage, {})
    prompt = count_of(usage, "input_tokens") + cached + written.written
    return (
        split_prompt(prompt, {}, cached=cached, **written._asdict()),
        plain(0, count_of(usage, "output_tokens"))[1],
    )


def _bedrock(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Bedrock's Converse, and what others send in nearly its words."""
    cached = first_told(
        usage, "cacheReadInputTokens", "cacheReadInputTokenCount", "cacheReadTokens"
    )
    written = first_told(
        usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount", "cacheWriteTokens"
    )
    by_life = usage.get("cacheDetails")
    lives = (
        [one for one in by_life if isinstance(one, Mapping)] if isinstance(by_life, list) else []
    )
    written_1h = sum(count_of(one, "inputTokens") for one in lives if one.get("ttl") == "1h")
    written = max(written, sum(count_of(one, "inputTokens") for one in lives))
    prompt = count_of(usage, "inputTokens") + cached + written
    return (
        split_prompt(prompt, {}, cached=cached, written=written, written_1h=written_1h),
        plain(0, count_of(usage, "outputTokens"))[1],
    )


def _gemini(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Gemini's usageMetadata: thoughts and the prompts of tools stand beside the totals. The live
    API calls its answers responses.
    """
    prompt = count_of(usage, "promptTokenCount") + count_of(usage, "toolUsePromptTokenCount")
    thoughts = count_of(usage, "thoughtsTokenCount")
    output = count_of(usage, "candidatesTokenCount", "responseTokenCount") + thoughts
    surplus = count_of(usage, "totalTokenCount") - prompt - output
    output += max(surplus, 0)
    details: dict[str, object] = {
        **modalities(usage, "promptTokensDetails", "toolUsePromptTokensDetails"),
        "cached_tokens_details": modalities(usage, "cacheTokensDetails"),
    }
    made = {
        **modalities(usage, "candidatesTokensDetails"),
        **modalities(usage, "responseTokensDetails"),
        "reasoning_tokens": thoughts,
    }
    cached = count_of(usage, "cachedContentTokenCount")
    return (
        split_prompt(prompt, details, cached=cached, written=0, written_1h=0),
        split_output(output, made),
    )


def _gemini_snake(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    return _gemini({_camel(name): value for name, value in usage.items()})


def _input_and_output(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    return _messages(usage) if _is_anthropic(usage) else _responses(usage)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


_SHAPES: Final = (
    (("prompt_tokens", "completion_tokens"), _chat),
    (("input_tokens", "output_tokens"), _input_and_output),
    (("promptTokenCount", "totalTokenCount"), _gemini),
    (("prompt_token_count", "total_token_count"), _gemini_snake),
    (("inputTokens", "outputTokens"), _bedrock),
)
"""Names of each shape, and what reads it."""

"""The shapes that usage objects have, each split into the parts of its prompt and of its output.

Where they differ is what has made other meters charge cached tokens twice or not at all:

- OpenAI (chat, responses, images, embeddings) and Gemini: the prompt's total includes the cached;
- Anthropic and Bedrock: it does not, and what was written to the cache is not in it either;
- OpenAI and Anthropic: the output's total includes the reasoning; Gemini and x.ai: it does not.
"""

from __future__ import annotations

from collections.abc import Mapping

from taximeter.meter.pricing.usage_parts import (
    count_of,
    modalities,
    part_of,
    plain,
    split_output,
    split_prompt,
    written_of,
)


def split_usage(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens of the prompt and of the output, by kind; none of either for no known shape."""
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return _chat(usage)
    if "input_tokens" in usage or "output_tokens" in usage:
        return _messages(usage) if _is_anthropic(usage) else _responses(usage)
    if "promptTokenCount" in usage or "totalTokenCount" in usage:
        return _gemini(usage)
    if "prompt_token_count" in usage or "total_token_count" in usage:
        return _gemini({_camel(name): value for name, value in usage.items()})
    if "inputTokens" in usage or "outputTokens" in usage:
        return _bedrock(usage)
    return {}, {}


def _chat(usage: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """OpenAI's chat and embeddings, and what others send under the same names."""
    prompt, output = count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens")
    total = count_of(usage, "total_tokens")
    details = part_of(usage, "prompt_tokens_details")
    made = part_of(usage, "completion_tokens_details")
    cached = count_of(
        {**usage, **details}, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"
    )
    written = written_of(usage, details)
    surplus = total - prompt - output
    # Gateways in front of Anthropic use these names; some of them leave its parts out of the total.
    outside = count_of(usage, "cache_read_input_tokens") + count_of(
        usage, "cache_creation_input_tokens"
    )
    if outside and (surplus == outside or outside > prompt):
        prompt += cached + written.written
    elif surplus > 0:
        output += surplus  # Reasoning that is billed and stands in no other figure.
    if (
        (beside := count_of(usage, "reasoning_tokens"))
        and not made
        and _is_perplexity(usage, beside)
    ):
        output, made = output + beside, {"reasoning_tokens": beside}
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
    cached = count_of(details, "cached_tokens")
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
    cached = count_of(usage, "cacheReadInputTokens", "cacheReadInputTokenCount")
    written = count_of(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
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
    details = {
        **modalities(usage, "promptTokensDetails"),
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


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)

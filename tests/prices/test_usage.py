"""Usage objects read without counting a token twice or not at all: what has gone wrong elsewhere,
by its number in that project, and what nobody should send.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taximeter.meter.pricing import (
    KINDS,
    Price,
    Pricer,
    UnknownUsage,
    checked_counts,
    counts_of,
)
from taximeter.meter.pricing.sheet import Rate, Sheet

PRICER = Pricer()


def test_cached_tokens_are_in_openais_total_litellm_14849() -> None:
    """10,000 prompt tokens of which 8,000 are cached: 2,000 plain ones, not 10,000."""
    usage = {
        "prompt_tokens": 10_000,
        "completion_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 8_000},
    }
    assert PRICER.price("gpt-4o").cost(usage) == 500 + 1_000  # 2.50 and 1.25 dollars a million.
    assert counts_of(usage).kinds == {"input": 2_000, "cache_read": 8_000}


def test_cached_tokens_are_not_in_anthropics_total_litellm_9812() -> None:
    """10 plain ones beside 8,000 read and 2,000 written: the cached ones are neither free nor
    taken out of the plain ones.
    """
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 8_000,
        "cache_creation_input_tokens": 2_000,
        "output_tokens": 0,
    }
    assert counts_of(usage).kinds == {"input": 10, "cache_read": 8_000, "cache_write": 2_000}
    # 3, 0.30 and 3.75 dollars a million: 3 + 240 + 750 millicredits.
    assert PRICER.price("claude-sonnet-4-5").cost(usage) == 993


def test_anthropics_figures_in_openais_words_litellm_37407() -> None:
    """The same request through a gateway, whose total has everything: the same cost; and through
    one whose total has the plain ones only, which its sum gives away.
    """
    with_all: dict[str, object] = {
        "prompt_tokens": 10_010,
        "completion_tokens": 5,
        "total_tokens": 10_015,
        "prompt_tokens_details": {"cached_tokens": 8_000},
        "cache_read_input_tokens": 8_000,
        "cache_creation_input_tokens": 2_000,
    }
    plain_only = {**with_all, "prompt_tokens": 10}
    for usage in (with_all, plain_only):
        assert counts_of(usage).kinds == {
            "input": 10,
            "cache_read": 8_000,
            "cache_write": 2_000,
            "output": 5,
        }
    without_a_sum = {**plain_only}
    del without_a_sum["total_tokens"]
    assert counts_of(without_a_sum).prompt == 10_010, "more cached than there are cannot be inside"


def test_reasoning_is_charged_once() -> None:
    openai = {
        "prompt_tokens": 10,
        "completion_tokens": 1_000,
        "total_tokens": 1_010,
        "completion_tokens_details": {"reasoning_tokens": 900},
    }
    assert counts_of(openai).output == 1_000
    x_ai = {**openai, "completion_tokens": 100}
    assert counts_of(x_ai).kinds == {"input": 10, "output": 100, "reasoning": 900}
    gemini = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 100,
        "thoughtsTokenCount": 900,
        "totalTokenCount": 1_010,
    }
    assert counts_of(gemini).kinds == counts_of(x_ai).kinds
    through_openais_words = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 1_010}
    assert counts_of(through_openais_words).output == 1_000, "nothing that was billed is dropped"


def test_prompts_of_tools_and_snake_case_of_gemini() -> None:
    usage = {
        "prompt_token_count": 10,
        "tool_use_prompt_token_count": 30,
        "candidates_token_count": 5,
        "total_token_count": 45,
        "prompt_tokens_details": [{"modality": "AUDIO", "token_count": 4}],
    }
    assert counts_of(usage).kinds == {"input": 36, "input_audio": 4, "output": 5}


def test_searches_are_counted() -> None:
    usage = {"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": 3}}
    assert PRICER.price("claude-sonnet-4-5").cost(usage) == 3_000  # 10 dollars a thousand.


def test_seconds_are_begun_in_full() -> None:
    # 0.36 dollars an hour: 10 millicredits a second.
    assert PRICER.price("whisper-1").cost({"seconds": 1.2}) == 20
    assert PRICER.price("whisper-1").cost({"seconds": 0}) == 0


def test_anthropics_fast_mode_and_batches_are_told_by_the_usage() -> None:
    usage = {"input_tokens": 10**6, "output_tokens": 0}
    plain = PRICER.price("claude-opus-4-8").cost(usage)
    assert PRICER.price("claude-opus-4-8").cost({**usage, "speed": "fast"}) > plain
    assert PRICER.price("claude-opus-4-8").cost({**usage, "service_tier": "batch"}) * 2 == plain
    assert PRICER.price("claude-opus-4-8").cost({**usage, "service_tier": "standard"}) == plain


@pytest.mark.parametrize(
    ("details", "kinds"),
    [
        ({"cached_tokens": 101}, {"input": 100}),
        ({"cached_tokens": 60, "audio_tokens": 60}, {"cache_read": 40, "input_audio": 60}),
        ({"audio_tokens": 60, "image_tokens": 60}, {"input_audio": 40, "input_image": 60}),
        ({"cached_tokens": -1, "audio_tokens": True}, {"input": 100}),
        ({"cached_tokens": 5, "cached_tokens_details": []}, {"input": 95, "cache_read": 5}),
    ],
)
def test_parts_that_contradict_their_whole_make_nothing_cheaper(
    details: dict[str, object], kinds: dict[str, int]
) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": details}
    assert counts_of(usage).kinds == kinds


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_NAMES = st.sampled_from(
    [
        *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"),
        *("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"),
        *("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount"),
        *("prompt_tokens_details", "completion_tokens_details", "input_tokens_details"),
        *("promptTokensDetails", "cacheTokensDetails", "cachedContentTokenCount", "images"),
        *("inputTokens", "cacheReadInputTokens", "seconds", "server_tool_use", "service_tier"),
    ]
)
_DETAILS = st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens", "reasoning_tokens"]), _JSON
)


@given(usage=st.dictionaries(_NAMES, _JSON | _DETAILS))
def test_no_usage_object_breaks_a_charge(usage: dict[str, Any]) -> None:
    counts = counts_of(usage)
    assert all(count > 0 and name in KINDS for name, count in counts.kinds.items())
    sides = {"prompt": 0, "output": 0, "other": 0}
    for name, count in counts.kinds.items():
        sides[KINDS[name].side] += count
    assert (sides["prompt"], sides["output"]) == (counts.prompt, counts.output)
    assert PRICER.price("gpt-4o").cost(usage) >= 0
    assert PRICER.price("gemini-2.5-pro").cost(usage) >= 0


@pytest.mark.parametrize(
    ("usage", "field"),
    [
        ({}, "prompt_tokens"),
        ({"tokens": 5}, "prompt_tokens"),
        ({"prompt_tokens": 5}, "completion_tokens"),
        ({"prompt_tokens": "5", "completion_tokens": 5}, "prompt_tokens"),
        ({"prompt_tokens": 5, "completion_tokens": 1.5}, "completion_tokens"),
        ({"input_tokens": 5}, "output_tokens"),
        ({"inputTokens": -5, "outputTokens": 5}, "inputTokens"),
        ({"promptTokenCount": None, "totalTokenCount": 5}, "promptTokenCount"),
        ({"images": 10**10}, "images"),
    ],
)
def test_who_can_be_told_is_told(usage: dict[str, object], field: str) -> None:
    with pytest.raises(UnknownUsage) as refused:
        checked_counts(usage)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, "total_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": 5},
        {"promptTokenCount": 5, "totalTokenCount": 5},
        {"inputTokens": 5, "outputTokens": 0},
        {"seconds": 1.5},
        {"images": 1},
    ],
)
def test_every_shape_is_taken(usage: dict[str, object]) -> None:
    assert checked_counts(usage).kinds


def _price(rates: dict[str, Any], usage: dict[str, Any]) -> int:
    """Dollars for a million, and so millicredits at a thousand credits a dollar a token."""
    sheet = Sheet({kind: Rate(Decimal(one)) for kind, one in rates.items()})
    made = Price.of(
        sheet, Decimal(10**6), model="m", provider="", source="override", version="test"
    )
    return made.cost(usage)


def test_no_output_is_free() -> None:
    """Who lists no price of output sells it for that of what is listed."""
    reasoned = {
        "prompt_tokens": 0,
        "completion_tokens": 100,
        "completion_tokens_details": {"reasoning_tokens": 100},
    }
    drawn = {
        "prompt_tokens": 0,
        "completion_tokens": 100,
        "completion_tokens_details": {"image_tokens": 100},
    }
    plain = {"prompt_tokens": 0, "completion_tokens": 100}
    for usage in (reasoned, drawn, plain):
        assert _price({"input": 2}, usage) == 200
        assert _price({"input": 2, "output": 3}, usage) == 300
    assert _price({"input": 2, "output_image": 5}, reasoned) == 500


@pytest.mark.parametrize("medium", ["audio", "image", "video"])
def test_cached_media_cost_what_is_cached(medium: str) -> None:
    usage = {
        "promptTokenCount": 100,
        "candidatesTokenCount": 0,
        "totalTokenCount": 100,
        "cachedContentTokenCount": 90,
        "promptTokensDetails": [{"modality": medium.upper(), "tokenCount": 100}],
        "cacheTokensDetails": [{"modality": medium.upper(), "tokenCount": 90}],
    }
    assert _price({"input": 10, "cache_read": 1}, usage) == 10 * 10 + 90
    own = {"input": 10, "cache_read": 1, f"input_{medium}": 20, f"cache_read_{medium}": 2}
    assert _price(own, usage) == 10 * 20 + 90 * 2


def test_bedrock_tells_how_long_a_cache_lives() -> None:
    usage = {
        "inputTokens": 1,
        "outputTokens": 0,
        "cacheWriteInputTokens": 100,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 60}, {"ttl": "5m", "inputTokens": 40}],
    }
    rates = {"input": 4, "cache_write": 5, "cache_write_1h": 8}
    assert _price(rates, usage) == 4 + 40 * 5 + 60 * 8
    for odd in (None, "1h", [None], [{"ttl": "1h", "inputTokens": -3}], [{"ttl": "1h"}]):
        assert _price(rates, {**usage, "cacheDetails": odd}) == 4 + 100 * 5


def test_deep_research_pays_for_what_it_thought_and_cited() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 100,
        "total_tokens": 110,
        "reasoning_tokens": 1000,
        "citation_tokens": 50,
        "num_search_queries": 0,
    }
    rates = {"input": 2, "output": 8, "reasoning": 3}
    assert _price(rates, usage) == 10 * 2 + 100 * 8 + 1000 * 3 + 50 * 2
    within = {"prompt_tokens": 10, "completion_tokens": 100, "reasoning_tokens": 60}
    assert _price(rates, within) == 10 * 2 + 100 * 8, "others count it in the output"


GEMINI_TOLD = {"promptTokenCount": 100, "candidatesTokenCount": 5, "totalTokenCount": 105}


@pytest.mark.parametrize(
    ("usage", "kinds"),
    [
        pytest.param(
            {
                **{"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 1_150},
                **{"reasoning_tokens": 1_000, "cached_prompt_text_tokens": 30},
            },
            {"input": 70, "cache_read": 30, "output": 50, "reasoning": 1_000},
            id="x.ai: reasoning beside the output, and in the sum",
        ),
        pytest.param(
            {
                **{"prompt_tokens": 33, "completion_tokens": 71, "total_tokens": 1_304},
                **{"citation_tokens": 200, "num_search_queries": 2, "reasoning_tokens": 1_000},
            },
            {"input": 33, "output": 71, "reasoning": 1_000, "citation": 200, "search": 2},
            id="Perplexity, with a sum of all",
        ),
        pytest.param(
            {
                **{"prompt_tokens": 110, "completion_tokens": 5, "total_tokens": 115},
                **{"cache_read_input_tokens": 100, "cache_creation_input_tokens": 0},
                "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 3},
            },
            {"input": 7, "cache_read": 100, "cache_write": 3, "output": 5},
            id="zeros in the names that are not used",
        ),
        pytest.param(
            {
                **{"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115},
                **{"cache_read_input_tokens": 100},
                "prompt_tokens_details": {"cached_tokens": 0},
            },
            {"input": 10, "cache_read": 100, "output": 5},
            id="the same, outside the total",
        ),
        pytest.param(
            {
                **{"prompt_tokens": 110, "completion_tokens": 5},
                "prompt_tokens_details": {"cached_tokens": 100.0},
            },
            {"input": 10, "cache_read": 100, "output": 5},
            id="a part with a decimal point",
        ),
        pytest.param(
            {
                **{"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
                **{"input_tokens": 10, "output_tokens": 5},
            },
            {"input": 10, "output": 5},
            id="zeros beside another shape",
        ),
        pytest.param(
            {
                **GEMINI_TOLD,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 20},
                    {"modality": "IMAGE", "tokenCount": 30},
                    {"modality": "DOCUMENT", "tokenCount": 50},
                ],
            },
            {"input": 20, "input_image": 80, "output": 5},
            id="Gemini's pages of documents",
        ),
        pytest.param(
            {
                **GEMINI_TOLD,
                **{"toolUsePromptTokenCount": 40, "totalTokenCount": 145},
                "toolUsePromptTokensDetails": [{"modality": "AUDIO", "tokenCount": 40}],
            },
            {"input": 100, "input_audio": 40, "output": 5},
            id="what Gemini's tools heard",
        ),
        pytest.param(
            {
                **{"input_tokens": 100, "output_tokens": 5},
                "input_tokens_details": {"cache_read_input_tokens": 40},
                "tool_calls_details": {"search_web": {"invocation": 2}},
            },
            {"input": 60, "cache_read": 40, "output": 5, "search": 2},
            id="Perplexity's responses",
        ),
        pytest.param(
            {"inputTokens": 7, "outputTokens": 5, "cacheReadTokens": 40, "cacheWriteTokens": 3},
            {"input": 7, "cache_read": 40, "cache_write": 3, "output": 5},
            id="nearly Bedrock's words",
        ),
        pytest.param(
            {"input_tokens": 0, "output_tokens": 0, "billable_audio_seconds": 3.5},
            {"audio_hour": 4},
            id="x.ai's seconds of talk",
        ),
    ],
)
def test_what_hosts_tell_in_ways_of_their_own(
    usage: dict[str, object], kinds: dict[str, int]
) -> None:
    assert checked_counts(usage).kinds == kinds


@pytest.mark.parametrize(
    ("traffic", "factor"),
    [("ON_DEMAND_PRIORITY", 2), ("ON_DEMAND_FLEX", 1), ("ON_DEMAND", 1), (7, 1)],
)
def test_gemini_tells_its_tier_as_traffic(traffic: object, factor: int) -> None:
    sheet = Sheet({"input": Rate(Decimal(1))}, modes={"priority": {"input": Rate(Decimal(2))}})
    price = Price.of(
        sheet, Decimal(10**6), model="m", provider="", source="override", version="test"
    )
    usage = {"promptTokenCount": 7, "totalTokenCount": 7, "trafficType": traffic}
    assert price.cost(usage) == 7 * factor

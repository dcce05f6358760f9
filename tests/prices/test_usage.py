"""Usage objects read without counting a token twice or not at all: what has gone wrong elsewhere,
by its number in that project, and what nobody should send.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taximeter.meter.pricing import KINDS, Pricer, UnknownUsage, checked_counts, counts_of

PRICER = Pricer()


def test_cached_tokens_are_in_openais_total_litellm_14849() -> None:
    """10,000 prompt tokens of which 8,000 are cached: 2,000 plain ones, not 10,000."""
    usage = {
        "prompt_tokens": 10_000,
        "completion_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 8_000},
    }
    assert PRICER.cost("gpt-4o", usage) == 500 + 1_000  # 2.50 and 1.25 dollars a million.
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
    assert PRICER.cost("claude-sonnet-4-5", usage) == 993


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
    assert PRICER.cost("claude-sonnet-4-5", usage) == 3_000  # 10 dollars a thousand.


def test_seconds_are_begun_in_full() -> None:
    # 0.36 dollars an hour: 10 millicredits a second.
    assert PRICER.cost("whisper-1", {"seconds": 1.2}) == 20
    assert PRICER.cost("whisper-1", {"seconds": 0}) == 0


def test_anthropics_fast_mode_and_batches_are_told_by_the_usage() -> None:
    usage = {"input_tokens": 10**6, "output_tokens": 0}
    plain = PRICER.cost("claude-opus-4-8", usage)
    assert PRICER.cost("claude-opus-4-8", {**usage, "speed": "fast"}) > plain
    assert PRICER.cost("claude-opus-4-8", {**usage, "service_tier": "batch"}) * 2 == plain
    assert PRICER.cost("claude-opus-4-8", {**usage, "service_tier": "standard"}) == plain


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
    assert PRICER.cost("gpt-4o", usage) >= 0
    assert PRICER.cost("gemini-2.5-pro", usage) >= 0


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

"""Parts of the LiteLLM logger that need no LiteLLM: who pays, how much at most, what was used."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from math import ceil
from types import SimpleNamespace
from typing import Any

import pytest

from taximeter.meter.litellm.deployments import model_of
from taximeter.meter.litellm.estimate import IMAGE_TOKENS, estimate
from taximeter.meter.litellm.open_calls import ENDED_MAX, Call, Calls
from taximeter.meter.litellm.payer import find
from taximeter.meter.litellm.reported_usage import tokens_of_answer, tokens_of_log
from taximeter.meter.litellm.settings import LiteLLMSettings
from taximeter.meter.litellm.stream import tokens_of_piece
from taximeter.meter.pricing import Pricer

SETTINGS = LiteLLMSettings(output_tokens=100, output_tokens_max=1000)


def key(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(**fields)


@pytest.mark.parametrize(
    ("sources", "fields", "found"),
    [
        ("key.metadata.org_id", {"metadata": {"org_id": "a"}}, "a"),
        ("key.metadata.org_id, key.org_id", {"metadata": {}, "org_id": "b"}, "b"),
        ("team.metadata.x.y", {"team_metadata": {"x.y": 7}}, "7"),
        ("org.metadata.o", {"organization_metadata": {"o": "c"}}, "c"),
        ("key.metadata.org_id", {"metadata": {"org_id": True}}, None),
        ("key.metadata.org_id", {"metadata": {"org_id": ""}}, None),
        ("key.metadata.org_id", {"metadata": None}, None),
        ("key.user_id, always:all", {"user_id": None}, "all"),
        ("header:X-Org", {}, "from-header"),
        ("key.org_id", {}, None),
    ],
)
def test_who_pays(sources: str, fields: dict[str, Any], found: str | None) -> None:
    assert find(sources, key(**fields), {"x-org": "from-header"}) == found


@pytest.mark.parametrize(
    ("fields", "ceiling", "output"),
    [
        ({}, None, 100),
        ({}, 50, 50),
        ({"max_tokens": 20}, 50, 20),
        ({"max_tokens": 10**6}, None, 1000),
        ({"max_tokens": 900, "max_completion_tokens": 300}, None, 900),
        ({"max_tokens": -1}, None, 100),
        ({"max_tokens": True}, None, 100),
        ({"max_tokens": "many"}, None, 100),
    ],
)
def test_output_to_hold_for(fields: dict[str, Any], ceiling: int | None, output: int) -> None:
    assert estimate(fields, SETTINGS, ceiling, writes=True).output_tokens == output


def test_a_prompt_is_bounded_by_its_bytes_and_images_are_not_text() -> None:
    text = {"role": "user", "content": "é" * 1000}
    bound = estimate({"messages": [text], "n": 3}, SETTINGS, None, writes=True)
    assert 2000 < bound.prompt_tokens < 2100
    assert bound.answers == 3
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}
    bound = estimate({"messages": [{"content": [image]}]}, SETTINGS, None, writes=True)
    assert IMAGE_TOKENS < bound.prompt_tokens < IMAGE_TOKENS + 200
    nested: Any = "x"
    for _ in range(10_000):
        nested = [nested]
    assert estimate({"input": nested}, SETTINGS, None, writes=False).output_tokens == 0


def test_usage_in_every_shape_becomes_that_of_chat() -> None:
    chat = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_creation_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": None},
    }
    shaped = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert tokens_of_answer({"usage": chat}) == shaped
    assert tokens_of_log({"standard_logging_object": {"metadata": {"usage_object": chat}}}, 0)
    anthropic = {
        **{"input_tokens": 4, "output_tokens": 5},
        **{"cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
    }
    assert tokens_of_answer(SimpleNamespace(usage=SimpleNamespace(**anthropic))) == {
        **shaped,
        "completion_tokens_details": {},
    }
    responses = {
        **{"input_tokens": 10, "output_tokens": 5},
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    assert tokens_of_answer({"usage": responses}) == shaped
    assert tokens_of_answer({"usage": {"total_tokens": 3}}) is None
    assert tokens_of_log({}, None) is None


PRICER = Pricer()


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        (  # 10 at 3, 10,000 at 6 (the price of a cache for an hour), 5 at 15 dollars a million.
            "claude-sonnet-4-5",
            {
                **{"prompt_tokens": 10_010, "completion_tokens": 5},
                "prompt_tokens_details": {
                    "cache_creation_tokens": 10_000,
                    "cache_creation_token_details": {
                        **{"ephemeral_1h_input_tokens": 10_000, "ephemeral_5m_input_tokens": 0}
                    },
                },
            },
            "0.060105",
        ),
        (  # The same in Anthropic's own words.
            "claude-sonnet-4-5",
            {
                **{"input_tokens": 10, "output_tokens": 5},
                **{"cache_read_input_tokens": 0, "cache_creation_input_tokens": 10_000},
                "cache_creation": {"ephemeral_1h_input_tokens": 10_000},
            },
            "0.060105",
        ),
        (  # 20 at 0.3; 10 at 2.5 and 1,290 of an image at 30.
            "gemini-2.5-flash-image",
            {
                **{"prompt_tokens": 20, "completion_tokens": 1_300},
                "completion_tokens_details": {"image_tokens": 1_290, "text_tokens": 10},
            },
            "0.038731",
        ),
        (  # Two searches at 10 dollars for 1,000.
            "claude-sonnet-4-5",
            {
                **{"prompt_tokens": 100, "completion_tokens": 0},
                "server_tool_use": {"web_search_requests": 2},
            },
            "0.0203",
        ),
        (
            "claude-sonnet-4-5",
            {
                **{"prompt_tokens": 100, "completion_tokens": 0},
                "prompt_tokens_details": {"web_search_requests": 2},
            },
            "0.0203",
        ),
        (  # Half price: 1,000 at 3 and 1,000 at 15.
            "claude-sonnet-4-5",
            {"input_tokens": 1_000, "output_tokens": 1_000, "service_tier": "batch"},
            "0.009",
        ),
    ],
    ids=["1 h cache", "1 h cache, Anthropic", "image", "searches", "searches in details", "batch"],
)
@pytest.mark.parametrize("as_object", [False, True], ids=["mapping", "object"])
def test_every_kind_that_has_a_price_reaches_the_pricer(
    model: str, usage: dict[str, Any], dollars: str, as_object: bool
) -> None:
    """A part that is dropped on the way is charged as the plain kind: 6 dollars became 3.75."""
    given: object = usage
    if as_object:
        given = json.loads(json.dumps(usage), object_hook=lambda one: SimpleNamespace(**one))
    tokens = tokens_of_answer({"usage": given})
    assert tokens is not None
    assert PRICER.price(model).cost(tokens) == ceil(Fraction(dollars) * 100_000)


@pytest.mark.parametrize(
    ("traffic", "dollars"),
    [("ON_DEMAND", "0.3"), ("ON_DEMAND_PRIORITY", "0.54"), ("ON_DEMAND_FLEX", "0.15")],
)
def test_geminis_word_for_the_service_tier_is_read(traffic: str, dollars: str) -> None:
    answer = SimpleNamespace(
        usage={"prompt_tokens": 1_000_000, "completion_tokens": 0},
        _hidden_params={"provider_specific_fields": {"traffic_type": traffic}},
    )
    tokens = tokens_of_answer(answer)
    assert tokens is not None
    cost = Pricer().price("gemini/gemini-2.5-flash").cost(tokens)
    assert cost == Fraction(dollars) * 100_000
    answer.service_tier = "default"
    assert "trafficType" not in (tokens_of_answer(answer) or {}), "what the answer says goes first"


def test_half_a_days_cache_writes_are_told() -> None:
    details = {
        "cached_tokens": 0,
        "cache_write_tokens": 3_000,
        "cache_creation_token_details": {
            "ephemeral_30m_input_tokens": 1_000,
            "ephemeral_12h_input_tokens": 2_000,
        },
    }
    usage = {"prompt_tokens": 3_000, "completion_tokens": 0, "prompt_tokens_details": details}
    tokens = tokens_of_answer({"usage": usage})
    assert tokens is not None
    # 12.50 and 25 dollars a million: 1,250 and 5,000 millicredits.
    assert Pricer().price("gpt-6-astra").cost(tokens) == 6_250


def test_the_service_tier_of_the_answer_decides() -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 1_000}
    tokens = tokens_of_answer({"usage": usage, "service_tier": "priority"})
    assert tokens is not None
    assert PRICER.price("gpt-5").cost(tokens) == 2 * PRICER.price("gpt-5").cost(usage)


def test_pieces_of_streams_are_counted() -> None:
    def chunk(**delta: object) -> SimpleNamespace:
        return SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(**delta))])

    assert tokens_of_piece(chunk(content="word")) == 1
    assert tokens_of_piece(chunk(content="", role="assistant")) == 0
    assert tokens_of_piece(chunk(content=None, reasoning_content="thought")) == 1
    assert tokens_of_piece(chunk(content="x" * 400)) == 100
    call = SimpleNamespace(function=SimpleNamespace(name="f", arguments="{}"))
    assert tokens_of_piece(chunk(tool_calls=[call])) == 2
    assert tokens_of_piece(SimpleNamespace(type="response.output_text.delta", delta="a")) == 1
    event = b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n'
    assert tokens_of_piece(event * 3) == 3
    assert tokens_of_piece(object()) == 0


def test_a_call_is_found_by_its_mark_alone_and_ends_once() -> None:
    calls = Calls()

    def add(data: dict[str, Any]) -> Call:
        made = Call("o", "u", "r", "m", 1, 1, 1, {})
        calls.add(made, data)
        return made

    first: dict[str, Any] = {"metadata": {"taximeter_call": "forged"}}
    second: dict[str, Any] = {"litellm_metadata": {}, "metadata": None}
    one, two = add(first), add(second)
    assert calls.of(first) is one
    assert calls.of({"litellm_params": second}) is two
    assert calls.of({"metadata": {"taximeter_call": "forged"}}) is None
    assert calls.of({"litellm_call_id": "r"}) is None
    assert [calls.end(one), calls.end(one)] == [True, False]
    assert calls.of(first) is one
    for _ in range(ENDED_MAX):
        calls.end(add({}))
    assert calls.of(first) is None
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("parameters", "model"),
    [
        ({"model": "gpt-4o"}, ("gpt-4o", None)),
        ({"model": "groq/openai/gpt-oss-120b"}, ("openai/gpt-oss-120b", "groq")),
        (
            {"model": "openai/gpt-oss-120b", "custom_llm_provider": "groq"},
            ("openai/gpt-oss-120b", "groq"),
        ),
        ({"model": "groq/x", "custom_llm_provider": "groq"}, ("x", "groq")),
        ({"model": "azure/of-our-own", "base_model": "gpt-4o"}, ("gpt-4o", "azure")),
        ({"model": "azure/of-our-own", "base_model": "azure/eu/gpt-4o"}, ("eu/gpt-4o", "azure")),
        ({"model": "deepseek/x", "base_model": "openai/gpt-4o"}, ("gpt-4o", "openai")),
        ({"model": "somebody/x"}, ("somebody/x", None)),
        ({"model": "perplexity/sonar"}, ("sonar", "perplexity")),
        ({"model": "perplexity/perplexity/sonar"}, ("perplexity/perplexity/sonar", "perplexity")),
        ({"model": "openai/openai/gpt-4o"}, ("openai/gpt-4o", "openai")),
    ],
)
def test_a_deployment_keeps_its_host(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str], model: tuple[str, str | None]
) -> None:
    """Without it another host's price would be charged, and an imported list not be found."""
    hosts = ["openai", "azure", "groq", "deepseek", "perplexity"]
    known = SimpleNamespace(
        provider_list=hosts, model_cost={"perplexity/sonar": {}, "perplexity/perplexity/sonar": {}}
    )
    monkeypatch.setitem(sys.modules, "litellm", known)
    found = model_of({"litellm_params": parameters})
    assert found is not None
    assert (found.name, found.provider) == model
    assert model_of({"litellm_params": {}}) is None

"""Parts of the LiteLLM logger that need no LiteLLM: who pays, how much at most, what was used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from taximeter.meter.litellm.calls import ENDED_MAX, Call, Calls
from taximeter.meter.litellm.estimate import IMAGE_TOKENS, estimate
from taximeter.meter.litellm.payer import find
from taximeter.meter.litellm.settings import LiteLLMSettings
from taximeter.meter.litellm.stream import tokens_of_piece
from taximeter.meter.litellm.usage import tokens_of_answer, tokens_of_log

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
        ({"max_tokens": 900, "max_completion_tokens": 300}, None, 300),
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

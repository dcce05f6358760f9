"""What is held before a request: never less than it can cost within the bounds that are known."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taximeter.api.llm.estimates import PromptSize, measure
from taximeter.api.openai.parse import parse_request
from taximeter.api.openai.surfaces import Completions, Surface
from taximeter.meter.pricing import Pricer, output_ceiling

PRICER = Pricer()


def chat(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **fields}


def prompt_size(body: dict[str, Any]) -> PromptSize:
    return asyncio.run(measure(body))


def bound(content: Any, model: str = "gpt-4o") -> int:
    return prompt_size(chat(content)).bound(model)


@given(text=st.text(max_size=200), completion=st.integers(0, 5000), cached=st.integers(0, 500))
def test_an_estimate_covers_every_cost_within_its_bounds(
    text: str, completion: int, cached: int
) -> None:
    prompt = len(text.encode("utf-8", "surrogatepass"))
    assert bound(text) > prompt, "no tokenizer makes more tokens than bytes"
    price = PRICER.price("gpt-4o")
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": min(cached, prompt)},
    }
    assert price.cost(usage) <= price.estimate(bound(text), 5000)


@given(
    model=st.sampled_from(["gpt-4o", "gpt-5.4", "claude-sonnet-4-5", "gemini-2.5-pro", "o3"]),
    prompt=st.integers(0, 1_000_000),
    output=st.integers(0, 60_000),
    n=st.integers(1, 5),
    parts=st.tuples(st.integers(0, 100), st.integers(0, 100)),
)
def test_the_sidecars_estimate_covers_caches_and_reasoning(
    model: str, prompt: int, output: int, n: int, parts: tuple[int, int]
) -> None:
    price = PRICER.price(model)
    prompt = min(prompt, price.context_window or prompt)
    output = min(output, price.max_output or output)
    read, written = (prompt * part // 200 for part in parts)
    usage = {
        "input_tokens": prompt - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output * n,
    }
    assert price.cost(usage) <= price.estimate(prompt, output, n)


def test_output_is_held_for_as_the_caller_limits_it() -> None:
    def asked(extra: str) -> int:
        request = parse_request(
            b'{"model": "gpt-4o", "messages": [{}]' + extra.encode() + b"}", Surface()
        )
        return request.output_tokens_limit or 4096

    assert asked("") == 4096
    assert asked(', "max_tokens": 10') == 10
    assert asked(', "max_completion_tokens": 20, "max_tokens": 10') == 20
    assert asked(', "max_completion_tokens": 1, "max_tokens": 900') == 900, "who obeys which?"


def test_an_answer_is_no_longer_than_the_model_can_make_it() -> None:
    price = PRICER.price("gpt-4o")
    assert price.estimate(0, 9_999_999) == price.estimate(0, 16_384)
    assert output_ceiling("gpt-4o") == 16_384
    assert output_ceiling("anthropic/claude-3-haiku-20240307") == 4_096
    assert price.estimate(0, 100, 3) == price.estimate(0, 300)
    assert price.estimate(10**9, 0) == price.estimate(128_000, 0), "the context window"


def test_each_of_several_answers_is_held_for() -> None:
    body = {"model": "gpt-4o", "prompt": ["a", "b"], "n": 2, "best_of": 5, "max_tokens": 7}
    request = parse_request(json.dumps(body).encode(), Completions())
    assert (request.n, (request.output_tokens_limit or 4096)) == (10, 7)


def test_media_are_not_counted_as_text() -> None:
    url = "data:image/png;base64," + "A" * 10**6
    image = {"type": "image_url", "image_url": {"url": url}}
    assert 5_000 < bound([image]) < 6_000
    small = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    assert bound([small]) < 500
    # By OpenAI's page: 2,833 tokens and 5,667 for each of at most 8 tiles.
    assert bound([image], "gpt-4o-mini") > 2_833 + 8 * 5_667
    named = {"type": "file", "file": {"file_id": "file-1"}}
    assert bound([named]) > 900_000
    sent = {"type": "file", "file": {"file_data": "A" * 1000}}
    assert 1_000 < bound([sent]) < 1_100


@pytest.mark.parametrize(
    ("kind", "seconds", "bytes_a_second"), [("wav", 60, 48_000), ("mp3", 60, 4_000)]
)
def test_audio_is_held_for_by_its_length(kind: str, seconds: int, bytes_a_second: int) -> None:
    data = base64.b64encode(bytes(seconds * bytes_a_second)).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": kind}}
    size = prompt_size(chat([part]))
    assert size.audio_tokens >= seconds * 32, "Gemini counts 32 tokens a second, OpenAI 10"
    assert size.bound("gpt-4o-audio-preview") < 100
    price = PRICER.price("gpt-4o-audio-preview")
    estimate = price.estimate(size.bound("x"), 0, audio_tokens=size.audio_tokens)
    assert estimate >= seconds * 10 * 4  # 40 dollars a million: 4 millicredits a token.


def test_what_is_written_to_a_cache_is_held_for_at_that_price() -> None:
    def kind(**cached: str) -> str:
        part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", **cached}}
        return prompt_size(chat([part])).prompt_kind

    assert prompt_size(chat("x")).prompt_kind == "input"
    assert kind() == "cache_write"
    assert kind(ttl="5m") == "cache_write"
    assert kind(ttl="1h") == "cache_write_1h"
    price = PRICER.price("claude-sonnet-4-5")
    held = {
        kind: price.estimate(1000, 0, prompt_kind=kind)
        for kind in ("input", "cache_write", "cache_write_1h")
    }
    assert list(held.values()) == [300, 375, 600]


def test_a_looser_rule_holds_less_and_says_so_in_its_setting() -> None:
    size = prompt_size(chat("x" * 30_000))
    assert size.bound("gpt-4o") > 30_000
    assert 10_000 < size.bound("gpt-4o", 3) < 10_100


def test_a_guess_is_closer_than_a_bound() -> None:
    body = chat("four letters make a token, more or less")
    assert prompt_size(body).guess < prompt_size(body).bound("gpt-4o") / 2


def test_foreign_nesting_does_not_break_it() -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = [deep]
    assert bound(deep) > 5_000
    for part in ({"type": []}, {"type": "input_audio"}, {"type": "file", "file": 1}, 5, None):
        assert bound([part]) > 0

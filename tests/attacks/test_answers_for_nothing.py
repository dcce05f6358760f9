"""Callers who leave before they pay, and usages that cannot be read: whatever an answer is made of
and wherever it is left, what was delivered is charged, and nothing is charged twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.callers import abort, nothing_open, open_request, open_stream, read_until
from support.provider import USAGE, Asked, Provider, chat_answer, chat_chunk, event
from support.waiting import eventually
from support.world import World

from taximeter.api.llm.reported_usage import Bounds, read_usage
from taximeter.api.openai.output import (
    IMAGE_TOKENS,
    CountedOutput,
    EventOutput,
    Output,
    chat_event_output,
    output_of,
)
from taximeter.api.openai.responses import Responses
from taximeter.meter.pricing import Pricer, counts_of

# Some start processes of their own, several of them one after the other.
pytestmark = pytest.mark.timeout(300)
TEXT = "some words that cost money " * 4
SOUND = "QUJD" * 1600
PICTURE = "data:image/png;base64," + "QUJD" * 100


def choice(**fields: Any) -> dict[str, Any]:
    chunk = chat_chunk("")
    return {**chunk, "choices": [{"index": 0, "finish_reason": None, **fields}]}


def delta(**fields: Any) -> dict[str, Any]:
    return choice(delta=fields)


def call(**fields: Any) -> dict[str, Any]:
    return delta(tool_calls=[{"index": 0, "id": "call_1", **fields}])


SHAPES: dict[str, dict[str, Any]] = {
    "content": delta(content=TEXT),
    "content list": delta(content=[{"type": "text", "text": TEXT}]),
    "refusal": delta(refusal=TEXT),
    "function call": call(type="function", function={"name": "f", "arguments": TEXT}),
    "custom tool call": call(type="custom", custom={"name": "f", "input": TEXT}),
    "old function call": delta(function_call={"name": "f", "arguments": TEXT}),
    "reasoning": delta(reasoning=TEXT),
    "reasoning content": delta(reasoning_content=TEXT),
    "reasoning details": delta(reasoning_details=[{"type": "reasoning.text", "text": TEXT}]),
    "hidden reasoning": delta(reasoning_details=[{"type": "reasoning.encrypted", "data": TEXT}]),
    "thinking": delta(thinking=TEXT),
    "thinking blocks": delta(thinking_blocks=[{"type": "thinking", "thinking": TEXT}]),
    "sound": delta(audio={"id": "a", "data": SOUND}),
    "what is said": delta(audio={"id": "a", "transcript": TEXT}),
    "images": delta(images=[{"type": "image_url", "image_url": {"url": PICTURE}}]),
    "text": choice(text=TEXT),
    "message": choice(message={"role": "assistant", "content": TEXT}),
    "beside the choices": {**chat_chunk(""), "choices": [], "answer": {"parts": [TEXT]}},
    "another provider's": {"candidates": [{"content": {"parts": [{"text": TEXT}]}}]},
    "a name of tomorrow": delta(holograms=[{"rays": [[TEXT]]}]),
}
MODES = ["stop", "finish"]
IN_MODES = [{"left_streams": mode} for mode in MODES]


class Shaped:
    """Streams pieces of one shape, and waits where it is told until the caller has left."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {}
        self.left = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        await asked.begin()
        for _ in range(3):
            await asked.chunk(event(self.document))
        await asked.chunk(b": here\n\n")
        await self.left.wait()
        await asked.text(finish="stop", usage=USAGE)
        await asked.end()


@pytest.fixture
def shaped() -> Shaped:
    return Shaped()


@pytest.fixture
async def provider(shaped: Shaped) -> AsyncIterator[Provider]:
    async with Provider(shaped).serving() as opened:
        yield opened


@pytest.fixture
def api_options(provider: Provider, request: pytest.FixtureRequest) -> dict[str, Any]:
    own: dict[str, Any] = getattr(request, "param", {})
    return {"upstream_base_url": provider.url, "upstream_name": "scripted", **own}


async def last_charge(world: World, number: int) -> dict[str, Any]:
    charges = await world.charges()
    assert len(charges) == number
    return {**charges[-1], **json.loads(charges[-1]["metadata"])}


@pytest.mark.parametrize("api_options", IN_MODES, indirect=True, ids=MODES)
async def test_leaving_before_the_usage_is_paid_whatever_was_delivered(
    world: World, shaped: Shaped, request: pytest.FixtureRequest
) -> None:
    await world.funded(credits=90.0)
    finishes = world.settings.left_streams == "finish"
    for number, (name, document) in enumerate(SHAPES.items(), start=1):
        shaped.document = document
        shaped.left.clear()
        raw = await open_stream(world)
        await read_until(raw, b": here")
        abort(raw)
        if finishes:
            shaped.left.set()
        await nothing_open(world)
        charge = await last_charge(world, number)
        shaped.left.set()
        assert charge["credits_used"] > 0, name
        if finishes:
            assert (charge["completion_tokens"], charge.get("estimated")) == (20, None), name
        else:
            # Three pieces, and the fewest tokens that any of them can be.
            least = 3 * (2 if name == "sound" else len(TEXT) // 4)
            assert charge["completion_tokens"] >= least, name
            assert charge["estimated"] is True
    await world.prove()


@pytest.mark.parametrize("api_options", IN_MODES, indirect=True, ids=MODES)
@pytest.mark.parametrize("head", [True, False], ids=["after the head", "before the head"])
async def test_leaving_before_the_first_byte_is_paid(
    world: World, provider: Provider, head: bool
) -> None:
    await world.funded()
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        if head:
            await asked.begin()
        await go_on.wait()
        if not head:
            await asked.begin()
        await asked.text("late", finish="stop", usage=USAGE)
        await asked.end()

    provider.script = script
    raw = await open_stream(world)

    async def is_asked() -> bool:
        return bool(provider.asked)

    await eventually(is_asked, what="a request upstream")
    abort(raw)
    if world.settings.left_streams == "finish":
        go_on.set()
    await nothing_open(world)
    charge = await last_charge(world, 1)
    assert charge["credits_used"] > 0
    assert charge["completion_tokens"] == (20 if world.settings.left_streams == "finish" else 0)
    await world.prove()


@pytest.mark.parametrize("api_options", IN_MODES[:1], indirect=True)
async def test_a_cheap_tier_is_no_wish_of_the_caller(world: World, shaped: Shaped) -> None:
    """Asked for and not granted, it halves no price."""
    await world.funded()
    shaped.document = SHAPES["content"]
    costs = []
    for tier in ({}, {"service_tier": "flex"}):
        raw = await open_stream(world, model="o3", **tier)
        await read_until(raw, b": here")
        abort(raw)
        await nothing_open(world)
        costs.append((await last_charge(world, len(costs) + 1))["credits_used"])
        shaped.left.set()
        shaped.left.clear()
    assert costs[0] == costs[1]


UNREADABLE: dict[str, Any] = {
    "empty": {},
    "nulls": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    "texts": {"prompt_tokens": "10", "completion_tokens": "20"},
    "booleans": {"prompt_tokens": True, "completion_tokens": True},
    "negatives": {"prompt_tokens": -10, "completion_tokens": -20},
    "a negative prompt": {"prompt_tokens": -10, "completion_tokens": 20},
    "one negative": {"prompt_tokens": 10, "completion_tokens": -20},
    "fractions": {"prompt_tokens": 10.5, "completion_tokens": 20.5},
    "beyond all bounds": {"prompt_tokens": 10**40, "completion_tokens": 10**40},
    "only a total": {"total_tokens": 30},
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "no output": {"prompt_tokens": 10, "completion_tokens": 0},
    "Cohere's": {"billed_units": {"input_tokens": 10, "output_tokens": 20}},
    "Ollama's": {"prompt_eval_count": 10, "eval_count": 20},
    "lists": {"prompt_tokens": [10], "completion_tokens": {"n": 20}},
    "null": None,
    "a text": "10 tokens",
    "a list": [{"prompt_tokens": 10, "completion_tokens": 20}],
    "no figure of an output": {"prompt_tokens": 10},
    "no figure of a prompt": {"completion_tokens": 20, "total_tokens": 30},
    "zeros beside nothing read": {
        **{"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        **{"input_tokens": "10", "output_tokens": "20"},
    },
    "zeros of a prompt beside an output": {"prompt_tokens": 0, "completion_tokens": 20},
    "Cohere's other": {"tokens": {"input_tokens": 10, "output_tokens": 20}},
    "Bedrock's, as texts": {"inputTokens": "10", "outputTokens": "20"},
    "Gemini's, negative": {"promptTokenCount": -10, "candidatesTokenCount": 20},
    "details alone": {"completion_tokens_details": {"reasoning_tokens": 20}},
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_usage_that_cannot_be_read_is_none(
    world: World, provider: Provider, stream: bool
) -> None:
    await world.funded(credits=90.0)
    usage: Any = None

    async def script(asked: Asked) -> None:
        if stream:
            await asked.begin()
            await asked.text(TEXT, finish="stop", usage=usage)
            await asked.end()
        else:
            await asked.answer(chat_answer(TEXT, usage=usage))

    provider.script = script
    for number, (name, shape) in enumerate(UNREADABLE.items(), start=1):
        usage = shape
        response = await world.chat(
            stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})
        )
        assert response.status_code == 200, name
        charge = await last_charge(world, number)
        assert charge["credits_used"] > 0, name
        assert charge["completion_tokens"] == len(TEXT) // 4, name
        assert charge["estimated"] is True, name
        assert ("cost_incurred" in response.text) is stream, name
    await world.prove()


async def test_a_usage_beyond_the_context_is_cut_and_told(
    world: World, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    await world.funded(credits=90.0)

    async def script(asked: Asked) -> None:
        usage = {"prompt_tokens": 10, "completion_tokens": 900_000_000}
        await asked.answer(chat_answer(TEXT, usage=usage))

    provider.script = script
    assert (await world.chat(max_tokens=50)).status_code == 200
    charge = await last_charge(world, 1)
    assert charge["completion_tokens"] == 128_000
    assert charge["usage_capped"] is True
    assert "beyond what one request can use" in caplog.text


BOUNDS = Bounds(1000, 1000)


def test_the_shape_that_says_more_is_read() -> None:
    both = {"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 10, "output_tokens": 5}
    found = read_usage(both, BOUNDS, delivered=5, makes_output=True)
    assert found is not None
    price = Pricer().price("gpt-4o")
    assert price.cost(found.usage) == price.cost(
        {**USAGE} | {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    )
    whole = {"prompt_tokens": 12.0, "completion_tokens": 5.0}
    found = read_usage(whole, BOUNDS, delivered=5, makes_output=True)
    assert found is not None
    assert found.usage["prompt_tokens"] == 12
    embedding = {"prompt_tokens": 12, "total_tokens": 12}
    assert read_usage(embedding, BOUNDS, delivered=0, makes_output=False) is not None
    hidden = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 10**8}
    found = read_usage(hidden, BOUNDS, delivered=5, makes_output=True)
    assert found is not None
    assert found.is_capped
    assert found.usage["completion_tokens"] == 1000


@pytest.mark.parametrize(
    ("told", "most"),
    [
        ({"num_search_queries": 10**9}, {"search": 1_000}),
        ({"citation_tokens": 10**9}, {"citation": 10_000_000}),
        ({"images": 10**9}, {"image": 1_000}),
        ({"seconds": 10**9}, {"audio_hour": 86_400}),
    ],
)
def test_what_is_no_token_has_a_bound_too(told: dict[str, Any], most: dict[str, int]) -> None:
    """A billion searches would take any balance below zero."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    found = read_usage({**usage, **told}, BOUNDS, delivered=5, makes_output=True)
    assert found is not None
    assert found.is_capped
    assert counts_of(found.usage).kinds == {"input": 10, "output": 5, **most}
    [name] = told
    few = read_usage({**usage, name: 18}, BOUNDS, delivered=5, makes_output=True)
    assert few is not None
    assert not few.is_capped


def test_what_is_repeated_is_counted_once() -> None:
    """Providers that send the whole message after its pieces, and OpenAI's responses, which say
    everything up to four times.
    """
    delivered = CountedOutput()
    for document in (SHAPES["content"], SHAPES["message"]):
        delivered.add(chat_event_output(document))
    assert delivered.made.tokens == len(TEXT) // 4
    item = {"type": "message", "content": [{"type": "output_text", "text": TEXT}]}
    surface, delivered = Responses(), CountedOutput()
    for document in (
        {"type": "response.created", "response": {"output": []}},
        {"type": "response.output_item.added", "item": {"type": "message", "content": []}},
        {"type": "response.output_text.delta", "delta": TEXT},
        {"type": "response.output_text.done", "text": TEXT},
        {"type": "response.output_item.done", "item": item},
        {"type": "response.completed", "response": {"output": [item]}},
    ):
        delivered.add(surface.event_output(document))
    assert delivered.made.tokens == len(TEXT) // 4
    silent = CountedOutput()
    silent.add(surface.event_output({"type": "response.output_item.done", "item": item}))
    assert silent.made.tokens == len(TEXT) // 4
    sound = surface.event_output({"type": "response.audio.delta", "delta": SOUND})
    assert 0 < sound.streamed.tokens < 10


def test_what_is_seen_is_measured_as_what_it_is() -> None:
    assert output_of(SHAPES["images"]["choices"][0]["delta"]) == Output(images=1)
    assert Output(images=2).tokens == 2 * IMAGE_TOKENS
    assert output_of({"audio": {"data": SOUND}}).tokens == 2
    assert chat_event_output(chat_chunk("", "stop")) == EventOutput(ended=("0",))
    head = {"role": "assistant", "content": ""}
    assert not chat_event_output(choice(delta=head)).streamed.tokens


async def test_who_asks_for_usage_is_told_also_what_was_counted(
    world: World, provider: Provider
) -> None:
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text("a", "b", "c", finish="stop")
        await asked.end()

    provider.script = script
    response = await world.chat(stream=True, stream_options={"include_usage": True})
    last = json.loads(response.text.split("data: ")[-2])
    charge = await last_charge(world, 1)
    assert last["usage"]["completion_tokens"] == charge["completion_tokens"] == 3
    assert round(last["usage"]["cost_incurred"] * 1000) == charge["credits_used"]
    assert last["usage"]["estimated"] is True


async def test_who_never_reads_pays_the_answer(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taximeter.api.llm.streaming.STALLED_S", 0.2)
    await world.funded(credits=90.0)

    async def script(asked: Asked) -> None:
        await asked.begin()
        for _ in range(200):
            await asked.text("word " * 10_000)
        await asked.text(finish="stop", usage=USAGE)
        await asked.end()

    provider.script = script
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    raw = await open_request(world.url, world.token("ann"), body)
    await eventually(lambda: _is_asked(provider), what="a request upstream")
    await nothing_open(world, within_s=60)
    charge = await last_charge(world, 1)
    assert (charge["completion_tokens"], charge.get("estimated")) == (20, None)
    raw.close()


async def _is_asked(provider: Provider) -> bool:
    return bool(provider.asked)

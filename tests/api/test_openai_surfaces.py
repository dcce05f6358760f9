"""Everything that OpenAI's own client does here, with nothing changed but its base URL and key; and
what goes through unknown and untouched.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from support.provider import USAGE, Asked, Provider, chat_answer, chat_chunk, event
from support.world import World

HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}
RESPONSE_USAGE = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 30},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 60,
}
LONG = "Hello " * 200  # A thousand tokens at most, of which none is shorter than a byte.
VECTOR = [0.5, -0.25, 1.0]


class City(BaseModel):
    name: str


def choice(index: int, message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", **message}, "finish_reason": finish}


def response_of(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "gpt-4o",
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": RESPONSE_USAGE if status == "completed" else None,
    }


async def openai_like(asked: Asked) -> None:
    """The parts of OpenAI's API that the tests use, with answers of its shapes."""
    path = asked.line.split(" ")[1].removeprefix("/v1")
    body = asked.body if asked.content else {}
    if path == "/models":
        await asked.answer({"object": "list", "data": [{"id": "gpt-4o"}, {"id": "unpriced"}]})
    elif path == "/embeddings":
        packed = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
        vector = packed if body.get("encoding_format") == "base64" else VECTOR
        one = {"object": "embedding", "index": 0, "embedding": vector}
        usage = {"prompt_tokens": 1000, "total_tokens": 1000}
        data = {"object": "list", "data": [one], "model": body["model"], "usage": usage}
        await asked.answer(data)
    elif path == "/images/generations":
        images = [{"b64_json": "aW1hZ2U="} for _ in range(body.get("n", 1))]
        usage = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210}
        told = {"usage": usage} if body["prompt"] == "told" else {}
        await asked.answer({"created": 1, "data": images, **told})
    elif path == "/completions":
        text = {"text": "once", "index": 0, "logprobs": None, "finish_reason": "stop"}
        answer = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
        if body.get("stream"):
            await asked.begin()
            await asked.chunk(event({**answer, "choices": [{**text, "finish_reason": None}]}))
            await asked.chunk(event({**answer, "choices": [{**text, "text": ""}]}))
            await asked.chunk(event({**answer, "choices": [], "usage": USAGE}))
            await asked.end()
        else:
            await asked.answer({**answer, "choices": [text], "usage": USAGE})
    elif path == "/responses":
        await respond(asked, bool(body.get("stream")))
    else:
        await chat(asked, body)


async def respond(asked: Asked, stream: bool) -> None:
    if not stream:
        await asked.answer(response_of("Hello"))
        return
    await asked.begin()
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    events = [
        {"type": "response.created", "response": response_of("", "in_progress")},
        {"type": "response.output_text.delta", "delta": "Hel", **place},
        {"type": "response.output_text.delta", "delta": "lo", **place},
        {"type": "response.completed", "response": response_of("Hello")},
    ]
    for number, one in enumerate(events):
        named = f"event: {one['type']}\n".encode()
        await asked.chunk(named + event({**one, "sequence_number": number}))
    await asked.send(b"0\r\n\r\n")


async def chat(asked: Asked, body: dict[str, Any]) -> None:
    if body.get("stream"):
        await asked.begin()
        if "tools" in body:
            calls = {"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": "tool_calls"}
            await asked.chunk(event({**chat_chunk(""), "choices": [calls]}))
            await asked.text(usage=USAGE)
        else:
            await asked.text("Hel", "lo", finish="stop", usage=USAGE)
        await asked.end()
        return
    if "tools" in body:
        choices = [choice(0, {"content": None, "tool_calls": [CALL]}, "tool_calls")]
    elif "response_format" in body:
        choices = [choice(0, {"content": '{"name": "Oslo"}'})]
    else:
        choices = [choice(index, {"content": f"{index}"}) for index in range(body.get("n", 1))]
    await asked.answer(chat_answer(choices=choices))


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(openai_like).serving() as opened:
        yield opened


@pytest.fixture
def api_options(provider: Provider) -> dict[str, Any]:
    return {"upstream_base_url": provider.url, "upstream_name": "scripted"}


@pytest.fixture(params=["/v1", "/api/v1/llm"])
def base_url(world: World, request: pytest.FixtureRequest) -> str:
    return f"{world.url}{request.param}"


async def booked(world: World) -> list[dict[str, Any]]:
    charges = [{**one, **json.loads(one["metadata"])} for one in await world.charges()]
    await world.prove()
    for one in charges:
        assert one["reserved"] >= one["credits_used"] > 0
    return charges


async def test_the_async_client(world: World, provider: Provider, base_url: str) -> None:
    await world.funded(credits=100.0)
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key=world.token("ann"), max_retries=0
    ) as client:
        chats = client.chat.completions
        several = await chats.create(model="gpt-4o", messages=HELLO, n=3, seed=7)
        assert [one.message.content for one in several.choices] == ["0", "1", "2"]
        called = await chats.create(model="gpt-4o", messages=HELLO, tools=TOOLS)
        assert called.choices[0].message.tool_calls is not None
        assert called.choices[0].message.tool_calls[0].id == "call_1"
        parsed = await chats.parse(model="gpt-4o", messages=HELLO, response_format=City)
        assert parsed.choices[0].message.parsed == City(name="Oslo")

        chunks = [
            one async for one in await chats.create(model="gpt-4o", messages=HELLO, stream=True)
        ]
        assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hello"
        async with chats.stream(
            model="gpt-4o", messages=HELLO, tools=TOOLS, stream_options={"include_usage": True}
        ) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.tool_calls is not None
        assert final.usage is not None
        assert (final.usage.model_extra or {})["cost_incurred"] > 0

        embedded = await client.embeddings.create(model="text-embedding-3-small", input=LONG)
        assert embedded.data[0].embedding == VECTOR
        plain = await client.embeddings.create(
            model="text-embedding-3-small", input=["a", LONG], encoding_format="float"
        )
        assert plain.data[0].embedding == VECTOR
        image = await client.images.generate(model="gpt-image-1", prompt="told")
        assert image.data is not None
        assert image.data[0].b64_json == "aW1hZ2U="

        older = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="x")
        assert older.choices[0].text == "once"
        answer = await client.responses.create(model="gpt-4o", input="Hello")
        assert answer.output_text == "Hello"
        async with client.responses.stream(model="gpt-4o", input="Hello") as responses:
            last = await responses.get_final_response()
        assert last.output_text == "Hello"
        assert last.usage is not None
        assert (last.usage.model_extra or {})["cost_incurred"] > 0

        assert [one.id async for one in client.models.list()] == ["gpt-4o"]
        assert (await client.models.retrieve("gpt-4o")).owned_by == "scripted"
    charges = await booked(world)
    assert len(charges) == 11
    assert not any(one.get("estimated") for one in charges)
    by_model = {one["service_name"]: one for one in charges}
    # 1,000 tokens at $0.02 and 50 at $5 with 4,160 at $40 a million; 100 credits a dollar.
    assert by_model["text-embedding-3-small"]["credits_used"] == 2
    assert by_model["gpt-image-1"]["credits_used"] == 16_665
    # Of 40 input tokens 30 were cached, at half the price of $2.50; 20 of output at $10.
    assert charges[-1]["credits_used"] == charges[-2]["credits_used"] == 27


async def test_the_sync_client(world: World, base_url: str) -> None:
    await world.funded(credits=100.0)

    def use() -> None:
        with openai.OpenAI(base_url=base_url, api_key=world.token("ann"), max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
            assert float(raw.headers["X-Cost-Incurred"]) > 0
            assert raw.parse().choices[0].message.content == "0"
            stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            assert "".join(one.choices[0].delta.content or "" for one in stream) == "Hello"
            vectors = client.embeddings.create(model="text-embedding-3-small", input=LONG)
            assert vectors.data[0].embedding == VECTOR
            images = client.images.generate(model="gpt-image-1", prompt="told", n=2)
            assert len(images.data or []) == 2
            once = client.completions.create(
                model="gpt-3.5-turbo-instruct", prompt="x", stream=True
            )
            assert "".join(one.choices[0].text for one in once if one.choices) == "once"
            events = list(client.responses.create(model="gpt-4o", input="Hello", stream=True))
            assert events[-1].type == "response.completed"

    await asyncio.to_thread(use)
    assert len(await booked(world)) == 6


async def test_images_without_usage_are_charged_by_their_number(world: World) -> None:
    await world.funded(credits=100.0)
    costs = []
    for count in (1, 3):
        response = await world.client.post(
            "/v1/images/generations",
            json={"model": "gpt-image-1", "prompt": "x", "n": count},
            headers=world.auth("ann"),
        )
        assert response.status_code == 200, response.text
        costs.append(float(response.headers["X-Cost-Incurred"]))
    assert costs[1] > 2.9 * costs[0] > 0
    assert all(one["estimated"] for one in await booked(world))


async def test_what_is_not_known_goes_through_untouched(world: World, provider: Provider) -> None:
    """Byte for byte, both ways: but for what must be added, and what was only for us."""
    await world.funded()
    sent = (
        b'{ "model" : "gpt-4o",\n "prediction": {"x": 1.50, "big": 123456789012345678901234567890},'
        b' "messages": [{"role":"user","content":"\\u00e9\\/", "odd": null}], "temperature": 1E0,'
        b' "max_tokens" : 9 }'
    )
    answer = (
        b'{"id":"1", "price": 0.10, "choices":[ {"index":0,"message":{"content":"x","new":[1.0]}}],'
        b'\n "usage":{"prompt_tokens":10,"completion_tokens":20, "other": {"z":9}} , "e": 1E5}'
    )

    async def script(asked: Asked) -> None:
        await asked.answer(answer)

    provider.script = script
    for content in (sent, sent.replace(b"{ ", b'{"power_level": "eco", "task_type": "t", ', 1)):
        headers = {**world.auth("ann"), "Content-Type": "application/json"}
        response = await world.client.post("/v1/chat/completions", content=content, headers=headers)
        assert response.content == answer
    assert provider.asked[0].content == sent
    with_ours = provider.asked[1].content
    for part in (b'"temperature": 1E0', b'"x": 1.50, "big": 1234567', b'"\\u00e9\\/", "odd": null'):
        assert part in with_ours
    assert b"power_level" not in with_ours


REFUSED: list[Any] = [
    ("completions", {"prompt": None}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": ["a", 1]}, "prompt"),
    ("completions", {"prompt": "x", "best_of": 0}, "best_of"),
    ("embeddings", {"input": {}}, "input"),
    ("embeddings", {"input": ["x"] * 2049}, "input"),
    ("embeddings", {"input": "x", "stream": True}, "stream"),
    ("images/generations", {"prompt": 1}, "prompt"),
    ("images/generations", {"prompt": "x", "n": 11}, "n"),
    ("images/generations", {"prompt": "x", "stream": True}, "stream"),
    ("responses", {"input": ""}, "input"),
    ("responses", {"input": "x", "background": True}, "background"),
    ("responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
    ("responses", {"input": "x", "conversation": "conv_1"}, "conversation"),
    ("responses", {"input": "x", "tools": [{"type": "web_search"}]}, "tools"),
    ("responses", {"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
]


async def test_what_cannot_be_metered_is_refused_by_name(world: World, provider: Provider) -> None:
    await world.funded()
    for path, fields, name in REFUSED:
        response = await world.client.post(
            f"/v1/{path}", json={"model": "gpt-4o", **fields}, headers=world.auth("ann")
        )
        assert response.status_code == 422, (path, fields)
        assert response.json()["error"]["details"]["fields"][0]["field"] == name
    assert not provider.asked


async def test_several_prompts_are_held_for_each(world: World) -> None:
    await world.funded()
    reserved = []
    for prompt in ("x", ["x", "x", "x"], [[1, 2], [3, 4], [5, 6]], [1, 2, 3]):
        response = await world.client.post(
            "/v1/completions",
            json={"model": "gpt-3.5-turbo-instruct", "prompt": prompt, "max_tokens": 1000},
            headers=world.auth("ann"),
        )
        assert response.status_code == 200, response.text
        reserved.append((await world.charges())[-1]["reserved"])
    one, three, three_of_tokens, one_of_tokens = reserved
    assert 2.9 * one < three < 3.1 * one
    assert 2.9 * one < three_of_tokens < 3.1 * one
    assert one_of_tokens < 1.1 * one

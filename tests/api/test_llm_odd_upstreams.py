"""Upstreams that answer in ways of their own, and callers who would gain by that: what reaches the
caller, and what it costs.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.callers import abort, nothing_open, open_stream, read_until
from support.provider import USAGE, Asked, Provider, Script, chat_answer, chat_chunk, event
from support.waiting import eventually
from support.world import World

from taximeter.api.llm import streaming

REASONED = {
    "prompt_tokens": 10,
    "completion_tokens": 5_003,
    "completion_tokens_details": {"reasoning_tokens": 5_000},
}
END = b"data: [DONE]\n\n"


async def unset(asked: Asked) -> None:
    raise AssertionError("a test without a script")


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(unset).serving() as opened:
        yield opened


@pytest.fixture
def api_options(provider: Provider, request: pytest.FixtureRequest) -> dict[str, Any]:
    own: dict[str, Any] = getattr(request, "param", {})
    return {"upstream_base_url": provider.url, "upstream_name": "scripted", **own}


async def only_charge(world: World) -> dict[str, Any]:
    """The one charge, with its metadata; the books are proved with it."""
    [charge] = await world.charges()
    await world.prove()
    return {**charge, **json.loads(charge["metadata"])}


async def nothing_charged(world: World) -> None:
    await nothing_open(world)
    assert await world.charges() == []
    assert (await world.balance()).available == 50_000


def stream_of(*pieces: bytes) -> Script:
    """Sends these as they are, and closes the answer without a fault."""

    async def script(asked: Asked) -> None:
        await asked.begin()
        for piece in pieces:
            await asked.chunk(piece)
        await asked.send(b"0\r\n\r\n")

    return script


def whole(content: object, content_type: str = "application/json") -> Script:
    async def script(asked: Asked) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
        await asked.send(f"{head}\r\n\r\n".encode(), body)

    return script


def choice(text: str, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": finish}


def documents(response: httpx.Response) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in response.text.strip().split("\n\n")]
    return [json.loads(part) for part in parts if part != "[DONE]"]


async def leave(world: World, raw: socket.socket) -> None:
    """Break the connection, and wait until the server has noticed and reads on."""
    abort(raw)

    async def is_noticed() -> bool:
        return len(world.app.state.services.tracker) == 1

    await eventually(is_noticed, what="work that outlives its caller")


FAILED = {"error": {"message": "No worker is free", "code": 502}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "script",
    [whole(FAILED), whole(b"<html>Bad gateway</html>", "text/html"), whole(b""), whole({})],
    ids=["an error", "a page", "nothing", "an empty object"],
)
async def test_a_200_that_holds_no_answer_costs_nothing(
    world: World, provider: Provider, script: Script, stream: bool
) -> None:
    """Some gateways fail with status 200; a prompt that nobody answered is not paid for."""
    await world.funded()
    provider.script = script
    response = await world.chat(stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "UPSTREAM_ERROR")
    await nothing_charged(world)


@pytest.mark.parametrize("path", ["embeddings", "images/generations", "responses", "completions"])
async def test_a_200_without_an_answer_on_every_path(
    world: World, provider: Provider, path: str
) -> None:
    await world.funded()
    provider.script = whole(FAILED)
    body = {
        "model": "gpt-4o-mini",
        ("prompt" if path in ("completions", "images/generations") else "input"): "x",
    }
    response = await world.client.post(f"/v1/{path}", json=body, headers=world.auth("ann"))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "UPSTREAM_ERROR")
    await nothing_charged(world)


async def test_a_whole_answer_in_place_of_a_stream_is_not_given_away(
    world: World, provider: Provider
) -> None:
    """It has no events that could be counted: passed on, it would be an answer for nothing."""
    await world.funded()
    provider.script = whole(chat_answer("the whole secret"))
    response = await world.chat(stream=True)
    assert response.status_code == 502
    assert b"secret" not in response.content
    await nothing_charged(world)


@pytest.mark.parametrize("wanted", [True, False], ids=["asked for", "not asked for"])
async def test_usage_in_every_chunk_is_charged_once_by_the_last(
    world: World, provider: Provider, wanted: bool
) -> None:
    await world.funded()
    chunks = [
        {**chat_chunk(text), "usage": {**USAGE, "completion_tokens": number}}
        for number, text in enumerate(("a", "b", "c"), start=1)
    ]
    last = {**chat_chunk("", "stop"), "usage": USAGE}
    provider.script = stream_of(*map(event, [*chunks, last]), END)
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    response = await world.chat(stream=True, **options)
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge.get("estimated")) == (20, None)
    if wanted:
        cost = documents(response)[-1]["usage"]["cost_incurred"]
        assert round(cost * 1000) == charge["credits_used"]
    else:
        assert b"usage" not in response.content


@pytest.mark.parametrize("api_options", [{"left_streams": "stop"}], indirect=True)
async def test_who_leaves_pays_what_the_upstream_had_said_so_far(
    world: World, provider: Provider
) -> None:
    """The reasoning of a model is in its usage and in no text: counted by the text it is free."""
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.chunk(event({**chat_chunk("three small words"), "usage": REASONED}))
        await asked.gone.wait()

    provider.script = script
    raw = await open_stream(world, model="o3")
    await read_until(raw, b"words")
    abort(raw)
    await nothing_open(world)
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge["estimated"]) == (5_003, True)


async def test_who_leaves_before_the_usage_of_a_complete_answer_pays_it(
    world: World, provider: Provider
) -> None:
    """All that was wanted is here, and the reasoning is not told yet: the moment to leave."""
    await world.funded()
    left = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text("the answer", finish="stop")
        await left.wait()
        await asked.text(usage=REASONED)
        await asked.end()

    provider.script = script
    raw = await open_stream(world, model="o3")
    await read_until(raw, b'"stop"')
    await leave(world, raw)
    left.set()
    await nothing_open(world)
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge.get("estimated")) == (5_003, None)


@pytest.mark.parametrize("api_options", [{"left_streams": "stop"}], indirect=True)
async def test_a_caller_who_does_not_read_keeps_nothing(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected and silent, a few of them would take every connection to the upstream for ever."""
    monkeypatch.setattr(streaming, "STALLED_S", 0.3)
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        while True:
            await asked.text("word " * 10_000)

    provider.script = script
    raw = await open_stream(world)

    async def is_let_go() -> bool:
        return bool(provider.asked) and provider.asked[0].writer.is_closing()

    await eventually(is_let_go, within_s=60, what="the end of the upstream's connection")
    await nothing_open(world)
    raw.close()
    assert (await only_charge(world))["completion_tokens"] > 0


@pytest.mark.parametrize("api_options", [{"left_streams": "finish"}], indirect=True)
async def test_a_stream_that_was_left_is_read_to_its_end_if_the_operator_says_so(
    world: World, provider: Provider
) -> None:
    await world.funded()
    left = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text("half of ")
        await left.wait()
        await asked.text("the answer", finish="stop", usage=REASONED)
        await asked.end()

    provider.script = script
    raw = await open_stream(world, model="o3")
    await read_until(raw, b"half of")
    await leave(world, raw)
    left.set()
    await nothing_open(world)
    charge = await only_charge(world)
    assert (charge["completion_tokens"], charge.get("estimated")) == (5_003, None)
    assert not provider.asked[0].gone.is_set()


async def test_one_of_two_choices_is_not_the_end(world: World, provider: Provider) -> None:
    """The second choice is cut off: the caller is told, and pays what came."""
    await world.funded()
    chunks = [choice("one "), choice("uno ", 1), choice("two", 0, "stop")]
    provider.script = stream_of(*(event({"id": "1", "choices": [one]}) for one in chunks))
    response = await world.chat(stream=True, n=2)
    assert "error" in documents(response)[-1]
    assert END not in response.content
    assert (await only_charge(world))["completion_tokens"] == 3


async def test_an_empty_finish_reason_is_not_the_end(world: World, provider: Provider) -> None:
    await world.funded()
    provider.script = stream_of(event({"id": "1", "choices": [choice("one ", 0, "")]}))
    response = await world.chat(stream=True)
    assert "error" in documents(response)[-1]
    assert END not in response.content


async def test_both_choices_with_tools_are_relayed_and_charged(
    world: World, provider: Provider
) -> None:
    await world.funded()
    calls = [{"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"a":1}'}}]
    tool = {"index": 1, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    pieces = [
        event({"id": "1", "choices": [choice("text", 0, "stop"), tool]}),
        event({"id": "1", "choices": []}),
    ]
    provider.script = stream_of(*pieces)
    response = await world.chat(stream=True, n=2)
    assert response.content == b"".join(pieces) + END
    charge = await only_charge(world)
    # The text, the name of the tool and its arguments.
    assert (charge["completion_tokens"], charge["estimated"]) == (3, True)


async def test_events_cut_anywhere_are_relayed_whole_and_at_once(
    world: World, provider: Provider
) -> None:
    """In the word `data:`, inside of a letter of three bytes, between \\r and \\n."""
    await world.funded()
    text = json.dumps({"choices": [choice("漢字")]}, ensure_ascii=False).encode()
    pieces = [b"da", b"ta: " + text[:-18], text[-18:-17], text[-17:], b"\r", b"\n\r", b"\n"]
    last = event({"choices": [choice("", 0, "stop")]})
    keep_alive = b": still here\r\n\r\n"
    seen = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.chunk(keep_alive)
        for piece in pieces:
            await asked.chunk(piece)
            await asyncio.sleep(0.002)  # So that each comes in a read of its own.
        await seen.wait()
        await asked.chunk(last)
        await asked.text(usage=USAGE)
        await asked.end()

    provider.script = script
    raw = await open_stream(world)
    got = await read_until(raw, b"\n\r\n\r\n")
    got += await read_until(raw, "漢字".encode()) if "漢字".encode() not in got else b""
    seen.set()
    got += await read_until(raw, END)
    raw.close()
    assert keep_alive in got
    assert b"".join(pieces) in got.replace(b"\r\n1\r\n", b"")
    assert (await only_charge(world))["completion_tokens"] == 20


async def test_one_chunk_of_megabytes_is_relayed(world: World, provider: Provider) -> None:
    await world.funded()
    text = "x" * 3_000_000
    pieces = [event({"choices": [choice(text)]}), event({"choices": [choice("", 0, "stop")]})]
    usage = event({"choices": [], "usage": USAGE})
    provider.script = stream_of(b"".join([*pieces, usage, END]))
    response = await world.chat(stream=True)
    assert response.content == b"".join(pieces) + END
    assert (await only_charge(world))["completion_tokens"] == 20


async def test_what_an_upstream_packs_is_unpacked_and_charged(
    world: World, provider: Provider
) -> None:
    """Whole answers and streams in gzip: the caller gets them plain, the first token at once."""
    await world.funded()
    seen = asyncio.Event()

    async def script(asked: Asked) -> None:
        assert "gzip" in asked.headers["accept-encoding"]
        if not asked.body.get("stream"):
            packed = gzip.compress(json.dumps(chat_answer()).encode())
            await asked.answer(packed, Content_Encoding="gzip")
            return
        await asked.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        packer = zlib.compressobj(wbits=31)
        first = packer.compress(event(chat_chunk("first"))) + packer.flush(zlib.Z_SYNC_FLUSH)
        await asked.chunk(first)
        await seen.wait()
        rest = event(chat_chunk("", "stop")) + event({"choices": [], "usage": USAGE}) + END
        await asked.chunk(packer.compress(rest) + packer.flush())
        await asked.send(b"0\r\n\r\n")

    provider.script = script
    answer = await world.chat()
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert "content-encoding" not in answer.headers
    raw = await open_stream(world)
    await read_until(raw, b"first")
    seen.set()
    await read_until(raw, END)
    raw.close()
    await nothing_open(world)
    charges = await world.charges()
    assert [json.loads(one["metadata"])["completion_tokens"] for one in charges] == [20, 20]
    await world.prove()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("said", "told"), [("7", "7"), ("soon", "1"), ("999999", "1")], ids=["7 s", "a word", "days"]
)
async def test_a_provider_that_limits_says_when_to_come_back(
    world: World, provider: Provider, stream: bool, said: str, told: str
) -> None:
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.answer({"error": {"message": "slow down"}}, "429 X", Retry_After=said)

    provider.script = script
    response = await world.chat(stream=stream)
    assert (response.status_code, response.headers["retry-after"]) == (429, told)
    assert response.json()["error"]["details"]["reason"] == "upstream_rate_limit"
    await nothing_charged(world)


@pytest.mark.parametrize(
    "field", ["models", "fallbacks", "model_list", "custom_llm_provider", "api_base"]
)
async def test_a_caller_names_no_model_beside_the_one_that_is_priced(
    world: World, provider: Provider, field: str
) -> None:
    """OpenRouter runs one of `models` when the cheap one is made to fail, LiteLLM `fallbacks`."""
    await world.funded()
    response = await world.chat(**{field: ["gpt-5-pro"]})
    assert (response.status_code, provider.asked) == (422, [])
    assert field in response.json()["error"]["message"]
    await nothing_charged(world)


async def test_a_stream_that_breaks_is_not_begun_elsewhere(
    world: World, provider: Provider
) -> None:
    """Not after its first byte, and not when that byte was a comment."""
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.chunk(b": one moment\n\n")
        asked.reset()

    provider.script = script
    response = await world.chat(stream=True)
    assert "error" in json.loads(response.text.strip().split("data: ")[-1])
    assert len(provider.asked) == 1
    await nothing_charged(world)

    async def nothing_runs() -> bool:
        return len(world.app.state.services.tracker) == 0

    await eventually(nothing_runs, what="the end of all work")


@pytest.mark.parametrize("more", [1, 0], ids=["with more text", "alone"])
@pytest.mark.parametrize("closes", [True, False], ids=["and leaves", "and stays"])
async def test_what_is_no_http_ends_a_stream_properly(
    world: World, provider: Provider, more: int, closes: bool
) -> None:
    """The caller hears of it in the stream, at once, and the body is a whole one: every client
    raises where it is not. The longest silence (two minutes here) is not waited for.
    """
    await world.funded()
    relayed = asyncio.Event()
    text = event(chat_chunk("x"))
    good = b"%x\r\n%b\r\n" % (len(text), text)

    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.send(good)
        await relayed.wait()
        await asked.send(good * more, b"this is no length of a chunk\r\n")
        if closes:
            asked.writer.close()
        else:
            await asked.gone.wait()

    provider.script = script
    raw = await open_stream(world)
    seen = await read_until(raw, b'"x"')
    relayed.set()
    seen += await read_until(raw, b"0\r\n\r\n")
    abort(raw)
    assert b'"code":"UPSTREAM_ERROR"' in seen
    assert b"broke off" in seen
    await nothing_open(world)
    charge = await only_charge(world)
    assert charge["completion_tokens"] == seen.count(b'"x"')

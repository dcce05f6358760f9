"""The simulated provider as OpenAI's own client sees it: every route, whole and streamed."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from support.world import World, serving

from taximeter.api.simulator.app import create_simulator

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving(create_simulator()) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as opened,
    ):
        yield opened


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    for inputs, count in (("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)):
        found = await client.embeddings.create(model="text-embedding-3-small", input=inputs)
        assert [len(one.embedding) for one in found.data] == [8] * count
        assert found.usage.prompt_tokens == found.usage.total_tokens > 0
    plain = await client.embeddings.create(
        model="text-embedding-3-small", input="one", encoding_format="float", dimensions=3
    )
    assert sum(number**2 for number in plain.data[0].embedding) == pytest.approx(1)


async def test_completions(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(
        model="gpt-3.5-turbo-instruct", prompt=["a", "b"], max_tokens=5, n=2
    )
    assert [one.index for one in whole.choices] == [0, 1, 2, 3]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20
    stream = await client.completions.create(
        model="gpt-3.5-turbo-instruct",
        prompt=["a", "b"],
        max_tokens=5,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    first = [c.choices[0].text for c in chunks if c.choices and c.choices[0].index == 0]
    assert "".join(first) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


async def test_responses(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model="gpt-4o", input="Hello")
    assert whole.output_text
    assert (whole.status, whole.usage is not None) == ("completed", True)
    cut = await client.responses.create(model="gpt-4o", input="Hello", max_output_tokens=3)
    assert cut.status == "incomplete"
    assert cut.usage is not None
    assert cut.usage.output_tokens == 3
    async with client.responses.stream(model="gpt-4o", input="Hello") as stream:
        said = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(said) == final.output_text == whole.output_text


async def test_tools_and_sound_in_a_chat(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-4o", "messages": HELLO, "tools": [TOOL]}
    plain = await client.chat.completions.create(**asked)
    assert plain.choices[0].message.content
    called = await client.chat.completions.create(**asked, tool_choice="required")
    assert called.choices[0].finish_reason == "tool_calls"
    [call] = called.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look"
    stream = await client.chat.completions.create(**asked, tool_choice="required", stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    [streamed] = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert streamed.function is not None
    assert streamed.function.arguments == call.function.arguments
    spoken = await client.chat.completions.create(
        model="gpt-4o-audio-preview",
        messages=HELLO,
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "pcm16"},
    )
    assert spoken.choices[0].message.audio is not None
    assert spoken.choices[0].message.audio.transcript


async def test_images_moderation_and_speech(client: openai.AsyncOpenAI) -> None:
    images = await client.images.generate(model="gpt-image-1", prompt="a point", n=2)
    assert len(images.data or []) == 2
    assert images.usage is not None
    assert images.usage.output_tokens == 2 * 4160
    flags = await client.moderations.create(input=["peace", "violence"])
    assert [one.flagged for one in flags.results] == [False, True]
    sound = await client.audio.speech.create(
        model="tts-1", voice="alloy", input="three small words", response_format="wav"
    )
    with wave.open(io.BytesIO(sound.content)) as file:
        assert file.getnframes() == 3 * 800
    said = await client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", sound.content)
    )
    assert said.text
    text = await client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", sound.content), response_format="text"
    )
    assert str(text).strip() == said.text


async def test_what_is_wrong_is_said_as_openai_says_it(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="gpt-9", input="x")
    with pytest.raises(openai.BadRequestError, match="'n' must be"):
        await client.images.generate(model="gpt-image-1", prompt="x", n=99)
    with pytest.raises(openai.BadRequestError, match="'prompt' must be"):
        await client.completions.create(model="gpt-3.5-turbo-instruct", prompt=[])


async def test_behind_the_meter(world: World) -> None:
    """Its answers are metered as a provider's."""
    await world.funded(credits=90.0)
    for path, body in (
        ("embeddings", {"model": "text-embedding-3-large", "input": "word " * 5000}),
        ("completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "x"}),
        ("responses", {"model": "gpt-4o", "input": "x"}),
        ("images/generations", {"model": "gpt-image-1", "prompt": "x"}),
    ):
        response = await world.client.post(f"/v1/{path}", json=body, headers=world.auth("ann"))
        assert response.status_code == 200, response.text
        assert float(response.headers["X-Cost-Incurred"]) > 0, path
    await world.prove()

"""OpenAI's own client works with nothing changed but its base URL and key."""

from __future__ import annotations

import asyncio

import openai
import pytest
from support.world import World


async def test_async_client(world: World) -> None:
    await world.funded()
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key=world.token("ann"), max_retries=0
    ) as client:
        whole = await client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}]
        )
        assert "simulated" in (whole.choices[0].message.content or "")
        assert whole.usage is not None
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}]
        )
        assert float(raw.headers["X-Cost-Incurred"]) > 0
        stream = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.model_extra is not None
        assert chunks[-1].usage.model_extra["cost_incurred"] > 0
    assert len(await world.charges()) == 3


async def test_sync_client(world: World) -> None:
    await world.funded()

    def use() -> tuple[str, str]:
        with openai.OpenAI(
            base_url=f"{world.url}/v1", api_key=world.token("ann"), max_retries=0
        ) as client:
            whole = client.chat.completions.create(
                model="gpt-3.5-turbo", messages=[{"role": "user", "content": "Hello"}]
            )
            stream = client.chat.completions.create(
                model="gpt-3.5-turbo", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return whole.choices[0].message.content or "", text

    whole, streamed = await asyncio.to_thread(use)
    assert whole == streamed != ""


async def test_errors_arrive_as_the_client_knows_them(world: World) -> None:
    """402 is not retried: an empty balance must not make clients hammer."""
    await world.funded(credits=0.001)
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key=world.token("ann"), max_retries=3
    ) as client:
        with pytest.raises(openai.APIStatusError) as refusal:
            await client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}]
            )
        assert refusal.value.status_code == 402
    assert world.upstream_calls == 0


async def test_a_broken_stream_is_an_error_to_the_client(world: World) -> None:
    await world.funded()
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key=world.token("ann"), max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            extra_body={"simulate": {"break_after": 3}},
        )
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in stream:
                pass

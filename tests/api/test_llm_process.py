"""The LLM route in processes that are told to stop, are killed, and serve side by side."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.callers import nothing_open, open_request, read_until
from support.frozen import frozen_objects
from support.processes import running, same_books
from support.provider import USAGE, Asked, Provider, answer_after
from support.waiting import eventually
from support.world import CHAT, SHARDS, World

from taximeter.api.embedded.machine import free_port
from taximeter.settler.worker.sweep import sweep

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


class Gated:
    """A stream that goes on when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        await asked.begin()
        await asked.text(*("word ",) * 30)
        await self.go_on.wait()
        await asked.text("last", finish="stop", usage=USAGE)
        await asked.end()


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
async def provider(gated: Gated) -> AsyncIterator[Provider]:
    async with Provider(gated).serving() as opened:
        yield opened


def settings(world: World, provider: Provider, **others: object) -> dict[str, object]:
    return {**same_books(world), "upstream_base_url": provider.url, **others}


async def charge_of(world: World) -> dict[str, Any]:
    [charge] = await world.charges()
    await world.prove()
    return {**charge, **json.loads(charge["metadata"])}


async def progress(world: World) -> int:
    """The largest progress that a hold reports."""
    found = [0]
    for shard in range(SHARDS):
        records = await world.stores.redis.hgetall(world.stores.keys(shard).holds)
        found += [int(record.split(b"\t")[2]) for record in records.values()]
    return max(found)


async def test_a_gateway_that_is_killed_is_charged_to_its_last_heartbeat(
    world: World, provider: Provider
) -> None:
    """kill -9 in the middle of a stream: the hold ends by itself, with what was reported."""
    await world.funded()
    async with running("api", "--port", "0", **settings(world, provider, hold_ttl_s=1.5)) as api:
        raw = await open_request(api.url, world.token("ann"), {**BODY, "stream": True})
        await read_until(raw, b"word ", times=30)

        async def has_progress() -> bool:
            return await progress(world) > 0

        await eventually(has_progress, within_s=60, what="a heartbeat with progress")
        reported = await progress(world)
        api.process.send_signal(signal.SIGKILL)
        await api.ended()
        raw.close()
        async with asyncio.timeout(60):
            await provider.asked[0].gone.wait()
    assert (await world.balance()).held > 0, "nobody was there to end it"

    async def is_swept() -> bool:
        for shard in range(SHARDS):
            epoch = int(await world.stores.redis.hget(world.stores.keys(shard).meta, "epoch"))
            await sweep(world.stores, shard, epoch)
        return (await world.balance()).held == 0

    await eventually(is_swept, within_s=60, what="the end of the hold")
    charge = await charge_of(world)
    assert charge["credits_used"] == reported > 0
    assert (charge["completion_tokens"], charge["estimated"]) == (30, True)
    assert (await world.balance()).available == 50_000 - reported


async def test_a_signal_lets_a_stream_end(world: World, provider: Provider, gated: Gated) -> None:
    await world.funded()
    metrics_port = free_port()
    options = settings(world, provider, shutdown_grace_s=30, metrics_port=metrics_port)
    async with running("api", "--port", "0", **options) as api:
        raw = await open_request(api.url, world.token("ann"), {**BODY, "stream": True})
        await read_until(raw, b"word ", times=30)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            metrics = await client.get(f"http://127.0.0.1:{metrics_port}/metrics")
        assert frozen_objects(metrics.text) > 10_000
        api.process.send_signal(signal.SIGTERM)

        async def is_closed() -> bool:
            try:
                async with httpx.AsyncClient(trust_env=False) as client:
                    await client.get(f"{api.url}/api/v1/system/status")
            except httpx.TransportError:
                return True
            return False

        await eventually(is_closed, what="the end of new connections")
        gated.go_on.set()
        await read_until(raw, b"[DONE]")
        raw.close()
        await api.ended()
    charge = await charge_of(world)
    assert (charge["completion_tokens"], charge.get("estimated")) == (20, None)


async def test_a_stream_that_outlasts_the_grace_is_charged_by_what_came(
    world: World, provider: Provider
) -> None:
    await world.funded()
    options = settings(world, provider, shutdown_grace_s=1, hold_ttl_s=600)
    async with running("api", "--port", "0", **options) as api:
        raw = await open_request(api.url, world.token("ann"), {**BODY, "stream": True})
        await read_until(raw, b"word ", times=30)
        api.process.send_signal(signal.SIGTERM)
        await api.ended()
        raw.close()
        assert provider.asked[0].gone.is_set()
    assert (await world.balance()).held == 0, "no sweep was needed"
    charge = await charge_of(world)
    assert (charge["completion_tokens"], charge["estimated"]) == (30, True)


async def test_a_signal_while_an_answer_is_waited_for(world: World, provider: Provider) -> None:
    """It is waited for, answered and charged."""
    await world.funded()
    go_on = asyncio.Event()
    provider.script = answer_after(go_on)
    options = settings(world, provider, shutdown_grace_s=30)
    async with running("api", "--port", "0", **options) as api:
        raw = await open_request(api.url, world.token("ann"), BODY)

        async def is_asked() -> bool:
            return bool(provider.asked)

        await eventually(is_asked)
        api.process.send_signal(signal.SIGTERM)
        go_on.set()
        await read_until(raw, b'"usage"')
        raw.close()
        await api.ended()
    assert (await charge_of(world))["completion_tokens"] == 20


async def test_one_key_in_two_processes_calls_upstream_once(
    world: World, provider: Provider
) -> None:
    """Twenty at once: one is answered, and the others are told what became of it."""
    await world.funded()
    go_on = asyncio.Event()
    provider.script = answer_after(go_on)
    options = settings(world, provider)
    headers = {**world.auth("ann"), "Idempotency-Key": "the same"}
    async with (
        running("api", "--port", "0", **options) as one,
        running("api", "--port", "0", **options) as two,
        httpx.AsyncClient(timeout=60, trust_env=False, headers=headers) as client,
    ):

        async def ask(url: str) -> httpx.Response:
            return await client.post(f"{url}{CHAT}", json=BODY)

        asks = [asyncio.create_task(ask(url)) for url in [one.url, two.url] * 10]
        refused = []
        for finished in asyncio.as_completed(asks):
            refused.append(await finished)
            if len(refused) == len(asks) - 1:
                go_on.set()
        answered = refused.pop()
        assert answered.status_code == 200
        for response in refused:
            assert response.status_code == 409
            assert response.json()["error"]["details"]["state"] == "open"
            assert response.headers["X-Should-Retry"] == "false"
            assert response.headers["X-Request-Id"] == answered.headers["X-Request-Id"]
        for settled in (False, True):
            if settled:
                await world.settle()
            for url in (one.url, two.url):
                again = await ask(url)
                assert again.status_code == 409
                assert again.json()["error"]["details"]["state"] == "committed"
                assert again.headers["X-Cost-Incurred"] == answered.headers["X-Cost-Incurred"]
    assert len(provider.asked) == 1
    await nothing_open(world)
    await charge_of(world)


async def test_a_key_whose_request_failed_is_used_too(world: World, provider: Provider) -> None:
    """The upstream was called, so it is not called again; OpenAI's clients are told not to try."""
    await world.funded()

    async def script(asked: Asked) -> None:
        await asked.answer({}, "500 X")

    provider.script = script
    async with (
        running("api", "--port", "0", **settings(world, provider)) as api,
        httpx.AsyncClient(timeout=60, trust_env=False, headers=world.auth("ann")) as client,
    ):
        headers = {"Idempotency-Key": "k"}
        first = await client.post(f"{api.url}{CHAT}", json=BODY, headers=headers)
        assert (first.status_code, first.headers["X-Should-Retry"]) == (502, "false")
        again = await client.post(f"{api.url}{CHAT}", json=BODY, headers=headers)
        assert again.status_code == 409
        assert again.json()["error"]["details"]["state"] == "released"
        without = await client.post(f"{api.url}{CHAT}", json=BODY)
        assert "X-Should-Retry" not in without.headers
    assert len(provider.asked) == 2
    assert await world.charges() == []

"""How the LLM route says that it failed: an id to ask about, and what OpenAI's clients read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from support.proxy import Proxy
from support.world import CHAT, World

FAILURES: list[tuple[dict[str, Any], int, str, str, str | None]] = [
    ({"model": "gpt-9"}, 400, "UNPRICED_MODEL", "invalid_request_error", "model"),
    ({"n": 0}, 422, "VALIDATION_ERROR", "invalid_request_error", "n"),
    ({"hologram": 1}, 422, "VALIDATION_ERROR", "invalid_request_error", "hologram"),
    (
        {"max_tokens": 100_000, "n": 100, "model": "gpt-4o"},
        402,
        "INSUFFICIENT_CREDITS",
        "insufficient_quota",
        None,
    ),
    ({"simulate": {"status": 500}}, 502, "UPSTREAM_ERROR", "server_error", None),
]


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as opened:
        yield opened


@pytest.fixture
def api_options(proxy: Proxy) -> dict[str, Any]:
    return {"redis_url": proxy.url}


async def test_every_refusal_has_an_id_a_type_and_its_parameter(world: World) -> None:
    await world.funded()
    for body, status, code, kind, param in FAILURES:
        response = await world.chat(**body)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, code), response.text
        assert (error["type"], error["param"]) == (kind, param)
        assert response.headers["X-Request-Id"].startswith("req-")
    stranger = await world.chat("stranger")
    nobody = await world.client.post(CHAT, json={})
    for response, status, kind in (
        (stranger, 403, "permission_error"),
        (nobody, 401, "authentication_error"),
    ):
        assert response.status_code == status
        assert response.json()["error"]["type"] == kind
        assert response.headers["X-Request-Id"].startswith("req-")


async def test_openais_client_reads_them(world: World) -> None:
    await world.funded()
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key=world.token("ann"), max_retries=0
    ) as client:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "x"}], n=0
            )
    error = caught.value
    assert (error.code, error.type, error.param) == (
        "VALIDATION_ERROR",
        "invalid_request_error",
        "n",
    )
    assert error.request_id is not None


@pytest.mark.timeouts
async def test_an_outage_is_told_at_once_after_the_first(world: World, proxy: Proxy) -> None:
    """The first request waits for Redis; those after it do not wait for each other's time-outs."""
    await world.funded()
    assert (await world.chat()).status_code == 200
    proxy.black_hole(True)
    first = await world.chat()
    assert first.status_code == 503
    rest = world.app.state.services.store._rest
    rest._until = float("inf")  # However slow this machine is, the rest is not over.
    calls = world.upstream_calls
    meter = await world.app.state.services.meters.get()

    def waiting() -> int:
        return sum(operations for _, operations, _ in meter.pressure())

    before = waiting()  # The first may still be at it.
    for _ in range(20):
        again = await world.chat()
        assert again.status_code == 503
        assert again.json()["error"]["details"]["reason"] == "store_unavailable"
        assert again.headers["Retry-After"] == "1"
    assert waiting() <= before, "none of them asked Redis"
    assert world.upstream_calls == calls
    proxy.heal()
    rest._until = 0.0
    assert (await world.chat()).status_code == 200
    assert (await world.chat()).status_code == 200, "one success is the end of it"

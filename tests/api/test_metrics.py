"""What Prometheus reads of an API: every request, and nothing that a caller can make up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.world import BILLING, CHAT, World

from taximeter.api.embedded.machine import free_port
from taximeter.api.processes.exposed import serving_metrics
from taximeter.api.upstreams.config import ConfigError

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def scraping(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """The figures of a running API, on a port of their own."""
    port = free_port()
    settings = world.settings.model_copy(update={"metrics_port": port})
    services = dataclasses.replace(world.app.state.services, settings=settings)
    async with (
        serving_metrics(services, world.app.outermost),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


async def scrape(client: httpx.AsyncClient) -> Samples:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"taximeter_{name}", frozenset(labels.items())


async def test_every_request_is_counted_by_its_route(world: World) -> None:
    await world.funded()
    async with scraping(world) as client:
        assert (await world.chat()).status_code == 200
        assert (await world.client.get(f"{BILLING}/credits/acme")).status_code == 401
        found = await scrape(client)
    assert found[of("http_requests_total", method="POST", route=CHAT, status="200")] == 1
    assert found[of("http_request_seconds_count", method="POST", route=CHAT)] == 1
    pool = f"{BILLING}/credits/{{org_id}}"
    assert found[of("http_requests_total", method="GET", route=pool, status="401")] == 1
    assert found[of("store_up", store="postgres")] == found[of("store_up", store="redis")] == 1
    assert found[of("shard_open", shard="1")] == 1
    assert found[of("llm_requests", state="open")] == 0
    assert found[of("pending_charges")] == 0
    assert found[of("wait_seconds_count", shard="0")] >= 0
    (upstream,) = world.app.state.services.router.upstreams
    assert found[of("upstream_up", upstream=upstream)] == 1
    assert found[of("upstream_requests_total", upstream=upstream, outcome="answered")] == 1
    assert found[of("upstream_requests_total", upstream=upstream, outcome="failed")] == 0
    assert found[of("upstream_first_byte_seconds_count", upstream=upstream)] == 1
    assert found[of("upstream_answer_seconds_count", upstream=upstream)] == 1
    assert found[of("upstream_connections", upstream=upstream, state="used")] == 0
    assert found[of("upstream_resting", upstream=upstream)] == 0
    assert found[of("redis_connections", state="lanes")] >= 1
    assert found[of("redis_client_connections", state="idle")] >= 1
    assert of("credit_line_requests", state="open") not in found, "there is none"
    assert found[of("operations_total", operation="reserve", outcome="done")] == 1
    assert found[of("operations_total", operation="commit", outcome="done")] == 1
    assert found[of("operation_seconds_count", operation="reserve")] == 1
    (charge,) = await world.charges()
    charged = found[of("charged_credits_total", operation="commit")]
    assert charged == charge["credits_used"] / 1000
    assert found[of("held_credits_total")] >= charged
    assert found[of("refusals_total", surface="admin", reason="unauthorized")] == 1
    assert found[of("refusals_total", surface="llm", reason="insufficient_credits")] == 0
    version = world.app.state.services.pricer.list_version
    assert found[of("price_list_info", version=version)] == 1
    assert 0 < found[of("price_list_dated_timestamp_seconds")] < time.time()
    for pool in ("api", "api-keys"):
        assert found[of("postgres_connections", pool=pool, state="max")] > 0


async def test_refusals_are_counted_by_their_reason(world: World) -> None:
    await world.funded(credits=0.001)
    async with scraping(world) as client:
        before = await scrape(client)
        assert (await world.chat()).status_code == 402
        assert (await world.chat(model=7)).status_code == 422
        assert (await world.client.post(CHAT, json={})).status_code == 401
        body = {"user_id": "ann", "credits": 10**9}
        allocate = f"{BILLING}/credits/acme/allocate"
        boss = world.auth("boss")
        assert (await world.client.post(allocate, json=body, headers=boss)).status_code == 400
        assert (await world.client.get("/nowhere")).status_code == 404
        found = await scrape(client)
    grown = {
        (labels["surface"], labels["reason"]): value - before.get((name, frozen), 0)
        for (name, frozen), value in found.items()
        if name == "taximeter_refusals_total"
        if value > before.get((name, frozen), 0)
        for labels in [dict(frozen)]
    }
    assert grown == {
        ("llm", "insufficient_credits"): 1,
        ("llm", "invalid_field"): 1,
        ("llm", "unauthorized"): 1,
        ("admin", "insufficient_credits"): 1,
        ("admin", "not_there"): 1,
    }


async def test_no_caller_makes_series(world: World) -> None:
    """Models, organisations, paths, methods and headers of callers are in no label."""
    await world.funded()

    async def ask(number: int) -> None:
        word = f"made-up-{number}"
        await world.chat(model=word)
        await world.client.get(f"{BILLING}/credits/{word}", headers=world.auth(word))
        await world.client.get(f"/{word}/{word}?{word}={word}")
        await world.client.request(f"M{number}", f"{BILLING}/plans", headers={"X-User-Id": word})

    async with scraping(world) as client:
        await ask(0)
        few = await scrape(client)
        for number in range(1, 30):
            await ask(number)
        many = await scrape(client)
    assert few.keys() == many.keys()
    assert not [labels for _, labels in many if "made-up" in str(labels)]
    assert many[of("http_requests_total", method="GET", route="other", status="404")] == 30


async def test_a_port_that_is_taken_is_named(world: World) -> None:
    async with scraping(world) as client:
        port = client.base_url.port
        settings = world.settings.model_copy(update={"metrics_port": port})
        services = dataclasses.replace(world.app.state.services, settings=settings)
        with pytest.raises(ConfigError, match=f"TAXIMETER_METRICS_PORT.*{port}"):
            async with serving_metrics(services, world.app.outermost):
                raise AssertionError

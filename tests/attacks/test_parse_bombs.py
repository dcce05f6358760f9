"""Bodies that cost the server far more than their sender: refused before they are parsed, by whom
they are from or by their shape, while everybody else is served as ever.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes import Running, running, same_books
from support.world import BILLING, CHAT, World

from taximeter.api.web.json_numbers import parse_json
from taximeter.api.web.json_shape import GROUP_OF_VALUES, Shape

# Some start processes of their own, several of them one after the other.
pytestmark = pytest.mark.timeout(300)
BOMB_BYTES = 8_000_000
CALLS = 12
SLOWER_MAX = 3
"""Times the latency beside callers of harmless bodies as long as a bomb, which must be received as
well: how long a machine takes for megabytes says nothing about bombs. Parsed bombs made it
fourteen times as long.
"""
GROWTH_BYTES_MAX = 300_000_000


def bomb(element: bytes) -> bytes:
    head = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":['
    return head + b",".join([element] * (BOMB_BYTES // (len(element) + 1))) + b"]}]}"


BOMBS = {
    "empty lists": b"[]",
    "empty objects": b"{}",
    "numbers": b"1",
    "texts": b'""',
    "parts": b'{"type":"text"}',
}


def peak_bytes(api: Running) -> int:
    """Most memory that the process ever had."""
    status = Path(f"/proc/{api.process.pid}/status").read_text()
    [line] = [one for one in status.splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@asynccontextmanager
async def again_and_again(work: Callable[[], Any], times: int) -> AsyncIterator[list[int]]:
    """Several callers who do nothing else; yields the statuses that they got."""
    statuses: list[int] = []

    async def loop() -> None:
        while True:
            with suppress(httpx.HTTPError):
                statuses.append((await work()).status_code)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(loop()) for _ in range(times)]
    try:
        yield statuses
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def latencies(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> list[float]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    found = []
    for _ in range(CALLS):
        began = time.perf_counter()
        response = await client.post(f"{url}{CHAT}", json=body, headers=headers)
        found.append(time.perf_counter() - began)
        assert response.status_code == 200, response.text
    return found


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


@pytest.mark.alone
@pytest.mark.parametrize("who", ["without credits", "without an organization", "with credits"])
async def test_nobody_else_waits_for_a_bomb(world: World, who: str) -> None:
    """Six callers throw bombs of every kind; another organisation's calls take no longer than
    beside harmless bodies of that length, and memory stays where it was.
    """
    await world.funded("victim", org="honest")
    await world.funded("rich", org="hostile")
    await world.add_member("poor", "hostile")
    attacker = {"without credits": "poor", "with credits": "rich"}.get(who, "stranger")
    expected = {"without credits": {402}, "with credits": {422, 429}}.get(who, {403})
    bombs = [bomb(element) for element in BOMBS.values()]
    harmless = [b'{"messages":[],"model":"' + b"x" * BOMB_BYTES + b'"}']
    options = {**same_books(world), "upstream_base_url": world.settings.upstream_base_url}
    async with (
        # Every bomb is looked at and refused at once: late refusals are judged elsewhere.
        running("api", "--port", "0", **options, strangers_per_minute=0) as api,
        httpx.AsyncClient(timeout=60, trust_env=False) as client,
        httpx.AsyncClient(timeout=60, trust_env=False) as hostile,
    ):
        headers = {"Content-Type": "application/json", **world.auth(attacker)}

        async def beside(bodies: list[bytes]) -> float:
            turns = itertools.cycle(bodies)

            async def throw() -> httpx.Response:
                return await hostile.post(f"{api.url}{CHAT}", content=next(turns), headers=headers)

            async with again_and_again(throw, times=6) as statuses:
                await throw()
                found = await latencies(client, api.url, world.auth("victim"))
            assert set(statuses) <= expected, statuses
            assert statuses
            return p95(found)

        await latencies(client, api.url, world.auth("victim"))  # Everything is connected now.
        memory = peak_bytes(api)
        beside_bombs = await beside(bombs)
        assert peak_bytes(api) - memory < GROWTH_BYTES_MAX
        beside_harmless = await beside(harmless)
        assert beside_bombs < SLOWER_MAX * beside_harmless, (beside_harmless, beside_bombs)
    await world.prove()


async def test_the_limits_of_a_body_are_named(world: World) -> None:
    await world.funded()
    headers = {"Content-Type": "application/json", **world.auth("ann")}
    deep = b'{"model":"gpt-4o-mini","messages":' + b"[" * 70 + b"]" * 70 + b"}"
    many = {"model": "gpt-4o-mini", "messages": [{"content": "x", "y": [1] * 100_000}]}
    for content, word in ((deep, "64 levels"), (json.dumps(many).encode(), "100000 values")):
        response = await world.client.post(CHAT, content=content, headers=headers)
        assert response.status_code == 422
        assert word in response.json()["error"]["message"]
    assert world.upstream_calls == 0


async def test_text_of_megabytes_is_one_value(world: World) -> None:
    """What looks like structure inside a text is none."""
    await world.funded(credits=90.0)
    text = '[{"a\\\\": [1,2,\\"3"]}],' * 100_000
    response = await world.chat(messages=[{"role": "user", "content": text}])
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10**6])
def test_the_shape_is_the_same_however_a_body_is_cut(size: int) -> None:
    document = {
        'a"\\': ["[[[", "\\", '\\"', {"b": [[], {}, None]}, "é", 1.5],
        "c": {"d": {"e": ["}"] * 50}},
    }
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False, indent=1)):
        content = text.encode()
        shape = Shape(10**6)
        for start in range(0, len(content), size):
            shape.feed(content[start : start + size])
        commas, groups = 1 + 5 + 2 + 49, 9
        assert shape._values == 1 + commas + GROUP_OF_VALUES * groups
        assert (shape._depth, shape._in_string) == (0, False)


@pytest.mark.parametrize("element", [*BOMBS.values(), b'"\\"\\"\\\\"', b"\\", b'"' + b"\\" * 9])
def test_the_shape_takes_the_same_time_per_byte(element: bytes) -> None:
    """Ten times the bytes take about ten times as long, whatever they are."""

    def seconds(count: int) -> float:
        content = element * (count // len(element))
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            Shape(10**12, 10**12).feed(content)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(2_000_000) < 40 * seconds(200_000)


ADMIN_BOMBS = {
    "depth": b'{"user_id":"ann","credits":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "values": b'{"user_id":"ann","credits":[' + b"[]," * 15_000 + b"[]]}",
    "a name twice": b'{"user_id":"ann","user_id":"bob","credits":1}',
    "a name twice inside": b'{"user_id":"ann","credits":1,"x":{"a":1,"a":2}}',
}


@pytest.mark.parametrize("content", ADMIN_BOMBS.values(), ids=ADMIN_BOMBS.keys())
async def test_admin_bodies_have_a_shape_too(world: World, content: bytes) -> None:
    await world.funded()
    headers = {"Content-Type": "application/json", **world.auth("boss")}
    response = await world.client.post(
        f"{BILLING}/credits/acme/allocate", content=content, headers=headers
    )
    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith("body: ")
    assert (await world.balance()).available == 50_000


def test_a_name_that_stands_twice_is_no_json() -> None:
    assert parse_json(b'{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2}
    with pytest.raises(json.JSONDecodeError, match="'b' stands twice"):
        parse_json(b'{"a": {"b": 1, "b": 1}}')

"""docs/llm-route.md: its file of upstreams, its commands and its tables are true."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.processes import Running, running, same_books
from support.provider import USAGE, Asked, Provider, chat_answer
from support.world import World

from taximeter.api.llm.config import UpstreamConfig
from taximeter.api.llm.endpoint import API_ROOT, SURFACE_OF

PAGE = (Path(__file__).parents[2] / "docs" / "llm-route.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8084"
KEYS = {"OPENAI_API_KEY": "documented-key-1", "AZURE_OPENAI_API_KEY": "documented-key-2"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


async def openai_like(asked: Asked) -> None:
    if asked.line.startswith("GET"):
        await asked.answer({"data": []})
    elif asked.body.get("stream"):
        await asked.begin()
        await asked.text("Hi ", "there", finish="stop", usage=USAGE)
        await asked.end()
    else:
        await asked.answer(chat_answer())


@pytest.fixture
async def providers() -> AsyncIterator[dict[str, Provider]]:
    """One for each upstream of the page, by the base URL that it has there."""
    urls = [one["base_url"] for one in tomllib.loads(blocks("toml")[0])["upstreams"]]
    opened = {url: Provider(openai_like) for url in urls}
    async with AsyncExitStack() as stack:
        for provider in opened.values():
            await stack.enter_async_context(provider.serving())
        yield opened


@pytest.fixture
async def api(
    world: World,
    providers: dict[str, Provider],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Running]:
    """The documented file, with its addresses where the test's providers are."""
    [text] = blocks("toml")
    for url, provider in providers.items():
        assert text.count(url) == 1
        text = text.replace(url, provider.url)
    path = tmp_path / "upstreams.toml"
    path.write_text(text, encoding="utf-8")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    await world.funded()
    async with running("api", "--port", "0", **same_books(world), upstreams_file=path) as found:
        yield found


async def run(*command: str, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **variables}, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_the_page_is_true(world: World, api: Running, providers: dict[str, Provider]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    token = world.token("ann")
    [code] = blocks("python")
    printed = await run(sys.executable, "-c", code.replace(ADDRESS, api.url), TAXIMETER_TOKEN=token)
    assert re.fullmatch(r"Hi there\ncost: 0\.\d+ left: 49\.\d+\n", printed)

    start, ask, look = blocks("sh")
    assert "taximeter api --port 8084" in start
    answer = await run("bash", "-c", ask.replace(ADDRESS, api.url), TAXIMETER_TOKEN=token)
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    assert json.loads(body) == chat_answer()
    assert headers["x-provider-used"] == "openai"
    again = await run("bash", "-c", ask.replace(ADDRESS, api.url), TAXIMETER_TOKEN=token)
    assert again.startswith("HTTP/1.1 409")
    command = look.replace(ADDRESS, api.url)
    request_id = headers["x-request-id"]
    await world.settle()
    found = json.loads(
        await run("bash", "-c", command, TAXIMETER_TOKEN=token, REQUEST_ID=request_id)
    )
    assert found["settlement"] == "settled"
    assert found["cost_incurred"] == float(headers["x-cost-incurred"])

    openai, azure, own = providers.values()
    assert [one.headers["authorization"] for one in openai.asked] == ["Bearer documented-key-1"] * 2
    openai.close()
    # The second target of the route, under its name there and with the key in its own header.
    fresh = ask.replace(ADDRESS, api.url).replace("order-17", "order-18")
    assert "x-provider-used: azure" in await run("bash", "-c", fresh, TAXIMETER_TOKEN=token)
    assert azure.asked[0].headers["api-key"] == "documented-key-2"
    assert "authorization" not in azure.asked[0].headers
    assert azure.asked[0].body["model"] == "mini-eu"
    house = fresh.replace("order-18", "order-19").replace("gpt-4o-mini", "house-large")
    assert "x-provider-used: own" in await run("bash", "-c", house, TAXIMETER_TOKEN=token)
    assert own.asked[0].headers["x-team"] == "gateway"
    assert own.asked[0].body["model"] == "llama-3.3-70b"
    await world.prove()


def test_every_path_is_named() -> None:
    named = set(re.findall(r"`(?:(?:GET|POST) )?(/[a-z/{}]+)`", PAGE))
    for path in SURFACE_OF:
        assert path.removeprefix(API_ROOT).removeprefix("/v1") in named


def test_every_field_of_an_upstream_has_its_default_there() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|\s*([^|]*?)\s*\|", PAGE, re.MULTILINE)
    shown = {name: default for names, default in rows for name in re.findall(r"`([a-z_]+)`", names)}
    for name, info in UpstreamConfig.model_fields.items():
        assert name in shown, name
        if isinstance(info.default, int | float):
            assert f"{info.default:g}" in shown[name].split(", "), name

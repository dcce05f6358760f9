"""docs/llm-route.md: its file of upstreams and its tables are true."""

from __future__ import annotations

import re
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from support.processes import Running, running, same_books
from support.provider import USAGE, Asked, Provider, chat_answer
from support.world import World

from taximeter.api.llm.callers import API_ROOT
from taximeter.api.llm.endpoint import SURFACE_OF
from taximeter.api.upstreams.config import UpstreamConfig

PAGE = (Path(__file__).parents[2] / "docs" / "llm-route.md").read_text(encoding="utf-8")
KEYS = {"OPENAI_API_KEY": "documented-key-1", "AZURE_OPENAI_API_KEY": "documented-key-2"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


async def openai_like(request: Asked) -> None:
    if request.line.startswith("GET"):
        await request.answer({"data": []})
    elif request.body.get("stream"):
        await request.begin()
        await request.text("Hi ", "there", finish="stop", usage=USAGE)
        await request.end()
    else:
        await request.answer(chat_answer())


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


async def asked(url: str, token: str, model: str = "gpt-4o-mini") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        return await client.post("/v1/chat/completions", json=body, headers=headers)


async def test_the_file_is_true(world: World, api: Running, providers: dict[str, Provider]) -> None:
    """What is typed on the page is run by tests/pages, with one upstream."""
    token = world.token("ann")
    answer = await asked(api.url, token)
    assert answer.json() == chat_answer()
    assert answer.headers["x-provider-used"] == "openai"
    openai, azure, own = providers.values()
    assert [one.headers["authorization"] for one in openai.asked] == ["Bearer documented-key-1"]
    openai.close()
    # The second target of the route, under its name there and with the key in its own header.
    answer = await asked(api.url, token)
    assert answer.headers["x-provider-used"] == "azure"
    assert azure.asked[0].headers["api-key"] == "documented-key-2"
    assert "authorization" not in azure.asked[0].headers
    assert azure.asked[0].body["model"] == "mini-eu"
    answer = await asked(api.url, token, "house-large")
    assert answer.headers["x-provider-used"] == "own"
    assert own.asked[0].headers["x-team"] == "gateway"
    assert own.asked[0].body["model"] == "llama-3.3-70b"
    await world.settle()
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

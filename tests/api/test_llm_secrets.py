"""Keys of providers stay here: whatever an upstream sends back, and wherever it fails."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.forked import run_forked
from support.processes import running, same_books
from support.provider import USAGE, Asked, Provider, chat_answer, chat_chunk, event
from support.world import CHAT, World

from taximeter.api.settings.api import ApiSettings
from taximeter.api.upstreams.config import ConfigError, load_routing

CANARY = "sk-canary-4f1d8b7e2c9a"
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


def key_of(asked: Asked) -> str:
    return asked.headers["authorization"]


def error(status: int) -> Any:
    async def script(asked: Asked) -> None:
        said = f"Wrong: {key_of(asked)}"
        await asked.answer(
            {"error": {"message": said, "type": said, "code": said}, "headers": asked.headers},
            f"{status} X",
            X_Request_Id=key_of(asked),
            Location=f"http://127.0.0.1:1/{CANARY}",
            Retry_After=key_of(asked),
        )

    return script


async def whole(asked: Asked) -> None:
    answer = chat_answer(f"You sent {key_of(asked)}", headers=asked.headers)
    await asked.answer(answer, X_Request_Id=key_of(asked), Openai_Processing_Ms=CANARY)


async def wrong_length(asked: Asked) -> None:
    await asked.send(f"HTTP/1.1 200 OK\r\nContent-Length: {key_of(asked)}\r\n\r\n".encode())
    asked.writer.close()


async def no_http(asked: Asked) -> None:
    await asked.send(f"{key_of(asked)}\r\n\r\n".encode())
    asked.writer.close()


async def bad_header(asked: Asked) -> None:
    await asked.send(f"HTTP/1.1 200 OK\r\n{key_of(asked)}\x00\r\n\r\n".encode())
    asked.writer.close()


async def breaks(asked: Asked) -> None:
    await asked.send(f"HTTP/1.1 200 {key_of(asked)}\r\nContent-Length: 99\r\n\r\n{CANARY}".encode())
    asked.reset()


async def stream(asked: Asked) -> None:
    await asked.begin()
    await asked.chunk(event({**chat_chunk(f"a {key_of(asked)} b"), "echo": asked.headers}))
    await asked.text(finish="stop")
    usage = {**chat_chunk(CANARY), "choices": [], "usage": USAGE}
    await asked.chunk(event(usage))
    await asked.end()


def stream_error(after: int) -> Any:
    async def script(asked: Asked) -> None:
        await asked.begin()
        await asked.text(*("x",) * after)
        await asked.chunk(event({"error": {"message": key_of(asked)}}))
        await asked.end()

    return script


async def bad_chunk(asked: Asked) -> None:
    await asked.begin()
    await asked.text("x")
    await asked.send(f"{CANARY}\r\n".encode())
    asked.writer.close()


STATUSES = (300, 307, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504)
SCRIPTS = [
    *map(error, STATUSES),
    *(whole, wrong_length, no_http, bad_header, breaks),
    *(stream, stream_error(0), stream_error(2), bad_chunk),
]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(whole).serving() as opened:
        yield opened


async def test_the_key_reaches_no_caller_and_no_log(world: World, provider: Provider) -> None:
    await world.funded()
    replies = []
    options = same_books(world)
    async with (
        running(
            *("api", "--port", "0"),
            **{**options, "upstream_base_url": provider.url, "upstream_api_key": CANARY},
            upstream_timeout_s=3,
        ) as api,
        httpx.AsyncClient(timeout=60, trust_env=False, headers=world.auth("ann")) as client,
    ):
        for script in SCRIPTS:
            provider.script = script
            for streamed in (False, True):
                body = {**BODY, "stream": streamed, "stream_options": {"include_usage": True}}
                replies.append(await client.post(f"{api.url}{CHAT}", json=body))
        request_id = replies[-1].headers["X-Request-Id"]
        paths = (
            *("/v1/models", f"/v1/requests/{request_id}", "/openapi.json", "/metrics"),
            *("/api/v1/system/status", "/v1/nothing"),
        )
        replies += [await client.get(f"{api.url}{path}") for path in paths]
        api.process.terminate()
        await api.ended()
        assert b"127.0.0.1" in api.output, "the output is captured"
    assert len(provider.asked) >= 2 * len(SCRIPTS)
    assert all(CANARY in key_of(asked) for asked in provider.asked), "the upstream gets it"
    for reply in replies:
        shown = f"{reply.status_code} {reply.headers.raw!r} {reply.text}"
        assert "canary" not in shown, shown
    assert {200, 400, 502} <= {reply.status_code for reply in replies}
    assert any("[hidden]" in reply.text for reply in replies)
    assert b"canary" not in api.output, api.output.decode()
    for charge in await world.charges():
        assert "canary" not in json.dumps(charge, default=str)


BAD_FILES: list[Any] = [
    ("routes = 1", "routes: Input should be a valid list"),
    ('[[upstreams]]\nname = "a b"', "upstreams.0.name: String should match pattern"),
    ("routes = [", "is not valid TOML"),
    (
        f'[[upstreams]]\nname = "a"\nbase_url = "ftp://x"\napi_key = "{CANARY}"\n'
        '[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "a"}]',
        "upstreams.0.base_url: must start with http:// or https:// and name a host",
    ),
    (
        f'[[upstreams]]\nname = "a"\nbase_url = "http://u:{CANARY}@x/v1"\n'
        '[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "a"}]',
        "upstreams.0.base_url: must have no user, password, query or fragment",
    ),
    (
        f'[[upstreams]]\nname = "a"\nbase_url = "http://x"\napi_key = "{CANARY}"\n'
        'api_key_env = "X"\n[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "a"}]',
        "upstreams.0: give one of api_key, api_key_env and api_key_file",
    ),
    (
        f'[[upstreams]]\nname = "a"\nbase_url = "http://x"\napi_key = " {CANARY}\\n"\n'
        '[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "a"}]',
        "upstreams.0: the key must be printable ASCII without spaces at its ends",
    ),
    (
        '[[upstreams]]\nname = "a"\nbase_url = "http://x"\napi_key_env = "NOT_SET_ANYWHERE"\n'
        '[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "a"}]',
        "upstreams.0: the variable NOT_SET_ANYWHERE is not set",
    ),
    (
        f'[[upstreams]]\nname = "a"\nbase_url = "http://x"\napi_kee = "{CANARY}"\n'
        '[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "a"}]',
        "upstreams.0.api_kee: Extra inputs are not permitted",
    ),
    (
        f'[[upstreams]]\nname = "a"\nbase_url = "http://x"\napi_key = "{CANARY}"\n'
        '[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "b"}]',
        "routes.0: there is no upstream b, only a",
    ),
    (
        '[[upstreams]]\nname = "a"\nbase_url = "http://x"\nretries = 99\n'
        '[[routes]]\nmodels = ["*"]\ntargets = [{upstream = "a"}]',
        "upstreams.0.retries: Input should be less than or equal to 5",
    ),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_file_that_cannot_be_used_is_refused_by_field(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "upstreams.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        load_routing(ApiSettings(dev_mode=True, upstreams_file=path))
    assert words in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert CANARY not in str(refusal.value)


def test_the_command_says_so_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "upstreams.toml"
    path.write_text(BAD_FILES[3][0], encoding="utf-8")
    finished = run_forked(
        *("api", "--port", "0"),
        environment={
            **os.environ,
            "TAXIMETER_DEV_MODE": "1",
            "TAXIMETER_UPSTREAMS_FILE": str(path),
        },
        folder=tmp_path,
    )
    assert finished.returncode == 1
    assert finished.text.startswith(f"Error: {path}: {BAD_FILES[3][1]}")
    assert CANARY not in finished.text


def test_a_provider_without_prices_is_said_in_one_line(tmp_path: Path) -> None:
    """It is found when the lists are read, in the start of the server itself."""
    lists = tmp_path / "lists.json"
    lists.write_text('{"lists": []}', encoding="utf-8")
    finished = run_forked(
        *("api", "--port", "0"),
        environment={
            **os.environ,
            "TAXIMETER_DEV_MODE": "1",
            "TAXIMETER_DATABASE_URL": "postgresql://api@127.0.0.1:1/taximeter",
            "TAXIMETER_REDIS_URL": "redis://127.0.0.1:1/0",
            "TAXIMETER_PRICE_LISTS_FILE": str(lists),
            "TAXIMETER_UPSTREAM_BASE_URL": "http://127.0.0.1:1",
            "TAXIMETER_UPSTREAM_API_KEY": CANARY,
            "TAXIMETER_UPSTREAM_PROVIDER": "opneai",
        },
        folder=tmp_path,
    )
    said = finished.text
    assert finished.returncode == 1, said
    assert said.count("provider opneai is in no price list; known are openai") == 1
    assert "Traceback" not in said
    assert CANARY not in said


def test_a_file_and_a_single_upstream_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        load_routing(
            ApiSettings(dev_mode=True, upstreams_file=tmp_path / "x", upstream_base_url="http://x")
        )
    with pytest.raises(ConfigError, match="cannot be read"):
        load_routing(ApiSettings(dev_mode=True, upstreams_file=tmp_path / "x"))

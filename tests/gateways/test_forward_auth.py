"""The configurations of docs/forward-auth.md as they stand, on Debian's nginx and Caddy, and on
Envoy.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import uvicorn
from support import envoy as envoy_server
from support.listening import listening
from support.proxies import NGINX_MAIN, program_of, rewired, running
from support.shard import ScriptedShard
from support.sidecar import FUNDS, served
from support.waiting import eventually

from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.meter import Meter
from taximeter.meter.sidecar import ApiKeys, Sidecar, create_sidecar

PAGE = (Path(__file__).parents[2] / "docs" / "forward-auth.md").read_text(encoding="utf-8")
KEY = "a-long-random-key"
ANN = {"Authorization": "Bearer key-of-ann"}


@dataclass
class Upstream:
    """What stands behind the gateway: it answers what a request's headers ask of it."""

    url: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(headers)
        answer = [(b"content-length", b"2")]
        if "ask-cost" in headers:
            answer.append((b"x-cost", headers["ask-cost"].encode()))
        status = int(headers.get("ask-status", 200))
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await asyncio.sleep(float(headers.get("ask-delay", 0)))
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    config = uvicorn.Config(made, port=0, lifespan="off", log_config=None, access_log=False)
    async with listening(uvicorn.Server(config)) as url:
        made.url = url.removeprefix("http://")
        yield made


@pytest.fixture
async def sidecar(meter: Meter) -> Sidecar:
    keys = ApiKeys([hashlib.sha256(KEY.encode()).hexdigest()])
    return create_sidecar(meter, keys=keys)


@pytest.fixture
async def sidecar_url(sidecar: Sidecar) -> AsyncIterator[str]:
    async with served(sidecar) as url:
        yield url.removeprefix("http://")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@asynccontextmanager
async def nginx(
    upstream: Upstream, sidecar_url: str, folder: Path, key: str = KEY
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """Both servers of the page: callers of the first, and the URL of the second."""
    program = program_of("nginx", "nginx-light")
    first, second = free_port(), free_port()
    text = "\n".join(blocks("nginx")).replace(KEY, key)
    ports = {
        "127.0.0.1:8080": f"{LOOPBACK}:{first}",
        "127.0.0.1:8081": f"{LOOPBACK}:{second}",
        "127.0.0.1:8085": upstream.url,
        "127.0.0.1:8086": sidecar_url,
    }
    (folder / "taximeter.conf").write_text(rewired(text, ports))
    (folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=folder))
    command = (program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"))
    async with running(*command, folder=folder, port=first) as client:
        yield client, f"http://{LOOPBACK}:{second}"


@asynccontextmanager
async def caddy(
    upstream: Upstream, sidecar_url: str, folder: Path, key: str = KEY
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    program = program_of("caddy", "caddy")
    port = free_port()
    [text] = blocks("caddyfile")
    ports = {
        "127.0.0.1:8080": f"{LOOPBACK}:{port}",
        "127.0.0.1:8085": upstream.url,
        "127.0.0.1:8086": sidecar_url,
    }
    # Its port for administration is the machine's: another Caddy may have it.
    text = "{\n\tadmin off\n}\n" + rewired(text.replace(KEY, key), ports)
    (folder / "Caddyfile").write_text(text)
    command = (program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile")
    async with running(*command, folder=folder, port=port) as client:
        yield client, ""


SECRET = b"what only the login of this test knows"


async def with_token(request: httpx.Request) -> None:
    """Callers of Envoy have a token of the login, where those of the others have a key."""
    user = request.headers["authorization"].removeprefix("Bearer key-of-")
    claims = {"iss": "login", "org": "acme", "sub": user}
    if " " not in user:
        request.headers["authorization"] = f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"


@asynccontextmanager
async def envoy(
    upstream: Upstream, sidecar_url: str, folder: Path, key: str = KEY
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    program = envoy_server.program()
    port = free_port()
    [text] = blocks("yaml")
    secret = base64.urlsafe_b64encode(SECRET).decode().rstrip("=")
    jwks = {"keys": [{"kty": "oct", "alg": "HS256", "k": secret}]}
    (folder / "jwks.json").write_text(json.dumps(jwks))
    ports = {
        "port_value: 8080": f"port_value: {port}",
        "port_value: 8085": f"port_value: {upstream.url.rpartition(':')[2]}",
        "port_value: 8086": f"port_value: {sidecar_url.rpartition(':')[2]}",
        "/etc/envoy/jwks.json": str(folder / "jwks.json"),
    }
    (folder / "envoy.yaml").write_text(rewired(text.replace(KEY, key), ports))
    # Without hot restart, which would share memory with another Envoy of this machine.
    command = (program, "-c", str(folder / "envoy.yaml"), "--disable-hot-restart")
    async with running(*command, "--concurrency", "1", folder=folder, port=port) as client:
        client.event_hooks = {"request": [with_token]}
        yield client, ""


GATEWAYS = pytest.mark.parametrize(
    "gateway", [nginx, caddy, envoy], ids=["nginx", "caddy", "envoy"]
)


async def get(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    given = {**ANN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await client.post("/v1/things?x=1", headers=given, content=b"a body")


@GATEWAYS
async def test_requests_are_charged_let_through_and_refused(
    gateway: Any, upstream: Upstream, sidecar_url: str, shard: ScriptedShard, tmp_path: Path
) -> None:
    async with gateway(upstream, sidecar_url, tmp_path) as (client, _):
        forged = {"X_Org_Id": "acme", "X_User_Id": "poor", "X_Request_Id": "mine"}
        for left in ("999.500", "999.000"):
            response = await get(client, **forged, X_Credits_Remaining="5")
            assert response.status_code == 200, response.text
            assert response.headers["x-credits-remaining"] == left
        assert await shard.account("acme/ann") == (FUNDS - 1000, 0, 1)
        assert len(upstream.seen) == 2
        charges = await shard.events()
        assert len({event[3] for event in charges}) == 2
        payload = json.loads(charges[0][7])["meta"]
        assert payload["uri"] == "/v1/things"
        # Envoy tells the method as its own and in no header.
        assert payload.get("method") == (None if gateway is envoy else "POST")

        response = await get(client, Authorization="Bearer key-of-poor")
        assert response.status_code == 402
        assert response.json()["error"]["code"] == "INSUFFICIENT_CREDITS"
        assert response.headers["x-credits-remaining"] == "0.100"
        assert (await get(client, Authorization="Bearer stranger")).status_code == 401
        assert len(upstream.seen) == 2
        assert (await shard.account("acme/poor"))[0] == 100


@GATEWAYS
async def test_many_at_once_get_no_more_than_the_balance(
    gateway: Any, upstream: Upstream, sidecar_url: str, shard: ScriptedShard, tmp_path: Path
) -> None:
    await shard.redis.hset(shard.keys.accounts, "acme/ann", "5000 0 1")
    async with gateway(upstream, sidecar_url, tmp_path) as (client, _):
        answers = await asyncio.gather(*(get(client) for _ in range(30)))
    statuses = [response.status_code for response in answers]
    assert (statuses.count(200), statuses.count(402)) == (10, 20)
    assert len(upstream.seen) == 10
    assert await shard.account("acme/ann") == (0, 0, 1)


@GATEWAYS
async def test_only_holds_in_the_way_is_429(
    gateway: Any,
    upstream: Upstream,
    sidecar_url: str,
    shard: ScriptedShard,
    meter: Meter,
    tmp_path: Path,
) -> None:
    await meter.reserve("acme", "ann", FUNDS)
    async with gateway(upstream, sidecar_url, tmp_path) as (client, second_url):
        response = await get(client)
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "HOLDS_IN_THE_WAY"
        assert response.headers["retry-after"] == "1"
        if second_url:
            async with httpx.AsyncClient(base_url=second_url, trust_env=False) as second:
                response = await get(second)
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        empty = await get(client, Authorization="Bearer key-of-poor")
        assert (empty.status_code, "retry-after" in empty.headers) == (402, False)


@GATEWAYS
async def test_a_wrong_key_and_a_dead_sidecar_let_nobody_through(
    gateway: Any, upstream: Upstream, sidecar: Sidecar, shard: ScriptedShard, tmp_path: Path
) -> None:
    async with served(sidecar) as url:
        where = url.removeprefix("http://")
        wrong, dead = tmp_path / "wrong", tmp_path / "dead"
        wrong.mkdir()
        dead.mkdir()
        async with gateway(upstream, where, wrong, "another") as (client, _):
            assert (await get(client)).status_code == (503 if gateway is nginx else 401)
        sidecar.drain()
        async with gateway(upstream, where, dead) as (client, _):
            assert (await get(client)).status_code == 503
    async with gateway(upstream, where, dead) as (client, _):
        response = await get(client)
        assert response.status_code == (502 if gateway is caddy else 503)
    assert upstream.seen == []
    assert await shard.account("acme/ann") == (FUNDS, 0, 1)


@pytest.mark.parametrize(
    ("asked", "charged"),
    [
        ({"ask_cost": "0.125"}, 125),
        ({"ask_cost": "2.5"}, 2500),
        ({}, 2000),
        ({"ask_status": "500"}, None),
    ],
)
async def test_nginx_settles_what_the_upstream_says(
    upstream: Upstream,
    sidecar_url: str,
    shard: ScriptedShard,
    tmp_path: Path,
    asked: dict[str, str],
    charged: int | None,
) -> None:
    async with (
        nginx(upstream, sidecar_url, tmp_path) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        response = await get(client, **asked)
        assert response.status_code == int(asked.get("ask_status", 200))

        async def is_settled() -> bool:
            return (await shard.account("acme/ann"))[1] == 0

        await eventually(is_settled, what="the end of the hold")
        assert (await get(client, Authorization="Bearer key-of-poor")).status_code == 402
    assert await shard.account("acme/ann") == (FUNDS - (charged or 0), 0, 1)
    events = await shard.events()
    assert [int(event[4]) for event in events] == ([] if charged is None else [charged])
    assert upstream.seen[0]["x-request-id"] == (events[0][3][5:] if events else ANY_ID)


async def test_nginx_settles_a_request_whose_caller_has_left(
    upstream: Upstream, sidecar_url: str, shard: ScriptedShard, tmp_path: Path
) -> None:
    async with (
        nginx(upstream, sidecar_url, tmp_path) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        asked = {**ANN, "ask-cost": "0.7", "ask-delay": "1"}
        async with client.stream("GET", "/v1/things", headers=asked) as response:
            assert response.headers["x-cost"] == "0.7"

        async def is_settled() -> bool:
            return (await shard.account("acme/ann"))[:2] == (FUNDS - 700, 0)

        await eventually(is_settled, what="the charge")


class _AnyId:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(re.fullmatch("[0-9a-f]{32}", other))

    __hash__ = None  # type: ignore[assignment]  # Never a key.


ANY_ID = _AnyId()

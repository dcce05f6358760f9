"""Heads that a caller writes as it suits him: none is believed twice, and none is a 500."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from redis.asyncio import Redis
from support.key_ring import Ring
from support.shard import ScriptedShard
from support.sidecar import Caller, calling, served
from support.world import BILLING, CHAT, World

from taximeter.api.access.cookies import keep_session_cookie
from taximeter.api.commands import group
from taximeter.api.settings.api import ApiSettings
from taximeter.meter import Meter
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.wire.keys import ShardKeys

GATE = {"X-Org-Id": "acme", "X-User-Id": "ann", "X-Request-Id": "r"}


@pytest.fixture
async def meter(redis: Redis, redis_url: str) -> AsyncIterator[Meter]:
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    await shard.load("acme/ann", 10**6)
    async with await Meter.connect(redis_url) as made:
        yield made


@pytest.fixture
async def keyless(meter: Meter) -> AsyncIterator[Caller]:
    async with served(create_sidecar(meter)) as url, calling(url) as made:
        yield made


@pytest.mark.parametrize("status", ["9" * 5000, "9" * 4, "２００", "-1", "2e2", ""])
async def test_a_status_that_is_none_is_no_500(keyless: Caller, status: str) -> None:
    await keyless.client.get("/auth/reserve/1", headers=GATE)
    raw = {**GATE, "X-Taximeter-Status": status.encode()}
    answer = await keyless.client.get("/auth/settle", headers=raw)  # type: ignore[arg-type]
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8086", 200),
        ("localhost", 200),
        ("[::1]:8086", 200),
        ("taximeter", 200),  # What a proxy calls it; no web site has such a name.
        ("sidecar.localhost:1", 200),
        ("evil.example", 403),
        ("evil.example:8086", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8086", 403),
    ],
)
async def test_without_keys_a_web_site_that_points_here_is_refused(
    keyless: Caller, host: str, status: int
) -> None:
    headers = {"Host": host, "X-Org-Id": "acme", "X-User-Id": "ann"}
    path = "/v1/balance?org_id=acme&user_id=ann"
    assert (await keyless.client.get(path, headers=headers)).status_code == status


@pytest.mark.parametrize("host", ["app.example", "app.example:8443", "localhost.evil.example"])
async def test_a_gateway_passes_on_the_name_that_its_caller_used(
    keyless: Caller, host: str
) -> None:
    """Caddy and Envoy do. A browser that was led here has our own port in it."""
    headers = {"Host": host, "X-Org-Id": "acme", "X-User-Id": "ann"}
    path = "/auth/charge/0.001"
    assert (await keyless.client.get(path, headers=headers)).status_code == 200
    headers["Host"] = f"{host.partition(':')[0]}:{keyless.url.rpartition(':')[2]}"
    assert (await keyless.client.get(path, headers=headers)).status_code == 403


async def test_with_keys_any_name_will_do(meter: Meter) -> None:
    async with served(create_sidecar(meter, keys=Ring())) as url, calling(url) as made:
        headers = {"Host": "sidecar.example", "Authorization": "Bearer balance@x"}
        path = "/v1/balance?org_id=acme&user_id=ann"
        assert (await made.client.get(path, headers=headers)).status_code == 200


async def test_nobody_is_told_to_go_on_with_a_gigabyte(keyless: Caller) -> None:
    host, port = keyless.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/charge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(60):
        first = await reader.readline()
    assert first.startswith(b"HTTP/1.1 413")
    writer.close()


async def test_who_calls_and_who_pays_is_said_once(world: World) -> None:
    """By the admin API, the LLM route and what is read beside it: 422, and nothing happens."""
    await world.funded("ann", 50.0)
    made = await world.client.post(
        f"{BILLING}/orgs/acme/keys",
        json={"name": "gateway", "operations": ["llm"]},
        headers=world.auth("boss"),
    )
    assert made.headers["cache-control"] == "no-store"
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    headers = [
        ("Authorization", f"Bearer {made.json()['key']}"),
        *(("X-User-Id", user) for user in ("boss", "ann")),
    ]
    answer = await world.client.post(CHAT, json=body, headers=headers)
    assert answer.status_code == 422
    assert "given once" in answer.json()["detail"]
    token = world.auth("ann")["Authorization"]
    purchase = {"credits": 1.0, "purchase_amount": 1.0}
    for method, path, content, twice in (
        ("POST", CHAT, body, "X-Org-Id"),
        ("POST", CHAT, body, "Idempotency-Key"),
        ("POST", CHAT, body, "Authorization"),
        ("GET", "/v1/models", None, "X-Org-Id"),
        ("GET", "/api/v1/auth/user", None, "Authorization"),
        ("POST", f"{BILLING}/credits/acme/add", purchase, "Idempotency-Key"),
    ):
        headers = [(twice, "one"), (twice, "two")]
        if twice == "Authorization":
            headers = [(twice, token), (twice, token)]
        else:
            headers.append(("Authorization", token))
        answer = await world.client.request(method, path, json=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["details"]) == (422, {"field": twice})
    assert world.upstream_calls == 0


async def test_the_page_of_the_api_is_in_nobodys_frame(world: World) -> None:
    answer = await world.client.get("/docs")
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([b"session_token=a.b-c_d"], [b"session_token=a.b-c_d"]),
        ([b"x=1; session_token=one; y=2; session_token=two"], [b"session_token=two"]),
        ([b"session_token=one", b'session_token="two"'], [b"session_token=two"]),
        ([b'session_token="\\' + b"\\" * 9000 + b'"'], []),
        ([b"session_tokens=one; =; ;;"], []),
        ([], []),
    ],
)
def test_of_all_cookies_the_session_alone_is_read(sent: list[bytes], kept: list[bytes]) -> None:
    scope: Any = {"headers": [(b"host", b"x"), *((b"cookie", one) for one in sent)]}
    keep_session_cookie(scope)
    assert [value for name, value in scope["headers"] if name == b"cookie"] == kept
    assert scope["headers"][0] == (b"host", b"x")


async def test_a_token_of_nothing_but_brackets_is_no_500(world: World) -> None:
    header = base64.urlsafe_b64encode(b"[" * 5000).decode()
    answer = await world.client.get(
        "/api/v1/auth/user", headers={"Authorization": f"Bearer {header}.e30.e30"}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"host": "0.0.0.0"}, "TAXIMETER_DEV_MODE_BEYOND_LOOPBACK"),
        ({"host": "10.0.0.7"}, "TAXIMETER_DEV_MODE_BEYOND_LOOPBACK"),
        ({"host": "::"}, "TAXIMETER_DEV_MODE_BEYOND_LOOPBACK"),
        ({"oidc_issuer": "https://id.example"}, "TAXIMETER_OIDC_ISSUER"),
        ({"oidc_audience": "taximeter"}, "TAXIMETER_OIDC_AUDIENCE"),
    ],
)
def test_dev_mode_is_for_one_machine_and_beside_no_real_sessions(
    settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        ApiSettings(dev_mode=True, **settings)
    if "host" in settings:
        ApiSettings(dev_mode=True, dev_mode_beyond_loopback=True, **settings)


def test_dev_mode_beyond_loopback_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAXIMETER_DEV_MODE", "1")
    monkeypatch.setenv("TAXIMETER_DATA_DIR", str(tmp_path))
    started = CliRunner().invoke(group, ["api", "--host", "0.0.0.0", "--port", "0"])
    assert started.exit_code == 1
    assert "loopback" in started.output

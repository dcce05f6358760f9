"""Requests without valid credentials: an address has so many a minute, and who is known goes on."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import httpx
import pytest
from support.world import BILLING, World

from taximeter.api import strangers
from taximeter.api.app import create_app
from taximeter.api.outermost import Outermost
from taximeter.api.strangers import Strangers, credentials_of
from taximeter.meter.sidecar import ApiKeys, create_sidecar

MOST = 5


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def caller(app: Callable[..., object], peer: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(peer, 1))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def test_what_an_address_has_comes_back_with_time() -> None:
    clock = Clock()
    counted = Strangers(60, clock)
    for _ in range(60):
        assert counted.wait_s("a", None) == 0
        counted.note("a", None, 401)
    assert counted.wait_s("a", None) == pytest.approx(1.0)
    assert counted.wait_s("b", None) == 0
    clock.now += 1.5
    assert counted.wait_s("a", None) == 0
    counted.note("a", None, 401)
    assert counted.wait_s("a", None) > 0
    clock.now += 3600
    for _ in range(60):
        counted.note("a", None, 401)
    assert counted.wait_s("a", None) > 0, "an hour of silence saves no more than a minute's worth"


def test_who_is_known_is_let_in_until_that_ends() -> None:
    clock = Clock()
    counted = Strangers(1, clock)
    counted.note("proxy", 7, 200)
    counted.note("proxy", None, 401)
    assert counted.wait_s("proxy", None) > 0
    assert counted.wait_s("proxy", 8) > 0
    assert counted.wait_s("proxy", 7) == 0
    counted.note("proxy", 7, 401)
    assert counted.wait_s("proxy", 7) > 0, "credentials that have ended are nobody's"
    counted.note("proxy", 7, 402)
    clock.now += strangers.KNOWN_FOR_S + 1
    counted.note("proxy", None, 401)
    counted.note("proxy", None, 401)
    assert counted.wait_s("proxy", 7) > 0


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "PEERS_MAX", 3)
    monkeypatch.setattr(strangers, "KNOWN_MAX", 3)
    counted = Strangers(1)
    for number in range(10):
        counted.note(f"peer{number}", None, 401)
        counted.note("peer", number, 200)
    assert len(counted._left) == len(counted._known) == 3
    none = Strangers(0)
    none.note("a", 1, 401)
    assert none.wait_s("a", 1) == 0


def test_the_gateways_key_counts_and_not_what_its_caller_sends() -> None:
    key, theirs = (b"x-taximeter-key", b"k"), (b"authorization", b"Bearer x")
    assert credentials_of("/auth/charge/1", [key, theirs]) == credentials_of("/auth/a", [key])
    assert credentials_of("/auth/charge/1", [theirs]) is None
    assert credentials_of("/v1/charge", [theirs]) is not None
    assert credentials_of("/v1/charge", [key]) is None


async def test_a_sidecar_reads_nothing_of_strangers_who_ask_too_often() -> None:
    keys = ApiKeys([sha256(b"good").hexdigest()])
    app = Outermost(create_sidecar(None, keys=keys), "none", MOST)
    read = False

    async def body() -> object:
        nonlocal read
        read = True
        yield b"{}"

    async with caller(app, "10.0.0.1") as stranger, caller(app, "10.0.0.2") as other:
        for number in range(MOST):
            headers = {"Authorization": f"Bearer made-up-{number}"}
            answer = await stranger.post("/v1/charge", json={}, headers=headers)
            assert answer.status_code == 401
        for headers in ({}, {"Authorization": "Bearer made-up"}):
            answer = await stranger.post(
                "/v1/charge",
                content=body(),  # type: ignore[arg-type]
                headers={"Content-Type": "application/json", **headers},
            )
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "RATE_LIMITED"
            assert 1 <= int(answer.headers["Retry-After"]) <= 60 / MOST
        assert not read
        assert (await stranger.get("/auth/charge/1")).status_code == 429
        assert (await stranger.get("/livez")).status_code == 200, "probes go on"
        good = {"Authorization": "Bearer good"}
        assert (await other.post("/v1/charge", json={}, headers=good)).status_code == 503


async def test_the_api_refuses_strangers_and_not_who_is_known(world: World) -> None:
    """Behind one proxy, where all have its address; both doors, the LLM route and the admin API."""
    app = create_app(world.settings.model_copy(update={"strangers_per_minute": MOST}))
    async with app.router.lifespan_context(app), caller(app, "10.0.0.1") as client:
        known = world.auth("ann")
        assert (await client.get("/api/v1/auth/user", headers=known)).status_code == 200
        for path in ("/v1/chat/completions", f"{BILLING}/invitations") * MOST:
            method = "POST" if path.startswith("/v1") else "GET"
            answer = await client.request(method, path, headers={"Authorization": "Bearer x.y.z"})
            assert answer.status_code in (401, 429)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "RATE_LIMITED"
        assert (await client.get("/api/v1/auth/user")).status_code == 429
        assert (await client.get("/api/v1/auth/user", headers=known)).status_code == 200

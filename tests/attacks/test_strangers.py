"""Requests without valid credentials, and such that make no sense: an address or a caller has so
many a minute, and who is known goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

import httpx
import pytest
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.api.app import create_app
from taximeter.api.web import late_refusals as late
from taximeter.api.web import outermost, strangers
from taximeter.api.web.late_refusals import BodyTurns, LateAnswers
from taximeter.api.web.outermost import Outermost
from taximeter.api.web.strangers import Strangers, credentials_of
from taximeter.meter.sidecar import ApiKeys, create_sidecar

MOST = 5


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are not late: what they are is looked at here."""
    monkeypatch.setattr(late, "LATE_S", 0.0)
    monkeypatch.setattr(outermost, "LATE_MAX_S", 0.0)


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
    ann, bob = ([theirs, (b"x-user-id", name)] for name in (b"ann", b"bob"))
    assert credentials_of("/v1/charge", ann) == credentials_of("/v1/charge", bob)
    ids = {credentials_of("/v1/charge", one, b"x-user-id") for one in (ann, bob)}
    assert len(ids) == 2, "users of one key"
    assert credentials_of("/v1/charge", ann[1:], b"x-user-id") is None


@pytest.mark.usefixtures("at_once")
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


@pytest.mark.usefixtures("at_once")
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


def test_who_is_not_known_is_suspect_where_others_were_refused() -> None:
    counted = Strangers(10, Clock())
    counted.note("a", 7, 200)
    assert not counted.suspects("a", 8)
    for _ in range(6):
        counted.note("a", None, 401)
    assert counted.suspects("a", 8)
    assert not counted.suspects("a", 7)
    assert not counted.suspects("b", 8)


def test_what_makes_no_sense_is_of_who_sent_it_and_counts_by_its_length() -> None:
    clock = Clock()
    counted = Strangers(60, clock)
    counted.note("proxy", 7, 200)
    for _ in range(60):
        assert counted.owes_s("proxy", 7) == 0
        counted.note("proxy", 7, 422, 1000)
    assert counted.owes_s("proxy", 7) > 0
    assert counted.wait_s("proxy", 7) == 0, "what makes sense is answered as ever"
    assert counted.owes_s("proxy", 8) == 0, "of whoever sends it, and of nobody else"
    for size in (-1, 10**9, -1):
        counted.note("other", None, 413, size)
    assert counted.owes_s("other", None) == strangers.OWED_MAX_S + 1, "forgotten soon after"
    assert counted.wait_s("other", 9) == 0, "nobody else is refused for it"
    clock.now += strangers.OWED_MAX_S + 2
    assert counted.owes_s("other", None) == 0


class Body:
    """Large, and told when somebody reads it."""

    def __init__(self) -> None:
        self.read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.read = True
        yield b"{" * (late.LARGE_BYTES + 1)


@pytest.mark.usefixtures("at_once")
async def test_large_bodies_of_who_sends_nonsense_are_not_read() -> None:
    keys = ApiKeys([sha256(b"good").hexdigest(), sha256(b"other").hexdigest()])
    app = Outermost(create_sidecar(None, keys=keys), "none", MOST)
    good, other = ({"Authorization": f"Bearer {key}"} for key in ("good", "other"))
    async with caller(app, "10.0.0.1") as client:
        for headers in (good, other):
            assert (await client.get("/openapi.json", headers=headers)).status_code == 200

        async def sends(headers: dict[str, str]) -> tuple[int, bool]:
            body = Body()
            kind = {"Content-Type": "application/json"}
            content: Any = body
            answer = await client.post("/v1/charge", content=content, headers={**kind, **headers})
            return answer.status_code, body.read

        assert await sends(good) == (400, True)
        assert await sends(good) == (429, False)
        assert await sends(other) == (400, True), "another caller of the same address"
        small = await client.post("/v1/charge", json={"org_id": "a", "user_id": "b"}, headers=good)
        assert small.status_code in (400, 503), "what is small is looked at"


async def test_who_floods_is_refused_late_and_nobody_else_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(late, "LATE_S", 3600.0)
    keys = ApiKeys([sha256(b"good").hexdigest()])
    app = Outermost(create_sidecar(None, keys=keys), "none", 1)
    async with caller(app, "10.0.0.1") as stranger, caller(app, "10.0.0.2") as other:
        assert (await stranger.post("/v1/charge")).status_code == 401
        waits = asyncio.create_task(stranger.post("/v1/charge"))
        good = {"Authorization": "Bearer good"}
        assert (await other.post("/v1/charge", json={}, headers=good)).status_code == 503

        async def is_kept() -> bool:
            return app._late._waiting == 1

        await eventually(is_kept, what="the refusal")
        assert not waits.done()
        waits.cancel()  # As the end of the process does.
        assert (await waits).status_code == 429
        monkeypatch.setattr(late, "WAITING_MAX", 0)
        assert (await stranger.post("/v1/charge")).headers["Connection"] == "close"


async def test_more_late_answers_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await forever.wait()

    async def send(_: object) -> None: ...

    forever = asyncio.Event()
    monkeypatch.setattr(late.asyncio, "sleep", sleep)
    answers = LateAnswers()
    many = [asyncio.create_task(answers.send([{}], send)) for _ in range(500)]
    owing = asyncio.create_task(answers.send([{}], send, 9.0))
    while len(slept) < 501:
        await asyncio.wait([owing], timeout=0.01)
    assert (slept[0], slept[499], slept[500]) == (late.LATE_S, 500 / late.A_SECOND, 9.0)
    forever.set()
    await asyncio.gather(*many, owing)


async def test_large_bodies_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = BodyTurns()
    held = [await turns.take("a") for _ in range(late.TURNS)]
    waits, leaves = (asyncio.create_task(turns.take("a")) for _ in range(2))
    assert await turns.take("b") is not None
    assert not waits.done()
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    assert held[0] is not None
    held[0].end()
    held[0].end()
    held[0] = await waits
    monkeypatch.setattr(late, "TURN_WITHIN_S", 0.0)
    assert await turns.take("a") is None
    for turn in held:
        assert turn is not None
        turn.end()
    assert turns._reading == {"b": 1}
    assert not turns._waiting


async def test_the_body_of_a_stranger_is_not_read(at_once: None, world: World) -> None:
    """Every route of the admin API that takes a body asks who calls before it looks at one."""
    document = (await world.client.get("/openapi.json")).json()
    taking = [
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if path.startswith(BILLING) and "requestBody" in operation
    ]
    assert len(taking) > 15
    for method, path in taking:
        for headers in ({}, {"Authorization": "Bearer nobody's"}):
            answer = await world.client.request(
                method,
                path.replace("{", "").replace("}", ""),
                content=b"[" * 10,
                headers={"Content-Type": "application/json", **headers},
            )
            assert answer.status_code == 401, f"{method} {path}: {answer.text}"

"""How often a caller may ask: counted for all processes together, and never in the way of money."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import redis.asyncio as redis_asyncio
from support.world import BILLING, World, serving

from taximeter.api.access.rate_limits import (
    LIMIT,
    Limit,
    LocalCounts,
    RateLimiter,
    kind_of,
    limits_of,
)
from taximeter.api.app import create_app
from taximeter.api.settings.api import ApiSettings
from taximeter.api.web.errors import ApiError

LOW = {
    "rate_limits": True,
    "rate_limit_reads_per_minute": 4,
    "rate_limit_changes_per_minute": 3,
    "rate_limit_purchases_per_minute": 2,
    "rate_limit_allocations_per_minute": 2,
    "rate_limit_subscriptions_per_hour": 2,
    "rate_limit_admin_subscriptions_per_hour": 2,
}
CREDITS = f"{BILLING}/credits/acme"


def test_the_limits_of_the_contract() -> None:
    assert limits_of(ApiSettings(dev_mode=True)) == {
        "reads": Limit(100, 60),
        "subscriptions": Limit(5, 3600),
        "admin_subscriptions": Limit(1000, 3600),
        "purchases": Limit(20, 60),
        "allocations": Limit(30, 60),
        "changes": Limit(60, 60),
    }
    assert limits_of(ApiSettings(dev_mode=True, rate_limits=False)) == {}


def test_what_a_request_counts_as(world: World) -> None:
    kinds: dict[str, list[str]] = {}
    for path, operations in world.app.openapi()["paths"].items():
        for method in operations:
            kinds.setdefault(kind_of(method.upper(), path), []).append(f"{method} {path}")
    assert kinds["subscriptions"] == [f"post {BILLING}/subscriptions"]
    assert kinds["purchases"] == [f"post {BILLING}/credits/{{org_id}}/add"]
    assert kinds["allocations"] == [f"post {BILLING}/credits/{{org_id}}/allocate"]
    assert all(one.startswith("get ") for one in kinds["reads"])
    assert not any(one.startswith("get ") for one in kinds["changes"])


async def send(world: World, kind: str, user: str = "boss", number: int = 0) -> httpx.Response:
    method, path, body = {
        "reads": ("GET", CREDITS, None),
        "changes": ("POST", f"{BILLING}/orgs/acme/members", {"user_id": "ann"}),
        "purchases": ("POST", f"{CREDITS}/add", {"credits": 1, "purchase_amount": 1}),
        "allocations": ("POST", f"{CREDITS}/allocate", {"user_id": "boss", "credits": 1}),
        "subscriptions": (
            "POST",
            f"{BILLING}/subscriptions",
            {
                "org_id": f"org{number}",
                "plan_code": "trial",
                "org_name": "Org",
                "billing_email": "a@b.cd",
                "user_id": "boss",
            },
        ),
    }[kind]
    headers = world.auth(user, system_admin=kind in ("subscriptions", "purchases"))
    return await world.client.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize("api_options", [LOW])
@pytest.mark.parametrize("kind", ["reads", "changes", "purchases", "allocations", "subscriptions"])
async def test_one_more_than_the_limit_is_refused(world: World, kind: str) -> None:
    assert (await world.subscribe()).status_code == 200
    name = "admin_subscriptions" if kind == "subscriptions" else kind
    limit = limits_of(world.settings)[name]
    for number in range(limit.count):
        assert (await send(world, kind, number=number)).status_code == 200
    refused = await send(world, kind, number=9)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= limit.window_s
    document = refused.json()
    assert document["error"]["code"] == "RATE_LIMITED"
    assert document["error"]["details"] == {
        "kind": name,
        "limit": limit.count,
        "window_s": limit.window_s,
    }
    assert document["detail"] == document["error"]["message"]
    other = await send(world, kind, "root" if kind == "subscriptions" else "boss2", number=8)
    assert other.status_code in (200, 404), "others have limits of their own"
    for unlimited in {"reads", "purchases"} - {kind}:
        assert (await send(world, unlimited)).status_code == 200


@pytest.mark.parametrize("api_options", [LOW])
async def test_processes_count_together(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    async with (
        serving(create_app(world.settings)) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as second,
    ):
        clients = (world.client, second) * 6
        answers = await asyncio.gather(
            *(one.get(CREDITS, headers=world.auth("boss")) for one in clients)
        )
    assert sorted(one.status_code for one in answers) == [200] * 4 + [429] * 8


@pytest.mark.parametrize("api_options", [LOW])
async def test_the_llm_route_and_the_status_are_not_counted(world: World) -> None:
    await world.funded("ann", 20.0)
    for _ in range(6):
        assert (await world.chat()).status_code == 200
        status = await world.client.get("/api/v1/system/status", headers=world.auth("ann"))
        assert status.status_code != 429


class Broken:
    """A Redis that fails or does not answer, and counts how often it was asked."""

    def __init__(self, error: Exception | None) -> None:
        self.asked = 0
        self._error = error

    async def evalsha(self, *args: Any) -> int:
        self.asked += 1
        if self._error is None:
            await asyncio.sleep(60)
        else:
            raise self._error
        return 0


@pytest.mark.timeouts
@pytest.mark.parametrize(
    "error",
    [
        redis_asyncio.ConnectionError("away"),
        redis_asyncio.ResponseError("OOM command not allowed"),
        None,
    ],
    ids=["away", "full", "silent"],
)
async def test_without_redis_each_process_counts_for_itself(error: Exception | None) -> None:
    broken = Broken(error)
    limiter = RateLimiter(broken, "t", {"reads": Limit(3, 60)})
    let_in, refused = 0, []
    async with asyncio.timeout(60):
        for caller in [f"user{number % 10}" for number in range(100)]:
            try:
                await limiter.admit("reads", caller)
                let_in += 1
            except ApiError as error:
                refused.append(error)
    assert let_in == 10 * 3, "each caller as often as the limit says, and not once more"
    assert {error.status for error in refused} == {429}
    assert all(1 <= int(error.headers["Retry-After"]) <= 60 for error in refused)
    assert broken.asked < 30, "nobody waits for it again within the second"


@pytest.mark.timeouts
async def test_a_redis_that_becomes_slow_begins_nobodys_window_anew(
    redis: redis_asyncio.Redis, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = RateLimiter(redis, key_prefix, {"reads": Limit(3, 60)})
    for _ in range(3):
        await limiter.admit("reads", "ann")
    monkeypatch.setattr(limiter, "_redis", Broken(None))
    with pytest.raises(ApiError, match="try again"):
        await limiter.admit("reads", "ann")


def test_a_process_remembers_so_many_callers_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taximeter.api.access.rate_limits.CALLERS_MAX", 5)
    counts = LocalCounts()
    for number in range(50):
        assert counts.count(f"user{number}", Limit(1, 60)) == 0
    assert len(counts._seen) == 5


async def call(redis: redis_asyncio.Redis, key: str, limit: int, window_ms: int) -> int:
    return int(await LIMIT.call(redis, [key], [limit, window_ms]))


async def test_the_window_slides(redis: redis_asyncio.Redis, key_prefix: str) -> None:
    key = f"{key_prefix}:limit"
    assert [await call(redis, key, 2, 60_000) for _ in range(2)] == [0, 0]
    assert 59_000 < await call(redis, key, 2, 60_000) <= 60_000
    assert await redis.llen(key) == 2
    assert 0 < await redis.pttl(key) <= 60_000
    seconds, _ = await redis.time()
    await redis.lset(key, 0, (seconds - 61) * 1000)
    assert await call(redis, key, 2, 60_000) == 0, "the oldest has left the window"
    assert await call(redis, key, 2, 60_000) > 0
    assert await call(redis, key, 3, 60_000) == 0, "a limit that was raised counts at once"
    assert await call(redis, key, 1, 60_000) > 0
    await redis.lset(key, 0, (seconds + 10**6) * 1000)
    assert await call(redis, key, 1, 60_000) == 60_000, "a clock that was put back"


@pytest.mark.parametrize(
    ("limit", "window_ms", "field"),
    [(0, 1000, "limit"), (100_001, 1000, "limit"), (1, 999, "window_ms"), (1, 10**8, "window_ms")],
)
async def test_arguments_outside_their_bounds(
    redis: redis_asyncio.Redis, key_prefix: str, limit: int, window_ms: int, field: str
) -> None:
    with pytest.raises(redis_asyncio.ResponseError, match=f"MALFORMED {field}"):
        await call(redis, f"{key_prefix}:limit", limit, window_ms)


@pytest.mark.parametrize("api_options", [LOW])
async def test_attempts_of_who_may_not_subscribe_are_counted(world: World) -> None:
    """Every one of them: they are refused whatever they send."""
    body = {"org_id": "x"}
    statuses = [
        (
            await world.client.post(
                f"{BILLING}/subscriptions", json=body, headers=world.auth("nobody")
            )
        ).status_code
        for _ in range(3)
    ]
    assert statuses == [403, 403, 429]

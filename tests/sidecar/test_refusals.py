"""Every refusal: its status, its code, what it says to programs, and that nothing was charged."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from support.proxy import Proxy
from support.servers import ValkeyFactory
from support.shard import FULL, ScriptedShard
from support.sidecar import FUNDS, Caller, calling, problem, served
from support.waiting import answered

from taximeter.meter import (
    Meter,
    MeterSettings,
    OutcomeUnknown,
    Overloaded,
    StoreError,
    StoreOutOfMemory,
)
from taximeter.meter.pricing import TOKENS_MAX
from taximeter.meter.sidecar import ApiKeys, Sidecar, create_sidecar
from taximeter.meter.sidecar.answers import refusal_of
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.limits import AMOUNT_MAX

TOO_MUCH = FUNDS + 1


async def test_insufficient_names_need_have_and_whose(caller: Caller) -> None:
    expected = {
        "limit": "user_balance",
        "need_millicredits": TOO_MUCH,
        "have_millicredits": FUNDS,
        "held_millicredits": 0,
    }
    for op in ("reserve", "charge"):
        refused = await caller.refused(op, amount_millicredits=TOO_MUCH)
        assert refused == (402, "INSUFFICIENT_CREDITS", expected)
    assert await caller.balance() == (FUNDS, 0)


async def test_only_holds_in_the_way_is_worth_a_retry(caller: Caller) -> None:
    await caller.ok("reserve", request_id="r1", amount_millicredits=FUNDS - 1)
    response = await caller.post("reserve", amount_millicredits=2)
    assert response.headers["retry-after"] == "1"
    status, code, details = problem(response)
    assert (status, code, details["held_millicredits"]) == (429, "HOLDS_IN_THE_WAY", FUNDS - 1)
    await caller.ok("release", request_id="r1")
    await caller.ok("reserve", amount_millicredits=2)


async def test_unknown_accounts_holds_and_requests(caller: Caller) -> None:
    bob = {"org_id": "acme", "user_id": "bob"}
    assert await caller.refused("charge", amount_millicredits=1, user_id="bob") == (
        404,
        "ACCOUNT_NOT_FOUND",
        bob,
    )
    response = await caller.client.get("/v1/balance", params=bob)
    assert problem(response) == (404, "ACCOUNT_NOT_FOUND", bob)
    for op in ("release", "touch"):
        assert await caller.refused(op, request_id="r9") == (
            404,
            "UNKNOWN_HOLD",
            {"request_id": "r9"},
        )
    assert problem(await caller.lookup("r9")) == (404, "UNKNOWN_REQUEST", {"request_id": "r9"})


async def test_conflict_has_the_recorded_outcome(caller: Caller) -> None:
    await caller.ok("reserve", request_id="r1", amount_millicredits=50)
    await caller.ok("commit", request_id="r1", amount_millicredits=20)
    recorded = {
        "request_id": "r1",
        "state": "committed",
        "reserved_millicredits": 50,
        "charged_millicredits": 20,
        "available_millicredits": FUNDS - 20,
        "held_millicredits": 0,
    }
    for op, fields in (
        ("commit", {"amount_millicredits": 21}),
        ("reserve", {"amount_millicredits": 51}),
        ("charge", {"amount_millicredits": 20}),
        ("release", {}),
        ("touch", {}),
    ):
        refused = await caller.refused(op, request_id="r1", **fields)
        assert refused == (409, "CONFLICT", recorded), op
    assert await caller.balance() == (FUNDS - 20, 0)


ONE_AMOUNT = "given as exactly one of amount_credits, amount_millicredits, model"
CREDITS = "a number or text of credits from 0 to 1000000000 with at most 3 decimals"
WHOLE = f"a whole number of millicredits from 0 to {AMOUNT_MAX}"
REST = {"request_id": "r", "amount_millicredits": 1}


@pytest.mark.parametrize(
    ("op", "fields", "field", "limit"),
    [
        ("reserve", {}, "amount", ONE_AMOUNT),
        ("reserve", {"amount_credits": 1, "amount_millicredits": 1}, "amount", ONE_AMOUNT),
        ("charge", {"amount_credits": 1, "model": "gpt-4o"}, "amount", ONE_AMOUNT),
        ("commit", {"request_id": "r"}, "amount", ONE_AMOUNT),
        ("charge", {"amount_millicredits": 1.5}, "amount_millicredits", WHOLE),
        ("charge", {"amount_millicredits": "1"}, "amount_millicredits", WHOLE),
        ("charge", {"amount_millicredits": True}, "amount_millicredits", WHOLE),
        ("charge", {"amount_millicredits": None}, "amount_millicredits", WHOLE),
        ("charge", {"amount_millicredits": -1}, "amount_millicredits", WHOLE),
        ("charge", {"amount_millicredits": AMOUNT_MAX + 1}, "amount_millicredits", WHOLE),
        ("charge", {"amount_credits": 0.0005}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": -1}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": -0.001}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": 10**9 + 1}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": True}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": [1]}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": "1e2"}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": "1_0"}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": " 1"}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": "NaN"}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": "1."}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": "\u0661"}, "amount_credits", CREDITS),
        ("charge", {"amount_credits": ""}, "amount_credits", CREDITS),
        ("charge", {**REST, "ttl_s": 5}, "ttl_s", None),
        ("reserve", {**REST, "ttl_s": 0}, "ttl_s", "0.001 to 86400 seconds"),
        ("reserve", {**REST, "ttl_s": 86401}, "ttl_s", "0.001 to 86400 seconds"),
        ("reserve", {**REST, "ttl_s": "5"}, "ttl_s", "a number of seconds"),
        ("reserve", {**REST, "ttl_s": None}, "ttl_s", "a number of seconds"),
        ("reserve", {**REST, "amount": 5}, "amount", None),
        ("release", REST, "amount_millicredits", None),
        ("reserve", {**REST, "x" * 200: 1}, "x" * 64, None),
        ("reserve", {**REST, "request_id": None}, "request_id", "given, as text"),
        ("reserve", {**REST, "request_id": "a b"}, "request_id", "1 to 128 of A-Z a-z 0-9 . _ : -"),
        ("commit", {"amount_millicredits": 1}, "request_id", "given, as text"),
        ("release", {}, "request_id", "given, as text"),
        ("charge", {**REST, "org_id": "a/b"}, "org_id", None),
        ("charge", {**REST, "org_id": ["acme"]}, "org_id", "given, as text"),
        ("charge", {**REST, "org_id": None}, "org_id", "given, as text"),
        ("charge", {**REST, "user_id": "a\tb"}, "user_id", None),
        ("charge", {**REST, "user_id": "\ud800"}, "user_id", "text that UTF-8 can carry"),
        ("charge", {**REST, "user_id": 7}, "user_id", "given, as text"),
        ("charge", {**REST, "usage": []}, "usage", "a JSON object"),
        ("charge", {**REST, "usage": None}, "usage", "a JSON object"),
        ("charge", {**REST, "usage": {"model": 1}}, "usage.model", None),
        ("charge", {**REST, "usage": {"service_name": 1}}, "usage.service_name", "text"),
        ("charge", {**REST, "usage": {"metadata": []}}, "usage.metadata", "a JSON object"),
        ("charge", {**REST, "usage": {"metadata": {"a": "x" * 5000}}}, "usage", None),
        (
            "reserve",
            {**REST, "prompt_tokens": 1},
            "prompt_tokens",
            "left out unless model is given",
        ),
        ("touch", {"request_id": "r", "tokens": {}}, "amount", ONE_AMOUNT),
        ("reserve", {"model": "gpt-4o"}, "prompt_tokens", None),
        ("reserve", {"model": "gpt-4o", "prompt_tokens": 1}, "max_output_tokens", None),
        (
            "reserve",
            {"model": "gpt-4o", "prompt_tokens": TOKENS_MAX + 1, "max_output_tokens": 1},
            "prompt_tokens",
            f"given, as a whole number from 0 to {TOKENS_MAX}",
        ),
        (
            "reserve",
            {"model": "gpt-4o", "prompt_tokens": 1, "max_output_tokens": 1, "n": 0},
            "n",
            "a whole number from 1 to 1000",
        ),
        ("charge", {"model": "gpt-4o"}, "tokens", None),
        (
            "charge",
            {"model": "gpt-4o", "tokens": {"prompt_tokens": 1}},
            "tokens.completion_tokens",
            None,
        ),
        (
            "charge",
            {"model": "gpt-4o", "tokens": {"prompt_tokens": 1.5, "completion_tokens": 1}},
            "tokens.prompt_tokens",
            None,
        ),
        ("charge", {"model": 4, "tokens": {}}, "model", "text of 1 to 256 characters"),
        (
            "charge",
            {"model": "gpt-4o", "tokens": {}, "service_tier": 4},
            "service_tier",
            "text of 1 to 256 characters",
        ),
    ],
)
async def test_bad_fields_are_named(
    caller: Caller, op: str, fields: dict[str, Any], field: str, limit: str | None
) -> None:
    status, code, details = await caller.refused(op, **fields)
    assert (status, code, details["field"]) == (400, "INVALID_REQUEST", field)
    assert details["limit"] if limit is None else details["limit"] == limit
    assert await caller.balance() == (FUNDS, 0)


async def test_long_numbers_are_neither_rounded_nor_slow(caller: Caller) -> None:
    body = b'{"org_id":"acme","user_id":"ann","amount_credits":%b}'
    for written in (
        b"0.00100000000000000000000001",
        b"1e-999999999",
        b"1e999999999",
        b"0." + b"0" * 50,
        b"9" * 400 + b".5",
    ):
        response = await caller.raw("/v1/charge", body % written)
        assert problem(response)[:2] == (400, "INVALID_REQUEST"), written
    assert await caller.balance() == (FUNDS, 0)


async def test_a_balance_out_of_bounds_is_the_callers_error(
    caller: Caller, shard: ScriptedShard
) -> None:
    await shard.load("acme/deep", -9 * 10**14 + 5)
    fields = {"user_id": "deep", "request_id": "late", "amount_millicredits": 10}
    status, code, details = await caller.refused("commit", **fields)
    assert (status, code, details["field"]) == (400, "INVALID_REQUEST", "balance")


async def test_a_damaged_record_is_not_the_callers_error(
    caller: Caller, shard: ScriptedShard, redis: Redis
) -> None:
    await redis.hset(shard.keys.accounts, "acme/torn", "what")
    assert await caller.refused("charge", user_id="torn", amount_millicredits=1) == (
        503,
        "UNAVAILABLE",
        {},
    )


async def test_unpriced_models(caller: Caller) -> None:
    tokens = {"prompt_tokens": 1, "completion_tokens": 1}
    for op, rest in (
        ("charge", {"tokens": tokens}),
        ("reserve", {"prompt_tokens": 1, "max_output_tokens": 1}),
    ):
        status, code, details = await caller.refused(op, model="no-such-model", **rest)
        assert (status, code) == (400, "UNPRICED_MODEL")
        assert details == {"field": "model", "model": "no-such-model"}


async def test_a_service_tier_without_a_price_is_refused_by_name(caller: Caller) -> None:
    """Charged at the plain price, it could cost more than is paid for it."""
    asked = {"user_id": "ann", "prompt_tokens": 1, "max_output_tokens": 1, "model": "gpt-4o"}
    status, code, details = await caller.refused("reserve", **asked, service_tier="turbo")
    assert (status, code) == (400, "UNPRICED_MODEL")
    assert details == {"field": "service_tier", "service_tier": "turbo", "model": "gpt-4o"}
    response = await caller.post("reserve", **asked, service_tier="turbo")
    assert "'turbo' of model 'gpt-4o' has no known price" in response.json()["error"]["message"]
    for tier in ("default", "batch"):
        await caller.ok("reserve", **asked, service_tier=tier)


async def test_a_region_without_a_price_is_refused_by_name(caller: Caller) -> None:
    model = "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0"
    tokens = {"prompt_tokens": 1, "completion_tokens": 1}
    status, code, details = await caller.refused("charge", model=model, tokens=tokens)
    assert (status, code, details["region"]) == (400, "UNPRICED_MODEL", "us-gov")


async def test_without_prices_a_model_is_refused(meter: Meter) -> None:
    async with served(create_sidecar(meter)) as url, calling(url) as caller:
        tokens = {"prompt_tokens": 1, "completion_tokens": 1}
        status, code, details = await caller.refused("charge", model="gpt-4o", tokens=tokens)
    assert (status, code, details["field"]) == (400, "INVALID_REQUEST", "model")
    assert "not available" in details["limit"]


async def test_paths_and_methods(caller: Caller) -> None:
    assert problem(await caller.client.get("/v1/nothing"))[:2] == (404, "NOT_FOUND")
    assert problem(await caller.client.post("/"))[:2] == (404, "NOT_FOUND")
    assert problem(await caller.client.post("/v1/reserve/"))[:2] == (404, "NOT_FOUND")
    for method, path, allowed in (
        ("GET", "/v1/reserve", "POST"),
        ("DELETE", "/v1/batch", "POST"),
        ("POST", "/v1/balance", "GET"),
        ("PUT", "/healthz", "GET"),
    ):
        response = await caller.client.request(method, path)
        assert problem(response)[:2] == (405, "METHOD_NOT_ALLOWED")
        assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "org_id"),
        ("org_id=acme", "user_id"),
        ("org_id=acme&user_id=ann&user_id=bob", "user_id"),
        ("org_id=acme&user_id=ann&x=1", "x"),
        ("org_id=acme&user_id=ann&x=1&y=2", "query"),
        ("org_id=acme&user_id=%ff", "query"),
        ("org_id=acme&user_id", "query"),
        ("org_id=a%2Fb&user_id=ann", "org_id"),
        ("org_id=acme&user_id=", "user_id"),
    ],
)
async def test_bad_queries_are_named(caller: Caller, query: str, field: str) -> None:
    status, code, details = problem(await caller.client.get(f"/v1/balance?{query}"))
    assert (status, code, details["field"]) == (400, "INVALID_REQUEST", field)


async def test_keys(meter: Meter) -> None:
    old, new = (hashlib.sha256(key).hexdigest() for key in (b"old-key", b"new-key"))
    keys = ApiKeys.parse(f"{old}, {new.upper()}")
    async with served(create_sidecar(meter, keys=keys)) as url, calling(url) as caller:
        body = b'{"org_id":"acme","user_id":"ann","amount_millicredits":1}'
        for header in ("Bearer old-key", "Bearer new-key", "bearer new-key"):
            response = await caller.raw("/v1/charge", body, Authorization=header)
            assert response.status_code == 200
        for header in ("Bearer wrong", "Bearer", f"Bearer {old}", "Basic old-key", "old-key"):
            response = await caller.raw("/v1/charge", body, Authorization=header)
            assert problem(response) == (401, "UNAUTHORIZED", {})
            assert response.headers["www-authenticate"] == "Bearer"
        headers = [("Authorization", "Bearer wrong"), ("Authorization", "Bearer old-key")]
        twice = await caller.client.post(
            "/v1/charge", content=body, headers=[("Content-Type", "application/json"), *headers]
        )
        assert twice.status_code == 401
        for path in ("/v1/balance?org_id=acme&user_id=ann", "/v1/operations?org_id=a&request_id=b"):
            assert (await caller.client.get(path)).status_code == 401
        assert (await caller.raw("/v1/batch", body)).status_code == 401
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await caller.client.get(path)).status_code == 200
        good = {"Authorization": "Bearer old-key"}
        found = await caller.client.get("/v1/balance?org_id=acme&user_id=ann", headers=good)
        assert found.json()["available_millicredits"] == FUNDS - 3


@pytest.mark.parametrize("text", ["", "abc", "0" * 63, "0" * 64 + ",x", "g" * 64])
def test_bad_digests_are_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"^key \d must be a SHA-256 digest of 64 hex digits$"):
        ApiKeys.parse(text)


async def test_only_json_is_taken(caller: Caller) -> None:
    """A browser sends these types to any address without asking: a web site must not spend."""
    body = b'{"org_id":"acme","user_id":"ann","amount_millicredits":1}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = await caller.client.post(
            "/v1/charge", content=body, headers={"Content-Type": kind}
        )
        assert problem(response)[:2] == (415, "UNSUPPORTED_MEDIA_TYPE")
    response = await caller.client.post("/v1/charge", content=body)
    assert response.status_code == 415
    kind = "Application/JSON; charset=utf-8"
    response = await caller.client.post("/v1/charge", content=body, headers={"Content-Type": kind})
    assert response.status_code == 200


@pytest.mark.timeouts(take_timeout_s=1.0)
async def test_a_fenced_shard(caller: Caller, shard: ScriptedShard, redis: Redis) -> None:
    await redis.hset(shard.keys.meta, "epoch", "fenced")
    for response in (
        await caller.post("reserve", amount_millicredits=1),
        await caller.client.get("/v1/balance", params={"org_id": "acme", "user_id": "ann"}),
        await caller.lookup("r1"),
        await caller.client.get("/readyz"),
    ):
        assert problem(response) == (503, "FENCED", {})
        assert response.headers["retry-after"] == "1"
    assert (await caller.client.get("/healthz")).status_code == 200


async def test_a_lost_reply(redis_url: str, shard: ScriptedShard) -> None:
    """The caller learns that nobody knows; the same request id then tells."""
    settings = MeterSettings(take_timeout_s=0.3, call_timeout_s=0.2, lanes_per_server=1)
    async with (
        Proxy(redis_url) as proxy,
        await answered(lambda: Meter.connect(proxy.url, settings=settings)) as made,
        served(create_sidecar(made)) as url,
        calling(url) as caller,
    ):

        async def in_the_end(request_id: str, amount: int, but: int) -> httpx.Response:
            """A slow machine may be late for time-outs as short as these."""
            while True:
                fields = {"request_id": request_id, "amount_millicredits": amount}
                response = await caller.post("charge", **fields)
                if response.status_code != but and "UNAVAILABLE" not in response.text:
                    return response

        await in_the_end("warm", 1, but=503)
        proxy.silence(True)
        refused = problem(await in_the_end("r1", 10, but=200))
        assert refused == (503, "OUTCOME_UNKNOWN", {})
        for path in ("/readyz", "/v1/operations?org_id=acme&request_id=r1"):
            response = await caller.client.get(path)
            assert problem(response) == (503, "UNAVAILABLE", {}), path
        proxy.silence(False)
        answer = await in_the_end("r1", 10, but=503)
        assert answer.json()["charged_millicredits"] == 10
        assert await shard.account("acme/ann") == (FUNDS - 11, 0, 1)


async def test_memory_is_out(valkey_server: ValkeyFactory) -> None:
    server = valkey_server(append_only=False)
    redis: Redis = Redis.from_url(server.url)
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    await shard.load("acme/ann", FUNDS)
    async with (
        await Meter.connect(server.url) as made,
        served(create_sidecar(made)) as url,
        calling(url) as caller,
    ):
        await caller.ok("reserve", request_id="r1", amount_millicredits=100)
        await redis.config_set("maxmemory", FULL)
        for op in ("reserve", "charge"):
            refused = await caller.refused(op, amount_millicredits=1)
            assert refused == (503, "OUT_OF_MEMORY", {})
        await caller.ok("commit", request_id="r1", amount_millicredits=40)
        assert await caller.balance() == (FUNDS - 40, 0)
    await redis.aclose()


def test_errors_of_the_store_keep_their_text() -> None:
    secret = "redis://user:password@10.0.0.1"
    for error, code in (
        (StoreError(secret), "UNAVAILABLE"),
        (StoreOutOfMemory(secret), "OUT_OF_MEMORY"),
        (OutcomeUnknown(secret), "OUTCOME_UNKNOWN"),
        (Overloaded(secret), "OVERLOADED"),
    ):
        refusal = refusal_of(error)
        assert (refusal.status, refusal.code, refusal.retry) == (503, code, True)
        assert secret.encode() not in refusal.body()


async def test_a_defect_is_a_plain_500(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(Meter, "ready", fail)
    async with served(create_sidecar(meter)) as url, calling(url) as caller:
        response = await caller.client.get("/readyz")
    assert problem(response) == (500, "INTERNAL_ERROR", {})
    assert "inside" not in response.text


async def test_draining_ends_holds_and_takes_none(caller: Caller, sidecar: Sidecar) -> None:
    for request in ("r1", "r2", "r3"):
        await caller.ok("reserve", request_id=request, amount_millicredits=10)
    sidecar.drain()
    for response in (
        await caller.post("reserve", amount_millicredits=1),
        await caller.post("charge", amount_millicredits=1),
        await caller.client.get("/readyz"),
    ):
        assert problem(response) == (503, "DRAINING", {})
        assert response.headers["connection"] == "close"
    commit = await caller.post("commit", request_id="r1", amount_millicredits=4)
    assert (commit.status_code, commit.headers["connection"]) == (200, "close")
    await caller.ok("release", request_id="r2")
    await caller.ok("touch", request_id="r3")
    results = await caller.batch(
        {"op": "release", "request_id": "r3"}, {"op": "charge", "amount_millicredits": 1}
    )
    assert [result["status"] for result in results] == [200, 503]
    assert (await caller.client.get("/healthz")).status_code == 200
    assert await caller.balance() == (FUNDS - 4, 0)


async def test_without_a_meter_everything_but_health_waits() -> None:
    async with served(create_sidecar(None)) as url, calling(url) as caller:
        assert await caller.refused("charge", amount_millicredits=1) == (503, "UNAVAILABLE", {})
        response = await caller.raw("/v1/batch", b'{"operations":[]}')
        assert problem(response)[:2] == (503, "UNAVAILABLE")
        assert problem(await caller.lookup("r"))[:2] == (503, "UNAVAILABLE")
        assert problem(await caller.client.get("/readyz"))[:2] == (503, "UNAVAILABLE")
        assert (await caller.client.get("/healthz")).status_code == 200

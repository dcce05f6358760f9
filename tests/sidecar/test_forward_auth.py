"""Forward auth, asked as gateways ask: what is let through, what is refused, what is settled."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from support.proxy import Proxy
from support.shard import ScriptedShard
from support.sidecar import FUNDS, Caller, calling, problem, served

from taximeter.meter import Meter, MeterSettings
from taximeter.meter.sidecar import ApiKeys, create_sidecar
from taximeter.meter.sidecar.forward_auth import ForwardAuthPolicy

ANN = {"X-Org-Id": "acme", "X-User-Id": "ann"}


async def ask(
    caller: Caller, path: str, request_id: str | None = None, method: str = "GET", **headers: str
) -> httpx.Response:
    given = {**ANN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if request_id is not None:
        given["X-Request-Id"] = request_id
    return await caller.client.request(method, f"/auth/{path}", headers=given)


async def event(shard: ScriptedShard) -> tuple[str, int, dict[str, Any]]:
    """(kind, amount, payload) of the only charge."""
    [found] = await shard.events()
    return found[1], int(found[4]), json.loads(found[7])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS", "PROPFIND"])
async def test_a_price_is_charged(caller: Caller, shard: ScriptedShard, method: str) -> None:
    response = await ask(
        caller,
        "charge/0.5/v1/images?refuse_with=402&price=0",
        "r1",
        method,
        X_Taximeter_Service="images",
        X_Forwarded_Method="POST",
    )
    assert response.status_code == 200
    assert response.headers["x-credits-remaining"] == "999.500"
    assert response.headers["x-cost-incurred"] == "0.500"
    assert response.headers["x-taximeter-request-id"] == "r1"
    assert response.json()["charged_millicredits"] == 500
    kind, amount, payload = await event(shard)
    assert (kind, amount) == ("charge", 500)
    assert payload == {
        "type": "api_request",
        "name": "images",
        "meta": {"gateway": "forward_auth", "uri": "/v1/images", "method": "POST"},
    }


async def test_the_query_of_the_original_uri_is_not_kept(
    caller: Caller, shard: ScriptedShard
) -> None:
    await ask(caller, "charge/1", X_Original_Uri="/a?token=secret", X_Forwarded_Uri="/b")
    assert (await event(shard))[2]["meta"]["uri"] == "/a"


async def test_a_request_id_is_let_through_once(caller: Caller, shard: ScriptedShard) -> None:
    assert (await ask(caller, "charge/0.5", "r1")).status_code == 200
    response = await ask(caller, "charge/0.5", "r1")
    assert problem(response)[:2] == (409, "REPLAYED")
    response = await ask(caller, "charge/0.5?refuse_with=403", "r1")
    assert problem(response)[:2] == (403, "REPLAYED")
    assert response.headers["x-taximeter-status"] == "409"
    assert (await ask(caller, "reserve/0.5", "r2")).status_code == 200
    assert (await ask(caller, "reserve/0.5", "r2")).status_code == 409
    assert await shard.account("acme/ann") == (FUNDS - 1000, 500, 1)


async def test_whose_reply_was_lost_on_the_way_is_let_through(
    redis_url: str, shard: ScriptedShard
) -> None:
    """The sidecar asks Redis again, and that is no repeat of the gateway's."""
    async with (
        Proxy(redis_url) as proxy,
        await Meter.connect(proxy.url, settings=MeterSettings(lanes_per_server=1)) as meter,
        served(create_sidecar(meter)) as url,
        calling(url) as caller,
    ):
        assert (await ask(caller, "charge/0.5", "warm")).status_code == 200
        for action in ("charge", "reserve"):
            proxy.lose_replies(1)
            before = proxy.lost
            assert (await ask(caller, f"{action}/0.5", action)).status_code == 200
            assert proxy.lost == before + 1
            assert problem(await ask(caller, f"{action}/0.5", action))[:2] == (409, "REPLAYED")
        found = await caller.lookup("charge")
        assert (found.status_code, found.json()["charged_millicredits"]) == (200, 500)
    assert await shard.account("acme/ann") == (FUNDS - 1500, 500, 1)


async def test_many_with_one_id_are_charged_once(caller: Caller, shard: ScriptedShard) -> None:
    answers = await asyncio.gather(*(ask(caller, "charge/0.5", "r1") for _ in range(20)))
    assert sorted(response.status_code for response in answers) == [200] + [409] * 19
    assert (await event(shard))[1] == 500


async def test_repeats_pass_where_that_is_the_policy(meter: Meter, shard: ScriptedShard) -> None:
    sidecar = create_sidecar(meter, forward_auth=ForwardAuthPolicy(repeats_pass=True))
    async with served(sidecar) as url, calling(url) as caller:
        for _ in range(2):
            assert (await ask(caller, "charge/0.5", "r1")).status_code == 200
            assert (await ask(caller, "reserve/0.5", "r2")).status_code == 200
        assert (await ask(caller, "charge/0.6", "r1")).status_code == 409
        await ask(caller, "settle", "r2", X_Taximeter_Status="500")
        assert (await ask(caller, "reserve/0.5", "r2")).status_code == 409
    assert await shard.account("acme/ann") == (FUNDS - 500, 0, 1)


async def test_who_cannot_pay_is_refused(caller: Caller, shard: ScriptedShard) -> None:
    for path, status in (("charge/1000.001", 402), ("charge/1000.001?refuse_with=403", 403)):
        response = await ask(caller, path)
        code, details = problem(response)[1:]
        assert (response.status_code, code) == (status, "INSUFFICIENT_CREDITS")
        assert details["need_millicredits"] == FUNDS + 1
        assert response.headers["x-taximeter-status"] == "402"
        assert response.headers["x-taximeter-error"] == "INSUFFICIENT_CREDITS"
        assert response.headers["x-credits-remaining"] == "1000.000"
    response = await ask(caller, "charge/1", X_User_Id="nobody")
    assert problem(response)[:2] == (402, "ACCOUNT_NOT_FOUND")
    assert (await ask(caller, "reserve/1000")).status_code == 200
    response = await ask(caller, "charge/1")
    assert problem(response)[:2] == (429, "HOLDS_IN_THE_WAY")
    assert response.headers["retry-after"] == "1"
    assert (await ask(caller, "charge/1?refuse_with=403")).status_code == 403
    assert await shard.events() == []


async def test_who_has_as_many_open_as_one_may_have(caller: Caller, shard: ScriptedShard) -> None:
    """At both doors of the sidecar; the owner makes room by ending one."""
    await shard.redis.hset(shard.keys.meta, "open_holds_max", 2)
    await shard.load("acme/bob", FUNDS)
    for request_id in ("a", "b"):
        assert (await ask(caller, "reserve/0", request_id)).status_code == 200
    for response in (
        await ask(caller, "reserve/0", "c"),
        await caller.post("reserve", amount_millicredits=0, request_id="c"),
    ):
        limit = {"limit": "open_holds", "open_holds_max": 2}
        assert problem(response) == (429, "TOO_MANY_HOLDS", limit)
        assert response.headers["retry-after"] == "1"
    assert (await ask(caller, "reserve/0?refuse_with=403", "c")).status_code == 403
    assert (await ask(caller, "reserve/0", "c", X_User_Id="bob")).status_code == 200
    assert (await ask(caller, "settle", "a", X_Taximeter_Cost="0")).status_code == 200
    assert (await ask(caller, "reserve/0", "d")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "charged"),
    [
        ({"X_Taximeter_Cost": "0.125"}, 125),
        ({"X_Taximeter_Cost": "3", "X_Taximeter_Status": "500"}, 3000),
        ({"X_Taximeter_Cost": "0"}, 0),
        ({"X_Taximeter_Cost": "", "X_Taximeter_Status": "200"}, 2000),
        ({"X_Taximeter_Status": "302"}, 2000),
        ({"X_Taximeter_Status": "502"}, None),
        ({"X_Taximeter_Status": "499"}, None),
    ],
)
async def test_a_hold_is_settled(
    caller: Caller, shard: ScriptedShard, headers: dict[str, str], charged: int | None
) -> None:
    response = await ask(caller, "reserve/2", X_Taximeter_Service="search")
    assert response.headers["x-credits-remaining"] == "998.000"
    assert "x-cost-incurred" not in response.headers
    made_up = response.headers["x-taximeter-request-id"]
    for _ in range(2):  # A settle that is repeated changes nothing.
        response = await ask(caller, "settle", made_up, "POST", **headers)
        assert response.status_code == 200, response.text
    left = FUNDS - (charged or 0)
    assert await shard.account("acme/ann") == (left, 0, 1)
    assert response.headers["x-credits-remaining"] == f"{left // 1000}.{left % 1000:03d}"
    if charged is None:
        assert await shard.events() == []
    else:
        kind, amount, payload = await event(shard)
        assert (kind, amount, payload["name"]) == ("commit", charged, "search")


async def test_a_settle_that_says_nothing_changes_nothing(
    caller: Caller, shard: ScriptedShard
) -> None:
    await ask(caller, "reserve/2", "r1")
    assert problem(await ask(caller, "settle", "r1"))[:2] == (400, "INVALID_REQUEST")
    for headers in ({"X_Taximeter_Cost": "free"}, {"X_Taximeter_Status": "ok"}):
        assert (await ask(caller, "settle", "r1", **headers)).status_code == 400
    assert (await ask(caller, "settle", X_Taximeter_Cost="1")).status_code == 400
    response = await ask(caller, "settle", "r9", X_Taximeter_Status="200")
    assert problem(response)[:2] == (404, "UNKNOWN_HOLD")
    assert await shard.account("acme/ann") == (FUNDS - 2000, 2000, 1)


async def test_a_hold_that_nobody_settles_ends_without_a_charge(
    caller: Caller, shard: ScriptedShard
) -> None:
    await ask(caller, "reserve/2", "r1")
    await shard.overdue("r1", "acme")
    await shard.sweep()
    assert await shard.account("acme/ann") == (FUNDS, 0, 1)
    late = await ask(caller, "settle", "r1", X_Taximeter_Cost="0.5")
    assert late.json()["late"] is True
    assert await shard.account("acme/ann") == (FUNDS - 500, 0, 1)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("charge/", "price"),
        ("charge/free", "price"),
        ("charge/-1", "price"),
        ("charge/0.0001", "price"),
        ("charge/1e3", "price"),
        ("charge/99999999999", "price"),
    ],
)
async def test_a_price_that_is_none(caller: Caller, path: str, field: str) -> None:
    status, code, details = problem(await ask(caller, path))
    assert (status, code, details["field"]) == (400, "INVALID_REQUEST", field)


async def test_identity_is_the_gateways_and_single(caller: Caller, shard: ScriptedShard) -> None:
    for name in ANN:
        headers = [(one, value) for one, value in ANN.items() if one != name]
        response = await caller.client.get("/auth/charge/1", headers=headers)
        assert problem(response)[2]["field"] == name
        response = await caller.client.get("/auth/charge/1", headers=[*ANN.items(), (name, "x")])
        assert problem(response)[2]["field"] == name
    assert (await ask(caller, "charge/1", "no spaces")).status_code == 400
    assert (await ask(caller, "charge/1", X_Org_Id="a/b")).status_code == 400
    assert (await ask(caller, "refund/1")).status_code == 404
    assert await shard.events() == []


async def test_the_gateways_key_is_not_the_callers(meter: Meter, shard: ScriptedShard) -> None:
    digest = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"  # Of "key".
    async with (
        served(create_sidecar(meter, keys=ApiKeys([digest]))) as url,
        calling(url) as caller,
    ):
        for headers in ({}, {"X_Taximeter_Key": "wrong"}, {"Authorization": "Bearer key"}):
            response = await ask(caller, "charge/1", **headers)
            assert problem(response)[:2] == (401, "UNAUTHORIZED")
        response = await ask(
            caller, "charge/1", X_Taximeter_Key="key", Authorization="Bearer of-the-caller"
        )
        assert response.status_code == 200
    assert (await event(shard))[1] == 1000


async def test_a_sidecar_that_drains_settles_and_lets_nobody_through(
    meter: Meter, shard: ScriptedShard
) -> None:
    sidecar = create_sidecar(meter)
    async with served(sidecar) as url, calling(url) as caller:
        await ask(caller, "reserve/1", "r1")
        sidecar.drain()
        for path in ("charge/1", "reserve/1", "charge/1?refuse_with=403"):
            assert problem(await ask(caller, path))[:2] == (503, "DRAINING")
        assert (await ask(caller, "settle", "r1", X_Taximeter_Cost="1")).status_code == 200
    async with served(create_sidecar(None)) as url, calling(url) as caller:
        assert problem(await ask(caller, "charge/1"))[:2] == (503, "UNAVAILABLE")

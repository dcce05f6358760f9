"""What system admins put right by hand: with a reason, on record, and never beyond what is
there.
"""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import datetime
from typing import Any

import httpx
from support.world import BILLING, World

from taximeter.meter import Usage

CREDITS = "/credits/acme"


async def send(
    world: World, method: str, path: str, body: Any = None, by: str = "root", **headers: str
) -> httpx.Response:
    auth = world.auth(by, system_admin=by == "root")
    return await world.client.request(
        method, f"{BILLING}{path}", json=body, headers={**auth, **headers}
    )


async def call(
    world: World, method: str, path: str, body: Any = None, *, by: str = "root", status: int = 200
) -> Any:
    answer = await send(world, method, path, body, by)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_refund_is_live_and_on_record_with_its_reason(world: World) -> None:
    await world.funded("ann", 20.0)
    body = {"user_id": "ann", "credits": 2.5, "reason": "an outage", "refund_amount": 1.5}
    done = await call(world, "POST", f"{CREDITS}/refund", body)
    assert done["allocation"]["remaining_credits"] == 22.5
    assert done["allocation"]["live"] is True
    assert done["pool"]["total_credits"] == 102.5
    [line] = (await call(world, "GET", "/acme/history?event_type=credits_refunded"))["history"]
    assert (line["credits"], line["amount"]) == (2.5, -1.5)
    assert (line["metadata"]["reason"], line["metadata"]["corrected_by"]) == ("an outage", "root")
    audit = await call(world, "GET", "/orgs/acme/audit?action=org.credits.refunded")
    assert audit["entries"][0]["after"]["reason"] == "an outage"
    assert audit["entries"][0]["before"] == {"total_credits": 100.0}
    stranger = {**body, "user_id": "stranger"}
    await call(world, "POST", f"{CREDITS}/refund", stranger, status=404)
    assert (await call(world, "GET", CREDITS))["total_credits"] == 102.5
    await world.prove()


async def test_a_request_is_refunded_once_at_most_what_it_cost(world: World) -> None:
    """Also by ten at once."""
    await world.funded("ann", 20.0)
    answer = await world.chat()
    request_id = answer.headers["X-Request-Id"]
    await world.settle()
    [charge] = await world.charges()
    cost = charge["credits_used"] / 1000
    body = {"user_id": "ann", "credits": cost, "reason": "wrong answer", "request_id": request_id}
    more = {**body, "credits": round(cost + 0.001, 3)}
    await call(world, "POST", f"{CREDITS}/refund", more, status=400)
    answers = await asyncio.gather(
        *(send(world, "POST", f"{CREDITS}/refund", body) for _ in range(10))
    )
    assert sorted(one.status_code for one in answers) == [200] + [400] * 9
    assert (await world.balance()).available == 20_000
    await call(world, "POST", f"{CREDITS}/refund", {**body, "request_id": "req-x"}, status=404)
    await world.add_member("bob")
    await call(world, "POST", f"{CREDITS}/refund", {**body, "user_id": "bob"}, status=404)
    await world.prove()


async def test_an_adjustment_takes_what_is_free_and_no_more(world: World) -> None:
    await world.funded("ann", 20.0)
    path = f"{CREDITS}/adjust"
    refused = await call(world, "POST", path, {"credits": -80.001, "reason": "r"}, status=400)
    assert refused["error"]["code"] == "INSUFFICIENT_CREDITS"
    assert refused["error"]["details"] == {"need": 80.001, "have": 80.0}
    done = await call(world, "POST", path, {"credits": -80.0, "reason": "bought twice"})
    assert (done["pool"]["total_credits"], done["pool"]["available_credits"]) == (20.0, 0.0)
    assert done["correction"]["credits"] == -80.0
    key = {"Idempotency-Key": "k"}
    body = {"credits": 5.5, "reason": "a gift"}
    first = await send(world, "POST", path, body, **key)
    again = await send(world, "POST", path, body, **key)
    assert (first.status_code, first.text) == (200, again.text)
    assert (await call(world, "GET", CREDITS))["total_credits"] == 25.5
    for wrong in (0, 0.0001, "5", True, -1e12):
        await call(world, "POST", path, {"credits": wrong, "reason": "r"}, status=422)
    await call(world, "POST", path, {"credits": 1.0}, status=422)
    await world.prove()


async def test_the_monthly_refresh_is_set_and_ended(world: World) -> None:
    await world.funded("ann", 20.0)
    path = f"{CREDITS}/monthly-refresh"
    done = await call(world, "PUT", path, {"credits": 250.0})
    assert done == {"org_id": "acme", "monthly_refresh_amount": 250.0}
    pool = await call(world, "GET", CREDITS)
    assert (pool["monthly_refresh_amount"], pool["total_credits"]) == (250.0, 100.0)
    await world.stores.pool.fetch(
        "SELECT * FROM taximeter.refresh_pools(now() + interval '1 month', 10)"
    )
    assert (await call(world, "GET", CREDITS))["total_credits"] == 350.0
    await call(world, "PUT", path, {"credits": 0})
    assert (await call(world, "GET", CREDITS))["monthly_refresh_amount"] == 0.0
    await call(world, "PUT", path, {"credits": -1}, status=422)
    audit = await call(world, "GET", "/orgs/acme/audit?action=org.refresh.set")
    assert audit["entries"][1]["after"] == {"monthly_refresh_credits": 250.0}


async def test_an_end_is_set_changed_and_taken_away(world: World) -> None:
    await world.funded("ann", 20.0)
    path = f"{CREDITS}/allocations/ann"
    end = "2999-01-01T00:00:00Z"
    refused = await call(world, "PATCH", path, {"auto_renew": True}, by="boss", status=409)
    assert refused["error"]["code"] == "NO_EXPIRY"
    body: dict[str, Any] = {"expires_at": end, "auto_renew": True}
    done = (await call(world, "PATCH", path, body, by="boss"))["allocation"]
    assert (done["expires_at"], done["auto_renew"]) == (end, True)
    assert (done["remaining_credits"], done["live"]) == (20.0, True)
    done = (await call(world, "PATCH", path, {"expires_at": None}, by="boss"))["allocation"]
    assert (done["expires_at"], done["auto_renew"]) == (None, False)
    for wrong in ({}, {"expires_at": "2001-01-01T00:00:00Z"}, {"expires_at": "2999-01-01"}):
        await call(world, "PATCH", path, wrong, by="boss", status=422)
    body = {"expires_at": None, "auto_renew": True}
    await call(world, "PATCH", path, body, by="boss", status=422)
    other = f"{CREDITS}/allocations/nobody"
    await call(world, "PATCH", other, {"expires_at": end}, by="boss", status=404)
    audit = await call(world, "GET", "/orgs/acme/audit?action=user.allocation.terms_changed")
    assert [one["before"]["auto_renew"] for one in audit["entries"]] == [True, False]
    await world.prove()


async def test_single_requests_are_listed_filtered_and_paged(world: World) -> None:
    await world.funded("ann", 20.0)
    await world.add_member("bob")
    await world.allocate("bob", 5.0)
    for user in ("ann", "bob", "ann", "ann"):
        assert (await world.chat(user)).status_code == 200
    found: list[Any] = []
    path = f"{CREDITS}/requests?limit=2"
    page = await call(world, "GET", path, by="boss")
    assert page["complete"] is True
    found += page["requests"]
    assert (await world.chat("bob")).status_code == 200, "what comes meanwhile shifts nothing"
    while page["next"] is not None:
        page = await call(world, "GET", f"{path}&cursor={page['next']}", by="boss")
        found += page["requests"]
    assert len({one["id"] for one in found}) == len(found) == 4
    times = [datetime.fromisoformat(one["created_at"]) for one in found]
    assert sorted(times, reverse=True) == times
    one = found[0]
    assert (one["service_name"], one["service_type"]) == ("gpt-4o-mini", "llm_inference")
    assert one["credits_used"] > 0 < one["reserved_credits"]
    for query, count in (
        ("user_id=bob", 2),
        (f"request_id={one['request_id']}", 1),
        ("service_name=gpt-4o", 0),
        ("service_type=llm_inference", 5),
        ("start_date=2001-01-01&end_date=2001-01-02", 0),
    ):
        page = await call(world, "GET", f"{CREDITS}/requests?{query}", by="boss")
        assert len(page["requests"]) == count, query
    assert len((await call(world, "GET", f"{CREDITS}/requests", by="bob"))["requests"]) == 2
    await call(world, "GET", f"{CREDITS}/requests?user_id=ann", by="bob", status=403)
    for cursor in ("x", "MTIz", "-", "%00"):
        await call(world, "GET", f"{CREDITS}/requests?cursor={cursor}", by="boss", status=400)
    await call(world, "GET", f"{CREDITS}/requests?end_date=9999-12-31", by="boss", status=400)


async def test_they_are_exported_for_a_spreadsheet_that_runs_nothing(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await world.chat()).status_code == 200
    meter = await world.app.state.services.meters.get()
    await meter.charge("acme", "ann", 7, usage=Usage("llm", '=cmd("x"),y'))
    answer = await send(world, "GET", f"{CREDITS}/requests.csv", by="boss")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/csv")
    assert "X-Next-Cursor" not in answer.headers
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 2
    assert rows[0]["service_name"] == '\'=cmd("x"),y'
    assert rows[0]["credits_used"] == "0.007"


async def test_an_open_invoice_makes_a_subscription_past_due_until_it_is_paid(
    world: World,
) -> None:
    assert (await world.subscribe()).status_code == 200
    path = "/billing/acme/invoices"
    body = {"lago_invoice_id": "inv-1", "status": "failed", "amount": 49.0}
    for _ in range(2):
        noted = await call(world, "POST", path, body)
        assert noted["subscription_status"] == "past_due"
        assert noted["outstanding_balance"] == 49.0
    await call(world, "POST", path, {**body, "amount": 48.0}, status=409)
    found = await call(world, "GET", "/subscriptions/acme", by="boss")
    assert found["subscription"]["status"] == "past_due"
    assert found["outstanding_balance"] == 49.0
    listed = await call(world, "GET", path, by="boss")
    assert (listed["total"], listed["outstanding_balance"]) == (1, 49.0)
    await call(world, "POST", path, {**body, "lago_invoice_id": "inv-2", "status": "paid"})
    assert (await call(world, "GET", f"{path}?status=failed", by="boss"))["total"] == 1
    paid = await call(world, "POST", path, {**body, "status": "paid"})
    assert (paid["subscription_status"], paid["outstanding_balance"]) == ("active", 0.0)
    await call(world, "POST", path, body, status=409)
    listed = await call(world, "GET", f"{path}?status=paid", by="boss")
    assert [one["status"] for one in listed["invoices"]] == ["paid", "paid"]
    rows = await world.stores.pool.fetch(
        "SELECT action FROM taximeter.audit_log WHERE action ~ 'invoice|past_due|paid' ORDER BY id"
    )
    assert [row["action"] for row in rows] == [
        "org.invoice.failed",
        "org.subscription.past_due",
        "org.invoice.paid",
        "org.invoice.paid",
        "org.subscription.paid",
    ]

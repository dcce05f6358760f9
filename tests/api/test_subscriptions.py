"""A subscription is upgraded, canceled, ended, begun again; and priced to the cent."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import BILLING, World

from taximeter.api.billing.proration import prorate
from taximeter.settler.worker.billing_periods import end_billing_periods

SUBSCRIPTION = f"{BILLING}/subscriptions/acme"


async def upgrade(world: World, plan: str, **body: Any) -> httpx.Response:
    return await world.client.put(
        f"{SUBSCRIPTION}/upgrade",
        json={"new_plan_code": plan, **body},
        headers=world.auth("boss"),
    )


async def read(world: World) -> Any:
    return (await world.client.get(SUBSCRIPTION, headers=world.auth("boss"))).json()


async def put_period(world: World, start: date, end: date) -> None:
    await world.stores.pool.execute(
        "UPDATE organization_subscriptions SET billing_cycle_start = $1, billing_cycle_end = $2,"
        " billing_anchor_day = extract(day FROM $1::date)",
        start,
        end,
    )


async def today(world: World) -> date:
    found: date = await world.stores.pool.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return found


@pytest.mark.parametrize(
    ("old", "new", "days", "left", "cents"),
    [
        ("49.00", "99.00", 30, 30, "50.00"),
        ("49.00", "99.00", 30, 15, "25.00"),
        ("19.00", "49.00", 31, 10, "9.68"),  # 9.677...
        ("19.00", "49.00", 30, 0, "0.00"),
        ("1.00", "19.00", 28, 1, "0.64"),  # 0.642857...
        ("0.00", "0.01", 2, 1, "0.01"),  # half a cent
        ("49.00", "99.00", 0, 0, "0.00"),
        ("49.00", "99.00", 30, 45, "50.00"),  # before the period
        ("49.00", "99.00", 30, -3, "0.00"),  # after it
    ],
)
def test_proration(old: str, new: str, days: int, left: int, cents: str) -> None:
    start = date(2028, 2, 1)
    end = start + timedelta(days=days)
    found = prorate(Decimal(old), Decimal(new), start, end, end - timedelta(days=left))
    assert str(found) == cents


@given(
    st.decimals(0, 1000, places=2), st.decimals(0, 1000, places=2), st.integers(1, 366), st.data()
)
def test_proration_is_between_nothing_and_the_difference(
    old: Decimal, rise: Decimal, days: int, data: st.DataObject
) -> None:
    start = date(2028, 2, 1)
    end, passed = start + timedelta(days=days), data.draw(st.integers(0, days))
    found = prorate(old, old + rise, start, end, start + timedelta(days=passed))
    assert 0 <= found <= rise
    assert found == found.quantize(Decimal("0.01"))


async def test_an_upgrade_costs_the_days_that_are_left(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    now = await today(world)
    await put_period(world, now - timedelta(days=20), now + timedelta(days=10))
    answer = (await upgrade(world, "enterprise")).json()
    assert answer["price_change"] == {"old_price": 49.0, "new_price": 99.0, "proration": 16.67}
    assert answer["subscription"]["plan_code"] == "enterprise"
    assert answer["subscription"]["plan_name"] == "Enterprise"
    assert answer["subscription"]["monthly_price"] == 99.0
    row = await world.stores.pool.fetchrow(
        "SELECT amount, metadata ->> 'from_plan', metadata ->> 'to_plan' FROM org_billing_history"
        " WHERE event_type = 'subscription_upgraded'"
    )
    assert tuple(row or ()) == (Decimal("16.67"), "professional", "enterprise")
    audit = await world.stores.pool.fetchrow(
        "SELECT actor, before, after FROM taximeter.audit_log"
        " WHERE action = 'org.subscription.upgraded'"
    )
    assert audit is not None
    assert audit["actor"] == "boss"
    before, after = json.loads(audit["before"]), json.loads(audit["after"])
    assert before == {"plan_code": "professional", "monthly_price": "49.00"}
    assert after["proration"] == "16.67"


@pytest.mark.parametrize("plan", ["gold", "starter", "professional", "trial"])
async def test_what_is_no_upgrade_is_refused(world: World, plan: str) -> None:
    assert (await world.subscribe()).status_code == 200
    refused = await upgrade(world, plan)
    assert refused.status_code == 400
    assert refused.json()["error"]["details"]["field"] == "new_plan_code"
    assert (await read(world))["subscription"]["plan_code"] == "professional"


async def test_an_upgrade_for_later_is_applied_at_the_end_of_the_period(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    answer = (await upgrade(world, "enterprise", effective_immediately=False)).json()
    assert answer["price_change"]["proration"] == 0.0
    assert answer["subscription"]["plan_code"] == "professional"
    assert answer["subscription"]["pending_plan_code"] == "enterprise"
    ends_on = date.fromisoformat(answer["subscription"]["billing_cycle_end"])
    pool = world.stores.pool
    assert await end_billing_periods(pool, ends_on - timedelta(days=1)) == 0
    assert (await read(world))["subscription"]["plan_code"] == "professional"
    assert await end_billing_periods(pool, ends_on) == 1
    assert await end_billing_periods(pool, ends_on) == 0
    after = await read(world)
    assert after["subscription"]["plan_code"] == "enterprise"
    assert after["subscription"]["monthly_price"] == 99.0
    assert after["subscription"]["pending_plan_code"] is None
    assert after["subscription"]["billing_cycle_start"] == ends_on.isoformat()
    assert date.fromisoformat(after["next_billing_date"]) > ends_on
    kinds = await pool.fetch(
        "SELECT event_type FROM org_billing_history WHERE event_type LIKE 'subscription%'"
        " ORDER BY created_at, event_type"
    )
    assert [row[0] for row in kinds] == ["subscription_created", "subscription_upgraded"]
    audited = "SELECT actor FROM taximeter.audit_log WHERE action = 'org.subscription.upgraded'"
    assert await pool.fetchval(audited) == "boss"


async def test_a_canceled_subscription_ends_with_its_period(world: World) -> None:
    await world.funded("ann", 20.0)
    assert (await upgrade(world, "enterprise", effective_immediately=False)).status_code == 200
    canceled = await world.client.delete(SUBSCRIPTION, headers=world.auth("boss"))
    assert canceled.status_code == 200
    answer = canceled.json()
    assert answer["subscription"]["status"] == "active"
    assert answer["subscription"]["cancel_at_period_end"] is True
    assert answer["subscription"]["pending_plan_code"] is None
    assert answer["effective_date"] == answer["subscription"]["billing_cycle_end"]
    assert (await read(world))["next_billing_date"] is None
    again = await world.client.delete(SUBSCRIPTION, headers=world.auth("boss"))
    assert again.json() == answer
    pool = world.stores.pool
    history = "SELECT count(*) FROM org_billing_history WHERE event_type = 'subscription_canceled'"
    assert await pool.fetchval(history) == 1
    assert (await upgrade(world, "enterprise")).status_code == 409
    assert (await world.subscribe()).status_code == 409
    ends_on = date.fromisoformat(answer["effective_date"])
    assert await end_billing_periods(pool, ends_on) == 1
    assert await end_billing_periods(pool, ends_on + timedelta(days=400)) == 0
    ended = await read(world)
    assert ended["subscription"]["status"] == "canceled"
    assert ended["subscription"]["plan_code"] == "professional"
    assert (await world.client.delete(SUBSCRIPTION, headers=world.auth("boss"))).status_code == 409
    assert (await upgrade(world, "enterprise")).status_code == 409
    assert (await world.chat()).status_code == 200, "what was paid for can still be used"
    assert (await world.subscribe(credits=None)).status_code == 200
    begun = await read(world)
    assert begun["subscription"]["status"] == "active"
    assert begun["subscription"]["cancel_at_period_end"] is False
    assert begun["next_billing_date"] == begun["subscription"]["billing_cycle_end"]
    actions = await pool.fetch(
        "SELECT action FROM taximeter.audit_log WHERE action LIKE 'org.subscription%' ORDER BY id"
    )
    assert [row[0].removeprefix("org.subscription.") for row in actions] == [
        "created",
        "upgrade_requested",
        "canceled",
        "ended",
        "created",
    ]


@pytest.mark.parametrize(
    ("anchor", "end", "today_", "expected"),
    [
        ("2027-11-23", "2027-12-23", "2027-12-23", ("2027-12-23", "2028-01-23")),
        ("2028-01-31", "2028-02-29", "2028-02-29", ("2028-02-29", "2028-03-31")),
        ("2027-12-31", "2028-01-31", "2028-05-01", ("2028-04-30", "2028-05-31")),
    ],
)
async def test_periods_begin_on_the_same_day_of_the_month(
    world: World, anchor: str, end: str, today_: str, expected: tuple[str, str]
) -> None:
    """Also after a shorter month, and when the settler was away for months."""
    assert (await world.subscribe()).status_code == 200
    await put_period(world, date.fromisoformat(anchor), date.fromisoformat(end))
    assert await end_billing_periods(world.stores.pool, date.fromisoformat(today_)) == 1
    found = (await read(world))["subscription"]
    assert (found["billing_cycle_start"], found["billing_cycle_end"]) == expected


async def test_what_failed_invoices_leave_open(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for invoice, kind, amount in (
        ("inv_1", "invoice_failed", 49),
        ("inv_2", "invoice_failed", 10.5),
        ("inv_1", "invoice_paid", 49),
        (None, "invoice_failed", 1),
    ):
        await world.stores.pool.execute(
            "INSERT INTO org_billing_history (org_id, event_type, amount, lago_invoice_id)"
            " VALUES ('acme', $1, $2, $3)",
            kind,
            Decimal(str(amount)),
            invoice,
        )
    await world.stores.pool.execute(
        """UPDATE organization_subscriptions SET metadata = '{"lago_status": "pending"}'"""
    )
    found = await read(world)
    assert found["outstanding_balance"] == 11.5
    assert found["lago_status"] == "pending"


async def test_metadata_that_an_operator_wrote_by_hand(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    for table in ("organization_subscriptions", "org_billing_history"):
        await world.stores.pool.execute(f"UPDATE {table} SET metadata = '[1]'")
    assert (await read(world))["lago_status"] == "active"
    history = await world.client.get(f"{BILLING}/acme/history", headers=world.auth("boss"))
    assert {str(one["metadata"]) for one in history.json()["history"]} == {"{'value': [1]}"}


async def test_an_organization_without_a_subscription(world: World) -> None:
    pool = world.stores.pool
    await pool.execute("INSERT INTO organizations VALUES ('acme', 'Acme', 'acme', 'boss')")
    await pool.execute("INSERT INTO organization_members VALUES ('acme', 'boss', 'admin')")
    headers = world.auth("boss")
    assert (await world.client.get(SUBSCRIPTION, headers=headers)).status_code == 404
    assert (await world.client.delete(SUBSCRIPTION, headers=headers)).status_code == 404
    assert (await upgrade(world, "enterprise")).status_code == 404

"""What admins and members do on the screens of their organisation, on the running system."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import pytest
from playwright.sync_api import expect
from support.chromium import WAITS_MS, Chromium
from support.world import BILLING, CHAT, World

expect.set_options(timeout=WAITS_MS)

pytestmark = pytest.mark.timeout(600)

MEMBERS: Final = 1_500
CHAT_BODY: Final = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


async def ask(world: World, key: str, **body: Any) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return (await world.client.post(CHAT, json={**CHAT_BODY, **body}, headers=headers)).status_code


async def test_fifteen_hundred_members_are_searched_and_sorted_by_the_api(
    running: World, chromium: Chromium
) -> None:
    await running.funded("ann", 50.0)
    assert (await running.chat()).status_code == 200
    pool = running.stores.pool
    await pool.execute("SELECT add_credits_to_pool('acme', 2000000, 0)")
    await pool.execute(
        "INSERT INTO organization_members (org_id, user_id, role, status)"
        " SELECT 'acme', 'u' || n, 'member', 'active' FROM generate_series(1, $1) AS n",
        MEMBERS,
    )
    await pool.execute(
        "SELECT taximeter.allocate_credits('acme', 'u' || n, n, 'boss', n % 3 = 0,"
        " CASE WHEN n % 3 = 0 THEN now() + make_interval(days => 2000 - n) END, NULL)"
        " FROM generate_series(1, $1) AS n",
        MEMBERS,
    )

    def journey() -> None:
        size = {"width": 1500, "height": 900}
        with chromium.person(running.url, "boss", viewport=size) as person:
            page = person.page
            person.open("/o/acme/members", "Members")
            first = page.get_by_role("row").nth(1)
            person.asked.clear()
            page.get_by_role("columnheader", name="Allocated").click()
            expect(first).to_contain_text("u1")
            page.get_by_role("columnheader", name="Allocated").click()
            expect(first).to_contain_text("50.000")  # ann's, who has most
            expect(page.get_by_role("row").nth(2)).to_contain_text("u1500")
            page.get_by_role("button", name="Next").click()
            expect(first).to_contain_text("u1401")
            # The page and its order stand in the address.
            page.reload()
            expect(first).to_contain_text("u1401")
            asked = [one for one in person.asked if "/allocations" in one]
            assert len(asked) <= 8, asked

            page.get_by_label("Search by user id or address").fill("u149")
            expect(page.get_by_text("11 allocations, in credits")).to_be_visible()
            page.get_by_label("Search by user id or address").fill("ann")
            row = page.get_by_role("row").filter(has_text="ann")
            expect(
                row.get_by_role("img", name=re.compile("credits in the last 14"))
            ).to_be_visible()
            expect(row).to_contain_text(re.compile("second|minute"))

            # From the overview: what ends when, the next first.
            person.open("/o/acme", "Overview")
            endings = page.get_by_role("region", name="What ends when", exact=True)
            expect(endings.get_by_role("row").nth(1)).to_contain_text("u1500")
            expect(endings).to_contain_text("1.500")
            page.get_by_role("link", name="All that ends").click()
            expect(page.get_by_text("500 allocations, in credits")).to_be_visible()
            expect(first).to_contain_text("u1500")

    await chromium.do(journey)


async def test_usage_is_shown_by_key_and_by_tag(running: World, chromium: Chromium) -> None:
    await running.funded("ann", 50.0)
    body = {"name": "gateway in Frankfurt", "operations": ["llm"], "user_id": "ann"}
    made = await running.client.post(
        f"{BILLING}/orgs/acme/keys", json=body, headers=running.auth("boss")
    )
    key = made.json()["key"]
    assert await ask(running, key, tag="nightly report") == 200
    assert await ask(running, key) == 200
    assert (await running.chat()).status_code == 200
    await running.add_member("bob")
    assert (await running.allocate("bob", 50.0)).status_code == 200
    body = {"name": "a key of bob", "operations": ["llm"], "user_id": "bob"}
    made = await running.client.post(
        f"{BILLING}/orgs/acme/keys", json=body, headers=running.auth("boss")
    )
    assert await ask(running, made.json()["key"], tag="bob's tag") == 200

    def journey() -> None:
        with chromium.person(running.url, "boss") as person:
            page = person.page
            person.open("/o/acme/usage", "Usage")
            ranked = page.get_by_role("region", name="Usage by", exact=False)
            for by, label, shown, requests in (
                ("key", "API key", "gateway in Frankfurt", 2),
                ("tag", "Tag", "nightly report", 1),
            ):
                page.get_by_label("By", exact=True).select_option(by)
                expect(ranked.get_by_role("columnheader", name=label)).to_be_visible()
                row = ranked.get_by_role("row").filter(has_text=shown)
                expect(row.get_by_role("cell").nth(2)).to_have_text(str(requests))
                expect(ranked).to_contain_text(f"no {by}, and all others")
            expect(page.get_by_text("this day is hatched")).to_be_visible()
            # The bar of today, and of no other day, is striped.
            expect(page.locator("rect[fill^='url(#hatch']").first).to_be_visible()
            person.open("/o/acme/usage?by=key&to=2020-01-31&from=2020-01-01", "Usage")
            expect(page.get_by_text("Nothing was used in this time")).to_be_visible()
        with chromium.person(running.url, "ann") as person:
            # A member's own alone: bob's key and tag are not there.
            page = person.page
            person.open("/o/acme/usage", "Usage")
            ranked = page.get_by_role("region", name="Usage by", exact=False)
            for by, shown in (("key", "gateway in Frankfurt"), ("tag", "nightly report")):
                page.get_by_label("By", exact=True).select_option(by)
                expect(ranked.get_by_role("row").filter(has_text=shown)).to_have_count(1)
                expect(ranked.get_by_text("bob")).to_have_count(0)

    await chromium.do(journey)


async def test_a_member_makes_a_key_uses_it_and_ends_it(running: World, chromium: Chromium) -> None:
    await running.funded("ann", 50.0)
    await running.stores.pool.execute(
        "UPDATE user_credit_allocations SET expires_at = now() + interval '20 days'"
        " WHERE user_id = 'ann'"
    )
    loop = asyncio.get_running_loop()

    def asked_with(key: str) -> int:
        return asyncio.run_coroutine_threadsafe(ask(running, key), loop).result(60)

    def journey() -> None:
        with chromium.person(running.url, "ann") as person:
            page = person.page
            person.open("/o/acme/keys", "My keys")
            page.get_by_role("button", name="Create a key").first.click()
            dialog = page.get_by_role("dialog")
            # What the API would refuse is not offered.
            assert dialog.get_by_role("checkbox").count() == 2
            assert dialog.get_by_label("Only for user").count() == 0
            dialog.get_by_label("Name").fill("my laptop")
            dialog.get_by_role("button", name="Create").dblclick()
            key = dialog.get_by_text(re.compile("^tm_")).inner_text().strip()
            assert asked_with(key) == 200
            page.keyboard.press("Escape")
            expect(dialog).to_be_visible()
            dialog.get_by_role("button", name="I have kept it").click()
            person.open("/o/acme/usage?by=key", "Usage")
            ranked = page.get_by_role("region", name="Usage by", exact=False)
            used = ranked.get_by_role("row").filter(has_text="my laptop")
            expect(used.get_by_role("cell").nth(2)).to_have_text("1")
            person.open("/o/acme/keys", "My keys")
            rows = page.get_by_role("row").filter(has_text="my laptop")
            expect(rows).to_have_count(1)
            rows.get_by_role("button", name="Revoke").click()
            page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
            expect(rows).to_have_count(0)
            assert asked_with(key) == 401

            person.open("/me", "My credits")
            expect(page.get_by_text("Last request")).to_be_visible()
            endings = page.get_by_role("region", name="What ends when", exact=True)
            expect(endings.get_by_role("row").nth(1)).to_contain_text("The acme company")

    await chromium.do(journey)
    assert await running.stores.pool.fetchval("SELECT count(*) FROM taximeter.api_keys") == 1


async def test_a_receiver_is_paused_narrowed_and_given_a_new_secret(
    running: World, chromium: Chromium
) -> None:
    await running.funded("ann", 50.0)

    def journey() -> None:
        with chromium.person(running.url, "boss") as person:
            page = person.page
            person.open("/o/acme/webhooks?do=create")
            dialog = page.get_by_role("dialog")
            dialog.get_by_label("Name").fill("billing")
            dialog.get_by_label("Address").fill("https://hooks.example.com/taximeter")
            dialog.get_by_label("API keys", exact=False).uncheck()
            dialog.get_by_role("button", name="Add").click()
            secret = dialog.get_by_text(re.compile("^whsec_"))
            before = secret.inner_text()
            dialog.get_by_role("button", name="I have kept it").click()
            row = page.get_by_role("row").filter(has_text="billing")
            expect(row).not_to_contain_text("everything")

            def choose(what: str) -> None:
                row.get_by_role("button", name="More about billing").click()
                page.get_by_role("menuitem", name=what).click()

            for what, state in (("Pause", "paused"), ("Resume", "active")):
                choose(what)
                dialog.get_by_role("button", name=what).click()
                expect(row).to_contain_text(state)
            choose("Rotate its secret")
            dialog.get_by_role("button", name="Rotate").click()
            expect(secret).to_be_visible()
            assert secret.inner_text() != before
            dialog.get_by_role("button", name="I have kept it").click()
            choose("Change what it hears of")
            expect(dialog.get_by_label("API keys", exact=False)).not_to_be_checked()
            for group in ("allocations", "credits", "subscription", "invoices", "members"):
                dialog.get_by_label(re.compile(f"^{group}")).uncheck()
            dialog.get_by_role("button", name="Save").click()
            expect(row).to_contain_text("pool")

    await chromium.do(journey)
    kept = await running.stores.pool.fetchrow(
        "SELECT types, state, old_secret_until IS NOT NULL AS rotated FROM taximeter.receivers"
    )
    assert tuple(kept) == (["pool.exhausted", "pool.low"], "active", True)


async def test_the_plan_grows_once_and_a_system_admin_sets_what_comes_monthly(
    running: World, chromium: Chromium
) -> None:
    assert (await running.subscribe()).status_code == 200

    def journey() -> None:
        with chromium.person(running.url, "boss") as person:
            page = person.page
            person.open("/o/acme/settings", "Settings")
            expect(page.get_by_text("A system admin changes it.")).to_be_visible()
            page.get_by_role("button", name="Change the plan").click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_label("Plan", exact=True).select_option("enterprise")
            dialog.get_by_role("button", name="Change").dblclick()
            expect(dialog.get_by_text("The plan is Enterprise now.")).to_be_visible()
            dialog.get_by_role("button", name="Close").click()
            page.get_by_role("button", name="Change the plan").click()
            expect(dialog.get_by_text("is the largest plan")).to_be_visible()
        with chromium.person(running.url, "root", root=True) as person:
            page = person.page
            person.open("/o/acme/settings", "Settings")
            field = page.get_by_label("Credits a month")
            field.fill("1250.5")
            save = page.get_by_role("region", name="Monthly refresh").get_by_role("button")
            save.click()
            expect(page.get_by_text("The pool gets 1,250.500 credits")).to_be_visible()
            field.fill("0")
            save.click()
            expect(page.get_by_text("The pool gets no credits by itself.")).to_be_visible()

    await chromium.do(journey)
    events = await running.stores.pool.fetch(
        "SELECT event_type FROM org_billing_history WHERE event_type = 'subscription_upgraded'"
    )
    assert len(events) == 1

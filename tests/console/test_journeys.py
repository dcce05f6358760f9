"""What people do with the console, in Debian's Chromium, on the running system and real stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect
from support.chromium import WAITS_MS, Chromium, Person
from support.proxy import Proxy
from support.world import World

expect.set_options(timeout=WAITS_MS)

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

SCRIPT_KB_MAX: Final = 350
ASKED_MAX: Final = 2
"""Questions of a screen; what the frame asks besides is asked once a visit."""
ORGANISATION: Final = {
    "/o/acme": "Overview",
    "/o/acme/members": "Members",
    "/o/acme/usage": "Usage",
    "/o/acme/requests": "Requests",
    "/o/acme/holds": "Open holds",
    "/o/acme/keys": "Keys",
    "/o/acme/webhooks": "Webhooks",
    "/o/acme/history": "History",
    "/o/acme/audit": "Audit",
    "/o/acme/settings": "Settings",
}
OF_THE_FRAME: Final = re.compile(r"GET auth/user|GET org-billing/orgs(\?limit=30|/acme$)")
SYSTEM: Final = {
    "/system": "System",
    "/system/organisations": "Organisations",
    "/system/books": "Books",
    "/system/prices": "Prices",
    "/system/plans": "Plans",
    "/system/audit": "Audit log",
    "/system/upstreams": "Upstreams",
}


def heading(page: Page, title: str) -> Any:
    return page.get_by_role("heading", level=1, name=title, exact=True)


async def some_usage(world: World) -> None:
    await world.funded("ann", 50.0)
    await world.add_member("bob")
    for _ in range(3):
        assert (await world.chat()).status_code == 200


async def test_a_system_admin_makes_an_organisation_and_answers_what_waits(
    running: World, chromium: Chromium
) -> None:
    await some_usage(running)
    await running.stores.pool.execute(
        "INSERT INTO taximeter.dead_letters (shard, epoch, reason, detail, org_id, user_id,"
        " request_id, amount, raw) VALUES (0, 0, 'unknown_organization', 'no such organisation',"
        " 'acme', 'ann', 'r-late', 250, 'commit')"
    )
    await running.stores.pool.execute(
        "INSERT INTO taximeter.lost_events (shard, epoch, seq_first, seq_last) VALUES (0, 0, 5, 7)"
    )

    def journey() -> None:
        with chromium.person(running.url, "") as person:
            page = person.page
            # Who is not signed in is led to the page to choose who one is, and back.
            page.goto("/console/system/organisations?search=glo")
            page.get_by_role("link", name="Choose who you are").click()
            page.get_by_label("Somebody else, by id").fill("root")
            page.get_by_label("with the role of a system admin").last.check()
            page.get_by_role("button", name="Sign in").click()
            heading(page, "Organisations").wait_for()
            expect(page.get_by_label("Search by id, name or address")).to_have_value("glo")
            page.get_by_role("button", name="New organisation").click()
            dialog = page.get_by_role("dialog")
            for label, value in (
                ("Id", "globex"),
                ("Name", "Globex"),
                ("Billing e-mail", "bills@globex.example"),
                ("Its first admin, by user id", "hank"),
                ("Credits to start with", "1000.5"),
            ):
                dialog.get_by_label(label, exact=False).first.fill(value)
            dialog.get_by_role("button", name="Create").click()
            expect(dialog.get_by_text("“Globex” is there.")).to_be_visible()
            dialog.get_by_role("button", name="Close").click()
            row = page.get_by_role("row").filter(has_text="Globex")
            expect(row).to_contain_text("1,000.500")
            # Suspended and resumed, each with a reason.
            for word, state in (("Suspend", "suspended"), ("Resume", "")):
                row.get_by_role("button", name=word).click()
                page.get_by_role("dialog").get_by_label("Reason").fill("a bill is open")
                page.get_by_role("dialog").get_by_role("button", name=word).click()
                if state:
                    expect(row).to_contain_text(state)
            expect(row).not_to_contain_text("suspended")

            person.open("/system/books", "Books")
            page.get_by_role("button", name=re.compile("Answer event")).click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_label("What was found").fill("it came before its organisation")
            dialog.get_by_role("button", name="Charge after all").dblclick()
            expect(page.get_by_text("0 open")).to_be_visible()
            expect(page.get_by_text("Lost events: 1 not acknowledged")).to_be_visible()
            page.get_by_role("button", name="Acknowledge events 0-5 to 7 of shard 0").click()
            dialog.get_by_label("What was found").fill("a disk was lost")
            dialog.get_by_role("button", name="Acknowledge").dblclick()
            lost = page.get_by_role("region", name="Lost events")
            expect(lost.get_by_text("a disk was lost")).to_be_visible()
            expect(lost.get_by_text("root, ")).to_be_visible()

            person.open("/system/audit", "Audit log")
            actions = (
                "system.lost_events.acknowledged",
                "system.dead_letter.charged",
                "org.suspended",
            )
            for action in actions:
                expect(page.get_by_role("cell", name=action).first).to_be_visible()
            page.get_by_label("Organisation, by id").fill("globex")
            page.get_by_label("Organisation, by id").press("Enter")
            expect(page.get_by_role("cell", name="system.lost_events")).to_have_count(0)
            expect(page.get_by_role("cell", name="org.suspended")).to_be_visible()
            page.go_back()
            expect(page.get_by_role("cell", name="system.lost_events").first).to_be_visible()

            person.open("/system/prices", "Prices")
            page.get_by_label("Model", exact=False).first.fill("gpt-4o-mini")
            page.get_by_role("button", name="Work out").click()
            expect(page.get_by_text("credits (exactly", exact=False)).to_be_visible()

            person.open("/system", "System")
            expect(page.get_by_text("Books lag by")).to_be_visible()
            expect(page.get_by_text("live", exact=True).first).to_be_visible()

    await chromium.do(journey)
    charged = await running.charges()
    assert sum(one["request_id"] == "r-late" for one in charged) == 1
    await running.prove()


async def test_a_member_finds_what_is_theirs_and_no_more(
    running: World, chromium: Chromium
) -> None:
    await some_usage(running)

    def journey() -> None:
        with chromium.person(running.url, "ann") as person:
            person.page.goto("/console/")
            expect(person.page.get_by_role("heading", level=1)).to_be_visible()
            assert person.page.get_by_role("link", name="Books").count() == 0
            for path in ("/system/books", "/system/organisations", "/o/other"):
                person.open(path)
                said = re.compile("permission|not found|may not|does not exist", re.IGNORECASE)
                expect(person.page.get_by_text(said).first).to_be_visible()
            assert not any("dead-letters" in one and "POST" in one for one in person.asked)

    await chromium.do(journey)


async def test_every_screen_can_be_read_by_everybody_and_costs_little(
    running: World, chromium: Chromium
) -> None:
    """axe in both themes, questions a screen, weight of the first load."""
    await some_usage(running)
    printed: list[str] = []
    wrong: list[str] = []

    shown: dict[str, float] = {}

    def look(person: Person, path: str, title: str | None) -> None:
        person.asked.clear()
        person.open(path, title)
        expect(person.page.get_by_role("heading", level=1)).to_be_visible()
        shown[path] = person.page.evaluate("performance.now()")
        person.page.wait_for_load_state("load")
        expect(person.page.get_by_text("Loading", exact=True)).to_have_count(0)
        own = [one for one in person.asked if not OF_THE_FRAME.search(one)]
        printed.append(f"{path}: {len(own)} questions {own}")
        if len(own) > ASKED_MAX:
            wrong.append(f"{path} asks {own}")

    def journey() -> None:
        for scheme in ("light", "dark"):
            with chromium.person(running.url, "root", root=True, color_scheme=scheme) as person:
                if scheme == "light":
                    person.weigh()
                for path in (*ORGANISATION, "/me", *SYSTEM):
                    look(person, path, SYSTEM.get(path))
                    if path == "/o/acme" and scheme == "light":
                        kb = sum(person.scripts.values()) / 1000
                        ready = person.page.evaluate(
                            "performance.getEntriesByType('navigation')[0].domInteractive"
                        )
                        printed.append(
                            f"first load: {kb:.0f} kB of script, gzipped; read in {ready:.0f} ms,"
                            f" in use in {shown[path]:.0f} at most"
                        )
                        assert kb <= SCRIPT_KB_MAX
                    wrong.extend(f"{path} {scheme} {one}" for one in person.serious_violations())

    await chromium.do(journey)
    print("\n".join(printed))
    assert wrong == []


async def test_what_is_away_is_said_and_comes_back(
    running: World, wire: Proxy, redis_wire: Proxy, chromium: Chromium
) -> None:
    """The API and Redis: what is shown stays and says how old it is, and is live again by itself.
    Meanwhile somebody spends.
    """
    await some_usage(running)
    loop = asyncio.get_running_loop()
    redis_is_at = redis_wire.target

    def of_loop(work: Callable[[], object]) -> None:
        async def do() -> None:
            work()

        asyncio.run_coroutine_threadsafe(do(), loop).result(WAITS_MS / 1000)

    def cut_api() -> None:
        wire.black_hole(True)
        wire.reset_all()

    def cut_redis() -> None:
        redis_wire.target = ("127.0.0.1", 1)
        redis_wire.reset_all()

    def mend_redis() -> None:
        redis_wire.target = redis_is_at

    def journey() -> None:
        with chromium.person(wire.url, "boss") as person:
            page = person.page
            person.open("/o/acme", "Overview")
            live = page.get_by_text("live", exact=True).first
            old = page.get_by_text(re.compile("^as of")).first
            for cut, mend in ((cut_api, wire.heal), (cut_redis, mend_redis)):
                expect(live).to_be_visible()
                of_loop(cut)
                expect(old).to_be_visible()
                of_loop(mend)
            expect(live).to_be_visible()
            used = page.get_by_role("row").filter(has_text="ann")
            before = used.inner_text()
            spent = asyncio.run_coroutine_threadsafe(running.chat(), loop).result(60)
            assert spent.status_code == 200, spent.text
            expect(used).not_to_have_text(before)

    await chromium.do(journey)
    await running.prove()


async def test_the_guides_day_and_a_transfer_that_takes_effect_once(
    running: World, wire: Proxy, chromium: Chromium
) -> None:
    """Subscription, allocation, an LLM request, usage; then credits move while they are spent: by a
    double press, and by a request whose answer is lost and that is asked again after a reload.
    """
    assert (await running.subscribe()).status_code == 200
    for user in ("ann", "bob"):
        await running.add_member(user)
    loop = asyncio.get_running_loop()

    def of_loop(work: Callable[[], object]) -> None:
        async def do() -> None:
            work()

        asyncio.run_coroutine_threadsafe(do(), loop).result(WAITS_MS / 1000)

    def spend(times: int) -> None:
        async def ask() -> None:
            for _ in range(times):
                assert (await running.chat()).status_code == 200

        asyncio.run_coroutine_threadsafe(ask(), loop).result(WAITS_MS / 1000)

    def fill(dialog: Any, label: str, user: str) -> None:
        field = dialog.get_by_label(label, exact=True)
        field.fill(user)
        field.press("Tab")

    def journey() -> None:
        with chromium.person(wire.url, "boss") as person:
            page = person.page
            person.open("/o/acme/members?do=allocate")
            dialog = page.get_by_role("dialog")
            fill(dialog, "To", "ann")
            dialog.get_by_label("Credits").fill("50")
            dialog.get_by_role("button", name="Allocate").click()
            expect(dialog.get_by_text("ann has 50.000 credits now.")).to_be_visible()
            spend(2)
            person.open("/o/acme/usage")
            expect(page.get_by_text("llm_inference").first).to_be_visible()
            person.open("/o/acme/requests")
            expect(page.get_by_text("gpt-4o-mini").first).to_be_visible()

            # A double press, while ann spends: once.
            person.open("/o/acme/members?do=transfer")
            fill(dialog, "From", "ann")
            fill(dialog, "To", "bob")
            dialog.get_by_label("Credits").fill("20")
            dialog.get_by_role("button", name="Transfer").dblclick()
            spend(2)
            expect(dialog.get_by_text("20.000 credits moved from ann to bob.")).to_be_visible()

            # The answer is lost: nobody says that it was done or not, and asking again is once.
            person.open("/o/acme/members?do=transfer")
            fill(dialog, "From", "ann")
            fill(dialog, "To", "bob")
            dialog.get_by_label("Credits").fill("5")
            # Chromium itself asks again where a connection that it had kept is closed.
            of_loop(lambda: wire.lose_replies(1_000, to=b"/transfer HTTP"))
            dialog.get_by_role("button", name="Transfer").click()
            expect(dialog.get_by_text("In doubt.")).to_be_visible()
            of_loop(wire.heal)
            page.reload()
            expect(dialog.get_by_text("In doubt.")).to_be_visible()
            dialog.get_by_role("button", name="Ask again").click()
            expect(dialog.get_by_text("5.000 credits moved from ann to bob.")).to_be_visible()

    await chromium.do(journey)
    moves = await running.stores.pool.fetch(
        "SELECT amount, state FROM taximeter.moves WHERE kind = 'transfer' ORDER BY created_at"
    )
    assert [tuple(row) for row in moves] == [(20_000, "done"), (5_000, "done")]
    assert (await running.balance("bob")).available == 25_000
    await running.prove()


async def test_a_session_that_ends_in_a_dialog_loses_nothing(
    running: World, chromium: Chromium
) -> None:
    await some_usage(running)

    def journey() -> None:
        with chromium.person(running.url, "root", root=True) as person:
            page = person.page
            person.open("/system/organisations", "Organisations")
            page.get_by_role("button", name="Suspend The acme company").click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_label("Reason").fill("a bill is open")
            person.context.clear_cookies()
            dialog.get_by_role("button", name="Suspend").click()
            expect(dialog.get_by_text("Log in first", exact=False)).to_be_visible()
            expect(page.get_by_text("Your session has ended", exact=False)).to_be_attached()
            # Signed in again, in another window; the dialog has kept what was written.
            form = {"user_id": "root", "system_admin": "1", "to": "/console/"}
            person.context.request.post("/console/session/choose", form=form, max_redirects=0)
            expect(dialog.get_by_label("Reason")).to_have_value("a bill is open")
            dialog.get_by_role("button", name="Suspend").click()
            expect(page.get_by_role("row").filter(has_text="acme")).to_contain_text("suspended")

    await chromium.do(journey)


async def test_ten_thousand_organisations_are_found_by_the_page(
    running: World, chromium: Chromium
) -> None:
    await running.stores.pool.execute(
        "INSERT INTO organizations (id, org_name, slug, created_by)"
        " SELECT 'org-' || n, 'Organisation ' || lpad(n::text, 5, '0'), 'org-' || n, 'boss'"
        " FROM generate_series(1, 10000) AS n"
    )

    def journey() -> None:
        with chromium.person(running.url, "root", root=True) as person:
            page = person.page
            person.open("/system/organisations?sort=name&order=asc", "Organisations")
            expect(page.get_by_text("1–50 of 10,000")).to_be_visible()
            expect(page.get_by_role("row")).to_have_count(51)
            person.asked.clear()
            page.get_by_role("button", name="Next").click()
            expect(page.get_by_text("51–100 of 10,000")).to_be_visible()
            expect(page.get_by_role("row").nth(1)).to_contain_text("Organisation 00051")
            assert len(person.asked) == 1, person.asked
            # Kept in the address: a reload is the same page.
            page.reload()
            expect(page.get_by_text("51–100 of 10,000")).to_be_visible()
            page.get_by_label("Search by id, name or address").fill("07777")
            expect(page.get_by_role("row")).to_have_count(2)
            page.get_by_role("link", name="Organisation 07777").click()
            expect(heading(page, "Overview")).to_be_visible()

    await chromium.do(journey)

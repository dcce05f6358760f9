"""How the console behaves: its addresses, scrolling, answers that are lost, phones."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect
from support.chromium import WAITS_MS, Chromium, Person, from_thread
from support.proxy import Proxy
from support.world import World

from taximeter.api.embedded.machine import free_port

expect.set_options(timeout=WAITS_MS)

pytestmark = pytest.mark.timeout(600)

SOURCES: Final = Path(__file__).parents[2] / "api" / "console"
MEMBERS: Final = 1_500
PAGE_OF_MEMBERS: Final = 100
STEPS: Final = 40
"""Turns of the wheel, each of which is drawn before the next."""
SPENT: Final = 3
DRAWN_ROWS_MAX: Final = 60
"""Rows of a grid that are in the page at a time, whatever it has in all."""
PHONE: Final = {"width": 390, "height": 844}
ORGANISATION: Final = (
    *("", "/members", "/members?show=people", "/usage", "/requests", "/holds", "/keys"),
    *("/webhooks", "/history", "/audit", "/settings"),
)
SYSTEM: Final = ("", "/organisations", "/books", "/prices", "/plans", "/audit", "/upstreams")
DIALOGS: Final = (
    *("/o/acme?do=buy", "/o/acme/members?do=transfer", "/o/acme/members?do=allocate"),
    *("/o/acme/keys?do=create", "/o/acme/webhooks?do=create"),
)
CUT_OFF: Final = """() => {
  const wide = document.documentElement.clientWidth;
  const found = [];
  const root = document.scrollingElement;
  if (root.scrollWidth > wide) found.push(`the page is ${root.scrollWidth} px wide`);
  const scrolls = (one) => ['auto', 'scroll'].includes(getComputedStyle(one).overflowX);
  const words = (one) => (one.textContent ?? '').trim().slice(0, 60);
  for (const one of document.body.querySelectorAll('*')) {
    const box = one.getBoundingClientRect();
    const style = getComputedStyle(one);
    if (box.width <= 1 || box.height <= 1 || style.visibility === 'hidden') continue;
    if (one.closest('svg') && one.tagName !== 'svg') continue;
    if (
      ['hidden', 'clip'].includes(style.overflowX) && style.textOverflow !== 'ellipsis' &&
      one.scrollWidth > one.clientWidth + 1 && words(one) &&
      !one.closest('.MuiDataGrid-root')
    ) found.push(`${one.tagName}.${one.className}: ${words(one)} is cut off`);
    if (box.right <= wide + 1 && box.left >= -1) continue;
    let parent = one.parentElement;
    while (parent && !scrolls(parent)) parent = parent.parentElement;
    if (!parent && words(one)) found.push(`${one.tagName}.${one.className}: ${words(one)}`);
  }
  return found.slice(0, 5);
}"""
WIDER: Final = f"""() => {{
  const one = document.createElement('p');
  one.textContent = 'too wide';
  one.style.width = '500px';
  document.querySelector('main').append(one);
  return ({CUT_OFF})();
}}"""
WATCH: Final = """() => {
  window.seen = { added: 0, long: 0 };
  new MutationObserver((changes) => {
    for (const one of changes) window.seen.added += one.addedNodes.length;
  }).observe(document.body, { childList: true, subtree: true });
  new PerformanceObserver((list) => {
    window.seen.long += list.getEntries().length;
  }).observe({ entryTypes: ['longtask'] });
}"""
DRAWN: Final = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"


def of_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    """Do something to a wire, whose servers run in the test's loop."""

    async def do() -> None:
        work()

    from_thread(loop, do())


async def many_members(world: World) -> None:
    """An organisation with so many allocations, the newest of which is u1."""
    assert (await world.subscribe(credits=1_000_000.0)).status_code == 200
    await world.stores.pool.execute(
        "INSERT INTO organization_members (org_id, user_id, created_at)"
        " SELECT 'acme', 'u' || n, now() - make_interval(secs => n)"
        f" FROM generate_series(1, {MEMBERS}) AS n;"
        "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, created_at)"
        " SELECT 'acme', 'u' || n, 700 + n, now() - make_interval(secs => n)"
        f" FROM generate_series(1, {MEMBERS}) AS n"
    )


async def test_a_table_is_what_its_address_says(running: World, chromium: Chromium) -> None:
    """Sort, columns, density and page: sent, reloaded, taken back and done again."""
    await running.stores.pool.execute(
        "INSERT INTO organizations (id, org_name, slug, created_by)"
        " SELECT 'org-' || n, 'Organisation ' || lpad(n::text, 3, '0'), 'org-' || n, 'boss'"
        " FROM generate_series(1, 120) AS n;"
    )
    await running.stores.pool.execute(
        "INSERT INTO taximeter.dead_letters (shard, epoch, reason, detail, raw)"
        " SELECT 0, 0, 'unknown_organization', 'letter ' || n, 'commit'"
        " FROM generate_series(1, 45) AS n"
    )

    def journey() -> None:
        with chromium.person(running.url, "root", root=True) as person:
            page = person.page
            person.open("/system/organisations?sort=name&order=asc", "Organisations")
            first = page.get_by_role("row").nth(1)
            used = page.get_by_role("columnheader", name="Used")
            expect(first).to_contain_text("Organisation 001")
            page.get_by_role("button", name="Organisation", exact=True).click()
            expect(first).to_contain_text("Organisation 120")
            page.get_by_role("button", name="Columns and rows of Organisations").click()
            page.get_by_role("menuitemcheckbox", name="Used").click()
            page.get_by_role("menuitemradio", name="Dense").click()
            page.keyboard.press("Escape")
            expect(used).to_have_count(0)
            height = first.bounding_box()
            page.get_by_role("button", name="Next").click()
            expect(first).to_contain_text("Organisation 070")
            # What was done is taken back step by step, and done again.
            page.go_back()
            expect(first).to_contain_text("Organisation 120")
            expect(used).to_have_count(0)
            page.go_back()
            assert first.bounding_box() != height
            page.go_back()
            expect(used).to_be_visible()
            for _ in range(3):
                page.go_forward()
            expect(first).to_contain_text("Organisation 070")
            # The address is all there is of it: a reload, or somebody else, sees the same.
            page.reload()
            expect(first).to_contain_text("Organisation 070")
            expect(used).to_have_count(0)
            other = person.context.new_page()
            other.goto(page.url)
            expect(other.get_by_role("row").nth(1)).to_contain_text("Organisation 070")
            expect(other.get_by_role("columnheader", name="Used")).to_have_count(0)
            other.close()

            # Pages by cursor, of one of several tables.
            person.open("/system/books", "Books")
            letters = page.get_by_role("region", name="Events that were set aside")
            letters.get_by_text("letter 45").wait_for()
            page.get_by_role("button", name="Next").click()
            expect(letters.get_by_text("letter 25")).to_be_visible()
            page.reload()
            expect(letters.get_by_text("letter 25")).to_be_visible()
            expect(page.get_by_text("Page 2")).to_be_visible()
            page.get_by_role("button", name="Next").click()
            expect(letters.get_by_text("letter 5", exact=True)).to_be_visible()
            page.get_by_role("button", name="Back").click()
            expect(letters.get_by_text("letter 25")).to_be_visible()
            page.get_by_role("button", name="Back").click()
            expect(letters.get_by_text("letter 45")).to_be_visible()
            expect(page.get_by_text("Page 1")).to_be_visible()

    await chromium.do(journey)


async def test_long_lists_are_scrolled_without_asking_or_drawing_all_of_them(
    running: World, chromium: Chromium
) -> None:
    """1,500 members and 10,000 organisations: by counts, which no speed of a machine changes."""
    await many_members(running)
    await running.stores.pool.execute(
        "INSERT INTO organizations (id, org_name, slug, created_by)"
        " SELECT 'org-' || n, 'Organisation ' || lpad(n::text, 5, '0'), 'org-' || n, 'boss'"
        " FROM generate_series(1, 10000) AS n"
    )
    printed: list[str] = []
    loop = asyncio.get_running_loop()

    def scroll(person: Person, what: str, rows: Any, at: Any) -> None:
        """Down and up again, each turn drawn before the next."""
        page = person.page
        person.asked.clear()
        page.evaluate(WATCH)
        at.hover()
        most = 0
        for step in range(STEPS):
            page.mouse.wheel(0, 400 if step < STEPS / 2 else -400)
            page.evaluate(DRAWN)
            most = max(most, rows.count())
        seen = page.evaluate("window.seen")
        printed.append(
            f"{what}: {STEPS} turns, {most} rows drawn at most, {seen['added'] / STEPS:.0f} nodes"
            f" added a turn, {seen['long']} tasks above 50 ms, asked {person.asked}"
        )
        assert person.asked == [], what
        assert most <= PAGE_OF_MEMBERS + 1, what
        if "allocations" in what:
            assert most <= DRAWN_ROWS_MAX, what

    def journey() -> None:
        with chromium.person(running.url, "root", root=True) as person:
            page = person.page
            streams: list[str] = []
            page.on("request", lambda one: "/live" in one.url and streams.append(one.url))
            person.open("/o/acme/members", "Members")
            grid = page.get_by_role("grid")
            rows = grid.get_by_role("row")
            expect(grid.get_by_text("u1", exact=True)).to_be_visible()
            expect(page.get_by_text("live", exact=True).first).to_be_visible()
            scroll(person, "allocations", rows, grid)
            assert len(streams) == 1, streams
            # Live figures change words where they stand, and draw no row anew.
            page.evaluate("window.seen.added = 0")
            spender = rows.filter(has=page.get_by_text("u1", exact=True))
            expect(spender).to_have_count(1)
            for _ in range(SPENT):
                before = spender.inner_text()
                answer = from_thread(loop, running.chat("u1"))
                assert answer.status_code == 200, answer.text
                expect(spender).not_to_have_text(before)
            added = page.evaluate("window.seen.added")
            printed.append(f"allocations: {added} nodes added while {SPENT} live figures came")
            assert added <= PAGE_OF_MEMBERS
            # All pages, one question each, however many rows they have.
            for number in range(2, MEMBERS // PAGE_OF_MEMBERS + 1):
                person.asked.clear()
                page.get_by_role("button", name="Next").click()
                first = f"u{(number - 1) * PAGE_OF_MEMBERS + 1}"
                expect(grid.get_by_text(first, exact=True)).to_be_visible()
                assert len(person.asked) == 1, person.asked
            expect(page.get_by_role("button", name="Next")).to_be_disabled()

            person.open("/o/acme/members?show=people", "Members")
            people = page.get_by_role("region", name="Members")
            expect(people.get_by_role("row")).to_have_count(PAGE_OF_MEMBERS + 1)
            scroll(person, "people", people.get_by_role("row"), people)

            person.open("/system/organisations", "Organisations")
            organisations = page.get_by_role("region", name="Organisations")
            expect(organisations.get_by_role("row")).to_have_count(51)
            scroll(person, "organisations", organisations.get_by_role("row"), organisations)

    await chromium.do(journey)
    print("\n".join(printed))


async def test_the_palette_finds_keys_members_organisations_and_screens(
    running: World, chromium: Chromium
) -> None:
    await many_members(running)
    answer = await running.client.post(
        "/api/v1/org-billing/orgs/acme/keys",
        json={"name": "Gateway in Frankfurt", "operations": ["llm"]},
        headers=running.auth("boss"),
    )
    key = answer.json()
    await running.subscribe("globex", "boss", 10.0)

    def journey() -> None:
        with chromium.person(running.url, "boss") as person:
            page = person.page
            person.open("/o/acme", "Overview")
            search = page.get_by_placeholder("A screen, an organisation", exact=False)
            by_prefix = key["key"][: len("tm_") + 5]
            wanted = (
                ("frankf", "Gateway in Frankfurt", "Keys"),
                (by_prefix, "Gateway in Frankfurt", "Keys"),
                (key["key"], "Gateway in Frankfurt", "Keys"),
                ("u1499", "u1499", "Members"),
                ("globex", "globex", "Organisations"),
                ("webh", "Webhooks", "Screens"),
            )
            for typed, title, group in wanted:
                page.keyboard.press("Control+k")
                search.fill(typed)
                found = page.get_by_role("option").filter(has_text=title)
                expect(found.first).to_be_visible()
                expect(page.get_by_text(group, exact=True).last).to_be_visible()
                page.keyboard.press("Escape")
            page.keyboard.press("Control+k")
            search.fill("frankf")
            page.get_by_role("option").filter(has_text="Gateway in Frankfurt").click()
            expect(page).to_have_url(re.compile(f"/o/acme/keys\\?key={key['api_key']['key_id']}$"))
            expect(page.get_by_role("cell", name="Gateway in Frankfurt")).to_be_visible()
            assert not any(key["key"] in one for one in person.asked if "keys" in one)

    await chromium.do(journey)


async def test_what_is_made_while_answers_are_lost_is_made_once(
    running: World, wire: Proxy, chromium: Chromium
) -> None:
    """Each dialog that makes something: its request arrives, its answer does not. It says so, and
    however often it is asked again there is one of it.
    """
    assert (await running.subscribe()).status_code == 200
    await running.add_member("ann")
    loop = asyncio.get_running_loop()

    def member(dialog: Any) -> None:
        dialog.get_by_label("To", exact=True).fill("ann")
        dialog.get_by_label("To", exact=True).press("Tab")
        dialog.get_by_label("Credits").fill("7")

    def purchase(dialog: Any) -> None:
        dialog.get_by_label("Credits").fill("11")
        dialog.get_by_label("Paid, in dollars").fill("3")

    def receiver(dialog: Any) -> None:
        dialog.get_by_label("Name").fill("hook")
        dialog.get_by_label("Address").fill("https://hooks.example.com/x")

    def organisation(dialog: Any) -> None:
        for label, value in (
            *(("Id", "globex"), ("Name", "Globex"), ("Billing e-mail", "a@globex.example")),
            ("Its first admin, by user id", "hank"),
        ):
            dialog.get_by_label(label, exact=False).first.fill(value)

    cases: tuple[tuple[str, str | None, str, bytes, Callable[[Any], None], str], ...] = (
        (
            *("/o/acme/keys?do=create", None, "Create", b"/keys HTTP"),
            lambda dialog: dialog.get_by_label("Name").fill("gateway"),
            "was made by this request before",
        ),
        (
            *("/o/acme/webhooks?do=create", None, "Add", b"/receivers HTTP", receiver),
            "was made by this request before",
        ),
        (
            *("/o/acme/members?show=people", "Add or invite", "Add", b"/members HTTP"),
            lambda dialog: dialog.get_by_label("User id").fill("zoe"),
            "zoe is a member.",
        ),
        (
            *("/o/acme/members?do=allocate", None, "Allocate", b"/allocate HTTP", member),
            "ann has 7.000 credits now.",
        ),
        ("/o/acme?do=buy", None, "Buy", b"/add HTTP", purchase, "The pool has 111.000 credits now"),
        (
            *("/system/organisations", "New organisation", "Create", b"/subscriptions HTTP"),
            *(organisation, "“Globex” is there."),
        ),
    )

    def journey() -> None:
        with chromium.person(wire.url, "root", root=True) as person:
            page = person.page
            dialog = page.get_by_role("dialog")
            for path, opens, verb, request, fill, said in cases:
                person.open(path)
                if opens:
                    page.get_by_role("button", name=opens).first.click()
                fill(dialog)
                # Chromium itself asks again where a connection that it had kept is closed.
                of_loop(loop, lambda to=request: wire.lose_replies(1_000, to=to))
                dialog.get_by_role("button", name=verb, exact=True).dblclick()
                expect(dialog.get_by_text("In doubt.")).to_be_visible()
                again = dialog.get_by_role("button", name="Ask again")
                lost = wire.lost
                again.click()
                expect(again).to_be_enabled()
                assert wire.lost > lost, path
                expect(dialog.get_by_text("In doubt.")).to_be_visible()
                of_loop(loop, wire.heal)
                again.click()
                expect(dialog.get_by_text(said)).to_be_visible()
                if "before" in said:
                    # Pressed once more it is refused once more, and makes nothing.
                    dialog.get_by_role("button", name=verb, exact=True).click()
                    expect(dialog.get_by_text(said)).to_be_visible()

    await chromium.do(journey)
    pool = running.stores.pool
    counts = {
        "keys": "taximeter.api_keys",
        "receivers": "taximeter.receivers",
        "zoe": "organization_members WHERE user_id = 'zoe'",
        "allocations": "user_credit_allocations WHERE user_id = 'ann'",
        "organisations": "organizations WHERE id = 'globex'",
    }
    found = {name: await pool.fetchval(f"SELECT count(*) FROM {of}") for name, of in counts.items()}
    assert found == dict.fromkeys(counts, 1)
    bought = await pool.fetchval(
        "SELECT total_credits FROM organization_credit_pools WHERE org_id = 'acme'"
    )
    assert bought == 111_000
    await running.prove()


async def test_each_screen_and_dialog_fits_a_phone(running: World, chromium: Chromium) -> None:
    """At 390 px nothing is cut off, and the page does not scroll sideways."""
    await running.funded("ann", 50.0)
    name = "a-user-with-a-rather-long-id-of-an-identity-provider-0123456789@example.com"
    await running.add_member(name)
    await running.allocate(name, 1_234.567)
    assert (await running.chat()).status_code == 200
    answer = await running.client.post(
        "/api/v1/org-billing/orgs/acme/keys",
        json={"name": "gateway-in-frankfurt-of-the-second-datacentre", "operations": ["llm"]},
        headers=running.auth("boss"),
    )
    assert answer.status_code == 200
    await running.stores.pool.execute(
        "INSERT INTO taximeter.lost_events (shard, epoch, seq_first, seq_last) VALUES (0, 1, 5, 7);"
        "INSERT INTO taximeter.dead_letters (shard, epoch, reason, detail, org_id, user_id,"
        " request_id, amount, raw) VALUES (0, 0, 'unknown_organization', 'no such organisation',"
        " 'acme', 'ann', 'req-0123456789abcdef0123456789abcdef', 250, 'commit')"
    )
    wrong: list[str] = []
    pictures = os.environ.get("PHONE_PICTURES")

    def look(person: Person, path: str) -> None:
        person.open(path)
        page = person.page
        if "?do=" in path:
            expect(page.get_by_role("dialog")).to_be_visible()
        else:
            expect(page.get_by_role("heading", level=1).first).to_be_visible()
        expect(page.get_by_text("Loading", exact=True)).to_have_count(0)
        wrong.extend(f"{path}: {one}" for one in page.evaluate(CUT_OFF))
        if pictures:
            name = re.sub(r"\W+", "-", path) or "root"
            page.screenshot(path=f"{pictures}/{name}.png", full_page=True)

    def journey() -> None:
        with chromium.person(running.url, "root", root=True, viewport=PHONE) as person:
            for path in (
                *(f"/o/acme{one}" for one in ORGANISATION),
                "/me",
                *(f"/system{one}" for one in SYSTEM),
                *DIALOGS,
            ):
                look(person, path)
            person.page.keyboard.press("Escape")
        with chromium.person(running.url, "ann", viewport=PHONE) as person:
            for path in ("/me", "/o/acme", "/o/acme/usage", "/o/acme/requests"):
                look(person, path)
            # What is looked for would be found.
            assert person.page.evaluate(WIDER) != []

    await chromium.do(journey)
    assert wrong == []


async def test_a_user_sees_what_they_spend_while_they_spend_it_and_leaves(
    running: World, chromium: Chromium
) -> None:
    """Signs in, sees the balance move while a request is metered, then usage, requests; leaves."""
    await running.funded("ann", 50.0)
    await running.add_member("bob")
    await running.allocate("bob", 20.0)
    assert (await running.chat("bob")).status_code == 200
    loop = asyncio.get_running_loop()

    def spend() -> str:
        answer = from_thread(loop, running.chat("ann"))
        assert answer.status_code == 200, answer.text
        return str(answer.headers["X-Request-Id"])

    def journey() -> None:
        with chromium.person(running.url, "") as person:
            page = person.page
            page.goto("/console/o/acme")
            page.get_by_role("link", name="Choose who you are").click()
            page.get_by_label("Somebody else, by id").fill("ann")
            page.get_by_role("button", name="Sign in").last.click()
            panel = page.get_by_role("region", name="My credits")
            expect(panel.get_by_text("50.000").first).to_be_visible()
            expect(panel.get_by_text("live", exact=True)).to_be_visible()
            before = panel.inner_text()
            request = spend()
            # Nobody reloads: it moves by itself.
            expect(panel).not_to_have_text(before)
            expect(panel.get_by_text("50.000")).to_have_count(0)

            page.get_by_role("link", name="Usage").click()
            usage = page.get_by_role("main")
            expect(usage.get_by_text("llm_inference").first).to_be_visible()
            page.get_by_role("link", name="Requests").click()
            expect(page.get_by_role("cell", name="gpt-4o-mini")).to_have_count(1)
            assert request not in page.url
            page.get_by_role("row").nth(1).get_by_role("link").first.click()
            expect(page.get_by_text(request).first).to_be_visible()
            # Of bob there is nothing, wherever one looks.
            expect(page.get_by_text("bob")).to_have_count(0)

            page.get_by_role("link", name="My credits").click()
            page.get_by_role("button", name="Leave").click()
            asked = page.get_by_role("dialog")
            expect(asked.get_by_text("What you have not spent returns")).to_be_visible()
            asked.get_by_role("button", name="Leave").click()
            expect(page.get_by_text("You have left", exact=False)).to_be_visible()
            person.open("/o/acme")
            said = re.compile("permission|not found|may not|does not exist", re.IGNORECASE)
            expect(page.get_by_text(said).first).to_be_visible()

    await chromium.do(journey)
    await running.settle()
    row = await running.stores.pool.fetchrow(
        "SELECT status FROM organization_members WHERE user_id = 'ann'"
    )
    assert row is None or row["status"] == "removed"
    await running.prove()


@contextmanager
def dev_server(api_url: str) -> Iterator[str]:
    """`npm run dev` as somebody who works on the console starts it, on a port that is free."""
    npm = shutil.which("npm")
    if npm is None or not (SOURCES / "node_modules" / "vite").is_dir():
        pytest.skip("npm or api/console/node_modules is missing: make console")
    port = free_port()
    process = subprocess.Popen(
        [npm, "run", "dev", "--", "--port", str(port)],
        cwd=SOURCES,
        env={**os.environ, "TAXIMETER_API_URL": api_url, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "/console/" in line:
                break
        else:
            pytest.fail(f"it ended: {said}")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.stdout.close()
        process.wait(60)


async def test_the_pages_can_be_worked_on_beside_a_running_api(
    running: World, chromium: Chromium
) -> None:
    """Vite's server has the sources, and its proxy everything that is the API's: signing in, what
    is asked, live figures, and something that is changed.
    """
    await running.funded("ann", 50.0)
    served = json.loads((SOURCES / "package.json").read_text("utf-8"))["scripts"]["dev"]
    assert served == "vite"
    assert "port: 5173" in (SOURCES / "vite.config.ts").read_text("utf-8")

    def journey() -> None:
        with dev_server(running.url) as url, chromium.person(url, "") as person:
            page = person.page
            page.goto("/console/o/acme")
            page.get_by_role("link", name="Choose who you are").click(timeout=5 * WAITS_MS)
            page.get_by_label("Somebody else, by id").fill("boss")
            page.get_by_role("button", name="Sign in").last.click()
            expect(heading(page, "Overview")).to_be_visible(timeout=5 * WAITS_MS)
            expect(page.get_by_text("live", exact=True).first).to_be_visible()
            person.open("/o/acme/keys?do=create")
            dialog = page.get_by_role("dialog")
            dialog.get_by_label("Name").fill("of the dev server", timeout=5 * WAITS_MS)
            dialog.get_by_role("button", name="Create").click()
            expect(dialog.get_by_text("is shown this once")).to_be_visible()

    await chromium.do(journey)
    assert await running.stores.pool.fetchval("SELECT count(*) FROM taximeter.api_keys") == 1


def heading(page: Page, title: str) -> Any:
    return page.get_by_role("heading", level=1, name=title, exact=True)

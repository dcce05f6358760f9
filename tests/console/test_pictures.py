"""The pictures of docs/console.md are made by `make pictures`, of a system with people in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pytest
from support.chromium import Chromium
from support.waiting import eventually
from support.world import World

from taximeter.meter import Usage
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.worker.checking import Checker

DOCS: Final = Path(__file__).parents[2] / "docs"
BYTES_MAX: Final = 150_000
MODELS: Final = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "text-embedding-3-large")
PEOPLE: Final = {"ann": 5000, "bob": 3000, "cleo": 2500, "dan": 1200, "eve": 800, "finn": 400}
SCREENS: Final = {
    "console-overview": ("/o/acme", "light"),
    "console-books": ("/system/books", "light"),
    "console-system": ("/system", "dark"),
    "console-prices": ("/system/prices?search=openai/gpt-4o", "light"),
}


def test_the_page_shows_pictures_that_are_there_and_small() -> None:
    page = (DOCS / "console.md").read_text("utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(images/([a-z-]+)\.png\)", page)
    assert set(shown) == set(SCREENS), "a picture of the page is made by `make pictures`"
    for name in shown:
        content = (DOCS / "images" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) <= BYTES_MAX, name


@pytest.mark.skipif("WRITE_PICTURES" not in os.environ, reason="`make pictures` makes them")
async def test_make_them(running: World, chromium: Chromium) -> None:
    await running.subscribe(credits=20_000.0)
    meter = await running.app.state.services.meters.get()
    for place, (user, credits) in enumerate(PEOPLE.items()):
        await running.add_member(user)
        assert (await running.allocate(user, credits)).status_code == 200
        for number in range(12):
            usage = Usage(service_name=MODELS[(place + number) % len(MODELS)])
            amount = 1_000 * (credits // 14) + 137 * number
            await meter.charge("acme", user, amount, request_id=f"{user}-{number}", usage=usage)
        await meter.reserve("acme", user, 2_400 + 100 * place, request_id=f"{user}-open")
    for org in ("globex", "initech", "umbrella"):
        assert (await running.subscribe(org, "hank", 1_000.0)).status_code == 200

    async def compared(*_: object) -> None:
        pass

    checker = Checker(running.settling, SettlerSettings(), compared)

    async def is_proved() -> bool:
        report = await checker.look()
        return report is not None and all(one.holds for one in report.invariants)

    await eventually(is_proved, what="books that are proved")

    def journey() -> None:
        for name, (path, scheme) in SCREENS.items():
            size = {"width": 1200, "height": 780}
            with chromium.person(
                running.url, "boss", root=True, color_scheme=scheme, viewport=size
            ) as person:
                person.open(path)
                person.page.wait_for_load_state("load")
                person.page.get_by_text("Loading", exact=True).first.wait_for(state="hidden")
                person.page.wait_for_timeout(1_500)  # Of bars that grow.
                person.page.screenshot(path=DOCS / "images" / f"{name}.png")

    await chromium.do(journey)

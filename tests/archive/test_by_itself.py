"""A settler that is told to archives old months by itself: one at a time, with another one beside
it, and cut off anywhere.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import redis.asyncio as redis_asyncio
from archived_months import FEBRUARY, JANUARY, Months
from pydantic import ValidationError
from settler_world import World
from structlog.testing import capture_logs

from taximeter.settler.archive import by_itself
from taximeter.settler.archive import months as months_module
from taximeter.settler.archive.by_itself import first_kept, is_within
from taximeter.settler.archive.compare import Compared, compare_archives
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.loop_activity import LoopActivity


@pytest.fixture
async def world(months: Months, redis: redis_asyncio.Redis, key_prefix: str) -> World:
    made = World(Stores(months.pool, redis, key_prefix))
    await made.start()
    return made


def settler(months: Months, world: World, activity: LoopActivity | None = None) -> Settler:
    activity = activity or LoopActivity()
    activity.expect("archive", 600.0)
    settings = SettlerSettings(
        archive_keep_months=1,
        archive_url=months.place.url,
        archive_database_url=months.database_url,
        key_prefix=world.stores.prefix,
    )
    made = Settler(world.stores, settings, activity=activity)
    assert "archive" in {loop.name for loop in made.loops()}
    return made


async def left(months: Months) -> list[date]:
    return [month for month in (JANUARY, FEBRUARY) if await months.has(month)]


async def test_months_go_one_after_the_other(months: Months, world: World) -> None:
    first, second = settler(months, world), settler(months, world)
    # Two at once: one of them is at it, and the other one leaves it alone.
    with capture_logs() as logged:
        await asyncio.gather(first.archive(), second.archive())
        assert await left(months) == [FEBRUARY]
        assert not [one for one in logged if one["log_level"] == "error"]
    while await left(months):
        await second.archive()
    await first.archive()
    assert await compare_archives(months.conn, months.place, files=True) == Compared()


async def test_what_is_cut_off_is_gone_on_with(
    months: Months, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything leaves Postgres, and as its rows are to be dropped."""
    for step in ("write_part", "_replace_rows", "drop"):
        reached = asyncio.Event()

        async def stands_still(*_: object, reached: asyncio.Event = reached) -> None:
            reached.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patched:
            if step == "drop":
                patched.setattr(months_module, "tally_rows", stands_still)
            else:
                patched.setattr(months_module, step, stands_still)
            working = asyncio.create_task(settler(months, world).archive())
            await reached.wait()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        assert working.cancelled()
        assert await left(months) == [JANUARY, FEBRUARY]
        assert await months.everything() == months.written
    while JANUARY in await left(months):  # The session that was ended may have its lock a moment.
        await settler(months, world).archive()


async def test_what_goes_wrong_is_told_and_tried_again(
    months: Months, world: World, tmp_path: Path
) -> None:
    activity = LoopActivity()
    working = settler(months, world, activity)
    await asyncio.to_thread(Path(months.place.url).write_text, "no folder")
    await working.archive()
    assert [trouble for name, _, _, trouble in activity.signs() if name == "archive"] == [
        "ArchiveUnread"
    ]
    assert await left(months) == [JANUARY, FEBRUARY]
    await asyncio.to_thread(Path(months.place.url).unlink)
    while JANUARY in await left(months):
        await working.archive()
    assert [trouble for name, _, _, trouble in activity.signs() if name == "archive"] == [None]


async def test_a_month_that_is_in_use_waits(months: Months, world: World) -> None:
    await world.organization("beta", ann=1_000)
    await world.charge("ann", 10, org_id="beta")
    with capture_logs() as logged:
        await settler(months, world).archive()
    assert "is in use" in str(logged)
    assert await left(months) == [JANUARY, FEBRUARY]
    await world.settle()
    months.written = await months.rows()
    while JANUARY in await left(months):
        await settler(months, world).archive()


@pytest.mark.parametrize(
    ("hours", "hour", "within"),
    [
        *(("0-24", 0, True), ("0-24", 23, True), ("1-5", 1, True), ("1-5", 5, False)),
        *(("22-4", 23, True), ("22-4", 3, True), ("22-4", 4, False), ("22-4", 21, False)),
    ],
)
def test_hours_of_the_day(hours: str, hour: int, within: bool) -> None:
    assert is_within(hours, datetime(2026, 3, 1, hour, 59, tzinfo=UTC)) is within
    assert SettlerSettings(archive_hours=hours).archive_hours == hours


async def test_outside_of_its_hours_nothing_is_done(
    months: Months, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_itself, "is_within", lambda hours, at: False)
    await settler(months, world).archive()
    assert await left(months) == [JANUARY, FEBRUARY]


def test_what_it_needs_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="KEEP_MONTHS needs TAXIMETER_ARCHIVE_URL"):
        SettlerSettings(archive_keep_months=3)
    with pytest.raises(ValidationError, match="KEEP_MONTHS needs TAXIMETER_ARCHIVE_DATABASE_URL"):
        SettlerSettings(archive_keep_months=3, archive_url=str(tmp_path))
    for wrong in ("24-1", "1", "1-25", "a-b"):
        with pytest.raises(ValidationError, match="archive_hours"):
            SettlerSettings(archive_hours=wrong)
    assert first_kept(date(2026, 3, 31), 2) == date(2026, 1, 1)

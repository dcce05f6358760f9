"""A month leaves Postgres only when the archive holds it, whatever is cut off or altered when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date

import asyncpg
import pytest
from archived_months import FEBRUARY, JANUARY, SMALL, Months, remove
from settler_kill import CutOff, run_cut_off
from support.waiting import eventually

from taximeter.settler.archive.compare import Compared, compare_archives, find_strays
from taximeter.settler.archive.manifest import read_manifest
from taximeter.settler.archive.months import (
    NotArchived,
    archive_month,
    last_month,
    restore_month,
    take_turn,
)
from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, Place

CUTS_MAX = 400


@dataclass
class Faulty:
    """A place whose n-th step goes wrong as `fault` says, before or after it is done."""

    place: Place
    at: int
    fault: Callable[[str], None]
    after: bool = False
    steps: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.place.url

    def _step(self, name: str, work: Callable[[], object]) -> object:
        self.steps.append(name)
        due = len(self.steps) == self.at
        if due and not self.after:
            self.fault(name)
        try:
            return work()
        finally:
            if due and self.after:
                self.fault(name)

    def read(self, name: str) -> bytes:
        content = self._step(name, lambda: self.place.read(name))
        assert isinstance(content, bytes)
        return content

    def write(self, name: str, content: bytes) -> None:
        self._step(name, lambda: self.place.write(name, content))

    def names(self, folder: str) -> list[str]:
        return self.place.names(folder)


async def test_a_month_goes_and_comes_back_as_it_was(months: Months) -> None:
    part = await archive_month(months.conn, months.place, JANUARY, SMALL)
    assert (await months.has(JANUARY), await months.has(FEBRUARY)) == (0, 30)
    assert await months.everything() == months.written
    manifest = read_manifest(months.place, part)
    assert manifest.rows == 30
    assert manifest.credits_used == 2 * sum(n * 1_000_003 for n in range(1, 16))
    assert len(manifest.files) == 3
    raw = json.loads(months.place.read(part.manifest))
    assert (raw["format"], raw["schema_version"], raw["month"]) == (
        "taximeter-archive",
        1,
        "2025-01",
    )
    assert set(raw["ledger"]) == {"history", "position", "watermarks"}
    assert await months.conn.fetchval("SELECT requests FROM taximeter.dropped_months") == 30
    told: list[tuple[int, int, str]] = []
    found = await compare_archives(
        months.conn, months.place, files=True, tell=lambda *now: told.append(now)
    )
    assert found == Compared()
    rows = [read for read, _, _ in told]
    assert rows == sorted(set(rows))
    assert told[-1] == (30, 30, "2025-01")
    assert await months.violations() == []
    # The latest comes back first.
    await archive_month(months.conn, months.place, FEBRUARY, SMALL)
    with pytest.raises(NotArchived, match="2025-02 comes back first"):
        await restore_month(months.conn, months.place, JANUARY)
    for month in (FEBRUARY, JANUARY):
        assert await restore_month(months.conn, months.place, month) == 30
    assert await months.rows() == months.written
    assert await months.violations() == []
    with pytest.raises(NotArchived, match="is not archived"):
        await restore_month(months.conn, months.place, JANUARY)
    # Its files are used again.
    files = months.place.names("2025-01")
    await archive_month(months.conn, months.place, JANUARY, SMALL)
    assert months.place.names("2025-01") == files


async def test_what_comes_late_is_a_further_part(months: Months) -> None:
    await archive_month(months.conn, months.place, JANUARY, SMALL)
    await months.late()
    assert await months.violations() == []
    assert (await archive_month(months.conn, months.place, JANUARY, SMALL)).part == 2
    await months.late(7)
    assert await months.has(JANUARY) == 1
    assert await compare_archives(months.conn, months.place, files=True) == Compared()
    assert await restore_month(months.conn, months.place, JANUARY) == 31
    assert await months.has(JANUARY) == 32
    assert await months.violations() == []
    await archive_month(months.conn, months.place, JANUARY, SMALL)
    assert [part.requests for part in await months.parts()] == [32]


async def test_rows_that_come_while_a_month_is_written_are_written_as_well(months: Months) -> None:
    await archive_month(months.conn, _Meanwhile(months.place, months, 1), JANUARY, SMALL)
    assert [one.requests for one in await months.parts()] == [31]


class _Meanwhile(Faulty):
    """Adds a row of January when the manifest is written."""

    def __init__(self, place: Place, months: Months, times: int) -> None:
        super().__init__(place, 0, lambda name: None)
        self.months, self.times = months, times

    def write(self, name: str, content: bytes) -> None:
        super().write(name, content)
        if name.endswith(".json") and self.times:
            self.times -= 1
            _in_a_session(self.months)


def _in_a_session(months: Months) -> None:
    """We are in a thread, beside the loop that archives."""

    async def add() -> None:
        async with months.session() as conn:
            mine = Months(months.pool, conn, months.database_url, months.place, months.written)
            await mine.late()
            months.written = mine.written

    asyncio.run(add())


@pytest.mark.parametrize(("abrupt", "first"), [(True, 1), (False, 2)], ids=["killed", "cancelled"])
async def test_archiving_and_restoring_that_are_cut_off_anywhere(
    months: Months, abrupt: bool, first: int
) -> None:
    """Killed at every other await, and cancelled at those between them: all rows are here or in the
    archive, and the next run comes to its end.
    """
    for work, over in ((archive_month, 0), (restore_month, 30)):
        for at in range(first, CUTS_MAX, 2):
            async with months.session() as conn:
                sizes = (SMALL,) if work is archive_month else ()
                cut = CutOff(
                    work(conn, months.place, JANUARY, *sizes),  # type: ignore[arg-type]
                    at,
                    conn.terminate if abrupt else None,
                )
                was_cut = await run_cut_off(cut)
            await _until_sessions_end(months)
            assert await months.everything() == months.written, f"{work.__name__}, await {at}"
            if not was_cut:
                break
            if await months.has(JANUARY) == over:  # Cut off at its end: once more from before.
                await _undo(months, work is archive_month)
            elif work is archive_month:
                await _from_nothing(months)
        else:
            pytest.fail("it never came to its end")
        assert at > 10
        assert await months.has(JANUARY) == over
        assert await months.violations() == []


async def _until_sessions_end(months: Months) -> None:
    """What a killed client has asked for may still be under way."""

    async def alone() -> object:
        return not await months.conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " AND state <> 'idle'"
        )

    await eventually(alone, what="the session of the killed client to end")


async def _undo(months: Months, is_archived: bool) -> None:
    if is_archived:
        await restore_month(months.conn, months.place, JANUARY)
        await _from_nothing(months)
    else:
        await archive_month(months.conn, months.place, JANUARY, SMALL)


async def _from_nothing(months: Months) -> None:
    await months.conn.execute("DELETE FROM taximeter.archived_months")
    for name in months.place.names("2025-01"):
        # A thread of what was cancelled may still be giving its file the name that it is to have.
        with suppress(FileNotFoundError):
            remove(months.place, name)


class Killed(BaseException):
    """The process is gone."""


def die(name: str) -> None:
    raise Killed(name)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_archiving_that_is_killed_at_any_step_in_the_archive_is_gone_on_with(
    months: Months, after: bool
) -> None:
    """One run is killed at its first step, the next one at its second, and so on."""
    for at in range(1, CUTS_MAX):
        faulty = Faulty(months.place, at, die, after)
        try:
            await archive_month(months.conn, faulty, JANUARY, SMALL)
            break
        except Killed:
            assert await months.has(JANUARY) == 30
            assert await months.everything() == months.written
    assert at > 5
    assert await months.has(JANUARY) == 0
    # Nothing was written over; what those that were killed have left belongs to nothing.
    (part,) = await months.parts()
    wanted = {part.manifest, *(one.name for one in read_manifest(months.place, part).files)}
    strays = await find_strays(months.conn, months.place)
    assert set(months.place.names("2025-01")) == wanted | set(strays)
    assert wanted.isdisjoint(strays)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
async def test_what_cannot_be_read_back_is_not_dropped(months: Months, damage: str) -> None:
    def spoil(name: str) -> None:
        content = months.place.read(name)
        if damage == "gone":
            remove(months.place, name)
        elif damage == "cut":
            months.place.write(name, content[:-100])
        else:
            middle = len(content) // 2
            spoiled = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            months.place.write(name, spoiled)

    # Reading what is not there yet, and then the first file.
    faulty = Faulty(months.place, 2, spoil, after=True)
    with pytest.raises(ArchiveError, match=r"2025-01/01-[0-9a-f]{8}-00001\.parquet is") as found:
        await archive_month(months.conn, faulty, JANUARY, SMALL)
    assert ("missing" in str(found.value)) is (damage == "gone")
    assert await months.has(JANUARY) == 30


async def test_files_that_are_altered_later_are_found_and_not_believed(months: Months) -> None:
    part = await archive_month(months.conn, months.place, JANUARY, SMALL)
    entry = read_manifest(months.place, part).files[1]
    good = months.place.read(entry.name)
    months.place.write(entry.name, good[:-1] + b"x")
    assert await compare_archives(months.conn, months.place, files=False) == Compared()
    (wrong,) = (await compare_archives(months.conn, months.place, files=True)).wrong
    assert wrong == f"2025-01: {entry.name} is not what was written: its digest differs"
    with pytest.raises(ArchiveError, match="its digest differs"):
        await restore_month(months.conn, months.place, JANUARY)
    months.place.write(entry.name, good)
    manifest = months.place.read(part.manifest)
    months.place.write(part.manifest, manifest.replace(b'"rows": 30', b'"rows": 31'))
    (wrong,) = (await compare_archives(months.conn, months.place, files=False)).wrong
    assert wrong == f"2025-01: {part.manifest} is not what was written: its digest differs"
    remove(months.place, part.manifest)
    (wrong,) = (await compare_archives(months.conn, months.place, files=False)).wrong
    assert wrong == f"2025-01: {part.manifest} is missing"
    months.place.write(part.manifest, manifest)


async def test_an_edited_record_or_rollup_is_found(months: Months) -> None:
    part = await archive_month(months.conn, months.place, JANUARY, SMALL)
    transaction = months.conn.transaction()
    await transaction.start()
    await months.conn.execute("UPDATE taximeter.archived_months SET credits_used = 1")
    (wrong,) = (await compare_archives(months.conn, months.place, files=False)).wrong
    assert wrong.startswith(f"2025-01: {part.manifest} says 30 rows and ")
    await transaction.rollback()
    transaction = months.conn.transaction()
    await transaction.start()
    await months.conn.execute(
        "UPDATE taximeter.usage_monthly_by_org SET requests_to_day[31] = requests_to_day[31] + 1"
        " WHERE org_id = 'zeta' AND month = $1",
        JANUARY,
    )
    (wrong,) = (await compare_archives(months.conn, months.place, files=True)).wrong
    assert wrong.startswith("2025-01: of zeta the archive has (15, ")
    await transaction.rollback()


async def test_what_a_newer_release_wrote_is_not_guessed_at(months: Months) -> None:
    part = await archive_month(months.conn, months.place, JANUARY, SMALL)
    content = months.place.read(part.manifest)
    newer = content.replace(b'"schema_version": 1', b'"schema_version": 2')
    months.place.write(part.manifest, newer)
    with pytest.raises(ArchiveUnread, match="schema version 2, and this release reads 1"):
        read_manifest(months.place, replace(part, sha256=None))
    months.place.write(part.manifest, content)


async def test_months_that_are_not_to_go_stay(months: Months) -> None:
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="2025-01 is still there"):
        await archive_month(months.conn, months.place, FEBRUARY, SMALL)
    assert await months.has(FEBRUARY) == 30
    assert last_month(date(2025, 1, 31)) == date(2024, 12, 1)
    assert last_month(date(2025, 3, 1)) == date(2025, 2, 1)


async def test_one_at_a_time(months: Months) -> None:
    await take_turn(months.conn)
    async with months.session() as other:
        with pytest.raises(NotArchived, match="another `taximeter archive` is at work"):
            await take_turn(other)


async def test_a_month_that_was_dropped_without_it_does_not_come_back(months: Months) -> None:
    await months.conn.execute("SELECT taximeter.drop_attribution_month($1)", JANUARY)
    with pytest.raises(NotArchived, match="30 rows of 2025-01 were dropped without being archived"):
        await restore_month(months.conn, months.place, JANUARY)
    months.written = await months.rows()

"""What is archived is read as before: page after page, filter by filter, and as much at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow
import pytest
from archived_months import FEBRUARY, JANUARY, SMALL, Months, remove

from taximeter.api.billing.charges import Charges, Chosen, csv_of, reader_of
from taximeter.settler.archive import reading
from taximeter.settler.archive.manifest import read_manifest
from taximeter.settler.archive.months import archive_month
from taximeter.settler.archive.places import ArchiveError
from taximeter.settler.archive.writing import Sizes

NEW_YEAR = datetime(2025, 1, 1, tzinfo=UTC)
MARCH = datetime(2025, 3, 1, tzinfo=UTC)
QUESTIONS = (
    Chosen("acme", NEW_YEAR, MARCH),
    Chosen("zeta", NEW_YEAR + timedelta(hours=3), NEW_YEAR + timedelta(hours=5)),
    Chosen("acme", NEW_YEAR, MARCH, user_id="ann"),
    Chosen("acme", NEW_YEAR, MARCH, service_type="llm_inference", service_name="gpt-2"),
    Chosen("acme", NEW_YEAR, MARCH, request_id="r4"),
    Chosen("acme", NEW_YEAR, MARCH, request_id="not there"),
    Chosen("nobody", NEW_YEAR, MARCH),
    Chosen("acme", datetime(2024, 1, 1, tzinfo=UTC), NEW_YEAR),
)


async def all_pages(
    months: Months, charges: Charges, chosen: Chosen, limit: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = await charges.page(reader_of(months.pool), chosen, limit)
        found += [dict(row, request_metadata=None) for row in page]  # type: ignore[call-overload]
        if len(page) < limit:
            names = ("id", "created_at", "credits_used", "request_id", "metadata", "reserved")
            return [{name: row[name] for name in names} for row in found]
        last = page[-1]
        chosen = chosen._replace(last_at=last["created_at"], last_id=last["id"])


@pytest.mark.parametrize("limit", [4, 1000])
async def test_pages_are_those_from_before(months: Months, limit: int) -> None:
    charges = Charges(months.place.url)
    before = [await all_pages(months, charges, chosen, limit) for chosen in QUESTIONS]
    assert [len(rows) for rows in before] == [24, 4, 16, 6, 2, 0, 0, 0]
    as_csv = csv_of(await charges.page(reader_of(months.pool), QUESTIONS[0], 1000))
    for month in (JANUARY, FEBRUARY):
        await archive_month(months.conn, months.place, month, SMALL)
        assert [await all_pages(months, charges, chosen, limit) for chosen in QUESTIONS] == before
    assert csv_of(await charges.page(reader_of(months.pool), QUESTIONS[0], 1000)) == as_csv


async def test_rows_of_all_parts_and_of_postgres_are_one_list(months: Months) -> None:
    charges = Charges(months.place.url)
    await archive_month(months.conn, months.place, JANUARY, SMALL)
    await months.late(5)
    await archive_month(months.conn, months.place, JANUARY, SMALL)
    await months.late(7)
    found = await all_pages(months, charges, QUESTIONS[0], 3)
    assert len(found) == 26
    order = [(row["created_at"], row["id"]) for row in found]
    assert order == sorted(order, reverse=True)


async def test_a_file_that_is_away_is_named_and_so_is_an_archive_that_is_not_known(
    months: Months,
) -> None:
    part = await archive_month(months.conn, months.place, JANUARY, SMALL)
    entry = read_manifest(months.place, part).files[0]
    content = months.place.read(entry.name)
    remove(months.place, entry.name)
    with pytest.raises(ArchiveError, match=f"{entry.name} is missing"):
        await Charges(months.place.url).page(reader_of(months.pool), QUESTIONS[0], 100)
    # What needs no archive is answered as ever.
    assert len(await Charges(months.place.url).page(reader_of(months.pool), QUESTIONS[0], 12)) == 12
    months.place.write(entry.name, content + b"x")
    with pytest.raises(ArchiveError, match=f"{entry.name} is not what was written"):
        await Charges(months.place.url).page(reader_of(months.pool), QUESTIONS[0], 100)
    months.place.write(entry.name, content)
    with pytest.raises(ArchiveError, match="2025-01 is archived, and TAXIMETER_ARCHIVE_URL is not"):
        await Charges(None).page(reader_of(months.pool), QUESTIONS[0], 100)
    with pytest.raises(ArchiveError, match="takes too long: ask for fewer days"):
        await Charges(months.place.url, read_s=-1.0).page(reader_of(months.pool), QUESTIONS[0], 100)


async def test_in_memory_are_a_file_and_a_group_of_its_rows(
    months: Months, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand rows of a kilobyte: looking through all of them takes a part of that."""
    await months.conn.execute(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, credits_used, created_at, request_metadata)"
        " SELECT 'acme', 'ann', 'llm', 1, '2025-01-20'::timestamptz + make_interval(secs => n),"
        " jsonb_build_object('text', (SELECT string_agg(md5(n::text || i), '')"
        " FROM generate_series(1, 32) AS i)) FROM generate_series(1, 2000) AS n"
    )
    months.written = await months.rows()
    sizes = Sizes(group_rows=100, file_rows=500)
    await archive_month(months.conn, months.place, JANUARY, sizes)
    seen: list[int] = []
    choose = reading._choose

    def noted(table: Any, wanted: reading.Wanted) -> Any:
        seen.append(pyarrow.total_allocated_bytes())
        return choose(table, wanted)

    monkeypatch.setattr(reading, "_choose", noted)
    charges = Charges(months.place.url)
    # Of a user who has none: every row is looked at, and none is answered.
    assert (
        await charges.page(reader_of(months.pool), QUESTIONS[0]._replace(user_id="bob"), 10) == []
    )
    assert len(seen) == 21
    assert max(seen) < 1_000_000

"""Usage by API key and by tag: what charges say of themselves, added up by day."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from asyncpg import RestrictViolationError
from support.books import Books

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LABELS = (
    "SELECT kind, day, label, sum(requests)::int, sum(credits_used)::int"
    " FROM taximeter.usage_daily_by_label GROUP BY 1, 2, 3"
    " HAVING sum(requests) <> 0 ORDER BY 1, 2, 3"
)


async def use(books: Books, amount: int, at: datetime = NOON, **metadata: Any) -> None:
    await books.run(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, service_name, credits_used, created_at, request_metadata)"
        " VALUES ('org', 'ann', 'by_hand', 'm', $1, $2, $3::text::jsonb)",
        amount,
        at,
        json.dumps(metadata),
    )


async def test_what_is_labelled_is_added_up_and_what_is_not_has_no_row(books: Books) -> None:
    await use(books, 1, key_id="k1", tag="night")
    await use(books, 2, key_id="k1")
    await use(books, 4, datetime(2026, 11, 24, tzinfo=UTC), tag="night")
    await use(books, 8, model="m")
    # No text is no label, and neither is an empty one; a long one is cut.
    await use(books, 16, key_id=7, tag="")
    await use(books, 32, tag="x" * 100)
    first, second = date(2026, 11, 23), date(2026, 11, 24)
    assert await books.rows(LABELS) == [
        ("key", first, "k1", 2, 3),
        ("tag", first, "night", 1, 1),
        ("tag", first, "x" * 64, 1, 32),
        ("tag", second, "night", 1, 4),
    ]


async def test_what_is_deleted_is_taken_back(books: Books) -> None:
    for amount in (1, 2):
        await use(books, amount, key_id="k1", tag="night")
    await books.run("DELETE FROM credit_usage_attribution WHERE credits_used = 1")
    assert [row[2:] for row in await books.rows(LABELS)] == [("k1", 1, 2), ("night", 1, 2)]
    await books.run("DELETE FROM credit_usage_attribution")
    assert await books.rows(LABELS) == []


async def test_more_labels_than_a_day_has_room_for_are_counted_together(books: Books) -> None:
    await books.run(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, credits_used, created_at, request_metadata)"
        " SELECT 'org', 'ann', 'by_hand', 1, $1, jsonb_build_object('tag', to_char(n, 'FM0000'))"
        " FROM generate_series(1, 250) AS n",
        NOON,
    )
    await use(books, 5, tag="one more")
    await use(books, 5, tag="0001")
    rows = {row[2]: row[3:] for row in await books.rows(LABELS)}
    assert (len(rows), rows["other"], rows["0001"]) == (201, (51, 55), (2, 6))
    # Taken back from where it was added.
    await books.run(
        "DELETE FROM credit_usage_attribution WHERE request_metadata ->> 'tag' > '0200'"
    )
    assert "other" not in {row[2] for row in await books.rows(LABELS)}


async def test_the_rollup_is_not_truncated(books: Books) -> None:
    with pytest.raises(RestrictViolationError, match="mirrors the attribution"):
        await books.run("TRUNCATE taximeter.usage_daily_by_label")

"""The daily rollup moves with the attribution, and the attribution only grows or is deleted."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from asyncpg import CheckViolationError, RestrictViolationError
from support.books import Books

BY_HAND = (
    "INSERT INTO credit_usage_attribution"
    " (org_id, user_id, service_type, service_name, credits_used, created_at)"
    " VALUES ('org', $1, 'by_hand', $2, $3, $4)"
)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def rollup(books: Books) -> list[tuple[object, ...]]:
    return await books.rows(
        "SELECT user_id, service_name, day, requests, credits_used FROM taximeter.usage_daily"
        " ORDER BY 1, 2, 3"
    )


async def test_rows_are_added_up_by_user_service_and_day_in_utc(books: Books) -> None:
    late = datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL timezone = 'Asia/Tokyo'")
        await conn.execute(BY_HAND, "ann", "m", 1, NOON)
        await conn.execute(BY_HAND, "ann", "m", 2, late)
        await conn.execute(BY_HAND, "ann", "m", 4, datetime(2026, 11, 24, tzinfo=UTC))
        await conn.execute(BY_HAND, "ann", "n", 8, NOON)
        await conn.execute(BY_HAND, "bob", "m", 16, NOON)
    assert await rollup(books) == [
        ("ann", "m", date(2026, 11, 23), 2, 3),
        ("ann", "m", date(2026, 11, 24), 1, 4),
        ("ann", "n", date(2026, 11, 23), 1, 8),
        ("bob", "m", date(2026, 11, 23), 1, 16),
    ]


async def test_copy_is_rolled_up_too_over_several_partitions(books: Books) -> None:
    columns = ["org_id", "user_id", "service_type", "service_name", "credits_used", "created_at"]
    days = [datetime(2026, month, 15, tzinfo=UTC) for month in range(1, 13)]
    async with books.pool.acquire() as conn:
        await conn.copy_records_to_table(
            "credit_usage_attribution",
            columns=columns,
            records=[("org", "ann", "by_hand", "m", 5, day) for day in days for _ in range(3)],
        )
    assert [row[3:] for row in await rollup(books)] == [(3, 15)] * 12


async def test_a_free_request_counts_as_a_request(books: Books) -> None:
    await books.run(BY_HAND, "ann", "m", 0, NOON)
    assert await rollup(books) == [("ann", "m", date(2026, 11, 23), 1, 0)]


async def test_deleting_usage_takes_back_its_part_and_its_request_ids(books: Books) -> None:
    await books.open(1000, 500)
    await books.deduct(10, "req-1")
    await books.deduct(20, "req-2")
    await books.run("DELETE FROM credit_usage_attribution WHERE request_id = 'req-1'")
    assert await books.rows("SELECT requests, credits_used FROM taximeter.usage_daily") == [(1, 20)]
    assert await books.rows("SELECT request_id FROM taximeter.charged_requests") == [("req-2",)]
    # used of the allocation stays, and the books know that 10 of it have no attribution any more.
    assert await books.allocation() == (500, 30)
    assert await books.value("SELECT used_by_hand FROM taximeter.accounts") == 10
    assert await books.deduct(10, "req-1") == (True, 460)
    await books.run("DELETE FROM credit_usage_attribution")
    assert await rollup(books) == []


async def test_deleting_spares_the_same_request_id_of_another_organisation(books: Books) -> None:
    await books.open(1000, 500)
    await books.open(1000, 500, org="other")
    await books.deduct(10, "req-1")
    await books.deduct(10, "req-1", org="other")
    await books.run("DELETE FROM credit_usage_attribution WHERE org_id = 'org'")
    assert await books.rows("SELECT org_id FROM taximeter.charged_requests") == [("other",)]


async def test_usage_written_by_hand_is_told_apart_from_charges(books: Books) -> None:
    await books.open(1000, 500)
    await books.run(BY_HAND, "ann", "m", 12, NOON)
    assert await books.value("SELECT used_by_hand FROM taximeter.accounts") == -12
    assert await books.allocation() == (500, 0)


async def test_usage_is_not_rewritten(books: Books) -> None:
    await books.run(BY_HAND, "ann", "m", 12, NOON)
    for statement in (
        "UPDATE credit_usage_attribution SET credits_used = 0",
        "UPDATE credit_usage_attribution SET request_metadata = '{}' WHERE false",
        "TRUNCATE credit_usage_attribution",
        "TRUNCATE taximeter.usage_daily",
    ):
        with pytest.raises(RestrictViolationError, match="is refused: "):
            await books.run(statement)
    assert await rollup(books) == [("ann", "m", date(2026, 11, 23), 1, 12)]


LIMITS = [
    ("credits_used_is_in_range", "credits_used", "-1"),
    ("credits_used_is_in_range", "credits_used", "1000000000001"),
    ("reserved_is_in_range", "reserved", "-1"),
    ("service_type_is_short", "service_type", "repeat('x', 65)"),
    ("service_name_is_short", "service_name", "repeat('x', 256)"),
    ("request_id_is_short", "request_id", "''"),
    ("request_id_is_short", "request_id", "repeat('x', 129)"),
]


async def test_usage_has_limits(books: Books) -> None:
    for constraint, column, value in LIMITS:
        row = {"org_id": "'o'", "user_id": "'u'", "service_type": "'by_hand'", "credits_used": "1"}
        row[column] = value
        with pytest.raises(CheckViolationError, match=constraint):
            await books.run(
                f"INSERT INTO credit_usage_attribution ({', '.join(row)})"
                f" VALUES ({', '.join(row.values())})"
            )


async def test_the_longest_names_fit_the_rollup(books: Books) -> None:
    """An index entry has a limit: a row that the attribution takes must not break the rollup."""

    # Characters of four bytes, in an order that compression finds nothing in.
    def noise(length: int, start: int) -> str:
        return "".join(chr(0x10000 + (start + i * 40503) % 0xFFFF) for i in range(length))

    await books.run(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, service_name, credits_used)"
        " VALUES ($1, $2, $3, $4, 1)",
        "o" * 128,
        noise(255, 1),
        noise(64, 2),
        noise(255, 3),
    )

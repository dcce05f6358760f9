"""How many names of services have rows of their own in the rollups, and where the rest counts."""

from __future__ import annotations

from datetime import UTC, datetime

from support.books import Books

from taximeter.settler.proof.invariants import sql_invariants

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MANY = (
    "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, service_name,"
    " credits_used, created_at, seq)"
    " SELECT $1, $2, $3, $4 || n, CASE WHEN $6::bigint IS NULL THEN 1 ELSE 0 END, $5, $6 + n"
    "   FROM generate_series($7::integer, $8) AS n"
)
NAMES_MAX = 1_000


async def use(
    books: Books,
    first: int,
    last: int,
    *,
    name: str = "m",
    kind: str = "llm",
    org: str = "org",
    user: str = "ann",
    when: datetime = NOON,
    seq: int | None = None,
) -> None:
    """A request for each of the names `m<first>` to `m<last>`, by hand or (of nothing) settled."""
    await books.run(MANY, org, user, kind, name, when, seq, first, last)


async def rows_of(books: Books, org: str = "org") -> int:
    (row,) = await books.rows(
        f"SELECT count(*) FROM taximeter.usage_daily_by_org WHERE org_id = '{org}'"
    )
    return int(str(row[0]))


async def others(books: Books) -> list[tuple[object, ...]]:
    return await books.rows(
        "SELECT service_type, requests FROM taximeter.usage_daily"
        " WHERE service_name = 'other' ORDER BY 1"
    )


async def prove(books: Books) -> None:
    """Every rollup is what the attribution says."""
    for query in sql_invariants():
        if query.invariant == "I2" and "rollup" in query.name:
            assert await books.rows(query.sql) == [], query.name


async def test_what_comes_after_a_thousand_names_is_other(books: Books) -> None:
    await use(books, 1, 990)
    await use(books, 985, 1_050)
    await use(books, 1_101, 1_200, user="bob")
    assert await rows_of(books) == NAMES_MAX + 1
    assert sorted(await others(books)) == [("llm", 50), ("llm", 100)]
    # A name that has its rows goes on having them; a kind of service that nobody had is other too.
    await use(books, 7, 7)
    await use(books, 1, 1, kind="new")
    assert await rows_of(books) == NAMES_MAX + 2
    assert sorted(await others(books)) == [("llm", 50), ("llm", 100), ("other", 1)]
    # Each charge keeps its own name.
    (row,) = await books.rows("SELECT count(DISTINCT service_name) FROM credit_usage_attribution")
    assert row == (1_150,)
    await prove(books)


async def test_a_flood_is_over_with_its_month_and_stays_with_its_organisation(books: Books) -> None:
    await use(books, 1, 1_100)
    await use(books, 1, 3, name="real", when=datetime(2026, 12, 1, tzinfo=UTC))
    await use(books, 1, 3, name="real", org="else")
    await use(books, 1, 3, name="settled", seq=10)
    found = await books.rows(
        "SELECT org_id, service_name FROM taximeter.usage_daily"
        " WHERE service_name LIKE 'real%' OR service_name LIKE 'settled%' ORDER BY 1, 2"
    )
    assert found == [
        *(("else", f"real{n}") for n in (1, 2, 3)),
        *(("org", f"real{n}") for n in (1, 2, 3)),
        *(("org", f"settled{n}") for n in (1, 2, 3)),
    ]
    await prove(books)


async def test_what_is_deleted_is_taken_from_where_it_was_added(books: Books) -> None:
    await use(books, 1, 1_010)
    await books.run("DELETE FROM credit_usage_attribution WHERE service_name IN ('m7', 'm1001')")
    await use(books, 1_002, 1_002)
    assert await others(books) == [("llm", 10)]
    await prove(books)
    await books.run("DELETE FROM credit_usage_attribution")
    assert await books.rows("SELECT * FROM taximeter.usage_daily") == []
    await prove(books)

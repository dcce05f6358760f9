"""The guide's SQL, word for word, through psql."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from support.books import Books

Psql = Callable[..., str]
ORG = {"'$ORG_ID'": "'test-dev-org'"}


def values(printed: str) -> dict[str, Decimal]:
    """`name|number` lines of an unaligned answer."""
    pairs = (line.split("|") for line in printed.splitlines())
    return {name: Decimal(value) for name, value in pairs}


def test_the_tables_that_step_two_lists(psql: Psql) -> None:
    listed = psql("", "-At", command=r"\dt org*")
    for table in ("organization_subscriptions", "organization_credit_pools", "org_billing_history"):
        assert f"public|{table}|table|" in listed
    for table in ("user_credit_allocations", "credit_usage_attribution"):
        assert f"public|{table}|" in psql("", "-At", command=r"\dt *credit*")


def test_the_quick_start_ends_in_the_expected_pool_and_allocation(psql: Psql) -> None:
    assert psql("quick_start.sql").count("(1 row)") == 2
    assert values(psql("verify_setup.sql", "-At")) == {"Pool": 10000, "Allocation": 5000}


def test_the_clean_up_leaves_nothing_that_the_next_run_trips_over(psql: Psql) -> None:
    """Twice with the same ids: the second life is as the first, request ids included."""
    deduct = (
        "SELECT * FROM deduct_credits('test-dev-org'::VARCHAR, 'test-user-123'::VARCHAR,"
        " 50000::BIGINT, 'test'::VARCHAR, 'm'::VARCHAR, 'req-123'::VARCHAR, '{}'::JSONB)"
    )
    for _ in range(2):
        psql("quick_start.sql")
        assert psql("", "-At", command=deduct) == "t|4950000\n"
        psql("clean_up.sql", replace=ORG)
    assert psql("", "-At", command="SELECT count(*) FROM organizations") == "0\n"


def test_the_clean_up_works_as_one_command_too(psql: Psql) -> None:
    """The end-to-end script hands all statements to one `psql -c`: one transaction."""
    psql("quick_start.sql")
    psql("clean_up.sql", "--single-transaction", replace=ORG)
    assert psql("", "-At", command="SELECT count(*) FROM organizations") == "0\n"


async def test_the_debug_queries(psql: Psql, books: Books) -> None:
    await books.open(10_000_000, 5_000_000)
    await books.deduct(50_000, "req-1")
    printed = psql("debug_queries.sql", "-At", replace={"ORG_ID": "org", "USER_ID": "ann"})
    allocation, deduction, *consistency = printed.splitlines()
    assert [Decimal(value) for value in allocation.split("|")[2:]] == [5000, 50, 4950]
    assert deduction.split("|")[3] == "req-1"
    assert values("\n".join(consistency)) == {"Allocation": 5000, "Pool Allocated": 5000}


async def test_the_consistency_query_matches_always(psql: Psql, books: Books) -> None:
    """Also when closed allocations were used, which the pool has paid: "Should match!"."""

    def both() -> list[Decimal]:
        printed = psql("debug_queries.sql", "-At", replace={"ORG_ID": "org", "USER_ID": "ann"})
        return list(values("\n".join(printed.splitlines()[-2:])).values())

    await books.open(1000, 600)
    await books.allocate(50, user="bob")
    await books.run("UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'ann'")
    await books.allocate(300)
    assert both() == [Decimal("0.35")] * 2
    await books.deduct(100, "req-1")
    assert both() == [Decimal("0.35")] * 2
    await books.run("UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'ann'")
    assert both() == [Decimal("0.05")] * 2


async def test_the_explained_queries_use_indexes(psql: Psql, books: Books) -> None:
    """Three weeks of usage of 20 organisations: the guide says to look for no Seq Scan."""
    await books.open(1000, 500, org="org_abc123")
    await books.run(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, service_name, credits_used, created_at)"
        " SELECT CASE n % 20 WHEN 0 THEN 'org_abc123' ELSE 'org' || n % 20 END, 'u' || n % 9,"
        " 'llm', 'gpt', 1, now() - n * interval '100 seconds' FROM generate_series(1, 20000) AS n"
    )
    await books.run("ANALYZE")
    # An empty month is read in no time; the biggest must not be read from end to end.
    biggest = await books.value(
        "SELECT relname::text FROM pg_class WHERE relname LIKE 'attribution%' AND relkind = 'r'"
        " ORDER BY reltuples DESC LIMIT 1"
    )
    for file in ("explain_usage.sql", "explain_index.sql"):
        plan = psql(file)
        assert f"Scan on {biggest}" in plan, plan
        assert f"Seq Scan on {biggest}" not in plan, plan

"""A year of usage, in small: its books prove, its rollups are a recount, and nothing that serves a
request reads a large table from end to end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import asyncpg
import pytest
from support.servers import run_sql, with_database

from bench.conditions import REFERENCE
from bench.figures import QUESTIONS, Took, ask, figure, measure, tables_scanned
from bench.harness import judge
from bench.history import History, history_size, make_history
from taximeter.api.processes.migrate import migrate
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.proof.check import check
from taximeter.settler.shards.guardian import guard

HISTORY = History(rows=48_000, organisations=300, members_of_largest=200)

LARGE = re.compile(
    r"attribution_\w+|charged_requests|usage_daily\w*|usage_monthly_by_user|accounts|account_entries"
    r"|user_credit_allocations|organization_members"
)
"""Tables that grow with usage and with users."""

LOCK = re.compile(r"\A(--.*\n)*LOCK TABLE (ONLY )?\w+ IN [A-Z ]+ MODE;?\s*\Z")
STATEMENT = re.compile(r"\A(--.*\n)*(SELECT|WITH|INSERT|UPDATE|DELETE)\b")
"""What EXPLAIN takes, after the comment of a block."""

WHOLE_ON_PURPOSE = {
    "settler/invariants": "check proves the books by a recount",
    "settler/reconcile": "check and reconcile look at all accounts",
    "settler/seals": "what is sealed, or read again, is read whole: a span of time each",
    "settler/archive": "a month is archived whole; what came after one was dropped is found",
    "settler/cells": "an organisation that moves takes all of its usage along, once",
    "api/browser_sessions.people": "dev mode alone asks it, of its own small database",
    "api/demo": "the demo reports on the whole of its own small database",
}
"""Files of SQL, or names in them, that read everything because that is what they are for."""
BY_INDEX_ALONE = {
    "api/usage.label_series",
    "api/usage.usage_by_label",
    "settler/exports.requests_of_day",
    "settler/exports.sums_of_usage",
    "settler/guardian.doubt_latest_hints",
    "settler/guardian.recent_expiries",
}
"""Run with enable_seqscan off, so that an empty table is not taken for one that stays so."""


@pytest.fixture(scope="module")
def history_url(session_database_url: str) -> Iterator[str]:
    """A database for these tests alone, since it takes a while to fill."""
    name = "taximeter_history"
    run_sql(session_database_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    url = with_database(session_database_url, name)
    migrate(url)
    yield url
    run_sql(session_database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def stores(history_url: str, redis: Any) -> Any:
    """Both stores, with the year in Postgres and nothing live."""
    async with asyncpg.create_pool(
        history_url, min_size=1, max_size=4, server_settings={"timezone": "UTC"}
    ) as pool:
        found = Stores(pool, redis, "history")
        if not (await history_size(pool))["rows"]:
            await make_history(found, HISTORY)
        yield found


async def test_the_year_is_as_large_as_it_says_and_proves(stores: Stores) -> None:
    size = await history_size(stores.pool)
    assert size["rows"] == HISTORY.rows
    assert size["organisations"] == HISTORY.organisations
    counted = await stores.pool.fetchval("SELECT count(*) FROM credit_usage_attribution")
    assert counted == HISTORY.rows
    largest = await stores.pool.fetchval(
        "SELECT count(*) FROM credit_usage_attribution WHERE org_id = $1", HISTORY.largest
    )
    assert largest > HISTORY.rows / 10
    months = await stores.pool.fetchval(
        "SELECT count(DISTINCT tableoid) FROM credit_usage_attribution"
    )
    assert months in (12, 13), "a year lies in twelve months, or in parts of thirteen"
    assert (await guard(stores, 0, 1)).usable
    report = await check(stores)
    assert report.holds, [one.violations for one in report.invariants if not one.holds]
    assert report.as_dict()["invariants"]


async def test_each_figure_is_measured_and_changes_nothing(stores: Stores) -> None:
    before = await history_size(stores.pool)
    figures = await measure(stores, HISTORY, 5)
    assert {one.name for one in figures} == {
        *(f"figure_{question.name}" for question in QUESTIONS),
        "figure_allocations_largest",
        "figure_usage_largest",
    }
    assert all(one.ours.median > 0 and one.target is not None for one in figures)
    after = await history_size(stores.pool)
    assert (after["rows"], after["members"]) == (before["rows"], before["members"])


def test_a_figure_needs_to_be_five_times_faster_than_promised() -> None:
    usage = next(question for question in QUESTIONS if question.name == "usage")
    fast, slow = [Took(9.9, 1.0)] * 100, [Took(9.0, 1.0)] * 90 + [Took(10.1, None)] * 10
    assert judge(figure(usage, fast), REFERENCE).word == "met"
    assert judge(figure(usage, slow), REFERENCE).word == "missed"


async def scans(conn: Any) -> dict[str, int]:
    """How often each large table was read from end to end, by the server's own count."""
    await conn.execute("SELECT pg_stat_force_next_flush()")
    rows = await conn.fetch("SELECT relname, seq_scan FROM pg_stat_user_tables")
    return {row["relname"]: row["seq_scan"] for row in rows if LARGE.fullmatch(row["relname"])}


async def test_no_question_reads_a_large_table_from_end_to_end(stores: Stores) -> None:
    """Also not inside of a function, where EXPLAIN does not look: the server counts."""
    async with stores.pool.acquire() as conn:
        before = await scans(conn)
        assert any(name.startswith("attribution_2") for name in before)
        for question in QUESTIONS:
            seen: set[str] = set()
            for number in (1, 7, 250):
                org_id = HISTORY.org_id(number)
                await ask(conn, question, [(org_id, f"{org_id}-user-2")], seen)
            assert not {table for table in seen if LARGE.fullmatch(table)}, question.title
        assert await scans(conn) == before
        # The count can tell: a question without an index is seen.
        await conn.execute("SELECT count(*) FROM credit_usage_attribution WHERE credits_used = 7")
        assert await scans(conn) != before


async def generic_plan(conn: Any, query: str) -> Mapping[str, Any]:
    """The plan of a query for whatever its arguments may be."""
    await conn.execute(
        "CREATE OR REPLACE FUNCTION pg_temp.generic_plan(query text) RETURNS json"
        " LANGUAGE plpgsql AS $$ DECLARE found json; BEGIN"
        " EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || query INTO found;"
        " RETURN found; END $$"
    )
    plan: Mapping[str, Any] = json.loads(
        await conn.fetchval("SELECT pg_temp.generic_plan($1)", query)
    )[0]["Plan"]
    return plan


def named_queries() -> dict[str, str]:
    """Every block of SQL of the application, as package/file.name."""
    found = {}
    for package in ("api", "settler"):
        for file in files(f"taximeter.{package}").joinpath("sql").iterdir():
            if not file.name.endswith(".sql"):
                continue
            file_name = file.name.removesuffix(".sql")
            for name, query in load_queries(file_name, f"taximeter.{package}").items():
                found[f"{package}/{file_name}.{name}"] = query
    return found


def is_excused(name: str) -> bool:
    return name in WHOLE_ON_PURPOSE or name.partition(".")[0] in WHOLE_ON_PURPOSE


async def test_no_query_of_the_application_scans_the_attribution(stores: Stores) -> None:
    scanned: dict[str, set[str]] = {}
    async with stores.pool.acquire() as conn:
        for name, query in named_queries().items():
            if STATEMENT.search(query) is None:
                # A LOCK reads nothing.
                assert "usage" not in query or LOCK.search(query), f"{name} cannot be explained"
            elif not is_excused(name):
                async with conn.transaction():
                    if name in BY_INDEX_ALONE:
                        await conn.execute("SET LOCAL enable_seqscan = off")
                    plan = await generic_plan(conn, query.rstrip().rstrip(";"))
                tables = tables_scanned(plan)
                large = {table for table in tables if LARGE.fullmatch(table)}
                if large:
                    scanned[name] = large
        # The plan can tell.
        control = tables_scanned(
            await generic_plan(
                conn, "SELECT * FROM credit_usage_attribution WHERE service_name = $1"
            )
        )
        assert any(LARGE.fullmatch(table) for table in control)
    assert scanned == {}

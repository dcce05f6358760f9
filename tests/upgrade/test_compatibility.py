"""What the last release asks Postgres is answered on this release's schema, and what it writes has
room there: migrations expand first, and take away a release later (docs/releases.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from taximeter.api.processes.migrate import migrate
from taximeter.settler.books.named_sql import load_queries
from upgrade.former import VERSION, last_release

Catalog = dict[str, dict[str, str]]

COLUMNS = """
SELECT c.oid::regclass || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AND NOT (a.atthasdef OR a.attidentity <> '') AS must_be_given
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
 WHERE c.relnamespace::regnamespace::text IN ('public', 'taximeter')
   AND c.relkind IN ('r', 'p', 'v')
   AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
"""
FUNCTIONS = """
SELECT p.oid::regprocedure::text AS name, pg_get_function_result(p.oid) AS type
  FROM pg_proc AS p
 WHERE p.pronamespace::regnamespace::text IN ('public', 'taximeter')
   AND p.prorettype <> 'trigger'::regtype
"""

TAKEN_AWAY: dict[str, str] = {}
"""What is gone although the last release has it, and why nobody of it asks: empty as a rule."""


def queries(release: Path) -> Iterator[tuple[str, str]]:
    """Every named block of SQL of a release, and its place."""
    for path in sorted(release.glob("*/sql/*.sql")):
        parts = re.split(r"^-- name: ([a-z][a-z0-9_]*)$", path.read_text("utf-8"), flags=re.M)
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            yield f"{path.relative_to(release)}: {name}", body


async def answered(conn: asyncpg.Connection[asyncpg.Record], release: Path) -> dict[str, str]:
    """What Postgres says to each query of a release: an empty text where it can be asked."""
    found = {}
    for place, body in queries(release):
        try:
            await conn.prepare(body)
        except asyncpg.PostgresError as error:
            found[place] = str(error)
        else:
            found[place] = ""
    return found


async def catalog(conn: asyncpg.Connection[asyncpg.Record]) -> tuple[Catalog, dict[str, str]]:
    columns: Catalog = {}
    for row in await conn.fetch(COLUMNS):
        table, _, column = row["name"].rpartition(".")
        columns.setdefault(table, {})[column] = row["type"]
        if row["must_be_given"]:
            columns[table][column] += ", must be given"
    return columns, {row["name"]: row["type"] for row in await conn.fetch(FUNCTIONS)}


def objections(
    before: tuple[Catalog, dict[str, str]], now: tuple[Catalog, dict[str, str]]
) -> set[str]:
    """What the last release may stumble over."""
    found = set()
    for table, columns in before[0].items():
        if table not in now[0]:
            found.add(f"{table} is gone")
            continue
        for column, type_ in columns.items():
            was, becomes = type_.partition(","), now[0][table].get(column, "gone").partition(",")
            if becomes[0] != was[0]:
                found.add(f"{table}.{column} was {was[0]} and is {becomes[0]}")
            elif becomes[2] and not was[2]:
                found.add(f"{table}.{column} must be given, and had not to be")
        for column, type_ in now[0][table].items():
            if column not in columns and type_.endswith(", must be given"):
                found.add(f"{table}.{column} is new and must be given")
    for function, result in before[1].items():
        if now[1].get(function) != result:
            found.add(f"{function} returned {result}, and now {now[1].get(function, 'is gone')}")
    return found


@pytest.fixture
def former(tmp_path: Path) -> Path:
    return last_release(tmp_path / "former")


async def test_the_last_release_works_on_this_schema(
    empty_database_url: str, former: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            "taximeter.api.processes.migrate.importlib.resources.files",
            lambda _: former / "migrations",
        )
        migrate(empty_database_url)
    conn = await asyncpg.connect(empty_database_url)
    try:
        before, asked = await catalog(conn), await answered(conn, former)
        assert [place for place, error in asked.items() if error] == []
        assert len(asked) > 200
        migrate(empty_database_url)
        now = await answered(conn, former)
        assert {place: error for place, error in now.items() if error} == {}, VERSION
        assert objections(before, await catalog(conn)) == set(TAKEN_AWAY)
    finally:
        await conn.close()


def test_a_migration_that_breaks_the_last_release_is_refused() -> None:
    """Each of these was harmless to the release that brought it, and ended the one before."""
    before: tuple[Catalog, dict[str, str]] = (
        {"t": {"a": "integer", "b": "text", "c": "text, must be given"}, "gone": {"a": "text"}},
        {"f(integer)": "integer", "g()": "void"},
    )
    now: tuple[Catalog, dict[str, str]] = (
        {"t": {"a": "bigint", "b": "text, must be given", "d": "text, must be given", "e": "text"}},
        {"f(integer)": "bigint"},
    )
    assert objections(before, before) == set()
    assert objections(before, now) == {
        "gone is gone",
        "t.a was integer and is bigint",
        "t.b must be given, and had not to be",
        "t.c was text and is gone",
        "t.d is new and must be given",
        "f(integer) returned integer, and now bigint",
        "g() returned void, and now is gone",
    }


def test_queries_are_found_as_the_programs_find_them() -> None:
    root = Path(__file__).parents[2]
    found = [place for place, _ in queries(root) if place.startswith("settler/sql/settle.sql")]
    assert [place.rpartition(" ")[2] for place in found] == list(load_queries("settle"))

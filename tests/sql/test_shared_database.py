"""The database that the tests of a file share: nobody finds anything of who was there before."""

from __future__ import annotations

from typing import Any

import asyncpg
from support.books import Books
from support.database import SharedDatabase

TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'taximeter'::regnamespace)
"""


async def everything(url: str) -> dict[str, Any]:
    """Each row of each table, and what each sequence would give next."""
    conn = await asyncpg.connect(url)
    found: dict[str, Any] = {}
    for (name,) in await conn.fetch(TABLES):
        rows = await conn.fetch(f"SELECT t::text FROM ONLY {name} AS t ORDER BY 1")
        found[name] = [row[0] for row in rows]
    for row in await conn.fetch("SELECT schemaname, sequencename, last_value FROM pg_sequences"):
        found[f"{row[0]}.{row[1]}"] = row[2]
    await conn.close()
    return found


async def test_nothing_stays(database_url: str, shared_database: SharedDatabase) -> None:
    before = await everything(database_url)
    assert before["schema_migrations"]
    async with asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:
        books = Books(pool)
        await books.open(total=1_000, allocated=600)
        assert await books.deduct(70, "r1")
        for changed in (
            "UPDATE taximeter.key_seal SET secret = sha256('another')",
            "SET session_replication_role = replica; DELETE FROM taximeter.audit_end;"
            " DELETE FROM schema_migrations",
        ):
            await pool.execute(changed)
    assert await everything(database_url) != before
    assert await shared_database.clean() == database_url
    assert await everything(database_url) == before


async def test_what_is_not_as_it_was_made_is_not_given_on(
    database_url: str, shared_database: SharedDatabase
) -> None:
    before = await everything(database_url)
    conn = await asyncpg.connect(database_url)
    await conn.execute("ALTER TABLE organizations ALTER COLUMN slug DROP NOT NULL")
    await conn.close()
    another = await shared_database.clean()
    assert another != database_url
    assert await everything(another) == before


async def test_a_session_is_clean_and_one_that_was_cut_off_is_gone(database_url: str) -> None:
    first = await asyncpg.connect(database_url)
    pid = first.get_server_pid()
    await first.execute(
        "SET work_mem = '1MB'; SET ROLE taximeter_app; CREATE TEMP TABLE mine (); LISTEN news;"
        " SELECT pg_advisory_lock(7)"
    )
    await first.close()
    assert first.is_closed()
    second = await asyncpg.connect(database_url)
    assert second.get_server_pid() == pid
    assert await second.fetchval("SHOW work_mem") != "1MB"
    assert await second.fetchval("SELECT current_user") == "postgres"
    assert await second.fetchval("SELECT to_regclass('mine')") is None
    assert await second.fetch("SELECT pg_listening_channels()") == []
    assert await second.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    second.terminate()
    third = await asyncpg.connect(database_url)
    assert third.get_server_pid() != pid
    begun = third.get_server_pid()
    await third.execute("BEGIN")
    await third.close()
    fourth = await asyncpg.connect(database_url)
    assert fourth.get_server_pid() not in (pid, begun)
    assert not fourth.is_in_transaction()
    await fourth.close()

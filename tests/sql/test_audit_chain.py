"""What was written down of people's doings stays so, or it shows."""

from __future__ import annotations

import asyncpg
import pytest
from support.books import Books

from taximeter.settler.proof.invariants import sql_invariants

WRITE = "INSERT INTO taximeter.audit_log (actor, action, org_id) VALUES ($1, 'org.tested', 'org')"
SEAL = "SELECT taximeter.seal_audit()"
OFF = "ALTER TABLE taximeter.{} DISABLE TRIGGER ALL"


async def violations(books: Books) -> list[str]:
    return [
        row[0]
        for query in sql_invariants()
        if query.invariant == "I14"
        for row in await books.rows(query.sql)
    ]


@pytest.fixture
async def log(books: Books) -> Books:
    for n in range(5):
        await books.run(WRITE, f"person-{n}")
    assert await books.value(SEAL) == 5
    assert await books.value(SEAL) == 0
    assert await violations(books) == []
    return books


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE taximeter.audit_log SET actor = 'somebody else' WHERE actor = 'person-2'",
        "UPDATE taximeter.audit_log SET after = '{\"a\": 1}' WHERE actor = 'person-4'",
        "UPDATE taximeter.audit_log SET at = at - interval '1 second' WHERE actor = 'person-0'",
        "DELETE FROM taximeter.audit_log WHERE actor = 'person-3'",
        "DELETE FROM taximeter.audit_log WHERE actor = 'person-4'",
    ],
)
async def test_a_change_by_the_owner_shows(log: Books, change: str) -> None:
    await log.run(OFF.format("audit_log"))
    await log.run(change)
    assert len(await violations(log)) == 1


async def test_links_that_go_along_show_too(log: Books) -> None:
    await log.run(OFF.format("audit_log"))
    await log.run(OFF.format("audit_chain"))
    await log.run("DELETE FROM taximeter.audit_chain WHERE n = 3")
    await log.run("DELETE FROM taximeter.audit_log WHERE actor = 'person-2'")
    found = await violations(log)
    assert any("1 links" in one for one in found), found
    assert any("does not fit" in one for one in found), found


async def test_an_older_copy_of_the_log_and_its_chain_shows_for_good(log: Books) -> None:
    """Both tables are put back, and fit each other. What is written from then on hides nothing."""
    for table in ("audit_log", "audit_chain"):
        await log.run(OFF.format(table))
    await log.run("DELETE FROM taximeter.audit_chain WHERE n > 3")
    await log.run("DELETE FROM taximeter.audit_log WHERE actor IN ('person-3', 'person-4')")
    for table in ("audit_log", "audit_chain"):
        await log.run(f"ALTER TABLE taximeter.{table} ENABLE TRIGGER ALL")
    [found] = await violations(log)
    assert "link 5 of the audit log is not the one" in found
    for n in range(3):
        await log.run(WRITE, f"later-{n}")
    assert await log.value(SEAL) == 3
    assert await violations(log) == [found]


async def test_an_old_row_without_a_link_shows(log: Books) -> None:
    await log.run(OFF.format("audit_chain"))
    await log.run("DELETE FROM taximeter.audit_chain WHERE n = 5")
    await log.run("ALTER TABLE taximeter.audit_log DISABLE TRIGGER ALL")
    await log.run(
        "INSERT INTO taximeter.audit_log (actor, action, at)"
        " VALUES ('late', 'org.tested', now() - interval '11 minutes')"
    )
    assert any("not linked" in one for one in await violations(log))


async def test_rows_that_commit_late_are_linked_later(log: Books) -> None:
    async with log.pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(WRITE, "slow")
        await log.run(WRITE, "fast")
        assert await log.value(SEAL) == 1
        await transaction.commit()
    assert await log.value(SEAL) == 1
    assert await violations(log) == []


BY_PLAIN_INSERT = (
    "INSERT INTO taximeter.audit_log (actor, action, at, written_by)"
    " VALUES ('x', 'org.tested', '2001-01-01', 'postgres')"
)
BY_THE_FUNCTION = "SELECT taximeter.write_audit('org.tested', 'org', null, null, null, null)"


@pytest.mark.parametrize("process", ["app", "settler"])
async def test_nobody_chooses_when_and_as_whom_they_write(
    books: Books, request: pytest.FixtureRequest, process: str
) -> None:
    conn = await asyncpg.connect(request.getfixturevalue(f"{process}_database_url"))
    if process == "app":
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(BY_PLAIN_INSERT)
        await conn.execute("SET taximeter.actor = 'x'")
        await conn.execute(BY_THE_FUNCTION)
    else:
        await conn.execute(BY_PLAIN_INSERT)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(BY_THE_FUNCTION)
    who = await conn.fetchval("SELECT session_user::text")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(
            "INSERT INTO taximeter.audit_chain (n, audit_id, digest)"
            " VALUES (1, 1, decode(repeat('00', 32), 'hex'))"
        )
    await conn.close()
    assert await books.row(
        "SELECT written_by, at > now() - interval '1 minute' FROM taximeter.audit_log"
    ) == (who, True)


@pytest.mark.parametrize(
    "actor",
    [None, "", "a\nb", "x" * 256, "operator:root", "taximeter:expiry", "taximeter:key:x"],
)
async def test_the_api_writes_no_row_of_nobody_or_of_our_programs(
    books: Books, app_database_url: str, actor: str | None
) -> None:
    conn = await asyncpg.connect(app_database_url)
    as_actor = f"{BY_THE_FUNCTION} FROM set_config('taximeter.actor', $1, true)"
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.InsufficientPrivilegeError)):
        await (conn.execute(BY_THE_FUNCTION) if actor is None else conn.execute(as_actor, actor))
    await conn.execute(as_actor, "taximeter:key:abcdefghijkl")
    with pytest.raises(asyncpg.CheckViolationError):  # The actor was of that transaction alone.
        await conn.execute(BY_THE_FUNCTION)
    await conn.close()
    assert await books.value("SELECT count(*) FROM taximeter.audit_log") == 1


async def test_a_revoked_key_stays_revoked(books: Books, app_database_url: str) -> None:
    await books.open(1000)
    await books.run(
        "INSERT INTO taximeter.api_keys (key_id, org_id, name, operations, digest, last_four,"
        " created_by, expires_at) VALUES ('abcdefghijkl', 'org', 'k', ARRAY['charge'],"
        " decode(repeat('00', 32), 'hex'), 'abcd', 'boss', now() + interval '1 day')"
    )
    conn = await asyncpg.connect(app_database_url)
    revoke = "UPDATE taximeter.api_keys SET revoked_at = $1::text::timestamptz, revoked_by = $2"
    # Not in the future either, which would leave it good until then.
    await conn.execute(revoke, "2099-01-01", "boss")
    assert await conn.fetchval("SELECT revoked_at <= now() FROM taximeter.api_keys")
    for again in ((None, None), ("2099-01-01", "boss"), ("2020-01-01", "other")):
        with pytest.raises(asyncpg.RestrictViolationError, match="stays so"):
            await conn.execute(revoke, *again)
    await conn.execute("UPDATE taximeter.api_keys SET last_used_at = now()")
    await conn.close()


async def test_the_billing_history_is_added_to_and_never_changed(
    books: Books, app_database_url: str
) -> None:
    await books.open(1000)
    conn = await asyncpg.connect(app_database_url)
    for change in (
        "UPDATE org_billing_history SET amount = 0",
        "DELETE FROM org_billing_history",
        "TRUNCATE org_billing_history",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(change)
    await conn.close()

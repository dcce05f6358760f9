"""What the roles of the processes may do: add, and never rewrite what was charged or who did it.

A new table of schema `taximeter` needs its line in GRANTS; what it gets without a GRANT or REVOKE
of its own is `SIU` for the API and the settler (see the migration `roles`).
"""

from __future__ import annotations

import asyncpg
import pytest
from support.books import Books

ROLES = ("taximeter_app", "taximeter_settler", "taximeter_sidecar")
WORDS = {
    "S": "SELECT",
    "I": "INSERT",
    "U": "UPDATE",
    "D": "DELETE",
    "T": "TRUNCATE",
    "R": "REFERENCES",
    "G": "TRIGGER",
}

# Table -> what API, settler and sidecar may do: Select, Insert, Update, Delete. Nobody
# may do what WORDS names besides. Rights to single columns do not count here.
GRANTS: dict[str, tuple[str, str, str]] = {
    "organizations": ("SIU", "S", ""),
    "organization_members": ("SIU", "S", "S"),
    "organization_subscriptions": ("SIU", "SU", ""),
    "organization_credit_pools": ("SIU", "SIU", ""),
    "user_credit_allocations": ("SIU", "SIU", "S"),
    "credit_usage_attribution": ("SI", "SI", ""),
    "org_billing_history": ("SI", "SI", ""),
    "schema_migrations": ("", "", ""),
    "taximeter.accounts": ("SIU", "SIU", "S"),
    "taximeter.account_entries": ("SI", "SI", ""),
    "taximeter.watermarks": ("SU", "SIUD", "S"),
    "taximeter.ledger_steps": ("SIU", "SIU", ""),
    "taximeter.heartbeats": ("S", "SIUD", "S"),
    "taximeter.settled_batches": ("SI", "SID", ""),
    "taximeter.charged_requests": ("SI", "SI", ""),
    "taximeter.charge_generations": ("S", "S", ""),
    "taximeter.forgotten_charges": ("S", "S", ""),
    "taximeter.dead_letters": ("SI", "SI", ""),
    "taximeter.lost_events": ("SI", "SI", ""),
    "taximeter.dead_letter_answers": ("SI", "S", ""),
    "taximeter.usage_names": ("SI", "SI", ""),
    "taximeter.usage_daily": ("SIU", "SIU", ""),
    "taximeter.usage_daily_by_org": ("SIU", "SIU", ""),
    "taximeter.usage_daily_by_label": ("SIU", "SIU", ""),
    "taximeter.usage_monthly_by_org": ("SIU", "SIU", ""),
    "taximeter.usage_monthly_by_user": ("SIU", "SIU", ""),
    "taximeter.usage_monthly": ("SIU", "SIU", ""),
    "taximeter.dropped_months": ("S", "S", ""),
    "taximeter.archived_months": ("S", "S", ""),
    "taximeter.shard_layouts": ("S", "SI", ""),
    "taximeter.moves": ("SIU", "SIU", ""),
    "taximeter.pool_refreshes": ("S", "SI", ""),
    "taximeter.audit_log": ("S", "SI", ""),
    "taximeter.audit_chain": ("S", "S", ""),
    "taximeter.audit_end": ("S", "S", ""),
    "taximeter.exposures": ("S", "SIUD", ""),
    "taximeter.exposure_looks": ("S", "SIUD", ""),
    "taximeter.deletions": ("S", "S", ""),
    "taximeter.endings": ("SI", "S", ""),
    "taximeter.acknowledgements": ("S", "SI", ""),
    "taximeter.api_keys": ("SI", "", "S"),
    "taximeter.key_seal": ("S", "", "S"),
    "taximeter.system_keys": ("S", "", ""),
    "taximeter.idempotent_answers": ("SI", "SD", ""),
    "taximeter.users": ("SIU", "S", ""),
    "taximeter.price_lists": ("SI", "S", "S"),
    "taximeter.system_admins": ("S", "", ""),
    "taximeter.cells": ("S", "", "S"),
    "taximeter.cell_organizations": ("SI", "", "S"),
    "taximeter.organizations_away": ("S", "SD", "S"),
    "taximeter.cell_moves": ("", "SU", ""),
    "taximeter.cell_move_holds": ("", "SD", ""),
    "taximeter.cell_late_charges": ("SID", "", ""),
    "taximeter.key_seals_taken": ("S", "", "S"),
    "taximeter.notices": ("S", "SUD", ""),
    "taximeter.conditions": ("S", "", ""),
    "taximeter.notice_marks": ("", "", ""),
    "taximeter.receivers": ("SIUD", "SU", ""),
    "taximeter.installation": ("S", "SU", "S"),
    "taximeter.deliveries": ("SIU", "SIUD", ""),
    "taximeter.seals": ("S", "SI", ""),
    "taximeter.sealed_rows": ("S", "SI", ""),
    "taximeter.seal_changes": ("S", "SD", ""),
    "taximeter.seal_state": ("S", "SU", ""),
    "taximeter.sealed_usage": ("", "SIUD", ""),
    "taximeter.sealed_shards": ("", "SIUD", ""),
    "taximeter.altered_days": ("S", "SIUD", ""),
    "taximeter.check_results": ("S", "SIUD", ""),
    "taximeter.check_state": ("S", "SU", ""),
    "taximeter.browser_sessions": ("SIUD", "", ""),
}
APPEND_ONLY = ("credit_usage_attribution", "taximeter.account_entries", "taximeter.audit_log")


OF_A_MONTH = ("I", "I", "")
"""Who may insert into the whole of usage may insert into a month, which does the same."""


async def test_every_table_has_the_grants_that_are_declared(books: Books) -> None:
    rows = await books.rows(
        "SELECT oid::regclass::text, relispartition FROM pg_class"
        " WHERE relnamespace::regnamespace::text IN ('public', 'taximeter')"
        " AND relkind IN ('r', 'p')"
    )
    assert {name for name, is_partition in rows if not is_partition} == set(GRANTS), (
        "a table needs a line in GRANTS"
    )
    for name, _ in rows:
        expected = GRANTS.get(name, OF_A_MONTH)
        if name == "taximeter.attribution_rest":
            expected = ("", "", "")
        for role, letters in zip(ROLES, expected, strict=True):
            found = [word for word in WORDS.values() if await may(books, role, name, word)]
            assert found == [WORDS[letter] for letter in letters], (role, name)


async def may(books: Books, role: str, table: str, privilege: str) -> bool:
    query = "SELECT has_table_privilege($1, $2, $3)"
    return bool(await books.value(query, role, table, privilege))


async def test_the_roles_own_nothing_and_are_nobody(books: Books) -> None:
    for role in ROLES:
        row = await books.row(
            "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication"
            " FROM pg_roles WHERE rolname = $1",
            role,
        )
        assert row == (False,) * 6, role
        for table in ("pg_class", "pg_proc", "pg_namespace", "pg_database"):
            owner = {"pg_class": "relowner", "pg_proc": "proowner", "pg_namespace": "nspowner"}
            column = owner.get(table, "datdba")
            query = f"SELECT count(*) FROM {table} WHERE {column} = $1::regrole"
            assert await books.value(query, role) == 0, (role, table)
        assert (
            await books.value(
                "SELECT count(*) FROM pg_auth_members m WHERE m.member = $1::regrole", role
            )
            == 0
        )
        for schema in ("public", "taximeter"):
            assert not await books.value(
                "SELECT has_schema_privilege($1, $2, 'CREATE')", role, schema
            )


REFUSED = (
    "UPDATE credit_usage_attribution SET credits_used = 0",
    "DELETE FROM credit_usage_attribution",
    "TRUNCATE credit_usage_attribution",
    "UPDATE taximeter.audit_log SET actor = 'nobody'",
    "DELETE FROM taximeter.audit_log",
    "TRUNCATE taximeter.audit_log",
    "UPDATE taximeter.account_entries SET delta = 1",
    "DELETE FROM taximeter.account_entries",
    "DELETE FROM taximeter.charged_requests",
    "DELETE FROM user_credit_allocations",
    "DELETE FROM org_billing_history",
    "UPDATE org_billing_history SET amount = 0",
    "TRUNCATE org_billing_history",
    "UPDATE taximeter.audit_chain SET n = 2",
    "DELETE FROM taximeter.audit_chain",
    "DELETE FROM taximeter.api_keys",
    "UPDATE taximeter.api_keys SET operations = ARRAY['llm']",
    "UPDATE taximeter.api_keys SET expires_at = expires_at + interval '1 year'",
    "INSERT INTO taximeter.system_keys SELECT * FROM taximeter.system_keys",
    "UPDATE taximeter.system_keys SET rights = ARRAY['admin']",
    "DELETE FROM taximeter.system_keys",
    "UPDATE taximeter.key_seal SET secret = sha256('x')",
    "INSERT INTO taximeter.system_admins (issuer, user_id, added_by) VALUES ('i', 'u', 'me')",
    # A partition is no way around its table.
    "SET taximeter.moving_rows = 'on'; DELETE FROM taximeter.attribution_rest",
    "SET taximeter.moving_rows = 'on'; UPDATE taximeter.attribution_rest SET credits_used = 0",
    "SET taximeter.moving_rows = 'on'; INSERT INTO taximeter.attribution_rest DEFAULT VALUES",
    "CREATE TABLE public.mine (id integer)",
    "CREATE TABLE taximeter.mine (id integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION taximeter.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE taximeter.audit_log DISABLE TRIGGER ALL",
    "DROP TRIGGER audit_log_is_append_only ON taximeter.audit_log",
    "DROP TABLE taximeter.audit_log",
    "ALTER TABLE credit_usage_attribution DETACH PARTITION taximeter.attribution_rest",
    "GRANT DELETE ON taximeter.audit_log TO CURRENT_USER; DELETE FROM taximeter.audit_log",
    "SET session_replication_role = 'replica'",
    "SET ROLE postgres",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "COPY organizations TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/hostname')",
)


@pytest.mark.parametrize("process", ["app", "settler", "sidecar"])
async def test_nothing_that_was_written_can_be_rewritten(
    books: Books, request: pytest.FixtureRequest, process: str
) -> None:
    """Refused by the rights alone: the tables hold rows, and none changes."""
    await books.open(allocated=100)
    await books.deduct(10, "r-1")
    await books.run(
        "INSERT INTO taximeter.audit_log (actor, action, org_id) VALUES ('a', 'b', 'org')"
    )
    conn = await asyncpg.connect(request.getfixturevalue(f"{process}_database_url"))
    try:
        for statement in REFUSED:
            with pytest.raises(
                (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError)
            ) as refusal:
                await conn.execute(statement)
            assert "append-only" not in str(refusal.value), "the rights come before the triggers"
    finally:
        await conn.close()
    assert await books.value("SELECT sum(credits_used) FROM credit_usage_attribution") == 10
    assert await books.value("SELECT actor FROM taximeter.audit_log WHERE action = 'b'") == "a"


@pytest.mark.parametrize(
    ("process", "statement"),
    [
        ("app", "INSERT INTO taximeter.audit_log (actor, action) VALUES ('boss', 'org.deleted')"),
        ("sidecar", "INSERT INTO taximeter.audit_log (actor, action) VALUES ('a', 'org.deleted')"),
        ("sidecar", "UPDATE taximeter.api_keys SET revoked_at = NULL, revoked_by = NULL"),
        ("settler", "UPDATE taximeter.api_keys SET revoked_at = NULL, revoked_by = NULL"),
        ("settler", "SELECT * FROM taximeter.key_seal"),
        ("settler", "SELECT * FROM taximeter.system_keys"),
        ("sidecar", "SELECT * FROM taximeter.system_keys"),
    ],
)
async def test_what_is_another_process_to_do(
    books: Books, request: pytest.FixtureRequest, process: str, statement: str
) -> None:
    conn = await asyncpg.connect(request.getfixturevalue(f"{process}_database_url"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(statement)
    await conn.close()


async def test_the_owner_still_cleans_up(books: Books) -> None:
    await books.open(allocated=100)
    await books.deduct(10, "r-1")
    await books.clean_up()
    assert await books.value("SELECT count(*) FROM credit_usage_attribution") == 0


async def test_months_are_made_by_the_settler_alone(
    books: Books, app_database_url: str, settler_database_url: str
) -> None:
    """Partitions are the only change of the schema while the system runs; the owner owns them."""
    query = "SELECT taximeter.ensure_attribution_partitions(5)"
    conn = await asyncpg.connect(app_database_url)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.fetchval(query)
    await conn.close()
    conn = await asyncpg.connect(settler_database_url)
    assert await conn.fetchval(query) == 2
    await conn.close()
    owners = await books.rows(
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname LIKE 'attribution_%'"
    )
    assert owners == [(await books.value("SELECT current_user::text"),)]


async def test_definers_keep_their_search_path_and_are_not_for_everybody(books: Books) -> None:
    """What runs with its owner's rights must not be led to another schema, or be anybody's."""
    found = await books.rows(
        "SELECT oid::regprocedure::text, proconfig, prorettype = 'trigger'::regtype,"
        " has_function_privilege('public', oid, 'EXECUTE')"
        " FROM pg_proc WHERE prosecdef"
        " AND pronamespace::regnamespace::text IN ('public', 'taximeter')"
    )
    assert found
    for name, config, is_trigger, is_anybodys in found:
        assert "search_path=pg_catalog, pg_temp" in (config or []), name
        assert is_trigger or not is_anybodys, name

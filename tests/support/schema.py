"""Prints the schema of a database in the order in which people read it: tables in groups, each with
what belongs to it, then functions. migrations/schema.sql is made by this.
"""

from __future__ import annotations

import re
import subprocess
from typing import Final, NamedTuple

from taximeter.api.embedded.postgres import postgres_program

HEADER: Final = """\
-- The schema as all migrations together make it, for reading. `make schema` writes this file, and
-- tests/sql/test_migrations.py compares it with the migrations. It is no migration, and does not
-- stand in the order in which things can be made: `taximeter migrate` makes a database.
-- What each table is for, and who writes it: docs/architecture.md. The months of usage (partitions
-- of credit_usage_attribution) and all grants are left out.
"""

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Organisations, their credits and what is bought: one row is one pool, allocation or payment": (
        "public.organizations", "public.organization_members", "taximeter.users",
        "public.organization_credit_pools", "public.user_credit_allocations",
        "taximeter.pool_refreshes", "public.organization_subscriptions",
        "public.org_billing_history", "taximeter.endings",
    ),
    "Accounts and the numbered entries that the relay sends to Redis; moves between accounts": (
        "taximeter.accounts", "taximeter.account_entries", "taximeter.moves",
    ),
    "Settlement: where each shard is, what was charged, and what could not be": (
        "taximeter.watermarks", "taximeter.ledger_steps", "taximeter.shard_layouts",
        "taximeter.settled_batches", "taximeter.charged_requests",
        "taximeter.charge_generations", "taximeter.forgotten_charges", "taximeter.dead_letters",
        "taximeter.dead_letter_answers", "taximeter.lost_events", "taximeter.acknowledgements",
        "taximeter.exposures",
        "taximeter.exposure_looks", "taximeter.heartbeats",
    ),
    "Usage, a row for each charge, and its running totals": (
        "public.credit_usage_attribution", "taximeter.attribution_rest", "taximeter.usage_names",
        "taximeter.usage_daily", "taximeter.usage_daily_by_org",
        "taximeter.usage_daily_by_label", "taximeter.usage_monthly",
        "taximeter.usage_monthly_by_org", "taximeter.usage_monthly_by_user",
        "taximeter.dropped_months", "taximeter.archived_months", "taximeter.deletions",
    ),
    "Who may do what, and what was done: keys, administrators, the audit log": (
        "taximeter.api_keys", "taximeter.key_seal", "taximeter.system_keys",
        "taximeter.system_admins", "taximeter.browser_sessions", "taximeter.audit_log",
        "taximeter.audit_chain", "taximeter.audit_end", "taximeter.idempotent_answers",
    ),
    "Seals of what is in the books, and what the last look found": (
        "taximeter.seals", "taximeter.sealed_rows", "taximeter.seal_changes",
        "taximeter.seal_state", "taximeter.sealed_usage", "taximeter.sealed_shards",
        "taximeter.altered_days", "taximeter.check_results", "taximeter.check_state",
    ),
    "Prices": ("taximeter.price_lists",),
    "Notices: what somebody may be told, and where to": (
        "taximeter.notices", "taximeter.conditions", "taximeter.notice_marks",
        "taximeter.receivers", "taximeter.deliveries", "taximeter.installation",
    ),
    "Cells: the directory, and moves between them": (
        "taximeter.cells", "taximeter.cell_organizations", "taximeter.organizations_away",
        "taximeter.cell_moves", "taximeter.cell_move_holds", "taximeter.cell_late_charges",
        "taximeter.key_seals_taken",
    ),
}  # fmt: skip
"""Every table by its group, in order. A table that is in none is under "Others"."""

_ENTRY: Final = re.compile(r"^--\n-- Name: (.*); Type: (.*); Schema: .*\n--\n", re.MULTILINE)
_FUNCTIONS: Final = ("FUNCTION", "PROCEDURE", "AGGREGATE")
_INDEX: Final = re.compile(r"(?:COMMENT ON|ALTER) INDEX (?:public|taximeter)\.(\w+)")
_NOISE: Final = re.compile(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict")
_NAME: Final = r"((?:public|taximeter)\.\w+)"
_OF_TABLE: Final = (
    re.compile(rf"CREATE (?:UNLOGGED )?TABLE {_NAME}"),
    re.compile(rf"ALTER TABLE (?:ONLY )?{_NAME}"),
    re.compile(rf"COMMENT ON TABLE {_NAME}"),
    re.compile(rf"COMMENT ON COLUMN {_NAME}"),
    re.compile(rf"CREATE (?:UNIQUE )?INDEX \w+ ON (?:ONLY )?{_NAME}"),
    re.compile(rf"CREATE (?:CONSTRAINT )?TRIGGER [^;]*? ON {_NAME}"),
    re.compile(rf"CREATE STATISTICS [^;]*? FROM {_NAME}"),
    re.compile(rf"ALTER SEQUENCE \S+ OWNED BY {_NAME}"),
)


class Entry(NamedTuple):
    """One object of a dump: its text without comments, and the table that it belongs to."""

    name: str
    kind: str
    text: str
    table: str | None


def dump(url: str) -> str:
    """The schema as pg_dump prints it. The months of usage and dbmate's own table are left out."""
    return subprocess.run(
        [
            str(postgres_program("pg_dump")),
            "--schema-only",
            "--no-owner",
            "--no-privileges",
            "--exclude-table=taximeter.attribution_2*",
            "--exclude-table=public.schema_migrations",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout  # fmt: skip


def without_noise(text: str) -> str:
    """Without comments and settings, and with one empty line between two things."""
    kept = [line for line in text.splitlines() if not _NOISE.match(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def readable(url: str) -> str:
    """The schema as migrations/schema.sql has it."""
    entries = _entries(dump(url))
    parts = [HEADER]
    grouped = {table for tables in GROUPS.values() for table in tables}
    found = {entry.table for entry in entries if entry.table is not None}
    groups = dict(GROUPS)
    if others := sorted(found - grouped):
        groups["Others"] = tuple(others)
    loose = [entry for entry in entries if entry.table is None and "FUNCTION" not in entry.name]
    functions = [one for one in loose if one.kind in _FUNCTIONS]
    about = [entry for entry in entries if entry.table is None and "FUNCTION" in entry.name]
    parts += [one.text for one in loose if one not in functions]
    for title, tables in groups.items():
        parts.append(_title(title))
        for table in tables:
            parts += [entry.text for entry in entries if entry.table == table]
    parts.append(_title("Functions, by their names"))
    for function in sorted(functions, key=lambda one: one.name):
        parts.append(function.text)
        parts += [one.text for one in about if one.name == f"FUNCTION {function.name}"]
    return "\n".join(parts)


def _title(words: str) -> str:
    return f"-- {'=' * 20}\n-- {words}\n-- {'=' * 20}\n"


def _entries(text: str) -> list[Entry]:
    parts = _ENTRY.split(text)
    entries = []
    tables: dict[str, str] = {}  # Of sequences and indexes, by their names.
    for name, kind, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        kept = without_noise(body) if kind not in _FUNCTIONS else _body(body)
        if kept.strip():
            entries.append(Entry(name, kind, kept, _table_of(kept)))
            if (table := _table_of(kept)) is not None:
                # A constraint is called by its table as well.
                tables[name.rpartition(" ")[2]] = table
    return [
        one if one.table is not None else one._replace(table=tables.get(_owner(one)))
        for one in entries
    ]


def _owner(entry: Entry) -> str:
    """The sequence or index that it is about; nothing for anything else."""
    about = _INDEX.match(entry.text)
    if about is not None:
        return about[1]
    return entry.name if entry.kind == "SEQUENCE" else ""


def _body(text: str) -> str:
    """A function with its own comments, without the settings that pg_dump puts between."""
    noise = re.compile(r"SET default|\\(un)?restrict")
    return "\n".join(line for line in text.splitlines() if not noise.match(line)).strip() + "\n"


def _table_of(text: str) -> str | None:
    return next((found[1] for one in _OF_TABLE if (found := one.match(text))), None)

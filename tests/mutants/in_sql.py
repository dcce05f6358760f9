"""Bugs in the migrations."""

from __future__ import annotations

from typing import Final

from mutants.bug import Bug

RUNNING_TOTALS: Final = "migrations/20261129110000_running_totals.sql"

BUGS: Final = (
    Bug(
        "a charge is known by its place in the stream",
        "migrations/20261123150100_ledger_tables.sql",
        "    PRIMARY KEY (org_id, request_id, phase)\n",
        "    UNIQUE (org_id, request_id, phase, shard, epoch, seq)\n",
        "settler/test_settle.py",
        item="dedupe by stream id",
    ),
    Bug(
        "an organisation takes its members with it",
        "migrations/20261123150000_contract_tables.sql",
        "member_has_an_organization REFERENCES organizations (id) ON DELETE RESTRICT",
        "member_has_an_organization REFERENCES organizations (id) ON DELETE CASCADE",
        "sql/test_direct_sql.py::test_nothing_goes_with_its_organisation",
        item="cascade delete",
    ),
    Bug(
        "an organisation takes its pool with it",
        "migrations/20261123150000_contract_tables.sql",
        "pool_has_an_organization REFERENCES organizations (id) ON DELETE RESTRICT",
        "pool_has_an_organization REFERENCES organizations (id) ON DELETE CASCADE",
        "sql/test_direct_sql.py::test_nothing_goes_with_its_organisation",
        item="cascade delete",
    ),
    Bug(
        "a pool takes its allocations with it",
        "migrations/20261123150000_contract_tables.sql",
        "allocation_has_a_pool REFERENCES organization_credit_pools (org_id) ON DELETE RESTRICT",
        "allocation_has_a_pool REFERENCES organization_credit_pools (org_id) ON DELETE CASCADE",
        "sql/test_direct_sql.py",
        item="cascade delete",
    ),
    Bug(
        "a change by hand of what was used is no entry",
        "migrations/20261123150200_account_entries.sql",
        "allocated_change - CASE WHEN settling THEN 0 ELSE used_change END, kind,",
        "allocated_change, kind,",
        "sql/test_direct_sql.py",
    ),
    Bug(
        "deleted usage stays in the figures of its organisation",
        RUNNING_TOTALS,
        "    SELECT array_agg(ROW(org_id, day, service_type, service_name, 2::smallint, -requests,"
        " -credits_used)",
        "    SELECT array_agg(ROW(org_id, day, service_type, service_name, 2::smallint, 0::bigint,"
        " 0::bigint)",
        "sql/test_rollup.py",
    ),
    Bug(
        "usage of a day is missing from the rest of its month",
        RUNNING_TOTALS,
        "array_fill(amount, ARRAY[32 - extract(day FROM day)::integer])",
        "ARRAY[amount] || array_fill(0::bigint, ARRAY[31 - extract(day FROM day)::integer])",
        "sql/test_rollup.py",
    ),
    Bug(
        "a report begins a day too late",
        RUNNING_TOTALS,
        "- coalesce(totals[first - month], 0);",
        "- coalesce(totals[first - month + 1], 0);",
        "api/test_running_totals.py",
    ),
    Bug(
        "a move lowers nothing where it comes from",
        "migrations/20261123151000_moves.sql",
        "SET allocated_credits = allocation.allocated_credits - moved, is_active",
        "SET allocated_credits = allocation.allocated_credits, is_active",
        "settler/test_moves.py",
    ),
    Bug(
        "a move leaves its hold to the deadline",
        "migrations/20261123151000_moves.sql",
        "set_config('taximeter.entry_hold', move.org_id || '/move/' || move_id, true);",
        "set_config('taximeter.entry_hold', '', true);",
        "settler/test_moves.py",
    ),
)

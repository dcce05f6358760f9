"""Bugs in the migrations."""

from __future__ import annotations

from typing import Final

from mutants.bug import Bug

RUNNING_TOTALS: Final = "migrations/20261129110000_running_totals.sql"

CLOSED_CREDITS: Final = "migrations/20261129213704_closed_credits.sql"
EXPOSURES: Final = "migrations/20261129214004_exposures.sql"
TERMS: Final = "migrations/20261129214304_terms_and_records.sql"
USAGE_NAMES: Final = "migrations/20261130011803_usage_names.sql"
AUDIT_CHAIN: Final = "migrations/20261129214504_audit_chain.sql"
REQUEST_IDS: Final = "migrations/20261130115206_request_ids_forgotten.sql"

ACTOR_IS_NOBODY: Final = (
    "\n        RAISE EXCEPTION 'taximeter.actor must say who does it, in 1 to 255 characters'"
    " USING ERRCODE = 'check_violation';\n    END IF;\n"
    "    IF actor ~ '^(taximeter|operator):' AND actor "
)

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
        CLOSED_CREDITS,
        "active_change + closed_change - CASE WHEN settling THEN 0 ELSE used_change END, kind,",
        "active_change + closed_change, kind,",
        "sql/test_direct_sql.py",
    ),
    Bug(
        "deleted usage stays in the figures of its organisation",
        USAGE_NAMES,
        "    -- Writer 2: what was done by hand, with its sign.\n"
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
        TERMS,
        "    -- The hold ends in the step that applies the first of the entries that follow.\n"
        "    PERFORM set_config('taximeter.entry_kind', move.kind, true),\n"
        "            set_config('taximeter.entry_reference', move_id::text, true),\n"
        "            set_config('taximeter.entry_hold', move.org_id || '/move/' || move_id,"
        " true);\n"
        "    UPDATE public.user_credit_allocations AS allocation\n"
        "       SET allocated_credits = allocation.allocated_credits - moved, is_active",
        "    -- The hold ends in the step that applies the first of the entries that follow.\n"
        "    PERFORM set_config('taximeter.entry_kind', move.kind, true),\n"
        "            set_config('taximeter.entry_reference', move_id::text, true),\n"
        "            set_config('taximeter.entry_hold', move.org_id || '/move/' || move_id,"
        " true);\n"
        "    UPDATE public.user_credit_allocations AS allocation\n"
        "       SET allocated_credits = allocation.allocated_credits, is_active",
        "settler/test_moves.py",
    ),
    Bug(
        "a move leaves its hold to the deadline",
        TERMS,
        "    -- The hold ends in the step that applies the first of the entries that follow.\n"
        "    PERFORM set_config('taximeter.entry_kind', move.kind, true),\n"
        "            set_config('taximeter.entry_reference', move_id::text, true),\n"
        "            set_config('taximeter.entry_hold', move.org_id || '/move/' || move_id, true);",
        "    -- The hold ends in the step that applies the first of the entries that follow.\n"
        "    PERFORM set_config('taximeter.entry_kind', move.kind, true),\n"
        "            set_config('taximeter.entry_reference', move_id::text, true),\n"
        "            set_config('taximeter.entry_hold', '', true);",
        "settler/test_moves.py",
    ),
    Bug(
        "closing leaves what was used in allocated",
        CLOSED_CREDITS,
        "        active_change := active_change - CASE WHEN OLD.is_active THEN"
        " OLD.allocated_credits ELSE 0 END;\n"
        "        closed_change := closed_change - CASE WHEN OLD.is_active THEN 0 ELSE"
        " OLD.allocated_credits END;\n",
        "        active_change := active_change + closed_change - OLD.allocated_credits;\n"
        "        closed_change := 0;\n",
        "sql/test_closed_credits.py",
    ),
    Bug(
        "one that is used up stays in allocated when it is closed",
        CLOSED_CREDITS,
        "        OR OLD.is_active <> NEW.is_active\n        OR (OLD.used_credits",
        "        OR (OLD.used_credits",
        "sql/test_closed_credits.py",
    ),
    Bug(
        "a deduction takes what requests hold",
        REQUEST_IDS,
        "    IF remaining - opened < millicredits THEN",
        "    IF remaining < millicredits THEN",
        "settler/test_exposure.py",
    ),
    Bug(
        "charges that are not settled are nothing that is open",
        "settler/settling/exposure.py",
        "    for account, amount in charged.unsettled.items():\n"
        "        opened[account] += amount\n",
        "",
        "settler/test_exposure.py",
    ),
    Bug(
        "a deduction promises what it does not know",
        REQUEST_IDS,
        "    PERFORM taximeter.check_exposure_is_known();\n",
        "",
        "settler/test_exposure.py",
    ),
    Bug(
        "closing in SQL gives back what requests hold",
        EXPOSURES,
        "        kept := greatest(0, least(left_over,"
        " taximeter.open_credits(NEW.org_id, NEW.user_id)));\n",
        "        kept := 0;\n",
        "settler/test_exposure.py",
    ),
    Bug(
        "an older look replaces a newer one",
        EXPOSURES,
        "     WHERE look.looked_at < EXCLUDED.looked_at;",
        "     WHERE true;",
        "settler/test_exposure.py",
    ),
    Bug(
        "temporary credits end permanent ones",
        TERMS,
        "NOT takes_terms AND standing.expires_at IS DISTINCT FROM new_expiry THEN",
        "false THEN",
        "sql/test_terms.py",
    ),
    Bug(
        "a charge goes with another phase of its request",
        USAGE_NAMES,
        "           AND (charged.shard, charged.epoch, charged.seq) IS NOT DISTINCT FROM"
        " (deleted.shard, deleted.epoch, deleted.seq)\n",
        "",
        "settler/test_deletions.py",
    ),
    Bug(
        "any deletion explains every missing charge",
        "settler/proof/check.py",
        "        if missing > 0:\n",
        '        if missing > 0 and not row["deleted"]:\n',
        "settler/test_deletions.py",
    ),
    Bug(
        "a revoked key can be given back",
        AUDIT_CHAIN,
        "    IF OLD.revoked_at IS NOT NULL AND (NEW.revoked_at, NEW.revoked_by) IS DISTINCT FROM"
        " (OLD.revoked_at, OLD.revoked_by) THEN",
        "    IF false THEN",
        "sql/test_audit_chain.py",
    ),
    Bug(
        "a link says nothing of what was before",
        AUDIT_CHAIN,
        "    SELECT sha256(link_before || convert_to(",
        "    SELECT sha256(convert_to(",
        "sql/test_audit_chain.py",
    ),
    Bug(
        "the API writes audit rows of what our programs do",
        "migrations/20261130081601_control_characters_by_code_point.sql",
        r"!~ '^[^\u0001-\u001f\u007f]{1,255}$' THEN" + ACTOR_IS_NOBODY + "!~ '^taximeter",
        r"!~ '^[^\u0001-\u001f\u007f]{1,255}$' THEN" + ACTOR_IS_NOBODY + "!~ '^[a-z:]+|^taximeter",
        "sql/test_audit_chain.py::test_the_api_writes_no_row_of_nobody_or_of_our_programs",
    ),
    Bug(
        "an id of the generation before is charged again",
        REQUEST_IDS,
        "    IF TG_ARGV[0] <> '' THEN\n",
        "    IF false THEN\n",
        "settler/test_request_ids.py",
    ),
    Bug(
        "a snapshot from before a freeze is trusted",
        REQUEST_IDS,
        "           AND NOT pg_visible_in_snapshot(",
        "           AND false AND pg_visible_in_snapshot(",
        "sql/test_request_ids.py",
    ),
    Bug(
        "ids are forgotten as long after their first charge as after their last",
        REQUEST_IDS,
        "     WHERE known.frozen_at <= now() - kept AND known.forgotten_at IS NULL FOR UPDATE;\n",
        "     WHERE known.began_at <= now() - kept AND known.forgotten_at IS NULL FOR UPDATE;\n",
        "sql/test_request_ids.py",
    ),
    Bug(
        "an event from before all that is remembered is booked",
        REQUEST_IDS,
        "    IF TG_ARGV[3] <> '' AND ",
        "    IF false AND ",
        "settler/test_request_ids.py",
    ),
)

"""Limits of the tables: each constraint refuses what it names, and takes what lies just inside."""

from __future__ import annotations

import pytest
from asyncpg import CheckViolationError, IntegrityConstraintViolationError, RestrictViolationError
from support.books import Books

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import check_user_id

COLUMNS = {
    "organizations": "id text, org_name text, slug text, created_by text, created_at timestamptz,"
    " personal_of text, suspended_at timestamptz, deleted_at timestamptz",
    "organization_members": "org_id text, user_id text, role text, status text,"
    " created_at timestamptz, invited_by text",
    "organization_subscriptions": "id uuid, org_id text, plan_code text, plan_name text,"
    " monthly_price numeric(10,2), lago_subscription_id text, lago_customer_id text, status text,"
    " billing_cycle_start date, billing_cycle_end date, metadata jsonb, created_at timestamptz,"
    " updated_at timestamptz, cancel_at_period_end boolean, pending_plan jsonb,"
    " billing_anchor_day smallint",
    "organization_credit_pools": "org_id text, total_credits bigint, allocated_credits bigint,"
    " used_credits bigint, available_credits bigint, monthly_refresh_amount bigint,"
    " last_refresh_date date, created_at timestamptz, updated_at timestamptz,"
    " refreshed_through date, closed_credits bigint, topped_up_credits bigint",
    "user_credit_allocations": "id uuid, org_id text, user_id text, allocated_credits bigint,"
    " used_credits bigint, remaining_credits bigint, allocated_by text, is_active boolean,"
    " expires_at timestamptz, auto_renew boolean, created_at timestamptz, updated_at timestamptz,"
    " closing text, topped_up_credits bigint",
    "credit_usage_attribution": "id bigint, org_id text, user_id text, service_type text,"
    " service_name text, credits_used bigint, request_id text, request_metadata jsonb,"
    " created_at timestamptz, shard integer, epoch bigint, seq bigint, late boolean,"
    " reserved bigint",
    "org_billing_history": "id uuid, org_id text, event_type text, amount numeric(10,2),"
    " currency text, lago_invoice_id text, stripe_payment_id text, status text, metadata jsonb,"
    " created_at timestamptz",
}


async def test_the_columns_that_users_know(books: Books) -> None:
    for table, columns in COLUMNS.items():
        found = await books.value(
            "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', '"
            "                  ORDER BY attnum)"
            "  FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
            "   AND NOT attisdropped",
            table,
        )
        assert found.replace("timestamp with time zone", "timestamptz") == columns, table


async def test_well_formed_ids(books: Books) -> None:
    for org_id in ("a", "org_abc123", "A.b:c@d-e_f", "0", "x" * 128):
        await books.open(10, 5, org=org_id)
        assert await books.deduct(1, "r", org=org_id) == (True, 4)
    await books.open(100)
    for number, user_id in enumerate(("a", "ann@example.org", "a b/c", "ünï", "x" * 255)):
        await books.allocate(5, user=user_id)
        assert await books.deduct(1, f"r{number}", user=user_id) == (True, 4)


async def test_malformed_organisation_ids(books: Books) -> None:
    for org_id in ("", "-a", ".a", "a/b", "a b", "ä", "a\n", "{a}", "x" * 129):
        with pytest.raises(CheckViolationError, match="org_id_is_well_formed"):
            await books.run(
                "INSERT INTO organizations (id, org_name, slug, created_by)"
                " VALUES ($1, 'n', 's', 'c')",
                org_id,
            )


async def test_malformed_user_ids(books: Books) -> None:
    await books.open(10)
    for user_id in ("", "a\tb", "a\n", "\x7f", "x" * 256):
        with pytest.raises(CheckViolationError, match="user_id_is_well_formed"):
            await books.allocate(5, user=user_id)
        with pytest.raises(CheckViolationError, match="user_id_is_well_formed"):
            await books.run(
                "INSERT INTO organization_members (org_id, user_id) VALUES ('org', $1)", user_id
            )


def is_user_id(text: str) -> bool:
    try:
        check_user_id(text)
    except InvalidRequest:
        return False
    return True


async def test_the_characters_of_user_ids_are_those_of_the_meter(books: Books) -> None:
    """Whatever the locale of the database takes for a control character."""
    rules = await books.rows(
        "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint"
        " WHERE conname = 'user_id_is_well_formed'"
        "    OR conname = 'name_is_short' AND conrelid = to_regclass('taximeter.system_keys')"
    )
    assert len(rules) == 6
    points = [*range(1, 0x3100), 0xCEF91, *range(0xFE00, 0x10000), 0xE0001, 0x10FFFF]
    allowed = {point for point in points if is_user_id(f"a{chr(point)}b")}
    locales = await books.rows(
        "SELECT quote_ident(collname) FROM pg_collation"
        " WHERE collname IN ('default', 'C', 'C.utf8', 'pg_c_utf8')"
    )
    for (rule,) in set(rules):
        for (locale,) in locales:
            taken = await books.value(
                "SELECT array_agg(point) FROM unnest($1::integer[]) AS point,"
                f" LATERAL (SELECT 'a' || chr(point) || 'b' COLLATE {locale}) AS of_it (id),"
                f" LATERAL (SELECT id AS user_id, id AS name) AS names WHERE {rule}",
                points,
            )
            assert set(taken) == allowed, (rule, locale)


async def test_no_rule_asks_the_locale_what_a_character_is(books: Books) -> None:
    """But the one for addresses of system admins, whom the owner of the database names."""
    found = await books.rows(
        "SELECT conname FROM pg_constraint WHERE pg_get_constraintdef(oid) LIKE '%[:%'"
        " UNION ALL SELECT proname FROM pg_proc WHERE prosrc LIKE '%[:%'"
        "   AND pronamespace IN ('public'::regnamespace, 'taximeter'::regnamespace)"
    )
    assert found == [("email_is_in_lower_case",)]


REFUSED = [
    ("allocated_is_in_range", "UPDATE user_credit_allocations SET allocated_credits = -1"),
    ("used_is_in_range", "UPDATE user_credit_allocations SET used_credits = -1"),
    ("used_is_in_range", "UPDATE user_credit_allocations SET used_credits = 900000000000001"),
    ("total_is_in_range", "UPDATE organization_credit_pools SET total_credits = 900000000000001"),
    ("refresh_is_in_range", "UPDATE organization_credit_pools SET monthly_refresh_amount = -1"),
    ("role_is_known", "UPDATE organization_members SET role = 'owner'"),
    ("status_is_a_word", "UPDATE organization_members SET status = 'On Leave'"),
    ("status_is_known", "UPDATE organization_subscriptions SET status = 'paused'"),
    ("monthly_price_is_not_negative", "UPDATE organization_subscriptions SET monthly_price = -1"),
    (
        "billing_cycle_ends_after_it_starts",
        "UPDATE organization_subscriptions SET billing_cycle_end = billing_cycle_start - 1",
    ),
    ("event_type_is_a_word", "UPDATE org_billing_history SET event_type = 'Paid!'"),
    ("currency_has_three_letters", "UPDATE org_billing_history SET currency = 'dollars'"),
    ("slug_is_short", "UPDATE organizations SET slug = ''"),
    ("org_name_is_short", "UPDATE organizations SET org_name = repeat('x', 256)"),
    ("delta_is_in_range", "SELECT taximeter.append_entry('o', 'u', 900000000000001, 'k')"),
    ("kind_is_a_word", "SELECT taximeter.append_entry('o', 'u', 1, 'K!')"),
    ("applied_is_an_entry", "UPDATE taximeter.accounts SET applied_seq = entry_seq + 1"),
    ("epoch_is_positive", "INSERT INTO taximeter.watermarks (shard, epoch) VALUES (0, 0)"),
    ("shard_is_not_negative", "INSERT INTO taximeter.watermarks (shard, epoch) VALUES (-1, 1)"),
    (
        "every_event_is_accounted_for",
        "INSERT INTO taximeter.watermarks (shard, epoch, seq, settled_events) VALUES (0, 1, 5, 4)",
    ),
    (
        "every_event_is_accounted_for",
        "INSERT INTO taximeter.settled_batches (shard, epoch, seq_first, seq_last, settled, dead)"
        " VALUES (0, 1, 1, 5, 3, 1)",
    ),
    (
        "hole_is_not_empty",
        "INSERT INTO taximeter.lost_events (shard, epoch, seq_first, seq_last) VALUES (0, 1, 5, 4)",
    ),
    (
        "phase_is_known",
        "INSERT INTO taximeter.charged_requests (org_id, request_id, phase, user_id, amount)"
        " VALUES ('o', 'r', 2, 'u', 1)",
    ),
    (
        "amount_is_in_range",
        "INSERT INTO taximeter.charged_requests (org_id, request_id, user_id, amount)"
        " VALUES ('o', 'r', 'u', -1)",
    ),
    (
        "action_is_dotted",
        "INSERT INTO taximeter.audit_log (actor, action) VALUES ('a', 'Something happened')",
    ),
]


async def test_a_constraint_is_named_by_what_it_states(books: Books) -> None:
    await books.open(1000, 100)
    await books.run("INSERT INTO organization_members (org_id, user_id) VALUES ('org', 'ann')")
    await books.run(
        "INSERT INTO organization_subscriptions (org_id, plan_code, plan_name, monthly_price)"
        " VALUES ('org', 'pro', 'Pro', 49.00)"
    )
    for constraint, statement in REFUSED:
        with pytest.raises(CheckViolationError, match=constraint):
            await books.run(statement)


async def test_a_watermark_counts_every_event_once(books: Books) -> None:
    await books.run(
        "INSERT INTO taximeter.watermarks (shard, epoch, seq, settled_events, dead_events,"
        " lost_events) VALUES (0, 1, 6, 3, 2, 1)"
    )
    await books.run(
        "UPDATE taximeter.watermarks SET seq = seq + 4, settled_events = settled_events + 4"
    )
    with pytest.raises(CheckViolationError):
        await books.run("UPDATE taximeter.watermarks SET seq = seq + 1")


async def test_a_payment_buys_credits_once(books: Books) -> None:
    pay = (
        "INSERT INTO org_billing_history (org_id, event_type, stripe_payment_id)"
        " VALUES ($1, $2, 'pi_1')"
    )
    await books.run(pay, "org", "credits_purchased")
    await books.run(pay, "org", "invoice_paid")
    for org in ("org", "other"):
        with pytest.raises(IntegrityConstraintViolationError, match="one_purchase_per_payment"):
            await books.run(pay, org, "credits_purchased")


KEPT = [
    "UPDATE taximeter.account_entries SET delta = 1",
    "DELETE FROM taximeter.account_entries",
    "TRUNCATE taximeter.account_entries",
    "DELETE FROM taximeter.accounts",
    "TRUNCATE taximeter.accounts",
    "UPDATE taximeter.audit_log SET actor = 'me'",
    "DELETE FROM taximeter.audit_log",
    "TRUNCATE taximeter.audit_log",
    "TRUNCATE user_credit_allocations",
]


async def test_what_is_kept_for_ever(books: Books) -> None:
    await books.open(1000, 100)
    for statement in KEPT:
        with pytest.raises(RestrictViolationError, match="is refused: "):
            await books.run(statement)


async def test_an_entry_needs_all_that_identifies_it(books: Books) -> None:
    for arguments in ("NULL, 'u', 1, 'k'", "'o', NULL, 1, 'k'", "'o', 'u', NULL, 'k'"):
        with pytest.raises(Exception, match="an entry needs an organisation, a user, a delta"):
            await books.value(f"SELECT taximeter.append_entry({arguments})")


async def test_every_constraint_and_index_is_named_by_us(books: Books) -> None:
    """Names that Postgres makes up say nothing to whoever reads the error."""
    made_up = await books.rows(
        "SELECT conrelid::regclass::text, conname::text FROM pg_constraint"
        " WHERE connamespace IN ('public'::regnamespace, 'taximeter'::regnamespace)"
        "   AND contype IN ('c', 'f', 'u') AND conname ~ '_(check|fkey|key)[0-9]*$'"
        "   AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = conrelid)"
    )
    assert made_up == []


async def test_no_row_that_settling_writes_is_checked_by_a_bounded_repetition(books: Books) -> None:
    """Postgres builds the states of such a pattern anew for each row: 20 µs for a user id."""
    slow = await books.rows(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE contype = 'c' AND pg_get_constraintdef(oid) ~ '{[0-9]+,[0-9]+}'"
        " AND conrelid = ANY ($1::regclass[])",
        [
            "user_credit_allocations",
            "organization_credit_pools",
            "credit_usage_attribution",
            *(
                f"taximeter.{name}"
                for name in (
                    "charged_requests",
                    "settled_batches",
                    "watermarks",
                    "usage_daily",
                    "usage_daily_by_org",
                    "usage_monthly",
                    "usage_monthly_by_org",
                    "usage_monthly_by_user",
                )
            ),
        ],
    )
    assert slow == []

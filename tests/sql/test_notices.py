"""What somebody may want to be told is a notice, written in the transaction of the fact, once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from support.books import Books, Conn

from taximeter.settler.notices.catalogue import KINDS, in_credits


async def told(books: Books, *types: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(type, subject, data) of notices of these types, or all; all are as the catalogue says."""
    rows = await books.rows(
        "SELECT type, org_id, subject, data::text FROM taximeter.notices ORDER BY n"
    )
    found = []
    for type_, org_id, subject, text in rows:
        data = json.loads(text)
        kind = KINDS[type_]
        kind.data.model_validate(in_credits(data))
        assert kind.is_of_installation == (org_id is None)
        if not types or type_ in types:
            found.append((type_, subject, data))
    return found


async def lows(books: Books, of: str) -> list[list[int]]:
    """The steps of each notice that a pool or an allocation runs low; [100] when it is used up."""
    found = await told(books, f"{of}.low", f"{of}.exhausted")
    return [data.get("percents", [100]) for _, _, data in found]


async def settle(books: Books, used: int) -> None:
    """What a batch does to ann's allocation and the pool."""
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.settling = 'on'")
        await conn.execute(
            "UPDATE user_credit_allocations SET used_credits = used_credits + $1 WHERE is_active",
            used,
        )
        await conn.execute(
            "UPDATE organization_credit_pools SET used_credits = used_credits + $1", used
        )
        await conn.execute(
            "INSERT INTO credit_usage_attribution"
            " (org_id, user_id, service_type, credits_used, shard)"
            " VALUES ('org', 'ann', 's', $1, 0)",
            used,
        )


async def test_an_allocation_that_runs_low_is_told_once_a_crossing(books: Books) -> None:
    await books.open(100_000, 1_000)
    await books.deduct(499, "r1")
    assert await lows(books, "allocation") == []
    await books.deduct(1, "r2")
    await books.deduct(1, "r3")
    assert await lows(books, "allocation") == [[50]]
    await settle(books, 300)  # Two steps at once are one notice.
    assert await lows(books, "allocation") == [[50], [75, 80]]
    await settle(books, 200)  # Charged in full, also beyond.
    assert await lows(books, "allocation") == [[50], [75, 80], [90, 95, 99], [100]]
    await settle(books, 10)
    assert len(await lows(books, "allocation")) == 4
    # 100 % is what is there after credits were added: 989 of them.
    await books.allocate(1_000)
    await books.deduct(494, "r4")
    assert len(await lows(books, "allocation")) == 4
    await books.deduct(1, "r5")
    assert (await lows(books, "allocation"))[4:] == [[50]]


async def test_what_rises_above_a_step_is_told_again_below_it(books: Books) -> None:
    await books.open(100_000, 1_000)
    for round_ in (1, 2):
        await books.run("UPDATE user_credit_allocations SET used_credits = 600")
        await books.run("UPDATE user_credit_allocations SET used_credits = 400")
        assert await lows(books, "allocation") == [[50]] * round_


async def test_credits_that_are_taken_back_cross_too_and_closing_does_not(books: Books) -> None:
    await books.open(100_000, 1_000)
    await books.deduct(100, "r1")
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 350")
    assert await lows(books, "allocation") == [[50, 75]]
    await books.value("SELECT taximeter.begin_closing(id, 'removal') FROM user_credit_allocations")
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 100")
    await books.run("UPDATE user_credit_allocations SET is_active = false")
    assert await lows(books, "allocation") == [[50, 75]]
    assert await told(books, "allocation.expired") == []


async def test_a_pool_that_runs_low_is_told_once_a_crossing(books: Books) -> None:
    await books.open(2_000, 2_000)
    await settle(books, 999)
    assert await lows(books, "pool") == []
    await settle(books, 1)
    await settle(books, 1)
    assert await lows(books, "pool") == [[50]]
    await settle(books, 999)
    assert await lows(books, "pool") == [[50], [75, 80, 90, 95, 99], [100]]
    await books.value("SELECT add_credits_to_pool('org', 1000, 1.00)")
    await books.allocate(1_000)
    await settle(books, 500)
    assert (await lows(books, "pool"))[3:] == [[50]]
    data = (await told(books, "pool.low"))[0][2]
    assert (data["total_credits"], data["used_credits"], data["remaining_credits"]) == (
        2000,
        1000,
        1000,
    )


async def test_a_row_from_before_counts_from_all_that_it_was_given(books: Books) -> None:
    await books.open(2_000, 1_000)
    await books.run("UPDATE user_credit_allocations SET topped_up_credits = NULL")
    await books.run("UPDATE organization_credit_pools SET topped_up_credits = NULL")
    await settle(books, 1_000)
    assert await lows(books, "allocation") == [[50, 75, 80, 90, 95, 99], [100]]
    assert await lows(books, "pool") == [[50]]


async def test_a_fact_that_is_rolled_back_is_not_told(books: Books) -> None:
    await books.open(1_000, 1_000)
    before = await told(books)
    async with books.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("SET LOCAL taximeter.settling = 'on'")
        await conn.execute("UPDATE user_credit_allocations SET used_credits = 950")
        assert await conn.fetchval("SELECT count(*) FROM taximeter.notices") == len(before) + 1
        await transaction.rollback()
    assert await told(books) == before


async def test_ends_that_come_near_are_told_seven_days_and_one_before(books: Books) -> None:
    now = datetime(2031, 3, 1, tzinfo=UTC)
    await books.open(10_000)

    async def expiring(most: int = 500, **ends: float) -> list[tuple[str, int]]:
        for user, days in ends.items():
            await books.value(
                "SELECT taximeter.allocate_credits('org', $1, 10, 'boss', true, $2)",
                user,
                now + timedelta(days=days),
            )
        before = len(await told(books, "allocation.expires_soon"))
        for _ in range(5):
            await books.value("SELECT taximeter.note_expiring($1, $2)", now, most)
        rows = (await told(books, "allocation.expires_soon"))[before:]
        return [(data["user_id"], data["days"]) for _, _, data in rows]

    assert await expiring(later=8, week=6.5, day=0.5, over=-1) == [("day", 1), ("week", 7)]
    assert await expiring() == []
    now += timedelta(days=1.5)  # `day` is over.
    assert await expiring() == [("later", 7)]
    now += timedelta(days=4.5)
    assert await expiring() == [("week", 1)]
    # Many that end at one moment, a few at a time: each once.
    at_once = {f"u{n}": 7.5 for n in range(5)}
    assert await expiring(**at_once) == []
    now += timedelta(days=1)
    assert sorted(await expiring(2)) == [("later", 1), *((user, 7) for user in at_once)]
    assert await expiring() == []


async def test_keys_are_told_when_made_near_their_end_and_revoked(books: Books) -> None:
    await books.open()
    for key_id, ends in (("000000000001", "5 days"), ("000000000002", "90 days")):
        await books.run(
            "INSERT INTO taximeter.api_keys (key_id, org_id, name, operations, digest, last_four,"
            " created_by, expires_at) VALUES ($1, 'org', 'k', '{llm}', sha256('x'), 'abcd', 'boss',"
            " now() + $2::text::interval)",
            key_id,
            ends,
        )
    await books.value("SELECT taximeter.note_expiring(now(), 10)")
    await books.run("UPDATE taximeter.api_keys SET revoked_at = now(), revoked_by = 'eve'")
    await books.run("UPDATE taximeter.api_keys SET last_used_at = now()")
    found = [(type_, data["key_id"][-1]) for type_, _, data in await told(books) if "key" in type_]
    assert found == [
        ("key.created", "1"),
        ("key.created", "2"),
        ("key.expires_soon", "1"),
        ("key.revoked", "1"),
        ("key.revoked", "2"),
    ]
    revoked = (await told(books, "key.revoked"))[0][2]
    assert revoked["by_user_id"] == "eve"


async def test_what_expires_is_told(books: Books) -> None:
    await books.open(1_000, 10)
    await books.run("UPDATE user_credit_allocations SET expires_at = now() - interval '1 s'")
    await books.rows("SELECT * FROM taximeter.begin_expiry(now(), 10)")
    await books.allocate(10, user="bob")
    renews = (
        "UPDATE user_credit_allocations SET auto_renew = true, created_at = now() - interval '2 d',"
        " expires_at = now() - interval '1 s' WHERE user_id = 'bob' AND is_active"
    )
    await books.run(renews)
    await books.value("SELECT deactivate_expired_allocations()")
    await books.run("UPDATE organization_credit_pools SET total_credits = 10")
    await books.deduct(9, "r", user="bob")
    await books.run(renews)
    await books.value("SELECT deactivate_expired_allocations()")
    ends = [
        (type_, data["user_id"])
        for type_, _, data in await told(books)
        if type_ in ("allocation.expired", "allocation.renewed", "allocation.renewal_failed")
    ]
    assert ends[:2] == [("allocation.expired", "ann"), ("allocation.renewed", "bob")]
    assert sorted(ends[2:]) == [("allocation.expired", "bob"), ("allocation.renewal_failed", "bob")]


async def test_the_billing_history_is_told(books: Books) -> None:
    await books.open(1_000)
    await books.run(
        "INSERT INTO organization_subscriptions (org_id, plan_code, plan_name, monthly_price)"
        " VALUES ('org', 'starter', 'Starter', 9)"
    )
    for event_type in (
        *("subscription_created", "subscription_upgraded", "subscription_canceled"),
        *("subscription_resumed", "invoice_paid", "invoice_failed", "something_else"),
    ):
        await books.run(
            "INSERT INTO org_billing_history (org_id, event_type, amount, lago_invoice_id)"
            " VALUES ('org', $1, 9.5, 'i-1')",
            event_type,
        )
    for status in ("past_due", "past_due", "active", "canceled"):
        await books.run("UPDATE organization_subscriptions SET status = $1", status)
    found = await told(books)
    assert [one[0] for one in found] == [
        *("credits.purchased", "subscription.created", "subscription.upgraded"),
        *("subscription.canceled", "subscription.resumed", "invoice.paid", "invoice.failed"),
        *("subscription.past_due", "subscription.active", "subscription.ended"),
    ]
    assert (found[0][2]["credits"], found[0][2]["amount"]) == (1_000, 1.0)
    assert found[5][2]["invoice_id"] == "i-1"
    assert {one[1] for one in found} == {"billing/org"}


async def test_members_are_told(books: Books) -> None:
    await books.open()
    for status, role in (
        *(("invited", "member"), ("invited", "member"), ("active", "member"), ("active", "admin")),
        *(
            ("removed", "admin"),
            ("invited", "member"),
            ("declined", "member"),
            ("active", "member"),
        ),
    ):
        await books.run(
            "INSERT INTO organization_members (org_id, user_id, status, role)"
            " VALUES ('org', 'ann', $1, $2) ON CONFLICT (org_id, user_id)"
            " DO UPDATE SET status = EXCLUDED.status, role = EXCLUDED.role",
            status,
            role,
        )
    await books.run("DELETE FROM organization_members")
    found = [type_ for type_, _, _ in await told(books) if type_.startswith("member")]
    assert found == [
        *("member.invited", "member.joined", "member.role_changed", "member.left"),
        *("member.invited", "member.declined", "member.joined", "member.left"),
    ]


async def test_what_settling_cannot_book_is_told(books: Books) -> None:
    await books.run(
        "INSERT INTO taximeter.dead_letters (shard, epoch, seq, stream_id, reason, raw)"
        " SELECT 0, 1, n, '1-' || n, 'unknown', 'x' FROM generate_series(1, 3) AS n"
    )
    await books.run(
        "INSERT INTO taximeter.lost_events (shard, epoch, seq_first, seq_last)"
        " VALUES (0, 1, 5, 9), (0, 1, 11, 11)"
    )
    found = [(type_, data["events"]) for type_, _, data in await told(books)]
    assert found == [("system.events_set_aside", 3), ("system.events_lost", 6)]
    await books.run("DELETE FROM taximeter.lost_events; DELETE FROM taximeter.dead_letters")


async def test_a_condition_is_told_when_it_begins_and_when_it_ends(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    wrong, right = "system.books_wrong", "system.books_right"
    note = f"SELECT taximeter.note_condition('books', $1, '{wrong}', '{right}', $2)"
    data = '{"accounts": 2, "differences": 1}'
    for is_wrong in (False, True, True, False, False, True):
        await books.value(note, is_wrong, data)
    # Two that find it right at the same time say it once.
    first, second = sessions
    async with first.transaction():
        assert await first.fetchval(note, False, data)
        waiting = asyncio.ensure_future(second.fetchval(note, False, data))
        await books.waits(second)
    assert not await waiting
    found = [type_ for type_, _, _ in await told(books)]
    assert found == [wrong, right, wrong, right]


async def test_an_organisation_that_comes_from_another_cell_is_not_told_again(books: Books) -> None:
    await books.open(1_000, 10)
    before = await told(books)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.importing = 'on'")
        await conn.execute(
            "INSERT INTO organization_members (org_id, user_id) VALUES ('org', 'bob')"
        )
    assert await told(books) == before

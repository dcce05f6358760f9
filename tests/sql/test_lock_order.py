"""Locks are taken in one order by everybody, so that nobody meets a deadlock."""

from __future__ import annotations

import asyncio

import asyncpg
from support.books import Books, Conn


async def test_the_daily_job_locks_allocations_in_order_and_before_any_pool(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    first, second = sessions
    await books.open(1000, 100)
    await books.allocate(100, user="bob")
    await books.run("UPDATE user_credit_allocations SET expires_at = now()")
    async with first.transaction():
        await first.execute("SELECT FROM user_credit_allocations WHERE user_id = 'ann' FOR UPDATE")
        job = asyncio.create_task(second.fetchval("SELECT deactivate_expired_allocations()"))
        await books.waits(second)
        # It stands before ann and holds nothing of what comes after her.
        async with books.pool.acquire() as conn, conn.transaction():
            await conn.execute(
                "SELECT FROM user_credit_allocations WHERE user_id = 'bob' FOR UPDATE NOWAIT"
            )
            await conn.execute("SELECT FROM organization_credit_pools FOR UPDATE NOWAIT")
    assert await job == 2


async def test_the_rollup_is_written_in_order(books: Books, sessions: tuple[Conn, Conn]) -> None:
    """Whatever the order of the rows, so that two statements meet on the same row first."""
    first, second = sessions
    insert = (
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, service_name, credits_used, seq)"
        " SELECT 'org', u, 'by_hand', 'm', 1, $2 FROM unnest($1::text[]) AS u"
    )
    users = [f"u{n:03}" for n in range(200)]
    async with first.transaction():
        await first.execute(insert, users[:1], None)
        other = asyncio.create_task(second.execute(insert, users[::-1], None))
        await books.waits(second)
        # Settle has rows of the organisation to itself: only those of users could be in its way.
        async with books.pool.acquire() as conn:
            settling = conn.transaction()
            await settling.start()
            await conn.execute("SET LOCAL lock_timeout = '5s'")
            await conn.execute("SET LOCAL taximeter.settling = 'on'")
            await conn.execute(insert, users[1:], 1)
            await settling.rollback()
    await other
    assert await books.value("SELECT max(requests) FROM taximeter.usage_daily") == 2


async def test_a_statement_by_hand_in_another_order_is_undone_whole_and_can_be_repeated(
    books: Books, sessions: tuple[Conn, Conn]
) -> None:
    """Postgres locks the rows of one statement as it finds them; nobody can sort them there."""
    first, second = sessions
    by_hand = "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 7"
    lock = "SELECT FROM user_credit_allocations WHERE org_id = $1 FOR UPDATE"
    for org in ("other", "org"):
        await books.open(1000, 100, org=org)
    # Nothing has moved them since, so `other` is found first. Who sorts begins with `org`.
    ordered = first.transaction()
    await ordered.start()
    await first.execute(lock, "org")
    hand = asyncio.create_task(second.execute(by_hand))
    await books.waits(second)
    meeting = await asyncio.gather(first.execute(lock, "other"), hand, return_exceptions=True)
    await ordered.rollback()
    undone = [isinstance(one, asyncpg.DeadlockDetectedError) for one in meeting]
    assert sorted(undone) == [False, True], meeting
    if undone[1]:
        assert (
            await books.value("SELECT sum(allocated_credits) FROM user_credit_allocations") == 200
        )
        await second.execute(by_hand)
    assert await books.value("SELECT sum(allocated_credits) FROM user_credit_allocations") == 214
    assert await books.value("SELECT sum(allocated_credits) FROM organization_credit_pools") == 214


async def test_everything_at_once_meets_no_deadlock(books: Books) -> None:
    """Deductions, allocations, expiry and a settling transaction keep to one order of locks.

    A deadlock would be an error of one of them.
    """
    users = [f"u{n}" for n in range(6)]
    for org in ("org", "other"):
        await books.open(100_000, org=org)
        for user in users:
            await books.allocate(1000, user=user, org=org)

    async def deduct(worker: int) -> int:
        admitted = 0
        for n in range(25):
            answer = await books.deduct(
                1, f"{worker}-{n}", user=users[(worker + n) % 6], org=("org", "other")[n % 2]
            )
            admitted += answer is not None and answer[0]
        return admitted

    async def allocate() -> None:
        for n in range(25):
            await books.allocate(3, user=users[-n % 6], org=("other", "org")[n % 2])

    async def expire() -> None:
        for _ in range(6):
            await books.run(
                "UPDATE user_credit_allocations SET expires_at = now(), auto_renew = true,"
                " created_at = now() - interval '1 day'"
                " WHERE id IN (SELECT id FROM user_credit_allocations WHERE is_active"
                " ORDER BY org_id, user_id LIMIT 3 FOR UPDATE)"
            )
            await books.value("SELECT deactivate_expired_allocations()")

    async def settle() -> None:
        """The order of settle: allocations sorted, then usage, then pools sorted."""
        for _ in range(15):
            async with books.pool.acquire() as conn, conn.transaction():
                await conn.execute("SET LOCAL taximeter.settling = 'on'")
                ids = await conn.fetch(
                    "SELECT id, org_id, user_id FROM user_credit_allocations WHERE is_active"
                    " ORDER BY org_id, user_id FOR UPDATE"
                )
                await conn.executemany(
                    "INSERT INTO credit_usage_attribution"
                    " (org_id, user_id, service_type, service_name, credits_used, shard)"
                    " VALUES ($1, $2, 's', 'm', 1, 0)",
                    [(row["org_id"], row["user_id"]) for row in ids],
                )
                await conn.execute(
                    "UPDATE user_credit_allocations SET used_credits = used_credits + 1"
                    " WHERE id = ANY ($1::uuid[])",
                    [row["id"] for row in ids],
                )
                for org in ("org", "other"):
                    await conn.execute(
                        "UPDATE organization_credit_pools SET used_credits = used_credits + $2"
                        " WHERE org_id = $1",
                        org,
                        sum(1 for row in ids if row["org_id"] == org),
                    )

    others = asyncio.gather(allocate(), expire(), settle())
    admitted = sum(await asyncio.gather(*(deduct(worker) for worker in range(4))))
    await others
    # A deduction between an expiry and its renewal is refused: what was admitted is what is booked.
    assert admitted > 0
    assert await books.value("SELECT count(*) FROM taximeter.charged_requests") == admitted

"""What was charged in Redis stands in the books once, and what cannot be booked is set aside and
given back.
"""

from __future__ import annotations

import asyncio

import pytest
from settler_world import World, eventually

from taximeter.settler.settling.settle import settle_once


async def test_charges_become_usage_and_totals(world: World) -> None:
    await world.organization("acme", ann=10_000, bob=5_000)
    for amount in (100, 0, 250):
        await world.charge("ann", amount)
    await world.operate("acme", ("reserve", "bob", "h1", 1_000), ("commit", "bob", "h1", 700))
    (settled,) = await world.settle()
    assert (settled.settled, settled.dead, settled.lost, settled.seq) == (4, 0, 0, 4)
    assert (await world.used("ann"), await world.used("bob")) == (350, 700)
    rows = await world.pool.fetch(
        "SELECT user_id, credits_used, reserved, request_metadata FROM credit_usage_attribution "
        "ORDER BY seq"
    )
    assert [tuple(row)[:3] for row in rows] == [
        ("ann", 100, 0),
        ("ann", 0, 0),
        ("ann", 250, 0),
        ("bob", 700, 1_000),
    ]
    pool_used = await world.pool.fetchval("SELECT used_credits FROM organization_credit_pools")
    assert pool_used == 1_050
    await world.assert_books()


async def test_batches_are_contiguous_and_bounded(world: World) -> None:
    await world.organization("acme", ann=10_000)
    for _ in range(7):
        await world.charge("ann", 1)
    results = await world.settle(batch_events=3)
    assert [result.seq for result in results] == [3, 6, 7]
    rows = await world.pool.fetch(
        "SELECT seq_first, seq_last FROM taximeter.settled_batches ORDER BY seq_last"
    )
    assert [tuple(row) for row in rows] == [(1, 3), (4, 6), (7, 7)]


async def test_two_workers_at_once_book_each_event_once(world: World) -> None:
    await world.organization("acme", ann=100_000)
    for _ in range(60):
        await world.charge("ann", 10)

    async def work() -> int:
        booked = 0
        while True:
            result = await settle_once(world.stores, 0, batch_events=2)
            booked += result.settled
            if result.state == "idle":
                return booked

    assert sum(await asyncio.gather(*(work() for _ in range(4)))) == 60
    assert await world.used("ann") == 600
    await world.assert_books()


async def test_a_busy_shard_is_left_to_the_worker_that_has_it(world: World) -> None:
    await world.organization("acme", ann=1_000)
    await world.charge("ann", 10)
    async with world.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT 1 FROM taximeter.watermarks FOR UPDATE")
        assert (await settle_once(world.stores, 0)).state == "busy"
    assert (await settle_once(world.stores, 0)).settled == 1


async def test_poison_of_every_kind_is_set_aside_and_the_rest_settles(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.organization("other", eve=1_000)
    await world.charge("ann", 100)
    cross = (await world.line("ann", 5, "r-cross")).replace(b"\tacme/r-cross", b"\tother/r-cross")
    kind = (await world.line("ann", 7, "r-kind")).replace(b"charge\t", b"refund\t")
    ghost = await world.line("zoe", 9, "r-ghost", org_id="ghost")
    await world.inject(b"\x00\xff no event", cross, kind, ghost)
    await world.inject(fields={b"v9": b"future"})
    await world.charge("ann", 200)
    await world.settle()

    dead = await world.dead_letters()
    assert [(row["seq"], row["reason"], row["amount"]) for row in dead] == [
        (2, "unreadable_line", None),
        (3, "cross_tenant", 5),
        (4, "unreadable_line", 7),
        (5, "unknown_organization", 9),
        (6, "unreadable_line", None),
    ]
    assert dead[0]["raw"] == b"\x00\xff no event"
    assert await world.used("ann") == 300
    mark = await world.mark()
    assert (mark["seq"], mark["settled_events"], mark["dead_events"]) == (7, 2, 5)
    await world.relay()
    # Charges that were set aside have been given back to the live balance.
    assert (await world.live("ann") or (0,))[0] == 10_000 - 300
    await world.assert_books()


async def test_a_row_that_postgres_refuses_takes_nobody_along(world: World) -> None:
    await world.organization("acme", ann=10_000, bob=10_000)
    await world.pool.execute(
        "ALTER TABLE credit_usage_attribution ADD CONSTRAINT no_thirteen CHECK (credits_used <> 13)"
    )
    for amount in (1, 2, 13, 3, 13, 4):
        await world.charge("ann", amount)
    await world.settle()
    assert await world.used("ann") == 10
    dead = await world.dead_letters()
    assert [(row["seq"], row["reason"]) for row in dead] == [
        (3, "refused_by_database"),
        (5, "refused_by_database"),
    ]
    assert "no_thirteen" in dead[0]["detail"]
    await world.assert_books()


async def test_an_unreadable_payload_is_charged_all_the_same(world: World) -> None:
    await world.organization("acme", ann=10_000)
    line = await world.line("ann", 40, "r1")
    broken = line.rpartition(b"\t")[0] + b'\t{"meta":"\\u0000'
    await world.inject(broken)
    await world.settle()
    row = await world.pool.fetchrow("SELECT * FROM credit_usage_attribution")
    assert row is not None
    assert (row["credits_used"], row["service_type"]) == (40, "unreadable")
    await world.assert_books()


async def test_a_hole_is_written_down_counted_and_passed_over(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    await world.inject(await world.line("ann", 50, "after"), skip=3)
    (settled,) = await world.settle()
    assert (settled.settled, settled.lost, settled.seq) == (2, 3, 5)
    row = await world.pool.fetchrow("SELECT seq_first, seq_last FROM taximeter.lost_events")
    assert row is not None
    assert tuple(row) == (2, 4)
    report = await world.check()
    wrong = {one.name: one.violations for one in report.invariants if not one.holds}
    assert wrong.keys() == {"I4"}
    assert "events 2 to 4 are lost" in wrong["I4"][0]


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_request_is_charged_once_though_redis_forgot_it(
    world: World, in_one_batch: bool
) -> None:
    """The outcome was rotated away, so the script charges the request again: the ledger does
    not.
    """
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100, "r1")
    if not in_one_batch:
        await world.settle()
    await world.stores.redis.delete(world.keys().outcomes, world.keys().outcomes_old)
    await world.charge("ann", 100, "r1")
    await world.charge("ann", 1, "r2")
    await world.settle()
    await world.relay()
    assert await world.used("ann") == 101
    assert (await world.live("ann") or (0,))[0] == 10_000 - 101
    (dead,) = await world.dead_letters()
    assert (dead["reason"], dead["request_id"], dead["amount"]) == ("duplicate", "r1", 100)
    await world.assert_books()


async def test_progress_of_an_expired_hold_and_its_rest_are_both_charged(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.inject(
        (await world.line("ann", 30, "r1")).replace(b"charge\t", b"expire\t"),
        await world.line("ann", 12, "r1", flags="rest"),
    )
    await world.settle()
    assert await world.used("ann") == 42
    assert await world.dead_letters() == []
    await world.assert_books()


async def test_a_charge_that_comes_after_the_closing_is_paid_by_the_pool(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.operate("acme", ("reserve", "ann", "h1", 4_000))
    await world.pool.execute("UPDATE user_credit_allocations SET is_active = false")
    await world.relay()
    await world.operate("acme", ("commit", "ann", "h1", 3_000))
    await world.settle()
    await world.relay()
    row = await world.pool.fetchrow("SELECT * FROM user_credit_allocations")
    assert row is not None
    assert (row["allocated_credits"], row["used_credits"], row["is_active"]) == (
        3_000,
        3_000,
        False,
    )
    assert (await world.live("ann") or ())[:2] == (0, 0)
    await world.assert_books()


async def test_a_charge_goes_to_the_newest_closed_row(world: World) -> None:
    await world.organization("acme", ann=1_000)
    for _ in range(2):
        await world.pool.execute("UPDATE user_credit_allocations SET is_active = false")
        await world.pool.execute(
            "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
            " VALUES ('acme', 'ann', 1000)"
        )
    await world.relay()
    await world.operate("acme", ("reserve", "ann", "h1", 500))
    await world.pool.execute("UPDATE user_credit_allocations SET is_active = false")
    await world.operate("acme", ("commit", "ann", "h1", 500))
    await world.settle()
    rows = await world.pool.fetch(
        "SELECT used_credits FROM user_credit_allocations ORDER BY created_at"
    )
    assert [row[0] for row in rows] == [0, 0, 500]
    await world.assert_books()


@pytest.mark.parametrize("with_pool", [True, False])
async def test_a_charge_of_a_deleted_allocation_opens_a_closed_row(
    world: World, with_pool: bool
) -> None:
    await world.organization("acme", ann=10_000)
    await world.operate("acme", ("reserve", "ann", "h1", 4_000))
    await world.pool.execute("DELETE FROM user_credit_allocations")
    if not with_pool:
        await world.pool.execute("DELETE FROM organization_credit_pools")
    await world.relay()
    await world.operate("acme", ("commit", "ann", "h1", 4_500))
    await world.settle()
    await world.relay()
    row = await world.pool.fetchrow("SELECT * FROM user_credit_allocations")
    assert row is not None
    assert (row["allocated_credits"], row["used_credits"], row["is_active"]) == (
        4_500,
        4_500,
        False,
    )
    assert (await world.live("ann") or ())[:2] == (0, 0)
    await world.assert_books()


async def test_an_allocation_renewed_while_settle_waits_gets_the_charge(world: World) -> None:
    """Settle waits for the row, finds it closed, and must see the new one, not give the charge
    away.
    """
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    async with world.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("UPDATE user_credit_allocations SET is_active = false")
        settling = asyncio.create_task(settle_once(world.stores, 0))
        await _until_waiting(world)
        await conn.execute(
            "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
            " VALUES ('acme', 'ann', 500)"
        )
        await transaction.commit()
        await settling
    active = await world.pool.fetchval(
        "SELECT used_credits FROM user_credit_allocations WHERE is_active"
    )
    assert active == 100
    await world.assert_books()


async def test_a_deadlock_is_retried_and_nothing_is_booked_twice(world: World) -> None:
    await world.organization("acme", ann=10_000, bob=10_000)
    await world.charge("ann", 100)
    await world.charge("bob", 200)
    async with world.pool.acquire() as conn:
        # Against the common order: bob first, then ann, which settle has by then. Whoever loses,
        # both must go through.
        await conn.execute("SET deadlock_timeout = '10s'")
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("SELECT 1 FROM user_credit_allocations WHERE user_id = 'bob' FOR UPDATE")
        settling = asyncio.create_task(settle_once(world.stores, 0))
        await _until_waiting(world)
        await conn.execute("SELECT 1 FROM user_credit_allocations WHERE user_id = 'ann' FOR UPDATE")
        await transaction.commit()
        result = await settling
    assert result.settled == 2
    assert await world.pool.fetchval("SELECT count(*) FROM taximeter.settled_batches") == 1
    await world.assert_books()


async def _until_waiting(world: World) -> None:
    """Until a backend of this database waits for a lock."""

    async def waiting() -> bool:
        return bool(
            await world.pool.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )

    await eventually(waiting)

"""Closing an allocation while its requests run: they finish, and what is left returns once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from settler_moves import (
    allocation,
    assert_history_adds_up,
    audited,
    close,
    pool_of,
    remove,
    team,
    transferred,
)
from settler_world import World

from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.worker.jobs import Settler

NOON = datetime(2031, 5, 5, 12, tzinfo=UTC)


def settler_at(world: World, at: datetime) -> Settler:
    return Settler(world.stores, SettlerSettings(), clock=lambda: at)


async def expiring(world: World, user_id: str, renew: bool = False) -> None:
    """The user's allocation is of 30 days and ends at NOON."""
    await world.pool.execute(
        "UPDATE user_credit_allocations SET created_at = $2, expires_at = $3, auto_renew = $4"
        " WHERE user_id = $1 AND is_active",
        user_id,
        NOON - timedelta(days=30),
        NOON,
        renew,
    )


async def test_nothing_is_running_so_everything_returns_at_once(world: World) -> None:
    await team(world, total=1_000, ann=1_000)
    await world.charge("ann", 100)
    await world.settle()
    assert await remove(world.stores, "ann") == 900
    assert await pool_of(world) == (0, 100, 900)
    assert tuple(await allocation(world, "ann")) == (100, 100, False, "removal")
    assert await world.live("ann") == (0, 0, 2)
    assert await audited(world, "org.credits.returned") == 1
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_open_requests_of_a_removed_member_finish(world: World) -> None:
    """Only what is free goes back at first: the pool never promises what a stream still holds."""
    await team(world, total=1_000, ann=1_000)
    await world.operate(
        "acme",
        ("reserve", "ann", "a", 300),
        ("reserve", "ann", "b", 200),
        ("charge", "ann", "c", 50),
    )
    assert await remove(world.stores, "ann") == 450
    assert (await pool_of(world))[2] == 450
    assert await world.live("ann") == (0, 500, 2)
    (refused,) = await world.operate("acme", ("reserve", "ann", "new", 1))
    assert refused == "-1 0 500", "nothing new can begin"
    (reply,) = await world.operate("acme", ("commit", "ann", "a", 250))
    assert reply == "1 50 200"
    assert (await close(world)).returned == 50
    assert (await close(world)).returned == 0
    (reply,) = await world.operate("acme", ("release", "ann", "b", 0))
    assert reply == "1 200 0"
    assert (await close(world)).returned == 200
    assert (await allocation(world, "ann"))["is_active"], "its charges are not settled yet"
    await world.settle()
    assert (await close(world)).emptied == 1
    assert tuple(await allocation(world, "ann")) == (300, 300, False, "removal")
    assert await pool_of(world) == (0, 300, 700)
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_a_request_that_costs_more_than_was_left_is_paid_by_the_pool(world: World) -> None:
    await team(world, total=1_000, ann=1_000)
    await world.operate("acme", ("reserve", "ann", "a", 300))
    assert await remove(world.stores, "ann") == 700
    await world.operate("acme", ("commit", "ann", "a", 350))
    await world.settle()
    assert (await close(world)).emptied == 1
    await world.relay()
    assert await pool_of(world) == (0, 350, 650)
    assert await world.live("ann") == (0, 0, 3)
    await world.assert_books()


async def test_a_member_who_comes_back_keeps_what_the_open_requests_leave(world: World) -> None:
    await team(world, total=1_000, ann=1_000)
    await world.operate("acme", ("reserve", "ann", "a", 300))
    assert await remove(world.stores, "ann") == 700
    await world.pool.execute("UPDATE organization_members SET status = 'active'")
    await world.pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 80, 'boss')")
    await world.relay()
    await world.operate("acme", ("commit", "ann", "a", 100))
    await world.settle()
    assert (await close(world)).returned == 0
    assert await world.live("ann") == (280, 0, 3)
    assert (await allocation(world, "ann"))["closing"] is None
    await world.assert_books()


async def test_an_empty_allocation_closes_without_a_move(world: World) -> None:
    await team(world, ann=0)
    assert await remove(world.stores, "ann") == 0
    assert not (await allocation(world, "ann"))["is_active"]
    assert await world.pool.fetchval("SELECT count(*) FROM taximeter.moves") == 0


async def test_expiry_waits_for_open_streams_and_not_for_a_day(world: World) -> None:
    await team(world, total=1_000, ann=600, bob=400)
    await expiring(world, "ann")
    await world.operate("acme", ("reserve", "ann", "a", 250))
    await settler_at(world, NOON - timedelta(seconds=1)).moves()
    assert await world.live("ann") == (350, 250, 1)
    await settler_at(world, NOON).moves()
    assert await world.live("ann") == (0, 250, 2)
    assert await pool_of(world) == (650, 0, 350)
    assert (await transferred(world, "ann", "bob", 1)).reason == "insufficient"
    await world.operate("acme", ("commit", "ann", "a", 10))
    await world.settle()
    await settler_at(world, NOON + timedelta(seconds=5)).moves()
    assert tuple(await allocation(world, "ann")) == (10, 10, False, "expiry")
    assert await pool_of(world) == (400, 10, 590)
    assert await audited(world, "user.allocation.expired") == 1
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_a_renewal_never_takes_from_a_live_balance(world: World) -> None:
    """Requests that run across the renewal are paid by the new period."""
    await team(world, total=1_000, ann=600)
    await expiring(world, "ann", renew=True)
    await world.charge("ann", 100)
    await world.settle()
    await world.operate("acme", ("reserve", "ann", "a", 250))
    await settler_at(world, NOON).moves()
    await world.relay()
    row = await world.pool.fetchrow(
        "SELECT allocated_credits, auto_renew, created_at, expires_at FROM user_credit_allocations"
        " WHERE is_active"
    )
    assert row is not None
    assert tuple(row) == (600, True, NOON, NOON + timedelta(days=30))
    assert await world.live("ann") == (350, 250, 3)
    assert await pool_of(world) == (600, 100, 300)
    assert await audited(world, "user.allocation.renewed") == 1
    await settler_at(world, NOON).moves()
    assert await pool_of(world) == (600, 100, 300), "once a period"
    await world.operate("acme", ("commit", "ann", "a", 250))
    await world.assert_books()


async def test_a_renewal_that_the_pool_cannot_pay_closes_and_says_so(world: World) -> None:
    await team(world, total=600, ann=600)
    await expiring(world, "ann", renew=True)
    await world.charge("ann", 100)
    await world.settle()
    await world.operate("acme", ("reserve", "ann", "a", 250))
    for _ in range(3):
        await settler_at(world, NOON).moves()
    assert await world.live("ann") == (0, 250, 2)
    assert await audited(world, "user.allocation.renewal_failed") == 1
    said = await world.pool.fetchval(
        "SELECT metadata->>'need_millicredits' || ' ' || (metadata->>'have_millicredits')"
        " FROM org_billing_history WHERE event_type = 'allocation_renewal_failed'"
    )
    assert said == "600 500"
    await world.operate("acme", ("release", "ann", "a", 0))
    await settler_at(world, NOON).moves()
    assert await pool_of(world) == (0, 100, 500)
    await world.assert_books()


async def test_plain_sql_still_closes_what_has_expired(world: World) -> None:
    """Also what the settler has begun to close: the charges that are under way go to the closed
    row, and its pool pays.
    """
    await team(world, total=1_000, ann=600, bob=400)
    await world.operate("acme", ("reserve", "ann", "a", 250))
    await world.pool.execute(
        "UPDATE user_credit_allocations SET expires_at = now() WHERE user_id = 'ann'"
    )
    await settler_at(world, NOON).moves()
    assert await world.pool.fetchval("SELECT deactivate_expired_allocations()") == 1
    await world.operate("acme", ("commit", "ann", "a", 100))
    await world.settle()
    assert await pool_of(world) == (400, 100, 500)
    await world.assert_books()


@pytest.mark.parametrize("why", ["allocate", "transfer"])
async def test_new_credits_end_the_closing_of_an_expired_allocation(world: World, why: str) -> None:
    """What was free has gone back; what open requests leave stays with the new credits."""
    await team(world, total=1_000, ann=600, bob=400)
    await world.operate("acme", ("reserve", "ann", "a", 250))
    await world.pool.execute(
        "UPDATE user_credit_allocations SET expires_at = now() WHERE user_id = 'ann'"
    )
    await settler_at(world, NOON).moves()
    if why == "allocate":
        await world.pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 300, 'boss')")
    else:
        assert (await transferred(world, "bob", "ann", 300)).state == "done"
    await world.relay()
    for _ in range(2):
        await settler_at(world, NOON).moves()
    assert await world.live("ann") == (300, 250, 3)
    await world.operate("acme", ("release", "ann", "a", 0))
    await settler_at(world, NOON).moves()
    assert await world.live("ann") == (550, 0, 3)
    assert (await pool_of(world))[2] == (50 if why == "allocate" else 350)
    await world.assert_books()


async def test_credits_are_not_transferred_into_what_has_just_expired(world: World) -> None:
    await team(world, total=1_000, ann=600, bob=400)
    await world.pool.execute(
        "UPDATE user_credit_allocations SET expires_at = now() WHERE user_id = 'ann'"
    )
    assert (await transferred(world, "bob", "ann", 300)).reason == "expiring"
    assert await world.live("bob") == (400, 0, 1)
    await settler_at(world, NOON).moves()
    assert (await transferred(world, "bob", "ann", 300)).state == "done"
    assert await world.live("ann") == (300, 0, 3)
    await world.assert_books()


async def test_more_than_one_operation_can_hold_returns_in_parts(world: World) -> None:
    await team(world, total=3 * 10**12, ann=25 * 10**11)
    assert await remove(world.stores, "ann") == 25 * 10**11
    assert await world.pool.fetchval("SELECT count(*) FROM taximeter.moves") == 3
    await world.assert_books()


async def test_a_shard_that_is_away_does_not_stop_the_job(world: World) -> None:
    await team(world, ann=600)
    await world.pool.execute("UPDATE user_credit_allocations SET expires_at = now()")
    await world.stores.redis.hset(world.keys().meta, "epoch", "fenced")
    await settler_at(world, NOON).moves()
    assert (await allocation(world, "ann"))["closing"] == "expiry"
    await world.stores.redis.hset(world.keys().meta, "epoch", "1")
    await settler_at(world, NOON).moves()
    assert not (await allocation(world, "ann"))["is_active"]
    await world.assert_books()


async def test_the_rights_of_the_settler_are_enough(
    world: World, settler_database_url: str
) -> None:
    """Its role owns nothing: closing, a renewal, one that fails, a refresh, and an undone move."""
    await team(world, total=1_000, ann=300, bob=200, cid=500)
    await expiring(world, "ann")
    await expiring(world, "bob", renew=True)
    await world.pool.execute(
        "UPDATE organization_credit_pools SET monthly_refresh_amount = 50, last_refresh_date = $1",
        NOON - timedelta(days=40),
    )
    await world.pool.execute(
        "INSERT INTO taximeter.moves (org_id, kind, from_user, to_user, amount, actor)"
        " VALUES ('acme', 'transfer', 'cid', 'ann', 400, 'boss')"
    )
    async with asyncpg.create_pool(settler_database_url, min_size=1, max_size=4) as pool:
        stores = Stores(pool, world.stores.redis, world.stores.prefix)
        settler = Settler(stores, SettlerSettings(move_grace_s=0.001), clock=lambda: NOON)
        await settler.moves()
        await settler.refresh()
    assert not (await allocation(world, "ann"))["is_active"]
    assert (await allocation(world, "bob"))["is_active"]
    assert await audited(world, "org.credits.refreshed") == 2
    assert await world.pool.fetchval("SELECT state FROM taximeter.moves LIMIT 1") == "undone"
    await world.assert_books()

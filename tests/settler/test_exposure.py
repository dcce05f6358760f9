"""What requests have open is left alone by whoever takes credits by SQL: it is promised once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from settler_world import World
from structlog.testing import capture_logs

from taximeter.settler.moves.closing import Closed, close_all
from taximeter.settler.proof.check import check
from taximeter.settler.settling.exposure import READ_MAX, note_exposure

DEDUCT = (
    "SELECT success, remaining_credits FROM deduct_credits('acme', 'ann', $1, 's', 'm', $2, '{}')"
)
ALLOCATION = (
    "SELECT allocated_credits, used_credits, is_active, closing FROM user_credit_allocations"
)


async def deduct(world: World, amount: int, request: str | None = None) -> tuple[bool, int]:
    row = await world.pool.fetchrow(DEDUCT, amount, request)
    return row["success"], row["remaining_credits"]


async def look(world: World) -> None:
    for shard in range(world.shards):
        assert await note_exposure(world.stores, shard)


async def opened(world: World) -> int:
    found = await world.pool.fetchval("SELECT taximeter.open_credits('acme', 'ann')")
    return int(found)


async def test_what_is_held_is_not_taken(world: World) -> None:
    """1,000 held of 1,000, and 1,000 deducted: both were booked."""
    await world.organization(ann=1_000)
    (reply,) = await world.operate("acme", ("reserve", "ann", "r1", 1_000))
    assert reply.startswith("1 ")
    await look(world)
    assert await deduct(world, 1_000, "d1") == (False, 0)
    assert await world.pool.fetchval("SELECT has_sufficient_credits('acme', 'ann', 1)") is False
    (reply,) = await world.operate("acme", ("commit", "ann", "r1", 1_000))
    assert reply.startswith("1 ")
    await world.settle()
    assert await world.pool.fetchval("SELECT used_credits FROM user_credit_allocations") == 1_000
    await world.assert_books()


async def test_what_is_charged_and_not_settled_is_not_taken(world: World) -> None:
    await world.organization(ann=1_000)
    await world.charge("ann", 700)
    await look(world)
    assert await deduct(world, 301, "d1") == (False, 300)
    assert await deduct(world, 300, "d2") == (True, 700)
    await world.settle()
    await look(world)
    assert await opened(world) == 0
    assert await world.pool.fetchval("SELECT used_credits FROM user_credit_allocations") == 1_000
    await world.assert_books()


async def test_holds_and_charges_add_up_and_end(world: World) -> None:
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 300), ("reserve", "ann", "r2", 50))
    await world.charge("ann", 100)
    await look(world)
    assert await opened(world) == 450
    await world.operate("acme", ("release", "ann", "r1", 0), ("commit", "ann", "r2", 20))
    await look(world)
    assert await opened(world) == 120
    await world.settle()
    await look(world)
    assert await opened(world) == 0
    assert await world.pool.fetchval("SELECT count(*) FROM taximeter.exposures") == 0
    assert await deduct(world, 880) == (True, 0)


async def test_an_update_leaves_what_is_open(world: World) -> None:
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 600))
    await look(world)
    update = "UPDATE user_credit_allocations SET allocated_credits = $1"
    with pytest.raises(asyncpg.CheckViolationError, match="600 millicredits open, and 599") as no:
        await world.pool.execute(update, 599)
    assert no.value.constraint_name == "open_credits_stay"
    with pytest.raises(asyncpg.CheckViolationError, match="millicredits open, and 599"):
        await world.pool.execute("UPDATE user_credit_allocations SET used_credits = 401")
    await world.pool.execute(update, 600)
    await world.pool.execute(update, 800)
    await world.relay()
    await world.assert_books()


@pytest.mark.parametrize(
    ("close", "why"),
    [
        ("UPDATE user_credit_allocations SET is_active = FALSE", "removal"),
        ("SELECT deactivate_expired_allocations()", "expiry"),
    ],
)
async def test_closing_returns_what_is_free_and_waits_for_the_rest(
    world: World, close: str, why: str
) -> None:
    await world.organization(total=1_000, ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 400))
    await world.charge("ann", 100)
    await world.settle()
    await look(world)
    if why == "expiry":
        await world.pool.execute("UPDATE user_credit_allocations SET expires_at = now()")
    await world.pool.execute(close)
    assert tuple(await world.pool.fetchrow(ALLOCATION)) == (500, 100, True, why)
    pool = "SELECT available_credits FROM organization_credit_pools"
    assert await world.pool.fetchval(pool) == 500
    await world.relay()
    await world.operate("acme", ("commit", "ann", "r1", 250))
    await world.settle()
    done = Closed()
    await close_all(world.stores, done)
    assert (done.returned, done.emptied) == (150, 0)
    assert tuple(await world.pool.fetchrow(ALLOCATION)) == (350, 350, False, why)
    assert await world.pool.fetchval(pool) == 650
    await world.relay()
    await world.assert_books()


async def test_a_renewal_pays_for_what_is_open(world: World) -> None:
    await world.organization(total=2_000, ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 400))
    await look(world)
    await world.pool.execute(
        "UPDATE user_credit_allocations SET expires_at = now(), auto_renew = true,"
        " created_at = now() - interval '1 day'"
    )
    assert await world.pool.fetchval("SELECT deactivate_expired_allocations()") == 1
    active = "SELECT allocated_credits FROM user_credit_allocations WHERE is_active"
    assert await world.pool.fetchval(active) == 1_000
    await world.relay()
    await world.operate("acme", ("commit", "ann", "r1", 400))
    await world.settle()
    await world.assert_books()


async def test_deleting_is_not_stopped(world: World) -> None:
    """It is how an organisation is cleaned up, whatever its requests do at that moment."""
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 400))
    await look(world)
    await world.pool.execute("DELETE FROM user_credit_allocations")
    assert await world.pool.fetchval("SELECT count(*) FROM user_credit_allocations") == 0
    # What was begun is paid, by the pool alone, and nothing new is let in.
    await world.relay()
    (reply,) = await world.operate("acme", ("reserve", "ann", "r2", 1))
    assert reply.startswith("-1 ")
    (reply,) = await world.operate("acme", ("commit", "ann", "r1", 250))
    assert reply.startswith("1 ")
    await world.settle()
    charged = "SELECT credits_used FROM credit_usage_attribution WHERE request_id = 'r1'"
    assert await world.pool.fetchval(charged) == 250
    await world.assert_books()


async def test_what_is_not_known_is_not_promised(world: World) -> None:
    await world.organization(ann=1_000)
    await look(world)
    assert await deduct(world, 10, "d1") == (True, 990)
    await world.pool.execute(
        "UPDATE taximeter.exposure_looks SET looked_at = now() - interval '11 seconds'"
    )
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="no settler has looked"):
        await deduct(world, 10, "d2")
    # A repetition takes nothing, and is answered.
    assert await deduct(world, 10, "d1") == (True, 990)
    await look(world)
    assert await deduct(world, 10, "d2") == (True, 980)
    # More holds than are read, and more accounts.
    await world.pool.execute("SELECT allocate_credits_to_user('acme', 'bob', 100, 'boss')")
    await world.relay()
    await world.operate("acme", ("reserve", "ann", "r1", 1), ("reserve", "ann", "r2", 1))
    assert await note_exposure(world.stores, 0, limit=1)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="too many holds"):
        await deduct(world, 10, "d3")


async def test_however_many_holds_one_account_opens_the_others_can_spend(world: World) -> None:
    """With more of them than are read, what the accounts hold is read from their own records."""
    await world.organization(ann=1_000, bob=1_000)
    holds = [("reserve", "bob", f"r{number}", 100) for number in range(6)]
    await world.operate("acme", *holds, ("reserve", "ann", "a", 400))
    await world.charge("ann", 50)
    assert await note_exposure(world.stores, 0, limit=5)
    rows = await world.pool.fetch("SELECT user_id, open FROM taximeter.exposures ORDER BY 1")
    assert [tuple(row) for row in rows] == [("ann", 450), ("bob", 600)]
    assert await deduct(world, 551, "d1") == (False, 550)
    assert await deduct(world, 550, "d2") == (True, 450)


async def test_an_older_look_changes_nothing(world: World) -> None:
    await world.organization(ann=1_000)
    await world.charge("ann", 5)
    await look(world)
    old = datetime.now(UTC) - timedelta(seconds=5)
    noted = await world.pool.fetchval(
        "SELECT taximeter.note_exposures(0, $1, true, '{}', '{}', '{}')", old
    )
    assert noted is False
    assert await opened(world) == 5


async def test_a_shard_that_moved_on_is_not_looked_at(world: World) -> None:
    await world.organization(ann=1_000)
    await world.stores.redis.hset(world.keys().meta, "epoch", 99)
    assert await note_exposure(world.stores, 0) is False


async def test_what_is_opened_after_the_last_look_is_an_overdraft_that_shows(world: World) -> None:
    """The second that SQL does not see: bounded by what was opened in it, and paid back first."""
    await world.organization(total=3_000, ann=1_000)
    await look(world)
    await world.operate("acme", ("reserve", "ann", "r1", 1_000))
    assert await deduct(world, 1_000, "d1") == (True, 0)
    await world.relay()
    (reply,) = await world.operate("acme", ("commit", "ann", "r1", 1_000))
    assert reply.startswith("1 ")
    await world.settle()
    report = await check(world.stores)
    assert report.holds
    conserved = next(one for one in report.invariants if one.name == "I7")
    assert (conserved.figures["accounts_overdrawn"], conserved.figures["overdrawn"]) == (1, 1_000)
    # What is added pays it back before anything is admitted.
    await world.pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 1000, 'boss')")
    await world.relay()
    (reply,) = await world.operate("acme", ("reserve", "ann", "r2", 1))
    assert reply.startswith("-1 ")
    assert (await check(world.stores)).holds


GARBAGE = {
    "no account": b"7\tnobody\t0\t1Sx\t",
    "not a record": b"\xff\xfe",
    "a zero byte": b"7\tacme/a\0b\t0\t1Sx\t",
    "more than there is": b"7" * 40 + b"\tacme/ann\t0\t1Sx\t",
}


@pytest.mark.parametrize("limit", [READ_MAX, 0])
async def test_what_names_no_account_is_set_aside(world: World, limit: int) -> None:
    """One damaged hold had ended every look at its shard: nothing was known to be open any more."""
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 300))
    redis, keys = world.stores.redis, world.keys()
    for name, record in GARBAGE.items():
        await redis.hset(keys.holds, f"acme/{name}", record)
    await redis.hset(keys.holds, b"acme/\xff", b"7\tnobody\t0\t1Sx\t")
    await redis.hset(keys.accounts, "nobody", "1 5 0")
    if limit == 0:
        limit = int(await redis.hlen(keys.accounts))  # So many holds that accounts are read.
    with capture_logs() as logged:
        assert await note_exposure(world.stores, 0, limit=limit)
    assert await opened(world) == 300
    assert [one["event"] for one in logged] == ["exposure"]
    # `check` reports it, by either way of comparing holds.
    for holds_limit in (5_000, 0):
        report = await world.check(holds_limit=holds_limit)
        found = {one.name: one.violations for one in report.invariants}
        assert any("nobody" in one for one in found["I6"]), (holds_limit, found)

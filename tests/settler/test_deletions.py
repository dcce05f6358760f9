"""Deleted usage is on record, organisation by organisation; a charge that is missing without such a
record is an alarm, whatever happened elsewhere; a known loss can be acknowledged.
"""

from __future__ import annotations

import asyncpg
import pytest
from settler_world import World

from taximeter.settler.proof.check import acknowledge, check
from taximeter.settler.proof.invariants import Invariant

CLEAN_UP = (
    "DELETE FROM credit_usage_attribution WHERE org_id = 'acme'",
    "DELETE FROM user_credit_allocations WHERE org_id = 'acme'",
    "DELETE FROM organization_credit_pools WHERE org_id = 'acme'",
    "DELETE FROM organization_subscriptions WHERE org_id = 'acme'",
    "DELETE FROM organization_members WHERE org_id = 'acme'",
    "DELETE FROM organizations WHERE id = 'acme'",
)


async def events(world: World) -> Invariant:
    await world.settle()
    await world.relay()
    report = await check(world.stores)
    return next(one for one in report.invariants if one.name == "I4")


async def lose_a_charge(world: World, org: str) -> None:
    """As somebody does who writes to the ledger past the tables that people know."""
    await world.pool.execute(
        "DELETE FROM taximeter.charged_requests WHERE ctid = (SELECT ctid"
        " FROM taximeter.charged_requests WHERE org_id = $1 LIMIT 1)",
        org,
    )


@pytest.fixture
async def two(world: World) -> World:
    for org in ("acme", "beta"):
        await world.organization(org, ann=1_000)
        for _ in range(3):
            await world.charge("ann", 5, org_id=org)
    await world.settle()
    return world


async def test_a_cleaned_up_organisation_is_no_alarm_and_on_record(two: World) -> None:
    for statement in CLEAN_UP:
        await two.pool.execute(statement)
    found = await events(two)
    assert found.holds, found.violations
    assert found.figures["deleted_by_hand"] == 3
    (row,) = await two.pool.fetch("SELECT * FROM taximeter.deletions")
    assert (row["org_id"], row["events"], row["requests"], row["credits"]) == ("acme", 3, 3, 15)
    assert row["deleted_by"] == await two.pool.fetchval("SELECT session_user::text")
    await two.assert_books()


async def test_a_missing_charge_is_an_alarm_whatever_happened_elsewhere(two: World) -> None:
    """One non-zero used_by_hand silenced the alarm for everybody."""
    await two.pool.execute(
        "UPDATE user_credit_allocations SET used_credits = used_credits + 1 WHERE org_id = 'acme'"
    )
    await two.pool.execute(
        "DELETE FROM credit_usage_attribution WHERE ctid IN (SELECT ctid"
        " FROM credit_usage_attribution WHERE org_id = 'acme' LIMIT 1)"
    )
    assert (await events(two)).holds
    await lose_a_charge(two, "beta")
    found = await events(two)
    assert found.violations == ["shard 0 epoch 1: 1 settled events have no charge on record"]


async def test_a_charge_that_is_said_to_be_deleted_and_is_there_is_an_alarm(two: World) -> None:
    await two.pool.execute(
        "INSERT INTO taximeter.deletions (org_id, shard, epoch, events, requests, credits)"
        " VALUES ('beta', 0, 1, 2, 2, 10)"
    )
    found = await events(two)
    assert len(found.violations) == 1
    assert "6 charges on record, 2 deleted" in found.violations[0]


async def test_a_known_loss_is_acknowledged_and_the_next_one_is_an_alarm(two: World) -> None:
    await lose_a_charge(two, "beta")
    await two.inject(await two.line("ann", 1, "after-a-hole", "beta"), skip=4)
    found = await events(two)
    assert len(found.violations) == 2
    done = await acknowledge(two.stores, "found, and booked again")
    assert sorted((one.what, one.events) for one in done) == [("lost", 4), ("uncharged", 1)]
    assert await acknowledge(two.stores, "again") == []
    found = await events(two)
    assert found.holds, found.violations
    assert (found.figures["acknowledged"], found.figures["lost_ever"]) == (1, 4)
    await lose_a_charge(two, "acme")
    found = await events(two)
    assert found.violations == ["shard 0 epoch 1: 1 settled events have no charge on record"]


async def test_one_phase_of_a_request_takes_its_own_charge_alone(two: World) -> None:
    (reply,) = await two.operate("beta", ("reserve", "ann", "late", 50, 1_000))
    assert reply.startswith("1 ")
    await two.pool.execute(
        "INSERT INTO taximeter.charged_requests (org_id, request_id, phase, user_id, shard, epoch,"
        " seq, amount) SELECT org_id, request_id, 1, user_id, shard, epoch, 1000, 3"
        " FROM taximeter.charged_requests WHERE org_id = 'beta' LIMIT 1"
    )
    before = await two.pool.fetchval("SELECT count(*) FROM taximeter.charged_requests")
    await two.pool.execute("DELETE FROM credit_usage_attribution WHERE org_id = 'beta'")
    after = await two.pool.fetchval("SELECT count(*) FROM taximeter.charged_requests")
    assert before - after == 3


async def test_records_are_kept(two: World) -> None:
    await two.pool.execute(CLEAN_UP[0])
    for table in ("deletions", "acknowledgements"):
        with pytest.raises(asyncpg.RestrictViolationError, match="stays"):
            await two.pool.execute(f"DELETE FROM taximeter.{table}")

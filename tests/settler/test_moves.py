"""Moves decide on the live balance, happen once, and leave both sides right at every moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from settler_moves import (
    assert_history_adds_up,
    audited,
    deallocation,
    pool_of,
    team,
    transfer,
    transferred,
)
from settler_world import World

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import check_request_id
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.moves import moves
from taximeter.settler.moves.moves import KeyUsed, LiveSideAway, move, undo_left
from taximeter.settler.shards.guardian import guard
from taximeter.settler.worker.sweep import sweep


async def test_a_transfer_is_live_on_both_sides_when_it_returns(world: World) -> None:
    await team(world, ann=1_000, bob=100)
    done = await transferred(world, "ann", "bob", 300)
    assert (done.state, done.amount) == ("done", 300)
    assert (await world.live("ann"), await world.live("bob")) == ((700, 0, 2), (400, 0, 2))
    assert await pool_of(world) == (1_100, 0, 10**9 - 1_100)
    row = await world.pool.fetchrow(
        "SELECT actor, target, before::text, after::text FROM taximeter.audit_log"
        " WHERE action = 'org.credits.transferred'"
    )
    assert row is not None
    assert (row["actor"], row["target"]) == ("boss", "ann")
    assert '"allocated_credits": 1000' in row["before"]
    assert '"moved_credits": 300' in row["after"]
    assert '"to_user_id": "bob"' in row["after"]
    assert await world.pool.fetchval("SELECT count(*) FROM credit_usage_attribution") == 0
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_the_live_balance_decides_and_not_the_settled_one(world: World) -> None:
    """Spent and not settled, or held by a stream: it cannot be moved."""
    await team(world, ann=1_000, bob=0)
    await world.operate("acme", ("charge", "ann", "c", 300), ("reserve", "ann", "h", 200))
    refused = await transferred(world, "ann", "bob", 501)
    assert (refused.state, refused.reason) == ("refused", "insufficient")
    assert (refused.have, refused.held) == (500, 200)
    assert (await transferred(world, "ann", "bob", 500)).state == "done"
    assert await world.live("ann") == (0, 200, 2)
    (reply,) = await world.operate("acme", ("commit", "ann", "h", 150))
    assert reply == "1 50 0"
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_what_was_allocated_a_moment_ago_can_be_moved(world: World) -> None:
    """No false refusal because the relay has not come by yet."""
    await team(world, ann=10, bob=0)
    await world.pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 500, 'boss')")
    assert (await transferred(world, "ann", "bob", 505)).state == "done"
    await world.pool.execute("SELECT deduct_credits('acme', 'bob', 400, 's', 'm', 'r1', '{}')")
    refused = await transferred(world, "bob", "ann", 200)
    assert (refused.state, refused.have) == ("refused", 105)
    await world.assert_books()


async def test_credits_go_to_members_alone(world: World) -> None:
    await team(world, ann=1_000, bob=0)
    await world.pool.execute(
        "UPDATE organization_members SET status = 'removed' WHERE user_id = 'bob'"
    )
    for source, target in (("ann", "bob"), ("ann", "stranger")):
        refused = await transferred(world, source, target, 10)
        assert (refused.state, refused.reason) == ("refused", "not_a_member")
    assert await world.live("ann") == (1_000, 0, 1), "the hold was given back"
    await world.assert_books()


async def test_whoever_has_no_account_has_nothing_to_move(world: World) -> None:
    await team(world, ann=10)
    refused = await move(world.stores, deallocation("nobody", 1))
    assert (refused.state, refused.reason, refused.have) == ("refused", "insufficient", 0)


async def test_a_receiver_gets_an_allocation(world: World) -> None:
    await team(world, ann=1_000)
    await world.pool.execute(
        "INSERT INTO organization_members (org_id, user_id) VALUES ('acme', 'new')"
    )
    assert (await transferred(world, "ann", "new", 70)).state == "done"
    assert await world.live("new") == (70, 0, 1)
    await world.assert_books()


async def test_an_overdrawn_pool_does_not_stop_a_transfer(world: World) -> None:
    await team(world, total=1_010, ann=1_000, bob=10)
    await world.operate("acme", ("commit", "bob", "late", 50))
    await world.settle()
    await world.pool.execute(
        "UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'bob'"
    )
    assert (await pool_of(world))[2] == -40
    assert (await transferred(world, "ann", "bob", 500)).state == "done"
    assert (await pool_of(world))[2] == -40
    await world.assert_books()


async def test_a_deallocation_returns_to_the_pool(world: World) -> None:
    await team(world, total=1_000, ann=1_000)
    await world.operate("acme", ("reserve", "ann", "h", 600))
    refused = await move(world.stores, deallocation("ann", 401))
    assert (refused.state, refused.have, refused.held) == ("refused", 400, 600)
    done = await move(world.stores, deallocation("ann", 400))
    assert (done.pool_allocated, done.pool_available) == (600, 400)
    assert await audited(world, "org.credits.deallocated") == 1
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_the_same_key_moves_once(world: World) -> None:
    await team(world, ann=1_000, bob=0)
    same = transfer("ann", "bob", 100, "k1")
    answers = await asyncio.gather(*(move(world.stores, same) for _ in range(8)))
    assert {(one.id, one.state, one.amount) for one in answers} == {(answers[0].id, "done", 100)}
    assert await world.live("bob") == (100, 0, 1)
    for other in (transfer("ann", "bob", 101, "k1"), transfer("bob", "ann", 100, "k1")):
        with pytest.raises(KeyUsed):
            await move(world.stores, other)
    assert (await move(world.stores, transfer("ann", "bob", 5_000, "k2"))).state == "refused"
    await world.pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 9000, 'boss')")
    assert (await move(world.stores, transfer("ann", "bob", 5_000, "k2"))).state == "done"
    await world.assert_books()


class CountingPool:
    """A pool that counts the queries which are sent without a connection in hand."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.counted: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def fetch(self, query: str, *arguments: object) -> Any:
        self.counted[query] += 1
        return await self._pool.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: object) -> Any:
        self.counted[query] += 1
        return await self._pool.fetchrow(query, *arguments)


async def test_a_move_looks_up_its_key_and_its_shard_once(world: World) -> None:
    await team(world, ann=1_000, bob=0)
    pool = CountingPool(world.pool)
    done = await move(replace(world.stores, pool=pool), transfer("ann", "bob", 400, "k1"))
    assert (done.state, done.live) == ("done", True)
    assert pool.counted[load_queries("moves")["find_by_key"]] == 1
    assert pool.counted[load_queries("guardian")["read_watermarks"]] == 1


async def test_transfers_at_once_never_take_more_than_there_is(world: World) -> None:
    await team(world, ann=1_000, bob=0, cid=0)
    ends = await asyncio.gather(
        *(transferred(world, "ann", ("bob", "cid")[n % 2], 300) for n in range(8))
    )
    assert sorted(one.state for one in ends) == ["done"] * 3 + ["refused"] * 5
    assert await world.live("ann") == (100, 0, 4)
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_a_hold_of_a_move_cannot_be_reached_by_a_request_id(world: World) -> None:
    """Its key has a slash, which a request id cannot have."""
    await team(world, ann=1_000, bob=0)
    done = await transferred(world, "ann", "bob", 1)
    outcomes = await world.stores.redis.hkeys(world.keys().outcomes)
    assert outcomes == [f"acme/move/{done.id}".encode()]
    with pytest.raises(InvalidRequest):
        check_request_id(f"move/{done.id}")


async def begun(world: World) -> str:
    """A transfer whose process died right after it was written down."""
    return str(
        await world.pool.fetchval(
            "INSERT INTO taximeter.moves"
            " (org_id, kind, from_user, to_user, amount, actor, idempotency_key)"
            " VALUES ('acme', 'transfer', 'ann', 'bob', 400, 'boss', 'k1') RETURNING id"
        )
    )


async def test_a_move_that_was_left_half_done_is_undone(world: World) -> None:
    await team(world, ann=1_000, bob=0)
    move_id = await begun(world)
    await world.operate("acme", ("reserve", "ann", f"move/{move_id}", 400))
    assert await undo_left(world.stores, grace_s=60) == 0, "its process may still be at work"
    assert await undo_left(world.stores, grace_s=0) == 1
    assert await world.live("ann") == (1_000, 0, 1)
    # Nothing was answered for the key, so it may be tried again.
    assert (await move(world.stores, transfer("ann", "bob", 400, "k1"))).state == "done"
    await assert_history_adds_up(world)
    await world.assert_books()


async def test_a_key_whose_process_died_is_finished_by_the_repetition(world: World) -> None:
    await team(world, ann=1_000, bob=0)
    move_id = await begun(world)
    done = await move(world.stores, transfer("ann", "bob", 400, "k1"))
    assert (str(done.id), done.state) == (move_id, "done")
    assert await world.live("ann") == (600, 0, 2)
    await world.assert_books()


async def test_the_entry_of_a_move_comes_through_although_its_hold_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody relays for longer than the hold lives: what Postgres decided is still a fact."""
    await team(world, ann=1_000, bob=0)

    async def lost(*_: object) -> None:
        raise RedisConnectionError("lost")

    real = moves.bring_up_to_date
    calls = 0

    async def once(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        await (real(*arguments) if calls == 1 else lost())  # type: ignore[arg-type]

    monkeypatch.setattr(moves, "bring_up_to_date", once)
    assert (await transferred(world, "ann", "bob", 400)).state == "done"
    assert await world.live("ann") == (600, 400, 1), "booked, held, and not relayed yet"
    assert (await world.check()).holds
    deadlines = world.keys().deadlines
    await world.stores.redis.zadd(
        deadlines, dict.fromkeys(await world.stores.redis.zrange(deadlines, 0, -1), 1)
    )
    assert (await sweep(world.stores, 0, 1)).ended == 1
    await world.charge("ann", 900)
    await world.relay()
    assert await world.live("ann") == (-300, 0, 2)
    await world.assert_books()


async def test_the_live_side_must_be_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await team(world, ann=1_000, bob=0)
    await world.stores.redis.hset(world.keys().meta, "epoch", "fenced")
    with pytest.raises(LiveSideAway, match="fenced"):
        await transferred(world, "ann", "bob", 10)
    await world.stores.redis.hset(world.keys().meta, mapping={"epoch": "1", "admit_until": "0"})
    with pytest.raises(LiveSideAway, match="takes no credit"):
        await transferred(world, "ann", "bob", 10)
    await world.stores.redis.hdel(world.keys().meta, "admit_until")
    assert await world.pool.fetchval("SELECT count(*) FROM taximeter.moves") == 0
    # What was begun before, and meets a shard that has closed since, stays pending.
    move_id = await begun(world)
    await world.stores.redis.hset(world.keys().meta, "admit_until", "0")
    with pytest.raises(LiveSideAway, match="PAUSED"):
        await move(world.stores, transfer("ann", "bob", 400, "k1"))
    await world.stores.redis.hdel(world.keys().meta, "admit_until")
    assert str((await move(world.stores, transfer("ann", "bob", 400, "k1"))).id) == move_id
    await world.assert_books()


async def test_redis_that_lost_everything_gets_moves_from_the_books(world: World) -> None:
    """The hold is gone with the rest; the entry is part of the balance that is loaded."""
    await team(world, ann=1_000, bob=0)
    assert (await transferred(world, "ann", "bob", 400)).state == "done"
    await world.stores.redis.flushdb()
    assert (await guard(world.stores, 0, 1)).usable
    assert (await transferred(world, "ann", "bob", 100)).state == "done"
    assert (await world.live("ann"), await world.live("bob")) == ((500, 0, 3), (500, 0, 2))
    await world.assert_books()


async def test_check_finds_a_move_that_its_entries_do_not_know(world: World) -> None:
    await team(world, ann=1_000, bob=0)
    await transferred(world, "ann", "bob", 400)
    await world.pool.execute(
        "INSERT INTO taximeter.moves (org_id, kind, from_user, amount, actor, state, ended_at)"
        " VALUES ('acme', 'deallocation', 'ann', 7, 'x', 'done', now())"
    )
    report = await world.check()
    found = [one.violations for one in report.invariants if one.name == "I7"]
    assert "differ by 7" in found[0][0]


async def test_moves_stay_as_they_ended(world: World) -> None:
    await team(world, ann=1_000, bob=0)
    await transferred(world, "ann", "bob", 400)
    for statement in (
        "DELETE FROM taximeter.moves",
        "UPDATE taximeter.moves SET amount = 1",
        "UPDATE taximeter.moves SET state = 'pending', ended_at = NULL",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await world.pool.execute(statement)

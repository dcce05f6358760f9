"""Clients are let in exactly when Redis has what it should have; anything else is rebuilt and what
is lost is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World

from taximeter.meter import Meter, ShardFenced
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.postgres_position import Ledger
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark
from taximeter.settler.proof.check import acknowledge
from taximeter.settler.shards.guardian import (
    ShardCountMismatch,
    UnknownDataFormat,
    ensure_shards,
    guard,
    view_shard,
)
from taximeter.settler.shards.verdict import Action, ShardView, judge

WHOLE = {"epoch": "3", "seq": "10", "shards": "2", "format": "1", "run_id": "r"}
MARK = Mark(0, 3, 8, "r")


@pytest.mark.parametrize(
    ("meta", "last_id", "action"),
    [
        ({}, (3, 10), Action.NOTHING),
        ({"run_id": "old"}, (3, 10), Action.APPROVE),
        ({"seq": "8"}, (3, 8), Action.NOTHING),
        ({"seq": "7"}, (3, 7), Action.REBUILD),
        ({"epoch": "2"}, (2, 10), Action.REBUILD),
        ({"epoch": "4"}, (4, 10), Action.REBUILD),
        ({"epoch": "fenced"}, (3, 10), Action.REBUILD),
        ({"epoch": "many"}, (3, 10), Action.REBUILD),
        ({"seq": "x"}, (3, 10), Action.REBUILD),
        ({"shards": "1"}, (3, 10), Action.REBUILD),
        ({}, (3, 9), Action.REBUILD),
        ({}, (3, 11), Action.REBUILD),
        ({}, None, Action.REBUILD),
        ({"format": "2"}, (3, 10), Action.REFUSE),
    ],
)
def test_only_what_is_plainly_whole_is_trusted(
    meta: dict[str, str], last_id: tuple[int, int] | None, action: Action
) -> None:
    assert judge(MARK, ShardView("r", WHOLE | meta, last_id), 2).action is action


def test_an_epoch_without_events_may_have_an_older_stream() -> None:
    seen = ShardView("r", WHOLE | {"seq": "0"}, (2, 99))
    assert judge(Mark(0, 3, 0, "r"), seen, 2).action is Action.NOTHING
    newer = ShardView("r", WHOLE | {"seq": "0"}, (3, 1))
    assert judge(Mark(0, 3, 0, "r"), newer, 2).action is Action.REBUILD


def test_an_empty_redis_is_fresh_only_when_it_was_never_used() -> None:
    empty = ShardView("r", {}, None)
    assert judge(Mark(0, 1, 0, None), empty, 1).action is Action.OPEN
    assert judge(Mark(0, 1, 0, "r"), empty, 1).action is Action.REBUILD
    assert judge(Mark(0, 1, 5, "r"), empty, 1).action is Action.REBUILD
    assert judge(Mark(0, 1, 0, None), ShardView("r", WHOLE, None), 2).action is Action.REBUILD


async def test_a_fresh_system_is_opened_once(stores: Stores) -> None:
    assert await ensure_shards(stores, 3) == 3
    first = [await guard(stores, shard, 3) for shard in range(3)]
    assert [(one.usable, one.epoch, one.action) for one in first] == [(True, 1, "opened")] * 3
    again = [await guard(stores, shard, 3) for shard in range(3)]
    assert [(one.usable, one.epoch, one.action) for one in again] == [(True, 1, "nothing")] * 3


async def test_guardians_that_start_at_once_agree(stores: Stores) -> None:
    counts = await asyncio.gather(*(ensure_shards(stores, None) for _ in range(4)))
    assert counts == [1] * 4
    found = await asyncio.gather(*(guard(stores, 0, 1) for _ in range(4)))
    assert any(one.action == "opened" for one in found)
    assert {one.epoch for one in found} == {1}


async def test_another_number_of_shards_is_refused(stores: Stores) -> None:
    await ensure_shards(stores, 2)
    with pytest.raises(ShardCountMismatch, match="made with 2"):
        await ensure_shards(stores, 4)
    assert await ensure_shards(stores, None) == 2


async def test_a_newer_data_format_is_not_touched(world: World) -> None:
    await world.stores.redis.hset(world.keys().meta, "format", "2")
    with pytest.raises(UnknownDataFormat, match="format 2"):
        await guard(world.stores, 0, 1)
    assert (await view_shard(world.stores, 0)).meta["epoch"] == "1"


async def test_a_flush_is_rebuilt_and_old_clients_are_refused(
    world: World, redis_url: str, key_prefix: str
) -> None:
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    await world.settle()
    await world.charge("ann", 50)
    await world.stores.redis.flushdb()
    with pytest.raises(ShardFenced):
        await Meter.connect(redis_url, key_prefix=key_prefix)
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.usable, guarded.epoch, guarded.action) == (True, 2, "rebuilt")
    loader = account_loader(world.pool)
    async with await Meter.connect(redis_url, key_prefix=key_prefix, loader=loader) as meter:
        # The 50 that never left Redis are offered again; the 100 are not.
        assert (await meter.balance("acme", "ann")).available == 9_900
        await meter.charge("acme", "ann", 10)
    await world.assert_books()


async def test_events_that_survive_the_loss_of_balances_are_settled_first(world: World) -> None:
    await world.organization("acme", ann=10_000)
    for _ in range(3):
        await world.charge("ann", 100)
    keys = world.keys()
    await world.stores.redis.delete(keys.meta, keys.accounts, keys.outcomes)
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.lost) == ("rebuilt", 0)
    assert await world.used("ann") == 300
    await world.assert_books()


async def test_numbers_that_redis_gave_and_nobody_has_are_written_down(world: World) -> None:
    await world.organization("acme", ann=10_000)
    for _ in range(5):
        await world.charge("ann", 100)
    await world.settle()
    for _ in range(4):
        await world.charge("ann", 1)
    await world.stores.redis.delete(world.keys().events)
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.lost, guarded.epoch) == ("rebuilt", 4, 2)
    row = await world.pool.fetchrow("SELECT * FROM taximeter.lost_events")
    assert row is not None
    assert (row["epoch"], row["seq_first"], row["seq_last"]) == (1, 6, 9)
    await world.assert_books(but="I4")


async def test_redis_that_went_back_in_time_is_rebuilt_from_postgres(world: World) -> None:
    """Restored from an older copy: what was spent and settled meanwhile must not be spent again."""
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    keys = world.keys()
    old = {key: await world.stores.redis.dump(key) for key in keys.batch()}
    for _ in range(3):
        await world.charge("ann", 1_000)
    await world.settle()
    for key, value in old.items():
        await world.stores.redis.delete(key)
        if value is not None:
            await world.stores.redis.restore(key, 0, value)
    assert (await world.live("ann") or (0,))[0] == 9_900
    guarded = await guard(world.stores, 0, 1)
    assert guarded.action == "rebuilt"
    assert "went back in time" in guarded.reason
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
    )
    await world.relay()
    assert (await world.live("ann") or (0,))[0] == 6_901
    await world.assert_books()


async def test_a_fenced_shard_of_an_unfinished_rebuild_is_finished(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    await world.stores.redis.hset(
        world.keys().meta, mapping={"epoch": "fenced", "fenced_epoch": "1", "fenced_reason": "x"}
    )
    assert (await guard(world.stores, 0, 1)).epoch == 2
    assert await world.used("ann") == 100
    await world.assert_books()


async def test_a_database_that_never_saw_this_redis_does_not_trust_it(world: World) -> None:
    """A fresh database on a used Redis: nothing is dropped silently, and no foreign balance is
    spent.
    """
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    await world.pool.execute("UPDATE taximeter.watermarks SET run_id = NULL")
    guarded = await guard(world.stores, 0, 1)
    assert guarded.action == "rebuilt"
    assert await world.live("ann") is None
    await world.assert_books()


async def test_a_database_that_went_back_an_epoch_settles_what_the_stream_still_has(
    world: World,
) -> None:
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    await world.stores.redis.delete(world.keys().meta)
    assert (await guard(world.stores, 0, 1)).epoch == 2
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
    )
    await world.relay()
    await world.charge("ann", 7)
    # As restored from a backup of epoch 1, whose one event was settled by then.
    await world.pool.execute(
        "UPDATE taximeter.watermarks SET epoch = 1, seq = 1, settled_events = 1"
    )
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.epoch, guarded.lost) == ("rebuilt", 3, 0)
    assert await world.used("ann") == 107
    await world.assert_books()


@pytest.mark.parametrize("kept", [2, 1, 0])
async def test_what_a_stream_has_forgotten_since_the_copy_is_said_to_be_lost(
    world: World, kept: int
) -> None:
    """Postgres was put back to where it had settled one event, which the stream has forgotten
    with the next ones: numbers that nobody has an event for are a loss, whatever else is found.
    """
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    await world.settle()
    seen = (await view_shard(world.stores, 0)).ledger
    assert seen is not None
    keys, redis = world.keys(), world.stores.redis
    for _ in range(4):
        await world.charge("ann", 10)
    await redis.xtrim(keys.events, maxlen=kept, approximate=False)
    await redis.hset(keys.meta, "ledger", str(Ledger(seen.history, seen.position + 10**12, 5)))
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.lost) == ("rebuilt", 4 - kept)
    rows = await world.pool.fetch("SELECT epoch, seq_first, seq_last FROM taximeter.lost_events")
    assert [tuple(row) for row in rows] == [(1, 2, 5 - kept)]
    assert await world.used("ann") == 100 + 10 * kept
    await world.assert_books(but="I4")
    report = await world.check()
    (i4,) = (one for one in report.invariants if one.name == "I4")
    assert len(i4.violations) == 1
    assert f"events 2 to {5 - kept} are lost" in i4.violations[0]
    await acknowledge(world.stores, "nobody has them any more")
    await world.assert_books()


@pytest.mark.parametrize("history", ["the same", "other/00000001"])
async def test_a_postgres_that_went_back_is_found_out(world: World, history: str) -> None:
    """Its numbers of entries come again: what the live account has applied by that number would
    hide the new ones.
    """
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    assert (await guard(world.stores, 0, 1)).action == "nothing"
    seen = (await view_shard(world.stores, 0)).ledger
    assert seen is not None
    for credits in (11_000, 12_000):
        await world.pool.execute(
            "UPDATE user_credit_allocations SET allocated_credits = $1", credits
        )
    await world.relay()
    # As restored from a copy that lacks the last two entries.
    await world.pool.execute(
        "BEGIN; SET LOCAL session_replication_role = replica;"
        "DELETE FROM taximeter.account_entries WHERE entry_seq > 1;"
        "UPDATE taximeter.accounts SET entry_seq = 1, applied_seq = 1;"
        "UPDATE user_credit_allocations SET allocated_credits = 10000;"
        "UPDATE organization_credit_pools SET allocated_credits = 10000;"
        "COMMIT"
    )
    ahead = Ledger(seen.history, seen.position + 10**12, 1) if history == "the same" else None
    await world.stores.redis.hset(
        world.keys().meta, "ledger", str(ahead or Ledger(history, seen.position, 1))
    )
    await world.charge("ann", 50)
    guarded = await guard(world.stores, 0, 1)
    assert guarded.action == "rebuilt"
    assert "Postgres went back" in guarded.reason
    await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 10700")
    await world.relay()
    assert (await world.live("ann") or ())[:2] == (10_700 - 150, 0)
    await world.assert_books()
    assert (await guard(world.stores, 0, 1)).action == "nothing"


def test_what_tells_that_postgres_went_back() -> None:
    meta = WHOLE | {"ledger": "1/1 500 8"}
    for ledger, whole in (
        (Ledger("1/1", 500, 8), True),
        (Ledger("1/1", 600, 9), True),
        (Ledger("1/1", 499, 8), False),
        (Ledger("1/1", 600, 7), False),
        (Ledger("1/2", 600, 9), False),
        (Ledger("2/1", 600, 9), False),
    ):
        mark = replace(MARK, seq=ledger.settled, ledger=ledger)
        verdict = judge(mark, ShardView("r", meta, (3, 10)), 2)
        assert (verdict.action is Action.NOTHING) is whole, ledger
    for unreadable in ("", "1/1", "1/1 5", "1/1 x 8"):
        seen = ShardView("r", WHOLE | {"ledger": unreadable}, (3, 10))
        assert judge(replace(MARK, ledger=Ledger("1/1", 1, 8)), seen, 2).action is Action.NOTHING


async def test_an_entry_is_applied_only_where_its_postgres_is_remembered(world: World) -> None:
    """Else a Postgres that lost it before the next look of a guardian would not be found out."""
    await world.organization("acme", ann=10_000)
    before = (await view_shard(world.stores, 0)).ledger
    await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 11000")
    committed = await world.pool.fetchval("SELECT position FROM taximeter.ledger_position()")
    await world.relay()
    after = (await view_shard(world.stores, 0)).ledger
    assert before is not None
    assert after is not None
    assert before.position < committed <= after.position


@pytest.mark.parametrize("history", ["the same", "other/00000001"])
async def test_entries_of_a_postgres_that_went_back_wait_for_the_guardian(
    world: World, history: str
) -> None:
    """Whoever relays first, a settler or a move, must not note how far the older Postgres is: the
    guardian would find nothing wrong, and live accounts would pass over its entries.
    """
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 100)
    await world.settle()
    assert (await guard(world.stores, 0, 1)).action == "nothing"
    seen = (await view_shard(world.stores, 0)).ledger
    assert seen is not None
    further = Ledger(history, seen.position, 1)
    if history == "the same":
        further = Ledger(seen.history, seen.position + 10**12, 1)
    await world.stores.redis.hset(world.keys().meta, "ledger", str(further))
    await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 11000")
    done = await world.relay()
    assert (done.applied, list(done.closed_shards)) == (0, [0])
    assert "was further" in done.closed_shards[0]
    assert (await view_shard(world.stores, 0)).ledger == further
    guarded = await guard(world.stores, 0, 1)
    assert guarded.action == "rebuilt"
    assert "Postgres went back" in guarded.reason
    await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 12000")
    await world.relay()
    assert (await world.live("ann") or ())[:2] == (12_000 - 100, 0)
    await world.assert_books()


async def test_relays_at_once_do_not_take_each_others_notes_for_a_loss(world: World) -> None:
    await world.organization("acme", **{f"u{number}": 1_000 for number in range(8)})
    for _ in range(20):
        await world.pool.execute(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
        )
        for done in await asyncio.gather(*(world.relay() for _ in range(4))):
            assert done.closed_shards == {}
    await world.assert_books()


async def test_guardians_at_once_do_not_take_each_others_notes_for_a_loss(world: World) -> None:
    """Each notes how far Postgres is; one that has read it before another has noted more looks
    again.
    """
    await world.organization("acme", ann=10**6)
    for round_ in range(30):
        await world.charge("ann", 1)

        async def settle_and_guard() -> str:
            await world.settle()
            return (await guard(world.stores, 0, 1)).action

        actions = await asyncio.gather(*(settle_and_guard() for _ in range(4)))
        assert set(actions) <= {"nothing", "waiting"}, (round_, actions)


async def test_a_restarted_server_is_approved_and_lost_entries_are_sent_again(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Any]
) -> None:
    """The restart keeps the events but has lost an entry that the relay believes to be applied."""
    server = valkey_server()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis, key_prefix))
        await world.start()
        await world.organization("acme", ann=10_000)
        await world.charge("ann", 100)
        before = await redis.hget(world.keys().accounts, "acme/ann")
        await pool.execute("UPDATE user_credit_allocations SET allocated_credits = 20000")
        await world.relay()
        await redis.hset(world.keys().accounts, "acme/ann", before)
        with pytest.raises(AssertionError, match="I11"):
            await world.assert_books()

    server.stop()
    server.start()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis, key_prefix))
        with pytest.raises(ShardFenced, match="not approved"):
            await Meter.connect(server.url, key_prefix=key_prefix)
        guarded = await guard(world.stores, 0, 1)
        assert (guarded.action, guarded.epoch) == ("approved", 1)
        await (await Meter.connect(server.url, key_prefix=key_prefix)).aclose()
        await world.relay()
        assert (await world.live("ann") or (0,))[0] == 20_000 - 100
        await world.assert_books()

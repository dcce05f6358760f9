"""Whatever changes an allocation in Postgres reaches the live balance once, in order, whoever
relays or loads.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from settler_world import World, eventually

from taximeter.meter.wire.keys import account_field
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.accounts import account_loader, load_accounts
from taximeter.settler.books.watermarks import read_marks
from taximeter.settler.moves.relay import bring_up_to_date, relay
from taximeter.settler.shards.guardian import guard

LOAD = load_script("load")


async def available(world: World, user_id: str = "ann") -> int:
    live = await world.live(user_id)
    assert live is not None
    return live[0]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE user_credit_allocations SET allocated_credits = 12345", 12_345),
        ("UPDATE user_credit_allocations SET allocated_credits = 10", 10),
        ("UPDATE user_credit_allocations SET used_credits = 100", 9_900),
        ("UPDATE user_credit_allocations SET is_active = false", 0),
        ("DELETE FROM user_credit_allocations", 0),
        ("SELECT allocate_credits_to_user('acme', 'ann', 500, 'root')", 10_500),
        (
            "SELECT deduct_credits('acme', 'ann', 300, 'llm_inference', 'gpt', 'sql1', "
            "'{}'::jsonb)",
            9_700,
        ),
        (
            "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, used_credits,"
            " is_active) VALUES ('acme', 'ann', 40, 40, false)",
            10_000,
        ),
    ],
)
async def test_every_way_to_change_an_allocation_is_relayed(
    world: World, statement: str, expected: int
) -> None:
    await world.organization("acme", ann=10_000)
    await world.pool.execute(statement)
    await world.relay()
    assert await available(world) == expected
    await world.assert_books()


async def test_entries_arrive_in_order_and_more_than_a_call_takes(world: World) -> None:
    await world.organization("acme", ann=1)
    async with world.pool.acquire() as conn, conn.transaction():
        for _ in range(1_250):
            await conn.execute("SELECT taximeter.append_entry('acme', 'ann', 1, 'test')")
    done = await world.relay()
    assert done.applied == 1_250
    live = await world.live("ann")
    assert live is not None
    assert (live[0], live[2]) == (1_251, 1_251)


async def test_relays_at_once_are_harmless(world: World) -> None:
    users = {f"u{i}": 1_000 for i in range(20)}
    await world.organization("acme", **users)

    async def change() -> None:
        for _ in range(30):
            await world.pool.execute(
                "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
                " WHERE user_id = $1",
                f"u{random.randrange(20)}",
            )

    async def keep_relaying() -> None:
        for _ in range(15):
            await relay(world.stores, page_accounts=3)

    await asyncio.gather(change(), change(), *(keep_relaying() for _ in range(4)))
    await world.relay()
    balances = [await available(world, user) for user in users]
    assert sum(balances) == 20 * 1_000 + 60
    await world.assert_books()


async def test_a_hint_is_never_trusted(world: World) -> None:
    """Too low a hint makes the relay send again, too high a one in Redis's favour is found by the
    gap.
    """
    await world.organization("acme", ann=1_000)
    for _ in range(3):
        await world.pool.execute(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 10"
        )
        await world.relay()
    await world.pool.execute("UPDATE taximeter.accounts SET applied_seq = 0")
    await world.relay()
    assert await available(world) == 1_030
    # Redis is behind the hint, as after a lost second of its log, and another entry comes.
    await world.stores.redis.hset(world.keys().accounts, "acme/ann", "1000 0 1")
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 10"
    )
    await world.relay()
    assert await available(world) == 1_040
    hint = await world.pool.fetchval("SELECT applied_seq FROM taximeter.accounts")
    assert hint == 5


async def test_an_answer_of_the_server_before_moves_no_hint(world: World) -> None:
    """It may have lost since what it said: the entry is sent again, to be sure."""
    await world.organization("acme", ann=1_000)
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 10"
    )
    read_hint = "SELECT applied_seq FROM taximeter.accounts"
    mark = (await read_marks(world.stores.pool))[0]
    # One that was a replica in between has the same run id, and another number of its start.
    for asked in (replace(mark, run_id="the one before"), replace(mark, starts=mark.starts - 1)):
        await bring_up_to_date(world.stores, asked, [("acme", "ann")])
        assert await available(world) == 1_010
        assert await world.pool.fetchval(read_hint) == 1
        await world.stores.redis.hset(world.keys().accounts, "acme/ann", "1000 0 1")
    await bring_up_to_date(world.stores, mark, [("acme", "ann")])
    assert await world.pool.fetchval(read_hint) == 2


async def test_what_is_answered_as_live_is_asked_of_redis_and_of_no_hint(world: World) -> None:
    await world.organization("acme", ann=1_000)
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 10"
    )
    await world.relay()
    # As after a restart that has lost the entry, before all accounts were compared.
    await world.stores.redis.hset(world.keys().accounts, "acme/ann", "1000 0 1")
    mark = (await read_marks(world.stores.pool))[0]
    assert await bring_up_to_date(world.stores, mark, [("acme", "ann")])
    assert await available(world) == 1_010


async def test_a_server_is_approved_after_those_have_ended_who_move_hints_for_the_one_before(
    world: World,
) -> None:
    """They have seen that its start still counts, and are not seen by the walk that begins."""
    await world.organization("acme", ann=1_000)
    meta = world.keys().meta
    await world.stores.redis.hset(meta, "run_id", "another")
    async with world.pool.acquire() as conn:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock_shared(74099, 0)")
            guarding = asyncio.create_task(guard(world.stores, 0, 1))

            async def is_waiting() -> bool:
                return bool(
                    await conn.fetchval(
                        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted"
                        " AND locktype = 'advisory' AND classid = 74099 AND database ="
                        " (SELECT oid FROM pg_database WHERE datname = current_database()))"
                    )
                )

            await eventually(is_waiting)
            assert await world.stores.redis.hget(meta, "run_id") == b"another"
        assert (await guarding).action == "approved"


async def test_a_client_that_loads_an_older_snapshot_loses_no_entry(world: World) -> None:
    """The client reads Postgres, an entry is committed and relayed, and only then the client writes
    to Redis.
    """
    await world.organization("acme", ann=1_000)
    await world.stores.redis.delete(world.keys().accounts)
    stale = (await load_accounts(world.pool, [("acme", "ann")]))["acme", "ann"]
    await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 5000")
    await world.relay()
    keys = world.keys()
    name = account_field("acme", "ann")
    await LOAD.call(
        world.stores.redis, [keys.accounts, keys.meta], [1, name, stale.available, stale.applied]
    )
    await world.relay()
    assert await available(world) == 5_000
    await world.assert_books()


async def test_a_closed_shard_does_not_hold_up_the_others(world: World) -> None:
    stores = world.stores
    await world.pool.execute("DELETE FROM taximeter.watermarks")
    await stores.redis.flushdb()
    await world.start(shards=2)
    orgs = ("acme", "other", "third", "fourth", "fifth")
    for org_id in orgs:
        await world.organization(org_id, ann=1_000)
    closed = world.keys("acme")
    await stores.redis.hset(closed.meta, "epoch", "fenced")
    await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 2000")
    done = await world.relay()
    assert list(done.closed_shards) == [closed.shard]
    for org_id in orgs:
        live = await world.live("ann", org_id)
        assert live is not None
        assert live[0] == (1_000 if world.keys(org_id).shard == closed.shard else 2_000)


async def test_the_loader_knows_accounts_and_only_those(world: World) -> None:
    await world.organization("acme", ann=1_000, poor=0)
    loader = account_loader(world.pool)
    found = await loader("acme", "ann")
    assert found is not None
    assert (found.available, found.applied) == (1_000, 1)
    poor = await loader("acme", "poor")
    assert poor is not None
    assert (poor.available, poor.applied) == (0, 0)
    assert await loader("acme", "nobody") is None

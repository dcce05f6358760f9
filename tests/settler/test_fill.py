"""Clients that cannot ask Postgres find every account again, however their shard was opened anew;
and nobody who has credits is ever told that there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import ResponseError
from settler_world import World

from taximeter.meter import AccountNotFound, Meter, StoreUnavailable
from taximeter.meter.settings import MeterSettings
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards import guardian
from taximeter.settler.shards.drain import rebuild_on_demand
from taximeter.settler.shards.fill import Filler, note_complete, read_places
from taximeter.settler.shards.guardian import guard
from taximeter.settler.shards.reshard import reshard
from taximeter.settler.worker.jobs import Settler


async def connect(redis_url: str, key_prefix: str, patience_s: float = 60.0) -> Meter:
    """A client without a loader."""
    settings = MeterSettings(key_prefix=key_prefix, resolve_timeout_s=patience_s)
    return await Meter.connect(redis_url, settings=settings)


async def settler_of(world: World) -> Settler:
    settler = Settler(world.stores, SettlerSettings())
    await settler.start()
    return settler


async def flush(world: World) -> None:
    await world.stores.redis.flushdb()


async def rebuild(world: World) -> None:
    await rebuild_on_demand(world.stores, 0, reason="test", wait_s=0)


async def to_three_shards(world: World) -> None:
    await reshard(world.stores, 3, wait_s=0)
    world.shards = 3


@pytest.mark.parametrize("loss", [flush, rebuild, to_three_shards])
async def test_a_client_without_a_loader_waits_and_finds_every_account(
    world: World, redis_url: str, key_prefix: str, loss: Callable[[World], Any]
) -> None:
    users = {f"u{number}": 1_000 + number for number in range(30)}
    for org in ("acme", "other", "third"):
        await world.organization(org, **users)
    await world.charge("u0", 900, org_id="acme")
    settler = await settler_of(world)
    await settler.settle()
    await settler.fill()
    await loss(world)
    for shard in range(world.shards):
        await guard(world.stores, shard, world.shards)
    async with await connect(redis_url, key_prefix, 1.0) as hasty:
        # Before anybody has walked through the accounts, nobody can know.
        await settler.relay()
        for user in ("u1", "nobody"):
            with pytest.raises(StoreUnavailable, match="try again"):
                await hasty.charge("other", user, 1)
    async with await connect(redis_url, key_prefix) as meter:
        asking = [
            asyncio.create_task(meter.charge(org, user, 1))
            for org in ("acme", "third")
            for user in users
        ]
        unknown = asyncio.create_task(meter.balance("acme", "nobody"))
        while not unknown.done():
            await settler.fill()
            await settler.relay()
            await asyncio.sleep(0.01)
        with pytest.raises(AccountNotFound):
            await unknown
        receipts = await asyncio.gather(*asking)
        assert receipts[0].available == 99, "what was spent before is not there again"
        asked = 2 * len(users)
        assert sum(one.available for one in receipts) == 2 * sum(users.values()) - 900 - asked
    await world.assert_books()


async def test_an_account_that_a_restart_lost_comes_back(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Any]
) -> None:
    """The relay thinks that it is there: nothing else would ever bring it."""
    server = valkey_server()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis, key_prefix))
        await world.start()
        await world.organization(ann=1_000, bob=2_000)
        settler = await settler_of(world)
        await settler.fill()
        meta = world.keys().meta
        assert await redis.hexists(meta, "complete_ms")
        await redis.hdel(world.keys().accounts, "acme/bob")
    server.stop()
    server.start()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis, key_prefix))
        assert (await guard(world.stores, 0, 1)).action == "approved"
        # Who asked before the restart, and was vouched for before it, waits for another word.
        assert not await redis.hexists(meta, "complete_ms")
        settler = await settler_of(world)
        async with await connect(server.url, key_prefix) as meter:
            asking = asyncio.create_task(meter.balance("acme", "bob"))
            await settler.relay()
            await settler.fill()
            assert (await asking).available == 2_000
        await world.assert_books()


async def test_who_was_allocated_credits_just_now_is_not_told_that_there_are_none(
    world: World, redis_url: str, key_prefix: str
) -> None:
    """The last note of the settler is older than the question, so it proves nothing."""
    await world.organization()
    settler = await settler_of(world)
    await settler.fill()
    await settler.relay()
    await world.pool.execute(
        "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
        " VALUES ('acme', 'new', 500)"
    )
    async with await connect(redis_url, key_prefix) as meter:
        charging = asyncio.create_task(meter.charge("acme", "new", 1))
        done, _ = await asyncio.wait([charging], timeout=0.3)
        assert not done, "it can not know yet"
        await settler.relay()
        assert (await charging).available == 499


async def test_a_walk_goes_on_where_its_round_ended(world: World) -> None:
    await world.organization(**{f"u{number}": 10 for number in range(25)})
    accounts = world.keys().accounts
    await world.stores.redis.delete(accounts)
    filler = Filler(world.stores, page_accounts=10, budget_s=0)
    rounds = [await filler.fill() for _ in range(4)]
    assert [(one.loaded, one.complete) for one in rounds] == [(10, []), (10, []), (5, [0]), (0, [])]
    assert await world.stores.redis.hlen(accounts) == 25
    await world.assert_books()


async def test_a_restart_in_the_middle_of_a_walk_takes_its_word_away(world: World) -> None:
    await world.organization(**{f"u{number}": 10 for number in range(15)})
    filler = Filler(world.stores, page_accounts=10, budget_s=0)
    await filler.fill()
    meta = world.keys().meta
    await world.stores.redis.hset(meta, "run_id", "another")
    assert (await guard(world.stores, 0, 1)).action == "approved"
    await world.stores.redis.delete(world.keys().accounts)
    assert (await filler.fill()).complete == []
    assert not await world.stores.redis.hexists(meta, "complete_ms")
    # Nor can a round of the relay that began before the start.
    (place,) = await read_places(world.stores, filled=False)
    assert await note_complete(world.stores, [place]) == []
    for _ in range(2):
        await filler.fill()
    assert await world.stores.redis.hlen(world.keys().accounts) == 15
    assert await world.stores.redis.hexists(meta, "complete_ms")
    assert await note_complete(world.stores, [place]) == [0]
    await world.assert_books()


async def lose_an_entry(world: World, user: str) -> None:
    """As a restart does: the relay takes it for applied, and the live account does not have it."""
    accounts = world.keys().accounts
    before = await world.stores.redis.hget(accounts, f"acme/{user}")
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 500"
        " WHERE user_id = $1",
        user,
    )
    await world.relay()
    await world.stores.redis.hset(accounts, f"acme/{user}", before)


async def approve_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has lost entries older than those that are sent again in any case."""
    monkeypatch.setattr(guardian, "DOUBTED_MAX", 0)
    await world.stores.redis.hset(world.keys().meta, "run_id", "another")
    assert (await guard(world.stores, 0, 1)).action == "approved"


async def test_an_entry_that_a_restart_lost_is_found_by_the_walk_and_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.organization(**{f"u{number}": 10 for number in range(25)})
    for user in ("u0", "u24"):
        await lose_an_entry(world, user)
    with pytest.raises(AssertionError, match="takes for applied and Redis does not"):
        await world.assert_books()
    await approve_anew(world, monkeypatch)
    await world.relay()
    assert await world.live("u24") == (10, 0, 1), "nobody knows yet"
    await world.assert_books()
    # A settler of a release before this one walks through all accounts and compares nothing.
    (place,) = await read_places(world.stores, filled=False)
    await world.stores.redis.hset(world.keys().meta, "complete_ms", place.asked_ms)
    filler = Filler(world.stores, page_accounts=10, budget_s=0)
    rounds = [await filler.fill() for _ in range(4)]
    assert [(one.behind, one.complete) for one in rounds] == [(1, []), (1, []), (0, [0]), (0, [])]
    await world.relay()
    assert await world.live("u0") == await world.live("u24") == (510, 0, 2)
    assert not await world.stores.redis.hexists(world.keys().meta, "hints_due")
    await world.assert_books()


async def test_a_walk_that_another_start_has_overtaken_vouches_for_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first accounts were compared before the second restart, which has lost the number of the
    first start together with an entry.
    """
    await world.organization(**{f"u{number}": 10 for number in range(15)})
    meta = world.keys().meta
    kept = await world.stores.redis.dump(meta)
    await approve_anew(world, monkeypatch)
    filler = Filler(world.stores, page_accounts=10, budget_s=0)
    assert (await filler.fill()).complete == []
    await lose_an_entry(world, "u0")
    await world.stores.redis.restore(meta, 0, kept, replace=True)
    await approve_anew(world, monkeypatch)
    assert (await filler.fill()).complete == []
    assert await world.stores.redis.hexists(meta, "hints_due")
    for _ in range(2):
        await filler.fill()
    await world.relay()
    assert await world.live("u0") == (510, 0, 2)
    await world.assert_books()


async def test_out_of_memory_the_walk_compares_what_is_there(
    pool: asyncpg.Pool,
    key_prefix: str,
    valkey_server: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Entries are applied then too, so none may wait for memory."""
    server = valkey_server()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis, key_prefix))
        await world.start()
        await world.organization(**{f"u{number}": 10 for number in range(5)})
        await lose_an_entry(world, "u4")
        await redis.hdel(world.keys().accounts, "acme/u1")
        await approve_anew(world, monkeypatch)
        await redis.config_set("maxmemory", "1")
        filler = Filler(world.stores, page_accounts=2, budget_s=0)
        rounds = [await filler.fill() for _ in range(2)]
        with pytest.raises(ResponseError):
            await filler.fill()
        assert sum(one.behind for one in rounds) <= 1
        await world.relay()
        assert await world.live("u4") == (510, 0, 2)
        await redis.config_set("maxmemory", "0")
        for _ in range(3):
            done = await filler.fill()
        assert done.complete == [0]
        await world.assert_books()


async def test_a_closed_shard_is_passed_over(world: World) -> None:
    await world.organization(ann=10)
    await world.stores.redis.delete(world.keys().accounts)
    (place,) = await read_places(world.stores, filled=False)
    await world.stores.redis.hset(world.keys().meta, "epoch", "fenced")
    assert (await Filler(world.stores).fill()).loaded == 0
    assert await note_complete(world.stores, [place], first=True) == []
    await world.stores.redis.delete(world.keys().meta)
    await world.stores.redis.set(world.keys().meta, "damaged")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await note_complete(world.stores, [place], first=True)

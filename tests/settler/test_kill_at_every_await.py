"""A settle, a relay or a rebuild that dies at any await changes nothing in the end."""

from __future__ import annotations

import pytest
from settler_kill import CutOff, own_stores, run_cut_off
from settler_world import World, eventually

from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import count_shards
from taximeter.settler.moves.relay import relay
from taximeter.settler.settling.settle import settle_once, settle_shard
from taximeter.settler.settling.trim import trim
from taximeter.settler.shards import guardian
from taximeter.settler.shards.admission import admit
from taximeter.settler.shards.fill import Filler
from taximeter.settler.shards.guardian import guard
from taximeter.settler.shards.reshard import reshard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SUSPENSIONS_MAX = 400
STRIDE = 9
EACH_ONCE = pytest.mark.parametrize(
    ("abrupt", "first", "step"),
    [(True, 1, 2), pytest.param(False, 2, 2, marks=pytest.mark.whole)],
    ids=["killed", "cancelled"],
)
"""Killed at every other await, and cancelled at those between them, by `make test-whole`."""
SOME = pytest.mark.parametrize(
    ("abrupt", "first", "step"),
    [
        (True, 1, 10),
        pytest.param(False, 6, 10, marks=pytest.mark.whole),
        pytest.param(True, 1, 1, marks=pytest.mark.long),
        pytest.param(False, 1, 1, marks=pytest.mark.long),
    ],
    ids=["killed", "cancelled", "killed everywhere", "cancelled everywhere"],
)
"""Killed at every tenth await, cancelled at those half-way by `make test-whole`, and both at all of
them by `make chaos-runs`.
"""


@EACH_ONCE
async def test_settle(
    world: World,
    database_url: str,
    redis_url: str,
    key_prefix: str,
    abrupt: bool,
    first: int,
    step: int,
) -> None:
    """Every kind of event in each batch: booked, set aside, given back, paid by the pool."""
    await world.organization("acme", ann=10**6, bob=10**6, old=10**6)
    await world.operate("acme", *[("reserve", "old", f"o{i}", 10) for i in range(SUSPENSIONS_MAX)])
    await world.pool.execute(
        "UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'old'"
    )
    await world.relay()
    await world.charge("ann", 1, "again")
    used = 1
    for turn, at in enumerate(range(first, SUSPENSIONS_MAX, step), start=1):
        await world.charge("ann", 3, f"a{at}")
        await world.charge("bob", 5, f"b{at}")
        await world.operate("acme", ("commit", "old", f"o{at}", 7))
        await world.inject(await world.line("bob", 2, "again"), b"poison")
        used += 3 + 5 + 7
        async with own_stores(database_url, redis_url, key_prefix) as (stores, pool):
            before = pool.terminate if abrupt else None
            cut = CutOff(settle_once(stores, 0), at, before)
            was_cut = await run_cut_off(cut)
        await world.settle()
        total = sum([await world.used(user) for user in ("ann", "bob", "old")])
        assert total == used, f"cut off at await {at}"
        mark = await world.mark()
        assert mark["seq"] == 1 + 5 * turn
        assert (mark["settled_events"], mark["dead_events"]) == (1 + 3 * turn, 2 * turn)
        if not was_cut:
            assert at > 10, "settle suspends more often than that"
            break
    else:
        pytest.fail("settle never came to its end")
    await world.assert_books()


@SOME
async def test_settle_batch_after_batch(
    world: World,
    database_url: str,
    redis_url: str,
    key_prefix: str,
    abrupt: bool,
    first: int,
    step: int,
) -> None:
    """With the next batch read ahead while one is booked."""
    await world.organization("acme", ann=10**6, bob=10**6)
    used = events = 0
    for at in range(first, SUSPENSIONS_MAX, step):
        for i in range(3):
            await world.charge("ann", 3, f"a{at}-{i}")
            await world.charge("bob", 5, f"b{at}-{i}")
        used, events = used + 3 * (3 + 5), events + 6
        async with own_stores(database_url, redis_url, key_prefix) as (stores, pool):
            work = settle_shard(stores, 0, batch_events=2)
            was_cut = await run_cut_off(CutOff(work, at, pool.terminate if abrupt else None))
        await world.settle()
        assert sum([await world.used(user) for user in ("ann", "bob")]) == used, f"await {at}"
        mark = await world.mark()
        assert (mark["seq"], mark["settled_events"]) == (events, events), f"await {at}"
        if not was_cut:
            assert at > 40, "three batches suspend more often than that"
            break
    else:
        pytest.fail("settle never came to its end")
    await world.assert_books()


@SOME
async def test_relay(
    world: World,
    database_url: str,
    redis_url: str,
    key_prefix: str,
    abrupt: bool,
    first: int,
    step: int,
) -> None:
    await world.organization("acme", ann=1_000, bob=1_000)
    for turn, at in enumerate(range(first, SUSPENSIONS_MAX, step), start=1):
        await world.pool.execute(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 10"
        )
        # One of the two is not in Redis, so that it has to be loaded.
        await world.stores.redis.hdel(world.keys().accounts, "acme/bob")
        async with own_stores(database_url, redis_url, key_prefix) as (stores, pool):
            cut = CutOff(relay(stores), at, pool.terminate if abrupt else None)
            was_cut = await run_cut_off(cut)
        await world.relay()
        for user in ("ann", "bob"):
            available = (await world.live(user) or (0,))[0]
            assert available == 1_000 + 10 * turn, f"cut off at await {at}"
        if not was_cut:
            break
    else:
        pytest.fail("relay never came to its end")
    await world.assert_books()


@SOME
async def test_rebuild(
    world: World,
    database_url: str,
    redis_url: str,
    key_prefix: str,
    abrupt: bool,
    first: int,
    step: int,
) -> None:
    """Redis loses its accounts and meta but still has events: they settle, and the shard comes back
    once.
    """
    await world.organization("acme", ann=10**6)
    used = 0
    for turn, at in enumerate(range(first, SUSPENSIONS_MAX, step), start=1):
        await world.relay()
        await world.charge("ann", 3)
        used += 3
        keys = world.keys()
        await world.stores.redis.delete(keys.meta, keys.accounts, keys.outcomes)
        async with own_stores(database_url, redis_url, key_prefix) as (stores, pool):
            cut = CutOff(guard(stores, 0, 1), at, pool.terminate if abrupt else None)
            was_cut = await run_cut_off(cut)

        async def usable() -> bool:
            return (await guard(world.stores, 0, 1)).usable

        await eventually(usable)
        assert await world.used("ann") == used, f"cut off at await {at}"
        await world.pool.execute(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
        )
        await world.relay()
        assert (await world.live("ann") or (0,))[0] == 10**6 + turn - used
        if not was_cut:
            assert at > 10
            break
    else:
        pytest.fail("the guardian never came to its end")
    await world.assert_books()


@SOME
async def test_opening_a_restarted_server(
    world: World,
    database_url: str,
    redis_url: str,
    key_prefix: str,
    abrupt: bool,
    first: int,
    step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has lost an entry of each of two accounts: one that is sent again as soon as it is opened,
    and one that only the walk through all accounts finds.
    """
    monkeypatch.setattr(guardian, "DOUBTED_MAX", 1)
    await world.organization("acme", ann=1_000, bob=1_000)
    redis, keys = world.stores.redis, world.keys()

    async def open_and_walk(stores: Stores) -> None:
        assert (await guard(stores, 0, 1)).action == "approved"
        await Filler(stores, page_accounts=1).fill()

    for turn, at in enumerate(range(first, SUSPENSIONS_MAX, step), start=1):
        before = await redis.hgetall(keys.accounts)
        for user in ("bob", "ann"):
            await world.pool.execute(
                "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 10"
                " WHERE user_id = $1",
                user,
            )
        await world.relay()
        await redis.hset(keys.accounts, mapping=before)
        await redis.hset(keys.meta, "run_id", "another")
        async with own_stores(database_url, redis_url, key_prefix) as (stores, pool):
            cut = CutOff(open_and_walk(stores), at, pool.terminate if abrupt else None)
            was_cut = await run_cut_off(cut)

        async def usable() -> bool:
            return (await guard(world.stores, 0, 1)).usable

        await eventually(usable)
        assert await redis.hget(keys.meta, "run_id") != b"another"
        await Filler(world.stores).fill()
        await world.relay()
        for user in ("ann", "bob"):
            live = await world.live(user)
            assert live == (1_000 + 10 * turn, 0, 1 + turn), f"{user}, cut off at await {at}"
        if not was_cut:
            assert at > 30
            break
    else:
        pytest.fail("the opening never came to its end")
    await world.assert_books()


async def test_trim(world: World, database_url: str, redis_url: str, key_prefix: str) -> None:
    await world.organization("acme", ann=10**6)
    for at in range(1, SUSPENSIONS_MAX):
        await world.charge("ann", 1)
        await world.settle()
        await world.charge("ann", 1)
        async with own_stores(database_url, redis_url, key_prefix) as (stores, pool):
            work = trim(stores, 0, retention_s=0, retention_max=0)
            was_cut = await run_cut_off(CutOff(work, at, pool.terminate))
        await world.settle()
        assert await world.used("ann") == 2 * at
        if not was_cut:
            break
    assert (await world.mark())["lost_events"] == 0
    await world.assert_books()


async def test_reshard(world: World, database_url: str, redis_url: str, key_prefix: str) -> None:
    """Back and forth between one shard and two, and killed on the way: whichever number it is in
    the end, charges are settled once and open holds go on.
    """
    await world.organization("acme", ann=10**6)
    await world.operate("acme", ("reserve", "ann", "open", 500, 3_600_000))
    used = 0
    drained: set[int] = set()
    for at in range(5, SUSPENSIONS_MAX, STRIDE):
        await world.charge("ann", 3)
        used += 3
        wanted = 3 - world.shards
        async with own_stores(database_url, redis_url, key_prefix) as (stores, pool):
            work = reshard(stores, wanted, wait_s=0.0, force=True)
            was_cut = await run_cut_off(CutOff(work, at, pool.terminate))

        async def usable() -> bool:
            # A commit that was on its way when it was cut off may come yet.
            world.shards = await count_shards(world.pool)
            guarded = [await guard(world.stores, one, world.shards) for one in range(world.shards)]
            return all(one.usable for one in guarded)

        await eventually(usable)
        # The settler ends the drain that was left behind when its time is over.
        for shard in range(world.shards):
            meta, mark = world.stores.keys(shard).meta, await world.mark(shard)
            if await world.stores.redis.hexists(meta, "drain_until_ms"):
                await world.stores.redis.hset(meta, "drain_until_ms", "1")
                drained.add(shard)
            await admit(world.stores, shard, mark["epoch"], mark["seq"], 1_000, 1_000)
        await world.settle()
        assert await world.used("ann") == used, f"cut off at await {at}"
        (reply,) = await world.operate("acme", ("touch", "ann", "open", 1, 3_600_000))
        assert reply == f"1 {10**6 - 500 - used} 500", f"cut off at await {at}"
        if not was_cut:
            assert world.shards == wanted
            break
    else:
        pytest.fail("the reshard never came to its end")
    assert drained, "no kill left a drain behind"
    await world.operate("acme", ("commit", "ann", "open", 7))
    await world.assert_books()
    assert await world.used("ann") == used + 7

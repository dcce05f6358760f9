"""How many holds an account may have open, and that the count stays that of the holds."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from support.shard import ScriptedShard, op

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.scripts import load_script


async def allow(shard: ScriptedShard, open_holds_max: int) -> None:
    keys = [shard.keys.meta]
    await load_script("admit").call(shard.redis, keys, [shard.epoch, 10**9, open_holds_max])


async def recount(shard: ScriptedShard, limit: int = 1000) -> int:
    names = [shard.keys.holds, shard.keys.meta, shard.keys.open_holds]
    reply: int = await load_script("recount").call(shard.redis, names, [shard.epoch, limit])
    return reply


async def counted(shard: ScriptedShard) -> dict[str, int]:
    """Open holds by account, as they are counted."""
    found = {}
    for name, record in (await shard.redis.hgetall(shard.keys.accounts)).items():
        further = int(await shard.redis.hget(shard.keys.open_holds, name) or 0)
        found[name.decode()] = further + (int(record.split(b" ")[1]) > 0)
    return {name: count for name, count in found.items() if count}


async def really(shard: ScriptedShard) -> dict[str, int]:
    """The same from the holds themselves."""
    records = (await shard.redis.hgetall(shard.keys.holds)).values()
    return dict(Counter(HoldRecord.parse(record).account for record in records))


@pytest.mark.parametrize("amount", [0, 10])
async def test_an_account_has_so_many_holds_and_not_one_more(
    shard: ScriptedShard, amount: int
) -> None:
    await allow(shard, 2)
    await shard.load("org/v", 1000)
    assert (await shard.one("reserve", "a", amount)).startswith("1 ")
    assert (await shard.one("reserve", "b", amount)).startswith("1 ")
    before = await shard.state()
    refused = await shard.one("reserve", "c", amount)
    assert refused == f"-9 {1000 - 2 * amount} {2 * amount} 2"
    assert await shard.state() == before
    # Neither another account, nor what opens nothing, nor a repeat of what is open.
    assert (await shard.one("reserve", "d", amount, user="org/v")).startswith("1 ")
    assert (await shard.one("charge", "e", amount)).startswith("1 ")
    assert (await shard.one("reserve", "b", amount)).startswith("1 ")


@pytest.mark.parametrize("amount", [0, 10])
@pytest.mark.parametrize("ending", ["commit", "release", "void", "sweep", "apply"])
async def test_whatever_ends_a_hold_makes_room(
    shard: ScriptedShard, ending: str, amount: int
) -> None:
    await allow(shard, 2)
    for request in "ab":
        await shard.one("reserve", request, amount, owner="me")
    if ending == "sweep":
        await shard.overdue("a")
        assert (await shard.sweep())[0] == 1
    elif ending == "apply":
        assert await shard.apply(("org/u", 2, 0, "org/a")) == ["1 2"]
    else:
        assert (await shard.one(ending, "a", owner="me" if ending == "void" else "")).startswith(
            "1 "
        )
    assert await counted(shard) == await really(shard) == {"org/u": 1}
    assert (await shard.one("reserve", "c", amount)).startswith("1 ")
    assert (await shard.one("reserve", "d", amount)).startswith("-9 ")


async def test_one_that_is_paid_is_let_in_beside_a_flood_of_those_of_nothing(
    shard: ScriptedShard,
) -> None:
    await allow(shard, 3)
    for request in "abc":
        await shard.one("reserve", request, 0)
    assert (await shard.one("reserve", "d", 0)).startswith("-9 ")
    assert (await shard.one("reserve", "e", 10)).startswith("1 ")
    assert (await shard.one("reserve", "f", 10)).startswith("-9 ")


async def test_what_a_move_holds_is_not_refused(shard: ScriptedShard) -> None:
    """A user whose holds are all open cannot keep an administrator from taking credits back."""
    await allow(shard, 1)
    await shard.one("reserve", "a", 10)
    assert (await shard.one("reserve", "", 10, key="org/move/1")).startswith("1 ")
    assert await counted(shard) == await really(shard) == {"org/u": 2}


@pytest.mark.parametrize("kind", ["reserve", "touch"])
async def test_a_hold_of_nothing_lives_for_five_minutes_at_most(
    shard: ScriptedShard, kind: str
) -> None:
    day = 86_400_000
    await shard.one("reserve", "free", 0, ttl_ms=day if kind == "reserve" else 1000)
    await shard.one("reserve", "paid", 1, ttl_ms=day if kind == "reserve" else 1000)
    if kind == "touch":
        await shard.one("touch", "free", 0, ttl_ms=day)
        await shard.one("touch", "paid", 0, ttl_ms=day)
    seconds, micros = await shard.redis.time()
    left = {
        member: score - (seconds * 1000 + micros // 1000)
        for member, score in await shard.redis.zrange(shard.keys.deadlines, 0, -1, withscores=True)
    }
    assert left[b"org/free"] <= 300_000
    assert left[b"org/paid"] > 300_000


@pytest.mark.parametrize("seed", range(3))
async def test_the_count_is_that_of_the_holds_whatever_is_done(
    shard: ScriptedShard, seed: int
) -> None:
    dice = random.Random(seed)
    users = ["org/u", "org/v", "org/w"]
    await shard.load("org/v", 40)
    await shard.load("org/w", 10**6)
    await allow(shard, 6)
    for round_ in range(60):
        batch = []
        for _ in range(dice.randrange(1, 8)):
            kind = dice.choice(
                ("reserve", "reserve", "reserve", "commit", "release", "charge", "touch", "void",
                 "expire")
            )  # fmt: skip
            request, user = f"r{dice.randrange(25)}", dice.choice(users)
            owner = "me" if kind in ("reserve", "void") else ""
            batch.append(op(kind, request, dice.choice((0, 0, 5, 9)), user=user, owner=owner))
        await shard.batch(*batch)
        if round_ % 10 == 9:
            for hold in sorted(await shard.redis.hkeys(shard.keys.holds))[:2]:
                await shard.redis.zadd(shard.keys.deadlines, {hold: 1})
            await shard.sweep()
        assert await counted(shard) == await really(shard), round_
    stored = await shard.redis.hgetall(shard.keys.open_holds)
    assert b"0" not in stored.values(), "an account without further holds keeps nothing"
    assert await recount(shard) == 0


async def test_a_reopened_shard_counts_the_holds_that_stay(shard: ScriptedShard) -> None:
    await shard.load("org/v", 500)
    await allow(shard, 3)
    for request in "abc":
        await shard.one("reserve", request, 10)
    await shard.one("reserve", "d", 0)
    await shard.one("reserve", "e", 0, user="org/v")
    await load_script("fence").call(shard.redis, [shard.keys.meta], ["test"])
    await shard.redis.delete(shard.keys.open_holds)
    await shard.open(2, accounts={"org/u": (1000, 1)})
    assert await counted(shard) == await really(shard) == {"org/u": 3}
    assert (await shard.one("reserve", "f", 10)).startswith("-9 "), "the limit stays as it was"


async def test_counts_that_are_wrong_are_made_right(shard: ScriptedShard) -> None:
    """Those of a release that knew of no counts, both ways; and too many holds are left alone."""
    await shard.load("org/v", 500)
    await shard.load("org/w", 500)
    for request in "abc":
        await shard.one("reserve", request, 10)
    await shard.one("reserve", "d", 0, user="org/v")
    await shard.redis.hset(shard.keys.open_holds, mapping={"org/u": 7, "org/w": 3})
    await shard.redis.hdel(shard.keys.open_holds, "org/v")
    assert await recount(shard, limit=3) == -1
    assert await recount(shard) == 3
    assert await counted(shard) == await really(shard) == {"org/u": 3, "org/v": 1}
    assert await recount(shard) == 0


async def test_a_count_that_is_too_low_never_goes_below_nothing(shard: ScriptedShard) -> None:
    for request in "abc":
        await shard.one("reserve", request, 10)
    await shard.redis.delete(shard.keys.open_holds)
    for request in "abc":
        assert (await shard.one("commit", request, 5)).startswith("1 ")
    assert await shard.redis.exists(shard.keys.open_holds) == 0

"""Accounts and the numbered entries that change them from Postgres."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError
from support.shard import ScriptedShard


async def test_entries_apply_once_and_in_order(shard: ScriptedShard) -> None:
    assert await shard.apply(("org/u", 2, 500)) == ["1 2"]
    assert await shard.apply(("org/u", 2, 500)) == ["2 2"], "already applied"
    assert await shard.apply(("org/u", 4, 70)) == ["-6 2"], "3 is missing"
    assert await shard.apply(("org/u", 3, -1600), ("org/u", 4, 70), ("org/u", 3, -1600)) == [
        "1 3",
        "1 4",
        "2 4",
    ]
    assert await shard.account() == (-30, 0, 4)


async def test_an_entry_leaves_holds_alone(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 400)
    await shard.apply(("org/u", 2, -1000))
    assert await shard.account() == (-400, 400, 2)
    assert await shard.one("commit", "r", 100) == "1 -100 0"


async def test_an_entry_ends_the_hold_that_it_names(shard: ScriptedShard) -> None:
    """What it takes away was held, so available does not move: it is never free, or gone twice."""
    await shard.one("reserve", "move/1", 400)
    await shard.one("reserve", "r", 100)
    assert await shard.apply(("org/u", 2, -400, "org/move/1")) == ["1 2"]
    assert await shard.account() == (500, 100, 2)
    assert await shard.apply(("org/u", 2, -400, "org/move/1")) == ["2 2"]
    assert await shard.account() == (500, 100, 2)
    state = await shard.state()
    assert set(state["holds"]) == {b"org/r"}
    assert [key for key, _ in state["deadlines"]] == [b"org/r"]
    assert state["outcomes"] == {b"org/move/1": b"released 400 0 org/u"}
    assert state["events"] == []
    # A late copy of the reserve finds the outcome and opens nothing.
    assert (await shard.one("reserve", "move/1", 400)).startswith("2 500 100 released")


async def test_an_entry_that_takes_less_than_its_hold_frees_the_rest(shard: ScriptedShard) -> None:
    await shard.one("reserve", "move/1", 400)
    assert await shard.apply(("org/u", 2, -150, "org/move/1"), ("org/u", 3, -50, "org/move/1")) == [
        "1 2",
        "1 3",
    ]
    assert await shard.account() == (800, 0, 3)


async def test_an_entry_without_its_hold_is_still_a_fact(shard: ScriptedShard) -> None:
    """The hold expired, or Redis lost it, and its credits were spent: the balance goes below 0."""
    await shard.one("reserve", "move/1", 900)
    await shard.overdue("move/1")
    assert await shard.sweep() == [1, 0, 0]
    await shard.one("charge", "c", 700)
    assert await shard.apply(("org/u", 2, -900, "org/move/1")) == ["1 2"]
    assert await shard.account() == (-600, 0, 2)
    assert await shard.one("charge", "d", 1) == "-1 -600 0"


async def test_an_entry_leaves_the_holds_of_others_alone(shard: ScriptedShard) -> None:
    await shard.load("org/v", 1000)
    await shard.one("reserve", "move/1", 400, user="org/v")
    assert await shard.apply(("org/u", 2, -400, "org/move/1")) == ["1 2"]
    assert await shard.account() == (600, 0, 2)
    assert await shard.account("org/v") == (600, 400, 1)


@pytest.mark.parametrize("answer", ["2 1", "-6 1", "-3 delta"])
async def test_an_entry_that_is_not_applied_ends_no_hold(shard: ScriptedShard, answer: str) -> None:
    await shard.one("reserve", "move/1", 400)
    before = await shard.state()
    number, delta = {"2 1": (1, -400), "-6 1": (3, -400), "-3 delta": (2, "x")}[answer]
    assert await shard.apply(("org/u", number, delta, "org/move/1")) == [answer]
    assert await shard.state() == before


@pytest.mark.parametrize("name", ["holds", "deadlines", "outcomes"])
async def test_a_key_of_the_wrong_type_leaves_no_half_applied_entry(
    shard: ScriptedShard, name: str
) -> None:
    await shard.one("reserve", "move/1", 400)
    await shard.redis.delete(getattr(shard.keys, name))
    await shard.redis.set(getattr(shard.keys, name), "of the wrong type")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await shard.apply(("org/u", 2, -400, "org/move/1"))
    assert await shard.account() == (600, 400, 1)


async def test_an_entry_of_an_account_that_is_not_there(shard: ScriptedShard) -> None:
    assert await shard.apply(("org/nobody", 1, 5), ("org/u", 2, 5)) == ["-2", "1 2"]


async def test_two_relays_apply_an_entry_once(shard: ScriptedShard) -> None:
    replies = await asyncio.gather(*[shard.apply(("org/u", 2, 500)) for _ in range(10)])
    assert sorted(reply for [reply] in replies) == ["1 2"] + ["2 2"] * 9
    assert await shard.account() == (1500, 0, 2)


async def test_a_slow_loader_cannot_overwrite_what_has_happened_since(shard: ScriptedShard) -> None:
    await shard.one("charge", "r", 400)
    await shard.apply(("org/u", 2, 50))
    assert await shard.load("org/u", 1000, 1) == "2 650 0 2"
    assert await shard.account() == (650, 0, 2)


async def test_a_loaded_account_may_be_in_debt(shard: ScriptedShard) -> None:
    assert await shard.load("org/debtor", -70, 3) == "1 -70 0 3"
    assert await shard.one("charge", "r", 1, user="org/debtor") == "-1 -70 0"


async def test_user_names_may_hold_anything_printable(shard: ScriptedShard) -> None:
    account = "org/auth0|Ünïcode user/with slash%s%d"
    assert await shard.load(account, 100) == "1 100 0 1"
    assert await shard.one("reserve", "r", 10, user=account) == "1 90 10"
    assert await shard.one("commit", "r", 4, user=account) == "1 96 0"
    assert (await shard.events())[0][2] == account
    assert await shard.one("commit", "r", 4, user=account) == "2 96 0 committed 10 4"
    await shard.one("reserve", "s", 10, user=account)
    await shard.one("touch", "s", 3, user=account)
    await shard.overdue("s")
    assert await shard.sweep() == [1, 1, 0]
    assert await shard.account(account) == (93, 0, 1)

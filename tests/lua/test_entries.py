"""Accounts and the numbered entries that change them from Postgres."""

from __future__ import annotations

import asyncio

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

"""Hostile and broken input, sent straight to the server: refused by name, changing nothing."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from redis.exceptions import ResponseError
from support.shard import ScriptedShard, op

from taximeter.meter.wire.limits import AMOUNT_MAX, BALANCE_MAX
from taximeter.meter.wire.scripts import load_script

SCRIPTS = sorted(
    path.name[:-4] for path in files("taximeter.lua").iterdir() if path.name.endswith(".lua")
)
BAD_AMOUNTS = [
    "nan", "-nan", "inf", "-inf", "0x10", "1e3", "1.5", "-1", "+1", " 5", "5 ", "", "five",
    "12345678901234567", "9007199254740993", "1000000000001", "999999999999999", "٥",
    "5\n", "5\x00",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["reserve", "charge", "commit", "touch"])
@pytest.mark.parametrize("amount", BAD_AMOUNTS)
async def test_an_amount_that_is_no_whole_number_is_refused(
    shard: ScriptedShard, kind: str, amount: str
) -> None:
    """Lua's tonumber takes nan, inf, hex and fractions, and `100 < nan` is false: the gate would
    open.
    """
    await shard.one("reserve", "r", 100)
    before = await shard.state()
    assert await shard.one(kind, "r" if kind in ("commit", "touch") else "s", amount) == "-3 amount"
    assert await shard.state() == before


@pytest.mark.parametrize("ttl", ["nan", "-1", "1.5", "0", "86400001", ""])
async def test_a_life_outside_its_limits_is_refused(shard: ScriptedShard, ttl: str) -> None:
    before = await shard.state()
    assert await shard.one("reserve", "r", 1, ttl_ms=ttl) == "-3 ttl_ms"
    assert await shard.state() == before


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"payload": "a\nb"}, "payload"),
        ({"payload": "a\tb"}, "payload"),
        ({"payload": "x" * 4097}, "payload"),
        ({"owner": "not a token"}, "owner"),
        ({"owner": "x" * 66}, "owner"),
        ({"owner": "Key7"}, "owner"),
        ({"owner": "xO"}, "owner"),
        ({"key": "other/r"}, "key"),
        ({"key": "org/"}, "key"),
        ({"key": "orgr"}, "key"),
        ({"key": "org/a\tb"}, "key"),
        ({"key": "org/a\nb"}, "key"),
        ({"key": "org/a b"}, "key"),
        ({"key": "org/\u00fc"}, "key"),
        ({"key": "org/" + "x" * 129}, "key"),
    ],
)
async def test_a_field_outside_its_limits_is_named(
    shard: ScriptedShard, named: dict[str, Any], field: str
) -> None:
    before = await shard.state()
    assert await shard.one("reserve", "r", 1, **named) == f"-3 {field}"
    assert await shard.state() == before


async def test_an_operation_nobody_knows_is_refused(shard: ScriptedShard) -> None:
    assert await shard.one("grant", "r", 1) == "-3 op"


async def test_one_bad_operation_does_not_spoil_its_batch(shard: ScriptedShard) -> None:
    replies = await shard.batch(
        op("charge", "a", 10), op("charge", "b", "nan"), op("charge", "c", 5)
    )
    assert replies == ["1 990 0", "-3 amount", "1 985 0"]


@pytest.mark.parametrize("arguments", [[], ["reserve"], ["reserve", "org/u"] * 7 + ["x"]])
async def test_a_torn_call_is_refused_whole(shard: ScriptedShard, arguments: list[str]) -> None:
    before = await shard.state()
    with pytest.raises(ResponseError, match="MALFORMED"):
        await shard.batch(arguments)
    assert await shard.state() == before


async def test_a_call_is_bounded(shard: ScriptedShard) -> None:
    with pytest.raises(ResponseError, match="MALFORMED"):
        await shard.batch(*[op("charge", f"r{i}", 0) for i in range(1001)])
    replies = await shard.batch(*[op("charge", f"r{i}", 0) for i in range(1000)])
    assert replies == ["1 1000 0"] * 1000


async def test_figures_stay_exact_up_to_the_cap(shard: ScriptedShard) -> None:
    """Lua prints 14 digits by default: 999999999999999 would become 1e+15 and the account
    unreadable.
    """
    await shard.load("org/rich", BALANCE_MAX)
    assert await shard.one("reserve", "r", AMOUNT_MAX, user="org/rich") == (
        f"1 {BALANCE_MAX - AMOUNT_MAX} {AMOUNT_MAX}"
    )
    await shard.one("commit", "r", AMOUNT_MAX - 1, user="org/rich")
    left = BALANCE_MAX - AMOUNT_MAX + 1
    assert await shard.account("org/rich") == (left, 0, 1)
    assert (await shard.events())[0][4] == str(AMOUNT_MAX - 1)
    await shard.load("org/poor", -BALANCE_MAX + 5)
    assert await shard.one("commit", "p", 6, user="org/poor") == "-3 balance"
    assert await shard.one("commit", "p", 5, user="org/poor") == f"3 {-BALANCE_MAX} 0 5"


@pytest.mark.parametrize("record", ["nan 0 1", "1e3 0 1", "100", "100 0", "", "1" * 60 + " 0 1"])
async def test_a_damaged_account_is_refused_and_left_alone(
    shard: ScriptedShard, record: str
) -> None:
    await shard.redis.hset(shard.keys.accounts, "org/u", record)
    await shard.load("org/v", 1000)
    assert (await shard.batch(op("charge", "a", 1), op("charge", "b", 1, user="org/v"))) == [
        "-3 account",
        "1 999 0",
    ]
    assert await shard.redis.hget(shard.keys.accounts, "org/u") == record.encode()


@pytest.mark.parametrize("record", ["", "x", "nan\torg/u\t0\t\t"])
async def test_a_damaged_hold_is_refused(shard: ScriptedShard, record: str) -> None:
    await shard.redis.hset(shard.keys.holds, "org/r", record)
    assert await shard.one("commit", "r", 1) == "-3 record"


@pytest.mark.parametrize(
    "name", ["accounts", "holds", "deadlines", "outcomes", "outcomes_old", "meta", "events"]
)
@pytest.mark.parametrize(
    "operations",
    [
        [op("reserve", "n", 10)],
        [op("charge", "n", 10)],
        [op("commit", "r", 10)],
        [op("release", "r")],
        [op("touch", "r", 5), op("reserve", "n", 10), op("commit", "r", 7), op("charge", "m", 1)],
    ],
    ids=["reserve", "charge", "commit", "release", "mixed"],
)
async def test_a_key_of_the_wrong_type_leaves_no_half_done_step(
    shard: ScriptedShard, name: str, operations: list[list[Any]]
) -> None:
    """A Lua error does not roll back: what can fail must fail before the first write."""
    await shard.one("reserve", "r", 300)
    key = getattr(shard.keys, name)
    others = {
        other: getattr(shard.keys, other)
        for other in ("accounts", "holds", "deadlines", "outcomes", "meta", "events")
        if other != name
    }
    await shard.redis.delete(key)
    await shard.redis.set(key, "of the wrong type")
    before = {other: await shard.redis.dump(at) for other, at in others.items()}
    if not needs(operations, name):
        await shard.batch(*operations)  # what a batch does not need may be broken
        return
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await shard.batch(*operations)
    assert {other: await shard.redis.dump(at) for other, at in others.items()} == before


def needs(operations: list[list[Any]], name: str) -> bool:
    """Whether a batch on a shard where only `r` is held has to read or write that key."""
    if name == "events":
        return any(operation[0] in ("charge", "commit") for operation in operations)
    if name == "outcomes_old":
        return any(operation[2] != "org/r" for operation in operations)
    return True


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        (("org/u", 2, "nan"), "-3 delta"),
        (("org/u", 2, "1.5"), "-3 delta"),
        (("org/u", 2, "--5"), "-3 delta"),
        (("org/u", 2, "-"), "-3 delta"),
        (("org/u", "0", 5), "-3 n"),
        (("org/u", "x", 5), "-3 n"),
        (("org/u", 2, BALANCE_MAX), "-3 balance"),
    ],
)
async def test_apply_refuses_what_is_no_entry(
    shard: ScriptedShard, entry: tuple[str, object, object], answer: str
) -> None:
    before = await shard.state()
    assert await shard.apply(entry) == [answer]
    assert await shard.state() == before


@pytest.mark.parametrize(
    ("account", "available", "field"),
    [
        ("org", "1", "account"),
        ("/u", "1", "account"),
        ("org/a\tb", "1", "account"),
        ("org/v", "1e3", "available"),
    ],
)
async def test_load_refuses_what_is_no_account(
    shard: ScriptedShard, account: str, available: str, field: str
) -> None:
    reply = await shard.load(account, available)  # type: ignore[arg-type]
    assert reply == f"-3 {field}"
    assert await shard.redis.hlen(shard.keys.accounts) == 1


@pytest.mark.parametrize("kind", ["charge", "commit"])
@pytest.mark.parametrize("request_id", ["a\tb", "a\nb", "\x7f", "a/b", "a b", "x" * 129])
async def test_nothing_is_charged_under_an_id_that_the_ledger_cannot_read(
    shard: ScriptedShard, kind: str, request_id: str
) -> None:
    """It was answered OK, and set aside by the settler: credits gone, and nothing in the books."""
    before = await shard.state()
    assert await shard.one(kind, request_id, 1) == "-3 key"
    assert await shard.state() == before


async def test_a_hold_of_a_move_is_kept_under_a_key_that_no_request_can_have(
    shard: ScriptedShard,
) -> None:
    assert await shard.one("reserve", "move/1f", 5) == "1 995 5"
    assert await shard.one("release", "move/1f") == "1 1000 0"


async def test_a_hold_at_the_cap_can_be_ended_in_every_way(shard: ScriptedShard) -> None:
    """Credits that come while a hold is open must not leave it without room to be given back."""
    await shard.load("org/rich", BALANCE_MAX)
    for request in ("a", "b", "c"):
        await shard.one("reserve", request, AMOUNT_MAX, user="org/rich")
    assert await shard.apply(("org/rich", 2, 1)) == ["-3 balance"]
    assert await shard.apply(("org/rich", 2, -7)) == ["1 2"]
    assert await shard.apply(("org/rich", 3, 7)) == ["1 3"]
    assert (await shard.one("release", "a", user="org/rich")).startswith("1 ")
    assert (await shard.one("commit", "b", 0, user="org/rich")).startswith("1 ")
    await shard.overdue("c")
    assert (await shard.sweep())[0] == 1
    assert await shard.account("org/rich") == (BALANCE_MAX, 0, 3)


async def test_holds_that_an_earlier_release_left_above_the_cap_can_be_ended(
    shard: ScriptedShard,
) -> None:
    await shard.one("reserve", "a", 100)
    await shard.one("reserve", "b", 100)
    await shard.redis.hset(shard.keys.accounts, "org/u", f"{BALANCE_MAX} 200 1")
    assert await shard.one("release", "a") == f"1 {BALANCE_MAX + 100} 100"
    assert await shard.one("commit", "b", 30) == f"1 {BALANCE_MAX + 170} 0"
    assert await shard.account() == (BALANCE_MAX + 170, 0, 1)


async def test_a_sweep_takes_no_balance_below_its_limit(shard: ScriptedShard) -> None:
    """What does not fit is not charged, and counted."""
    await shard.one("reserve", "a", 10)
    await shard.one("touch", "a", 50)
    await shard.redis.hset(shard.keys.accounts, "org/u", f"{-BALANCE_MAX} 10 1")
    await shard.overdue("a")
    assert await shard.sweep_fully() == [1, 1, 0, 1, 40]
    assert await shard.account() == (-BALANCE_MAX, 0, 1)
    assert [event[4] for event in await shard.events()] == ["10"]


COMPLETE = {
    "admit": (["meta"], ["1", "5", "9"]),
    "apply": (
        ["accounts", "meta", "holds", "deadlines", "outcomes", "open_holds"],
        ["1", "org/u", "2", "5", ""],
    ),
    "approve": (["meta"], ["1", "run"]),
    "arrive": (
        ["accounts", "holds", "deadlines", "outcomes", "meta", "open_holds"],
        ["1", "org", "account", "org/v", "5", "1", ""],
    ),
    "barrier": (["meta"], []),
    "complete": (["meta"], ["1", "1", "5", "1"]),
    "depart": (["accounts", "meta"], ["1", "org", "", "0", ""]),
    "drain": (["meta"], ["1", "0"]),
    "fence": (["meta"], ["why"]),
    "limit": (["limit"], ["1", "1000"]),
    "load": (["accounts", "meta"], ["1", "org/v", "5", "1"]),
    "permissions": (["meta"], []),
    "recount": (["holds", "meta", "open_holds"], ["1", "5"]),
    "report": (["meta"], ["1", "5", "4"]),
    "rotate": (["outcomes", "outcomes_old", "meta"], ["1", "1000"]),
    "snapshot": (["accounts", "holds", "deadlines", "meta", "open_holds"], ["1", "0"]),
    "sweep": (
        ["accounts", "holds", "deadlines", "outcomes", "meta", "events", "open_holds"],
        ["1", "1"],
    ),
    "note_postgres": (["meta"], ["1", "a/1 1 1"]),
} | {
    name: (
        [
            *("accounts", "holds", "deadlines", "outcomes", "outcomes_old", "meta", "events"),
            "open_holds",
        ],
        arguments,
    )
    for name, arguments in (
        ("open", ["2", "1", "run", "", "1", "0"]),
        ("operate", ["1", "charge", "org/u", "org/r", "1", "0", "", ""]),
        ("resolve", ["1", "release", "org/u", "org/r", "0", "0", "", ""]),
    )
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_missing_keys_and_arguments_are_refused_in_words(
    shard: ScriptedShard, name: str
) -> None:
    """Not with an error of Lua, which tells a line number of ours and nothing of the caller's."""
    keys, arguments = COMPLETE[name]
    keys = [getattr(shard.keys, key, f"tm:{key}") for key in keys]
    before = await shard.state()
    for given in range(len(keys)):
        with pytest.raises(ResponseError, match=r"^MALFORMED"):
            await load_script(name).call(shard.redis, keys[:given], arguments)
    for given in range(len(arguments)):
        with pytest.raises(ResponseError, match=r"^MALFORMED"):
            await load_script(name).call(shard.redis, keys, arguments[:given])
    with pytest.raises(ResponseError, match=r"^MALFORMED"):
        await load_script(name).call(shard.redis, [], [])
    assert await shard.state() == before

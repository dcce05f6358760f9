"""What one operation does to a shard: the life of a hold, replays, conflicts and refusals."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError
from support.shard import ScriptedShard, op, text

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.scripts import load_script

PAYLOAD = '{"type":"llm_inference","name":"m","meta":{}}'


async def test_reserve_moves_available_to_held(shard: ScriptedShard) -> None:
    assert await shard.one("reserve", "r", 300) == "1 700 300"
    assert await shard.account() == (700, 300, 1)
    assert await shard.events() == []
    assert await shard.redis.zcard(shard.keys.deadlines) == 1


@pytest.mark.parametrize("kind", ["reserve", "charge"])
async def test_the_last_millicredit_can_be_spent_and_not_one_more(
    shard: ScriptedShard, kind: str
) -> None:
    assert await shard.one(kind, "r1", 1001) == "-1 1000 0"
    assert (await shard.one(kind, "r2", 1000)).startswith("1 0 ")
    assert (await shard.one(kind, "r3", 1)).startswith("-1 0 ")


async def test_commit_below_the_hold_gives_the_rest_back(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    assert await shard.one("commit", "r", 120, payload=PAYLOAD) == "1 880 0"
    assert await shard.account() == (880, 0, 1)
    assert await shard.events() == [["1-1", "commit", "org/u", "org/r", "120", "300", "-", PAYLOAD]]
    assert await shard.redis.zcard(shard.keys.deadlines) == 0
    assert await shard.redis.hlen(shard.keys.holds) == 0


async def test_commit_above_the_hold_applies_the_actual_amount(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 900)
    assert await shard.one("commit", "r", 1500) == "1 -500 0"
    assert await shard.one("reserve", "s", 0) == "-1 -500 0", "a negative balance admits nothing"
    assert await shard.one("reserve", "s", 1) == "-1 -500 0"


async def test_release_gives_everything_back_without_an_event(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    assert await shard.one("release", "r") == "1 1000 0"
    assert await shard.events() == []


async def test_charge_is_reserve_and_commit_in_one(shard: ScriptedShard) -> None:
    assert await shard.one("charge", "r", 1000, payload=PAYLOAD) == "1 0 0"
    assert (await shard.events())[0][1:] == ["charge", "org/u", "org/r", "1000", "0", "-", PAYLOAD]
    assert await shard.one("charge", "s", 1) == "-1 0 0"


async def test_a_free_request_is_an_event_too(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 0)
    assert await shard.one("commit", "r", 0) == "1 1000 0"
    assert len(await shard.events()) == 1


@pytest.mark.parametrize(
    ("kind", "amount", "answer"),
    [
        ("reserve", 300, "2 700 300 open 300 0"),
        ("commit", 120, "2 880 0 committed 300 120"),
        ("release", 0, "2 1000 0 released 300 0"),
        ("charge", 50, "2 950 0 charged 0 50"),
    ],
)
async def test_a_replay_changes_nothing_and_says_so(
    shard: ScriptedShard, kind: str, amount: int, answer: str
) -> None:
    if kind in ("commit", "release"):
        await shard.one("reserve", "r", 300)
    assert (await shard.one(kind, "r", amount, owner="first")).startswith("1 ")
    before = await shard.state()
    assert await shard.one(kind, "r", amount, owner="second") == answer
    assert await shard.state() == before


async def test_the_owner_of_a_reserve_may_repeat_it_after_a_lost_reply(
    shard: ScriptedShard,
) -> None:
    await shard.one("reserve", "r", 300, owner="mine")
    before = await shard.state()
    assert await shard.one("reserve", "r", 300, owner="mine") == "1 700 300"
    assert await shard.state() == before


@pytest.mark.parametrize("owner", ["mine", "mineOKey7", "OKey7"])
async def test_who_opened_a_hold_is_kept_with_it(shard: ScriptedShard, owner: str) -> None:
    await shard.redis.hset(shard.keys.meta, "start", 12)
    await shard.one("reserve", "r", 300, owner=owner, payload=PAYLOAD)
    await shard.one("touch", "r", 70, owner="aOOther")
    assert await shard.one("reserve", "r", 300, owner=owner) == "1 700 300"
    assert await shard.one("reserve", "r", 300, owner="xO9") == "2 700 300 open 300 0"
    hold = HoldRecord.parse(await shard.redis.hget(shard.keys.holds, "org/r"))
    call, _, opener = owner.partition("O")
    assert hold == HoldRecord(300, "org/u", 70, 12, call, opener, PAYLOAD)


async def test_a_hold_of_an_earlier_release_is_read_and_gets_a_start(shard: ScriptedShard) -> None:
    """A release is replaced process by process: what the old one opened, the new one ends."""
    await shard.redis.hset(shard.keys.meta, "start", 3)
    for request in ("a", "b", "c"):
        await shard.one("reserve", request, 100, owner="0ab12")
        old = f"100\torg/u\t7\t0ab12\t{PAYLOAD}"
        await shard.redis.hset(shard.keys.holds, f"org/{request}", old)
    assert await shard.one("reserve", "a", 100, owner="0ab12") == "1 700 300"
    assert await shard.one("reserve", "a", 100, owner="0") == "2 700 300 open 100 0"
    await shard.one("touch", "a", 5)
    touched = HoldRecord.parse(await shard.redis.hget(shard.keys.holds, "org/a"))
    assert touched == HoldRecord(100, "org/u", 7, 3, "0ab12", "", PAYLOAD)
    assert await shard.one("commit", "a", 20) == "1 780 200"
    assert await shard.one("release", "b") == "1 880 100"
    assert await shard.one("commit", "c", 30) == "1 950 0"
    assert [event[7] for event in await shard.events()] == [PAYLOAD, PAYLOAD]


async def test_a_reserve_after_the_end_never_opens_again(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300, owner="mine")
    await shard.one("commit", "r", 10)
    assert await shard.one("reserve", "r", 300, owner="mine") == "2 990 0 committed 300 10"
    assert await shard.redis.hlen(shard.keys.holds) == 0


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (op("reserve", "r", 300), op("reserve", "r", 301), "open 300 0"),
        (op("reserve", "r", 300), op("charge", "r", 300), "open 300 0"),
        (op("reserve", "r", 300), op("reserve", "r", 300, user="org/v"), "foreign 0 0"),
        (op("reserve", "r", 300), op("commit", "r", 1, user="org/v"), "foreign 0 0"),
        (op("reserve", "r", 300), op("release", "r", user="org/v"), "foreign 0 0"),
        (op("reserve", "r", 300), op("touch", "r", 1, user="org/v"), "foreign 0 0"),
        (op("charge", "r", 300), op("charge", "r", 299), "charged 0 300"),
        (op("charge", "r", 300), op("reserve", "r", 300), "charged 0 300"),
        (op("charge", "r", 0), op("reserve", "r", 0), "charged 0 0"),
        (op("charge", "r", 300), op("commit", "r", 300), "charged 0 300"),
        (op("charge", "r", 300), op("release", "r"), "charged 0 300"),
        (op("charge", "r", 300), op("touch", "r"), "charged 0 300"),
    ],
)
async def test_other_parameters_under_a_known_id_are_a_conflict(
    shard: ScriptedShard, first: list[object], second: list[object], state: str
) -> None:
    await shard.load("org/v", 1000)
    assert (await shard.batch(first))[0].startswith("1 ")
    before = await shard.state()
    reply = (await shard.batch(second))[0]
    assert reply.startswith("-4 ")
    assert reply.endswith(state)
    assert await shard.state() == before


async def test_a_hold_ends_once(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    await shard.one("release", "r")
    before = await shard.state()
    assert (await shard.one("commit", "r", 5)).startswith("-4 ")
    await shard.one("reserve", "s", 300)
    await shard.one("commit", "s", 300)
    assert (await shard.one("release", "s")).startswith("-4 ")
    assert (await shard.one("commit", "s", 299)).startswith("-4 ")
    assert len(await shard.events()) == 1
    assert before["accounts"] == {b"org/u": b"1000 0 1"}


async def test_ids_are_scoped_by_organisation(shard: ScriptedShard) -> None:
    await shard.load("other/u", 1000)
    assert await shard.one("reserve", "r", 300) == "1 700 300"
    assert await shard.one("reserve", "r", 300, user="other/u") == "1 700 300"


async def test_late_commit_of_a_lost_hold_is_charged_once(shard: ScriptedShard) -> None:
    assert await shard.one("commit", "gone", 40) == "3 960 0 40"
    assert await shard.one("commit", "gone", 40) == "2 960 0 committed 0 40"
    assert [event[6] for event in await shard.events()] == ["late"]


async def test_touch_moves_the_deadline_and_keeps_the_largest_progress(
    shard: ScriptedShard,
) -> None:
    await shard.one("reserve", "r", 300, ttl_ms=1000, payload=PAYLOAD)
    first = await shard.redis.zscore(shard.keys.deadlines, "org/r")
    assert await shard.one("touch", "r", 70, ttl_ms=90_000) == "1 700 300"
    assert await shard.one("touch", "r", 20, ttl_ms=90_000) == "1 700 300"
    later = await shard.redis.zscore(shard.keys.deadlines, "org/r")
    assert later > first + 80_000
    hold = (await shard.redis.hget(shard.keys.holds, "org/r")).decode()
    assert hold == f"300\torg/u\t70\t1S\t{PAYLOAD}"
    assert await shard.one("touch", "nobody") == "-5 700 300"
    assert await shard.one("release", "nobody") == "-5 700 300"


async def test_one_batch_is_decided_in_order(shard: ScriptedShard) -> None:
    """Later operations of a batch see the earlier ones: an account cannot be overspent within one
    call.
    """
    replies = await shard.batch(
        op("reserve", "a", 600),
        op("reserve", "b", 600),
        op("commit", "a", 100),
        op("reserve", "b", 600),
        op("commit", "a", 100),
        op("charge", "c", 200),
        op("release", "b"),
        op("reserve", "a", 600),
    )
    assert replies == [
        "1 400 600",
        "-1 400 600",
        "1 900 0",
        "1 300 600",
        "2 300 600 committed 600 100",
        "1 100 600",
        "1 700 0",
        "2 700 0 committed 600 100",
    ]
    assert await shard.account() == (700, 0, 1)
    assert await shard.redis.hlen(shard.keys.holds) == 0
    assert await shard.redis.zcard(shard.keys.deadlines) == 0
    assert [(event[0], event[3], event[4]) for event in await shard.events()] == [
        ("1-2", "org/a", "100"),
        ("1-2", "org/c", "200"),
    ]


async def test_seq_is_contiguous_and_names_the_entry(shard: ScriptedShard) -> None:
    for size in (1, 3, 2):
        await shard.batch(*[op("charge", f"r{size}{i}", 1) for i in range(size)])
    entries = [entry_id for entry_id, _ in await shard.redis.xrange(shard.keys.events)]
    assert entries == [b"1-1", b"1-4", b"1-6"]
    assert await shard.redis.hget(shard.keys.meta, "seq") == b"6"


async def test_an_account_that_is_not_there_is_not_an_empty_one(shard: ScriptedShard) -> None:
    for kind in ("reserve", "charge", "commit", "release", "touch"):
        assert await shard.one(kind, "r", 1, user="org/nobody") == "-2"
    assert await shard.redis.hget(shard.keys.accounts, "org/nobody") is None


async def test_resolve_takes_no_credit(shard: ScriptedShard) -> None:
    await shard.one("reserve", "r", 300)
    before = await shard.state()
    assert await shard.one("reserve", "s", 1, script="resolve") == "-7 memory"
    assert await shard.one("charge", "s", 1, script="resolve") == "-7 memory"
    assert await shard.state() == before
    assert await shard.one("touch", "r", 1, script="resolve") == "1 700 300"
    assert await shard.one("commit", "r", 1, script="resolve") == "1 999 0"


async def test_a_voided_reserve_is_given_back_and_its_late_copy_finds_that(
    shard: ScriptedShard,
) -> None:
    """To others the id is unused: whoever was told nothing may try again under it."""
    await shard.one("reserve", "r", 300, owner="a")
    assert await shard.one("void", "r", 300, owner="b") == "-4 700 300 open 300 0"
    assert await shard.one("void", "r", 300, owner="a") == "1 1000 0"
    assert await shard.one("reserve", "r", 300, owner="a") == "2 1000 0 voided 300 0"
    assert await shard.one("void", "r", 300, owner="a") == "1 1000 0"
    assert await shard.one("release", "r") == "-5 1000 0"
    assert await shard.one("touch", "r", 1) == "-5 1000 0"
    assert await shard.one("reserve", "r", 200, owner="b") == "1 800 200"
    assert await shard.one("void", "r", 300, owner="a") == "-4 800 200 open 200 0"
    assert await shard.one("commit", "r", 50) == "1 950 0"
    assert await shard.one("void", "r", 200, owner="b") == "2 950 0 committed 200 50"
    assert await shard.one("reserve", "r", 300, owner="a") == "-4 950 0 committed 200 50"


async def test_a_charge_knows_the_call_that_made_it(shard: ScriptedShard) -> None:
    """Its own repeat is told OK, anybody else's that it is one; whose it is stays as it was."""
    assert await shard.one("charge", "r", 40, owner="a1") == "1 960 0"
    assert await shard.one("charge", "r", 40, owner="a1") == "1 960 0"
    assert await shard.one("charge", "r", 40, owner="a2") == "2 960 0 charged 0 40"
    assert await shard.one("charge", "r", 40) == "2 960 0 charged 0 40"
    assert await shard.one("charge", "r", 41, owner="a1") == "-4 960 0 charged 0 40"
    assert await shard.one("commit", "r", 40, owner="a1") == "-4 960 0 charged 0 40"
    await shard.load("org/other", 1000)
    foreign = await shard.one("charge", "r", 40, user="org/other", owner="a1")
    assert foreign == "-4 1000 0 foreign 0 0"
    # None of these is the mark of a call.
    for number, owner in enumerate(("", "a\tb", "a b", "Ok", "a" * 66)):
        await shard.one("charge", f"plain{number}", 1, owner=owner)
        assert (await shard.one("charge", f"plain{number}", 1, owner=owner)).startswith("2 ")
        stored = await shard.redis.hget(shard.keys.outcomes, f"org/plain{number}")
        assert stored == b"charged 0 1 org/u"


async def test_what_one_batch_voids_and_reserves_anew_is_held(shard: ScriptedShard) -> None:
    """Who comes again at once has a hold like any other: its credits return when it ends."""
    await shard.one("reserve", "r", 300, owner="a")
    answers = await shard.batch(
        op("void", "r", 300, owner="a"),
        op("reserve", "r", 200, owner="b"),
        op("void", "unused", 10, owner="a"),
        op("reserve", "unused", 50, owner="b"),
        op("reserve", "twice", 30, owner="a"),
        op("void", "twice", 30, owner="a"),
        op("reserve", "twice", 40, owner="b"),
        op("release", "twice"),
    )
    assert answers[-1] == "1 750 250"
    assert {text(key) for key in (await shard.state())["holds"]} == {"org/r", "org/unused"}
    assert await shard.one("release", "r") == "1 950 50"
    await shard.overdue("unused")
    assert (await shard.sweep_fully())[:2] == [1, 0]
    assert await shard.account() == (1000, 0, 1)


async def test_a_copy_that_is_later_than_anything_is_remembered_costs_nothing(
    shard: ScriptedShard,
) -> None:
    """Nobody knows any more that its reserve was given back: it holds credits until its deadline,
    and nobody reports on it.
    """
    await shard.one("reserve", "r", 300, owner="a")
    await shard.one("void", "r", 300, owner="a")
    for _ in range(2):
        await shard.redis.hset(shard.keys.meta, "rotated_ms", 0)
        assert await shard.rotate() == 1
    assert await shard.one("reserve", "r", 300, owner="a") == "1 700 300"
    await shard.overdue("r")
    assert (await shard.sweep_fully())[:2] == [1, 0]
    assert await shard.account() == (1000, 0, 1)
    assert await shard.events() == []


async def test_a_void_comes_before_what_it_is_about(shard: ScriptedShard) -> None:
    for owner in ("a", "b"):
        assert await shard.one("void", "r", 300, owner=owner) == "1 1000 0"
    await shard.redis.hset(shard.keys.meta, "rotated_ms", 0)
    assert await shard.rotate() == 1
    for owner in ("a", "b"):
        assert await shard.one("reserve", "r", 300, owner=owner) == "2 1000 0 voided 300 0"
    assert await shard.one("void", "r", 300) == "-3 owner"
    assert await shard.one("commit", "r", 40) == "3 960 0 40", "what was done is charged"
    assert await shard.one("void", "s", 1, owner="a") == "1 960 0"
    assert await shard.one("charge", "s", 60) == "1 900 0"


async def test_a_hold_kept_elsewhere_expires_here_and_its_commit_adds_the_rest(
    shard: ScriptedShard,
) -> None:
    await shard.one("reserve", "r", 300)
    assert await shard.one("expire", "r", 40) == "1 960 0"
    assert await shard.one("expire", "r", 40) == "2 960 0 expired 300 40"
    assert await shard.one("commit", "r", 100) == "3 900 0 100"
    assert await shard.one("expire", "never", 40) == "1 860 0"
    assert await shard.one("commit", "never", 30) == "3 860 0 40"
    assert await shard.one("expire", "idle", 0) == "1 860 0"
    assert [(event[1], event[4], event[6]) for event in await shard.events()] == [
        ("expire", "40", "-"),
        ("commit", "60", "rest"),
        ("expire", "40", "-"),
    ]


async def test_every_call_that_changes_something_is_counted(shard: ScriptedShard) -> None:
    for number, operation in enumerate(
        (op("reserve", "a", 10), op("touch", "a", 1), op("commit", "a", 5), op("charge", "b", 1)),
        start=1,
    ):
        await shard.batch(operation)
        assert shard.writes == str(number)
    await shard.batch(op("charge", "b", 1), op("release", "nothing"), op("reserve", "c", 10**9))
    assert shard.writes == "4", "nothing has changed"
    assert await shard.redis.hget(shard.keys.meta, "writes") == b"4"


async def test_what_a_client_misses_is_on_record(shard: ScriptedShard) -> None:
    report = load_script("report")

    async def missed(told: object, found: object) -> str:
        return text(await report.call(shard.redis, [shard.keys.meta], [1, told, found]))

    assert await missed(12, 10) == "2"
    assert await missed(15, 10) == "5"
    assert await missed(11, 10) == "5"
    assert await shard.redis.hget(shard.keys.meta, "missing") == b"5"
    for told, found in ((10, 10), (9, 10), ("x", 1), (2, "")):
        with pytest.raises(ResponseError, match="MALFORMED"):
            await missed(told, found)

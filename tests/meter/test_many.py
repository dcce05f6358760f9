"""Many charges or reserves of one caller: each is told what it would be told alone, whatever
happens to the connection, the queue or the caller.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support.credit import LINE, Books
from support.proxy import Proxy
from support.shard import ScriptedShard
from support.waiting import eventually

from taximeter.meter import (
    MANY_MAX,
    AccountNotFound,
    Charge,
    Hold,
    InsufficientCredits,
    InvalidRequest,
    LoadedAccount,
    Meter,
    OutcomeUnknown,
    Overloaded,
    Receipt,
    RequestConflict,
    RequestReplayed,
    Reserve,
    StoreError,
    Usage,
)
from taximeter.meter.lanes import shard as lanes_of_a_shard
from taximeter.meter.lanes.pending import PendingOfGroup
from taximeter.meter.wire.operations import Operation


async def test_each_charge_has_an_outcome_of_its_own(meter: Meter, shard: ScriptedShard) -> None:
    usage = Usage(service_name="gpt-4o", metadata={"team": "a"})
    told = await meter.charge_many(
        [
            Charge("org", "u", 300, "a", usage),
            Charge("org", "u", 300, "a", usage),
            Charge("org", "u", -1, "b"),
            ("org", "u", 701, "c", None),
            Charge("org", "nobody", 1),
            Charge("org", "u", 5, "a"),
            Charge("org", "u", 700, "no such id: blanks"),
            Charge("org", "u", 700),
        ]
    )
    first, again, negative, too_much, nobody, other, blanks, last = told
    assert first == Receipt("a", "charged", 0, 300, 700, 0)
    assert isinstance(again, Receipt)
    assert (again.replayed, again.charged) == (True, 300)
    assert isinstance(negative, InvalidRequest)
    assert negative.field == "amount"
    assert isinstance(too_much, InsufficientCredits)
    assert (too_much.need, too_much.have) == (701, 700)
    assert isinstance(nobody, AccountNotFound)
    assert isinstance(other, RequestConflict)
    assert isinstance(blanks, InvalidRequest)
    assert isinstance(last, Receipt)
    assert (last.charged, last.available, len(last.request_id)) == (700, 0, 32)
    assert await shard.account() == (0, 0, 1)
    first_event, last_event = await shard.events()
    assert (first_event[3], first_event[7]) == ("org/a", usage.payload())
    assert last_event[3] == f"org/{last.request_id}"
    assert await meter.charge_many([]) == []


async def test_holds_of_many_are_holds(meter: Meter, shard: ScriptedShard) -> None:
    told = await meter.reserve_many(
        [
            Reserve("org", "u", 600, "a"),
            Reserve("org", "u", 600, "b", ttl_s=0.0),
            ("org", "u", 600, "c", 60.0, None, ""),
            Reserve("org", "u", 600, "a"),
            Reserve("org", "u", 400, opener="key1"),
        ]
    )
    first, no_time, too_much, again, last = told
    assert isinstance(first, Hold)
    assert (first.org_id, first.user_id, first.request_id) == ("org", "u", "a")
    assert (first.amount, first.available, first.held) == (600, 400, 600)
    assert isinstance(no_time, InvalidRequest)
    assert isinstance(too_much, InsufficientCredits)
    assert too_much.only_holds_in_the_way
    assert isinstance(again, RequestReplayed)
    assert isinstance(last, Hold)
    async with first:
        first.spent(250)
    await last.release()
    assert await shard.account() == (750, 0, 1)


@pytest.mark.parametrize(
    ("many", "field"),
    [
        ([Charge("org", "u", 1), ("org", "u", 1)], "charges[1]"),
        ([7], "charges[0]"),
        ([Charge("org", "u", 1)] * (MANY_MAX + 1), "charges"),
        (itertools.repeat(Charge("org", "u", 1)), "charges"),
    ],
    ids=["too short", "a number", "too many", "without an end"],
)
async def test_what_is_no_list_of_charges_does_nothing(
    meter: Meter, shard: ScriptedShard, many: Any, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await meter.charge_many(many)
    assert refused.value.field == field
    assert await shard.account() == (1000, 0, 1)
    with pytest.raises(InvalidRequest, match=r"reserves\[0\]"):
        await meter.reserve_many([("org", "u", 1)])  # type: ignore[list-item]


def some_operations(dice: random.Random) -> Iterator[tuple[bool, int, str]]:
    """Whether to charge or to reserve, how much, and an id that may have been used."""
    while True:
        yield dice.random() < 0.6, dice.randint(0, 60), f"r{dice.randint(0, 40)}"


def told_in_words(told: object) -> str:
    if isinstance(told, Hold):
        return f"hold {told.request_id} {told.amount} {told.available} {told.held}"
    return str(told) if isinstance(told, Receipt) else f"{type(told).__name__} {told}"


async def test_together_is_as_alone(meter: Meter, shard: ScriptedShard) -> None:
    """The same operations in the same order on two accounts that have the same."""
    await shard.load("alone/u", 1000)
    await shard.load("together/u", 1000)
    drawn = list(itertools.islice(some_operations(random.Random(4)), 120))
    alone: list[str] = []
    for is_charge, amount, request_id in drawn:
        ask = meter.charge if is_charge else meter.reserve
        [told] = await asyncio.gather(
            ask("alone", "u", amount, request_id=request_id),  # type: ignore[operator]
            return_exceptions=True,
        )
        alone.append(told_in_words(told))
    together: list[str] = []
    for is_charge, group in itertools.groupby(drawn, key=lambda one: one[0]):
        some = [("together", "u", amount, request_id) for _, amount, request_id in group]
        told = await (
            meter.charge_many([Charge(*one) for one in some])
            if is_charge
            else meter.reserve_many([Reserve(*one) for one in some])  # type: ignore[arg-type]
        )
        together += map(told_in_words, told)
    assert together == alone
    kinds = Counter(words.partition(" ")[0] for words in alone)
    assert {"hold", "RequestReplayed", "RequestConflict", "InsufficientCredits"} <= set(kinds)


async def test_resets_charge_everything_once(
    connect: Any, shard: ScriptedShard, redis_url: str
) -> None:
    """Replies that are lost, some before and some after they were done: each is asked again under
    its own id, and told for itself.
    """
    await shard.load("acme/u", 10_000)
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(
            proxy.url, take_timeout_s=50.0, resolve_timeout_s=50.0, batch_max=20
        )
        chance = random.Random(3)
        proxy.slice(60)
        proxy.reset_by_count(chance.randint(3, 9) for _ in itertools.count())
        for number in range(8):
            ids = [f"r{number}-{place}" for place in range(60)]
            told = await meter.charge_many([Charge("acme", "u", 1, name) for name in ids])
            assert [isinstance(one, Receipt) and one.request_id for one in told] == ids
            assert {one.charged for one in told if isinstance(one, Receipt)} == {1}
        assert proxy.resets >= 5
        proxy.heal()
    names = [event[3] for event in await shard.events()]
    assert len(names) == len(set(names)) == 8 * 60
    assert await shard.account("acme/u") == (10_000 - 8 * 60, 0, 1)


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
async def test_what_is_not_known_is_told_for_each_and_holds_are_given_back(
    connect: Any,
    shard: ScriptedShard,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    leaves: bool,
) -> None:
    """They were made, their reply is lost, and their time is over; or that of some is, and the
    caller leaves while others are asked for again.
    """
    waiting: list[PendingOfGroup] = []

    def made(*arguments: Any) -> PendingOfGroup:
        waiting.append(PendingOfGroup(*arguments))
        return waiting[-1]

    monkeypatch.setattr(lanes_of_a_shard, "PendingOfGroup", made)
    async with Proxy(redis_url) as proxy:
        meter: Meter = await connect(
            proxy.url, take_timeout_s=60.0, call_timeout_s=60.0, lanes_per_server=1
        )
        await meter.charge("org", "u", 1)  # The lane has its connection.
        proxy.silence(True)
        reserving = asyncio.create_task(meter.reserve_many([Reserve("org", "u", 10)] * 3))

        async def are_held() -> bool:
            return await shard.account() == (969, 30, 1)

        await eventually(are_held)
        over = waiting[: 2 if leaves else 3]
        for one in over:
            one.deadline = 0.0
        proxy.reset_all()

        async def are_told() -> bool:
            return all(one.is_told for one in over)

        await eventually(are_told)
        if leaves:
            reserving.cancel()
            await asyncio.gather(reserving, return_exceptions=True)
        else:
            assert [type(one) for one in await reserving] == [OutcomeUnknown] * 3
        proxy.silence(False)
        proxy.reset_all()

        async def are_given_back() -> bool:
            return await shard.account() == (999, 0, 1)

        await eventually(are_given_back)
        await meter.aclose()
    assert await shard.redis.hlen(shard.keys.holds) == 0


async def test_a_cancelled_caller_leaves_no_hold_and_every_charge(
    meter: Meter, shard: ScriptedShard
) -> None:
    """Whenever he leaves: before it was sent, while it is under way, when the replies are there."""
    for turns in range(10):
        charging = asyncio.create_task(
            meter.charge_many([Charge("org", "u", 1, f"c{turns}-{place}") for place in range(5)])
        )
        holding = asyncio.create_task(meter.reserve_many([Reserve("org", "u", 3)] * 5))
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in (charging, holding):
            task.cancel()
        told = await asyncio.gather(charging, holding, return_exceptions=True)
        if isinstance(told[1], list):  # They were told before.
            for hold in told[1]:
                await hold.release()
    await meter.aclose()
    # One who leaves before anything was sent has asked for nothing.
    names = {event[3].partition("-")[0] for event in await shard.events()}
    assert names == {f"org/c{turns}" for turns in range(1, 10)}
    assert await shard.redis.hlen(shard.keys.holds) == 0
    assert await shard.account() == (1000 - 9 * 5, 0, 1)


async def test_a_missing_account_is_loaded_once_for_all_of_them(
    connect: Any, shard: ScriptedShard
) -> None:
    asked: list[str] = []

    async def loader(org_id: str, user_id: str) -> LoadedAccount:
        asked.append(user_id)
        return LoadedAccount(10, 1)

    meter: Meter = await connect(loader=loader)
    wanted = [Charge("org", f"new{number % 2}", 3) for number in range(10)]
    told = await meter.charge_many(wanted)
    kinds = Counter(type(one) for one in told)
    assert kinds == {Receipt: 6, InsufficientCredits: 4}
    assert sorted(asked) == ["new0", "new1"]


async def test_who_leaves_while_some_are_loaded_leaves_no_hold_and_every_charge(
    connect: Any, shard: ScriptedShard
) -> None:
    """Some have their reply then, and others a reply that says nothing yet."""
    asked, loaded = asyncio.Event(), asyncio.Event()

    async def loader(org_id: str, user_id: str) -> LoadedAccount:
        asked.set()
        await loaded.wait()
        return LoadedAccount(500, 1)

    meter: Meter = await connect(loader=loader)
    leaving = [
        asyncio.create_task(work)
        for work in (
            meter.reserve_many([Reserve("org", "u", 9), Reserve("org", "new", 9)]),
            meter.charge_many([Charge("org", "u", 2, "a"), Charge("org", "new", 2, "b")]),
        )
    ]
    await asked.wait()

    async def answered() -> bool:
        return await shard.account() == (1000 - 9 - 2, 9, 1)

    await eventually(answered)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    loaded.set()
    await meter.aclose()
    assert await shard.redis.hlen(shard.keys.holds) == 0
    assert await shard.account() == (998, 0, 1)
    assert await shard.account("org/new") == (498, 0, 1)


async def test_those_beyond_a_full_queue_are_told_so(connect: Any, shard: ScriptedShard) -> None:
    meter: Meter = await connect(queue_max=100, batch_max=10, take_timeout_s=30.0)
    told = await meter.charge_many([Charge("org", "u", 1, f"r{n}") for n in range(500)])
    done = [one for one in told if isinstance(one, Receipt)]
    assert all(isinstance(one, Overloaded) for one in told if one not in done)
    assert 100 <= len(done) < 500
    names = {event[3] for event in await shard.events()}
    assert names == {f"org/{one.request_id}" for one in done}


async def test_with_a_credit_line_each_goes_its_own_way(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        told = await meter.charge_many(
            [Charge("org", "u", LINE, "a"), Charge("poor", "u", 1, "b"), Charge("org", "u", 1)]
        )
        assert isinstance(told[0], Receipt)
        assert all(isinstance(one, StoreError) for one in told[1:])
        [held] = await meter.reserve_many([Reserve("org", "u", 1)])
        assert isinstance(held, StoreError)
        await books.back()
        await books.all_charged("a")


async def test_what_was_checked_before_keeps_its_order(meter: Meter, shard: ScriptedShard) -> None:
    """As the sidecar sends a batch: of any kind, and those of one account one after the other."""
    hold = await meter.reserve("org", "u", 500, request_id="open")
    told = await meter.run_many(
        [
            Operation("charge", "org/u", "org/first", 501),
            Operation("commit", "org/u", "org/open", 100),
            Operation("charge", "org/u", "org/second", 501),
            InvalidRequest("op", "one that there is"),
            Operation("touch", "org/u", "org/open", 0, 1000),
        ]
    )
    kinds = [type(one) for one in told]
    assert kinds == [InsufficientCredits, Receipt, Receipt, InvalidRequest, RequestConflict]
    assert (await hold.commit(100)).replayed
    assert await shard.account() == (399, 0, 1)

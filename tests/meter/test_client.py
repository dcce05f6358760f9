"""What a gateway sees of the meter: holds, charges, balances and typed refusals."""

from __future__ import annotations

import asyncio
import json
from types import MappingProxyType

import pytest
from support.shard import ScriptedShard
from support.waiting import eventually

from taximeter.meter import (
    AccountNotFound,
    Balance,
    InsufficientCredits,
    InvalidRequest,
    LoadedAccount,
    Meter,
    RequestConflict,
    RequestReplayed,
    StoreUnavailable,
    UnknownHold,
    Usage,
)
from taximeter.meter.wire.limits import AMOUNT_MAX
from taximeter.meter.wire.operations import Operation

USAGE = Usage("llm_inference", "gpt-4o", {"provider": "openai", "tokens_used": 12})


async def test_reserve_then_commit(meter: Meter, shard: ScriptedShard) -> None:
    hold = await meter.reserve("org", "u", 300)
    assert (hold.amount, hold.available, hold.held) == (300, 700, 300)
    receipt = await hold.commit(120, usage=USAGE)
    assert (receipt.state, receipt.charged, receipt.available, receipt.held) == (
        "committed",
        120,
        880,
        0,
    )
    assert not receipt.late
    assert await meter.balance("org", "u") == Balance(available=880, held=0)
    [event] = await shard.events()
    assert json.loads(event[7]) == {
        "type": "llm_inference",
        "name": "gpt-4o",
        "meta": {"provider": "openai", "tokens_used": 12},
    }


async def test_insufficient_carries_need_and_have(meter: Meter) -> None:
    with pytest.raises(InsufficientCredits) as refused:
        await meter.reserve("org", "u", 1001)
    assert (refused.value.need, refused.value.have, refused.value.held) == (1001, 1000, 0)
    assert not refused.value.only_holds_in_the_way
    await meter.reserve("org", "u", 900)
    with pytest.raises(InsufficientCredits) as busy:
        await meter.charge("org", "u", 500)
    assert busy.value.only_holds_in_the_way


async def test_a_replayed_reserve_never_hands_out_a_hold(meter: Meter) -> None:
    hold = await meter.reserve("org", "u", 300, request_id="r")
    with pytest.raises(RequestReplayed) as replayed:
        await meter.reserve("org", "u", 300, request_id="r")
    assert (replayed.value.outcome.state, replayed.value.outcome.reserved) == ("open", 300)
    await hold.commit(7)
    with pytest.raises(RequestReplayed) as ended:
        await meter.reserve("org", "u", 300, request_id="r")
    assert (ended.value.outcome.state, ended.value.outcome.charged) == ("committed", 7)


async def test_conflicts_say_what_the_id_stands_for(meter: Meter) -> None:
    await meter.charge("org", "u", 5, request_id="r")
    again = await meter.charge("org", "u", 5, request_id="r")
    assert again.replayed
    assert again.charged == 5
    with pytest.raises(RequestConflict) as conflict:
        await meter.charge("org", "u", 6, request_id="r")
    assert (conflict.value.outcome.state, conflict.value.outcome.charged) == ("charged", 5)
    hold = await meter.reserve("org", "u", 10)
    await hold.release()
    with pytest.raises(RequestConflict):
        await meter.commit("org", "u", hold.request_id, 3)


async def test_release_and_touch_of_an_unknown_id(meter: Meter) -> None:
    with pytest.raises(UnknownHold):
        await meter.release("org", "u", "never")
    with pytest.raises(UnknownHold):
        await meter.touch("org", "u", "never")


async def test_leaving_the_block_commits_what_was_spent(meter: Meter) -> None:
    async with await meter.reserve("org", "u", 300) as hold:
        hold.spent(40)
        hold.spent(90, USAGE)
    assert hold.receipt is not None
    assert hold.receipt.charged == 90
    assert await meter.balance("org", "u") == Balance(910, 0)


async def test_leaving_the_block_without_spending_releases(meter: Meter) -> None:
    async with await meter.reserve("org", "u", 300):
        pass
    assert await meter.balance("org", "u") == Balance(1000, 0)


async def test_an_exception_in_the_block_charges_what_was_spent(meter: Meter) -> None:
    async def request() -> None:
        async with await meter.reserve("org", "u", 300) as hold:
            hold.spent(25)
            raise RuntimeError("upstream broke")

    with pytest.raises(RuntimeError, match="upstream broke"):
        await request()
    assert await meter.balance("org", "u") == Balance(975, 0)


async def test_an_explicit_commit_in_the_block_is_the_only_one(
    meter: Meter, shard: ScriptedShard
) -> None:
    async with await meter.reserve("org", "u", 300) as hold:
        hold.spent(10)
        await hold.commit(20)
    assert [event[4] for event in await shard.events()] == ["20"]


@pytest.mark.parametrize("spent", [None, 30])
async def test_a_cancelled_task_ends_its_hold(meter: Meter, spent: int | None) -> None:
    """Cancellation arrives again at every await: the end of the hold must not depend on one."""
    inside = asyncio.Event()

    async def request() -> None:
        async with await meter.reserve("org", "u", 300) as hold:
            if spent is not None:
                hold.spent(spent)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await inside.wait()
    task.cancel()
    await asyncio.sleep(0)  # the task now awaits its commit or release
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def ended() -> bool:
        return await meter.balance("org", "u") == Balance(1000 - (spent or 0), 0)

    await eventually(ended, what="the end of a cancelled hold")


async def test_a_cancelled_reserve_leaves_no_hold(meter: Meter, shard: ScriptedShard) -> None:
    """Wherever in its way the cancellation hits, nobody is left to end the hold."""
    for turns in range(12):
        task = asyncio.create_task(meter.reserve("org", "u", 10, request_id=f"r{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            await result.release()

    async def whole() -> bool:
        return await meter.balance("org", "u") == Balance(1000, 0)

    await eventually(whole, what="every hold given back")
    await meter.aclose()
    assert await shard.redis.hlen(shard.keys.holds) == 0
    assert await shard.account() == (1000, 0, 1)


async def test_a_cancelled_reserve_gives_back_no_hold_of_somebody_elses_with_its_id(
    meter: Meter, shard: ScriptedShard
) -> None:
    kept = await meter.reserve("org", "u", 10, request_id="theirs")
    for turns in range(12):
        task = asyncio.create_task(meter.reserve("org", "u", 10, request_id="theirs"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await meter._dispatcher.aclose(10.0)  # What goes on in the background has ended.
    assert await shard.account() == (990, 10, 1)
    assert await shard.redis.hget(shard.keys.holds, f"org/{kept.request_id}")


async def test_closing_takes_one_time_altogether(
    meter: Meter, shard: ScriptedShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What callers left behind, holds to give back and the queue wait for the same store: each gets
    what those before it have left of the time.
    """
    dispatcher = meter._to_redis
    left: list[float] = []

    async def never(*_: object) -> bool:
        return await asyncio.Event().wait()

    async def close_shards(deadline: float) -> None:
        left.append(deadline - asyncio.get_running_loop().time())

    monkeypatch.setattr(dispatcher._giving_back, "_void", never)
    dispatcher._giving_back.add(Operation("reserve", "org/u", "org/gone", 1, 60_000))
    dispatcher._background.add(asyncio.create_task(never()))
    with monkeypatch.context() as patched:
        patched.setattr(dispatcher._shards, "aclose", close_shards)
        await dispatcher.aclose(0.1)
    assert left[0] <= 0


async def test_close_finishes_what_was_asked_for(meter: Meter, shard: ScriptedShard) -> None:
    hold = await meter.reserve("org", "u", 300)
    commit = asyncio.create_task(hold.commit(50))
    await asyncio.sleep(0)
    await meter.aclose()
    assert (await commit).charged == 50
    assert await shard.account() == (950, 0, 1)


async def test_a_missing_account_is_loaded_once_for_many_callers(
    connect: object, shard: ScriptedShard
) -> None:
    asked: list[tuple[str, str]] = []

    async def loader(org_id: str, user_id: str) -> LoadedAccount | None:
        asked.append((org_id, user_id))
        await asyncio.sleep(0.01)
        return LoadedAccount(available=500, applied=3)

    meter: Meter = await connect(loader=loader)  # type: ignore[operator]
    holds = await asyncio.gather(*[meter.reserve("org", "new", 5) for _ in range(100)])
    assert asked == [("org", "new")]
    assert await shard.account("org/new") == (0, 500, 3)
    await asyncio.gather(*[hold.release() for hold in holds])
    assert await meter.balance("org", "new") == Balance(500, 0)


async def test_an_account_nobody_knows(meter: Meter) -> None:
    for call in (
        meter.reserve("org", "nobody", 1),
        meter.charge("org", "nobody", 1),
        meter.commit("org", "nobody", "r", 1),
        meter.balance("org", "nobody"),
    ):
        with pytest.raises(AccountNotFound, match="nobody"):
            await call


async def test_a_loader_that_fails_is_a_store_that_is_away(
    connect: object, shard: ScriptedShard
) -> None:
    async def loader(org_id: str, user_id: str) -> LoadedAccount | None:
        raise ConnectionRefusedError("no Postgres")

    meter: Meter = await connect(loader=loader)  # type: ignore[operator]
    with pytest.raises(StoreUnavailable, match="no Postgres"):
        await meter.reserve("org", "new", 1)
    assert (await meter.reserve("org", "u", 1)).available == 999


@pytest.mark.parametrize("amount", [-1, AMOUNT_MAX + 1, 1.5, True, "5", None, float("nan")])
async def test_bad_amounts_are_refused_before_they_are_sent(
    meter: Meter, shard: ScriptedShard, amount: object
) -> None:
    before = await shard.state()
    with pytest.raises(InvalidRequest, match="amount must be a whole number") as refused:
        await meter.reserve("org", "u", amount)  # type: ignore[arg-type]
    assert refused.value.field == "amount"
    assert await shard.state() == before


@pytest.mark.parametrize(
    ("org_id", "user_id", "request_id", "field"),
    [
        ("", "u", "r", "org_id"),
        ("a/b", "u", "r", "org_id"),
        ("x" * 129, "u", "r", "org_id"),
        ("org", "", "r", "user_id"),
        ("org", "a\tb", "r", "user_id"),
        ("org", "\ud800", "r", "user_id"),
        ("org", "u", "a b", "request_id"),
        ("org", "u", "x" * 129, "request_id"),
        ("org", "u", "r\u0661", "request_id"),  # A digit, but no ASCII digit.
        ("org\u0661", "u", "r", "org_id"),
    ],
)
async def test_bad_names_are_refused_by_field(
    meter: Meter, org_id: str, user_id: str, request_id: str, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await meter.commit(org_id, user_id, request_id, 1)
    assert refused.value.field == field


async def test_what_a_charge_was_for_is_bounded(meter: Meter) -> None:
    with pytest.raises(InvalidRequest, match="at most 4096 bytes"):
        await meter.charge("org", "u", 1, usage=Usage(metadata={"prompt": "x" * 5000}))
    with pytest.raises(InvalidRequest, match="JSON"):
        await meter.charge("org", "u", 1, usage=Usage(metadata={"price": float("nan")}))
    awkward = Usage(service_name="tab\tline\nnull\x00é", metadata={"quote": '"\\'})
    assert (await meter.charge("org", "u", 1, usage=awkward)).charged == 1


@pytest.mark.parametrize("ttl_s", [0, -1, 86_401, True, "60"])
async def test_a_hold_lives_within_limits(meter: Meter, ttl_s: object) -> None:
    with pytest.raises(InvalidRequest, match="ttl_s"):
        await meter.reserve("org", "u", 1, ttl_s=ttl_s)  # type: ignore[arg-type]


async def test_touch_reports_progress_that_expiry_charges(
    meter: Meter, shard: ScriptedShard
) -> None:
    hold = await meter.reserve("org", "u", 300, usage=USAGE)
    assert (await hold.touch(70)).state == "open"
    await shard.overdue(hold.request_id)
    assert await shard.sweep() == [1, 1, 0]
    late = await hold.commit(100)
    assert late.late
    assert late.charged == 100
    assert await meter.balance("org", "u") == Balance(900, 0)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(
            "image_generation",
            'a "name"\n\u00e9\U0001f600',
            {"\u00e9": [1, 2.5, None, True, {"b": []}]},
        ),
        Usage("llm_inference", "gpt", MappingProxyType({"tokens": 10**20, 7: "of a number"})),
        Usage(None, "gpt"),  # type: ignore[arg-type]
    ],
    ids=["empty", "escapes", "mapping", "no type"],
)
def test_a_payload_is_the_json_of_its_fields(usage: Usage) -> None:
    fields = {"type": usage.service_type, "name": usage.service_name, "meta": dict(usage.metadata)}
    assert usage.payload() == json.dumps(fields, separators=(",", ":"))


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()], ids=["nan", "set", "object"])
def test_a_payload_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Usage(metadata={"a": [value]}).payload()
    assert refused.value.field == "usage"

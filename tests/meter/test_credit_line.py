"""Fail-open, bounded: what was admitted while Redis was away is charged afterwards, once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.credit import LINE, Books, die
from support.waiting import eventually

from taximeter.api.running.meter_metrics import meter_families
from taximeter.meter import (
    AccountNotFound,
    InsufficientCredits,
    LoadedAccount,
    Meter,
    RequestConflict,
    RequestReplayed,
    StoreError,
    TooManyHolds,
    Usage,
)
from taximeter.meter.credit_line.desk import CreditLines
from taximeter.meter.credit_line.journal import Journal, JournalInUse
from taximeter.meter.wire.limits import FREE_HOLD_TTL_MS

pytestmark = pytest.mark.slow


def told(meter: Meter, what: str) -> dict[str, float]:
    """What /metrics says of the credit line."""
    [found] = [one for one in meter_families(meter) if one.name == f"taximeter_credit_line_{what}"]
    return {sample.labels["state"]: sample.value for sample in found.samples}


async def test_requests_go_on_and_are_charged_when_redis_is_back(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        usage = Usage("llm_inference", "gpt", {"tokens_used": 3})
        hold = await meter.reserve("org", "u", 60, request_id="a", usage=usage)
        receipt = await hold.commit(45)
        assert (receipt.state, receipt.charged) == ("committed", 45)
        assert (await hold.commit(45)).replayed
        with pytest.raises(RequestConflict):
            await hold.commit(46)
        assert (await meter.charge("org", "u", 5, request_id="b")).charged == 5
        released = await meter.reserve("org", "u", 50, request_id="c")
        assert told(meter, "requests") == {"open": 1, "due": 2}
        assert told(meter, "credits") == {"outstanding": 0.1, "max": LINE / 1000}
        assert (await released.release()).state == "released"
        found = await meter.request("org", "a")
        assert found is not None
        assert (found.state, found.charged) == ("committed", 45)
        await books.back()
        await books.all_charged("a", "b")
        assert await books.charged() == {"a": 45, "b": 5}
        assert await books.shard.account() == (950, 0, 1)
        # What it was for survived, and reports can tell how it was admitted.
        (first, *_) = await books.shard.events()
        assert json.loads(first[7])["meta"] == {"tokens_used": 3, "on_credit": True}
        # The line is free again, and Redis is used as before.
        assert (await meter.reserve("org", "u", LINE)).available == 850


async def test_nobody_without_a_line_goes_on_and_nobody_beyond_it(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        with pytest.raises(StoreError):
            await meter.reserve("poor", "u", 1)
        first = await meter.reserve("org", "u", 70)
        for amount in (LINE - 70 + 1, LINE):
            with pytest.raises(StoreError):
                await meter.reserve("org", "u", amount)
        second = await meter.reserve("org", "u", LINE - 70)
        await second.commit(10)
        # What is committed stays outstanding until it is charged; what is given back does not.
        with pytest.raises(StoreError):
            await meter.charge("org", "u", 21)
        await first.release()
        await meter.charge("org", "u", LINE - 10)
        with pytest.raises(StoreError):
            await meter.charge("org", "u", 1)


async def test_the_same_id_is_admitted_once(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        await meter.reserve("org", "u", 10, request_id="a")
        assert not (await meter.charge("org", "u", 1, request_id="b")).replayed
        assert (await meter.charge("org", "u", 1, request_id="b")).replayed
        with pytest.raises(RequestReplayed):
            await meter.reserve("org", "u", 10, request_id="a")
        with pytest.raises(RequestConflict):
            await meter.reserve("org", "u", 11, request_id="a")


async def test_a_hold_that_redis_has_is_committed_there(books: Books) -> None:
    """The reserve went through but its reply did not: on credit it counts once all the same."""
    async with await books.meter() as meter:
        await books.shard.one("reserve", "a", 30, owner="x")
        books.server.kill()
        hold = await meter.reserve("org", "u", 30, request_id="a")
        await hold.commit(20)
        await books.back()
        await books.all_charged("a")
        assert await books.shard.account() == (980, 0, 1)


async def test_another_process_charges_what_a_dead_one_left(books: Books) -> None:
    meter = await books.meter()
    books.server.kill()
    await (await meter.reserve("org", "u", 30, request_id="committed")).commit(20)
    streaming = await meter.reserve("org", "u", 30, request_id="streaming", ttl_s=1.0)
    await streaming.touch(12, ttl_s=1.0)
    await meter.reserve("org", "u", 30, request_id="silent", ttl_s=1.0)
    with pytest.raises(JournalInUse):
        Journal.open(books.journal)
    await die(meter)
    with books.journal.open("ab") as file:
        file.write(b'{"do":"open","opera')  # its last write was torn
    await books.back()
    async with await books.meter() as second:
        await books.all_charged("committed", "streaming")
        assert await books.charged() == {"committed": 20, "streaming": 12}
        assert (await second.balance("org", "u")).available == 968

        async def all_ended() -> bool:
            return books.journal.read_bytes().count(b'"end"') == 3

        await eventually(all_ended)
    async with await books.meter():
        assert books.journal.read_bytes() == b""
    assert await books.charged() == {"committed": 20, "streaming": 12}


async def test_a_charge_that_went_through_before_the_crash_is_not_made_twice(
    books: Books,
) -> None:
    meter = await books.meter()
    books.server.kill()
    await (await meter.reserve("org", "u", 30, request_id="a")).commit(20)
    before = books.journal.read_bytes()
    await books.back()
    await books.all_charged("a")
    await meter.aclose()
    books.journal.write_bytes(before)  # it died before it could note that
    async with await books.meter() as second:

        async def noted() -> bool:
            return b'"end"' in books.journal.read_bytes()

        await eventually(noted)
        assert (await second.balance("org", "u")).available == 980
    assert await books.charged() == {"a": 20}


async def test_an_open_hold_ends_at_its_deadline(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        hold = await meter.reserve("org", "u", LINE, request_id="a", ttl_s=60)
        await hold.touch(7, ttl_s=0.001)

        async def ended() -> bool:
            found = await meter.request("org", "a")
            return found is not None and found.charged == 7

        await eventually(ended)
        await books.back()
        await books.all_charged("a")
        assert await books.charged() == {"a": 7}


async def test_postgres_is_asked_who_may_go_on(books: Books) -> None:
    known = {"u": LoadedAccount(40, 1)}

    async def loader(org_id: str, user_id: str) -> LoadedAccount | None:
        return known.get(user_id)

    async with await books.meter(loader) as meter:
        books.server.kill()
        await meter.reserve("org", "u", 30)
        with pytest.raises(InsufficientCredits) as refused:
            await meter.reserve("org", "u", 11)
        assert (refused.value.need, refused.value.have) == (11, 10)
        with pytest.raises(AccountNotFound):
            await meter.reserve("org", "stranger", 1)


async def test_an_account_has_as_many_on_credit_as_it_may_have_open(books: Books) -> None:
    """Also those of nothing, which use up no line; and such a hold lives shortly here too."""
    await books.redis.hset(books.shard.keys.meta, "open_holds_max", 3)
    async with await books.meter() as meter:
        await meter.charge("org", "u", 1, request_id="greeting")
        books.server.kill()
        held = [
            await meter.reserve("org", "u", 0, request_id=f"r{n}", ttl_s=86_400) for n in range(2)
        ]
        await meter.charge("org", "u", 0, request_id="c")
        for refused in (meter.reserve("org", "u", 0), meter.charge("org", "u", 0)):
            with pytest.raises(TooManyHolds) as caught:
                await refused
            assert caught.value.limit == 3
        assert meter._desk is not None
        entry = meter._desk.entry("org/r0")
        assert entry is not None
        now = asyncio.get_running_loop().time()
        assert entry.deadline <= now + FREE_HOLD_TTL_MS / 1000
        await held[0].touch(ttl_s=86_400)
        assert entry.deadline <= now + 60 + FREE_HOLD_TTL_MS / 1000
        await held[1].release()
        await meter.reserve("org", "u", 0)


async def test_what_can_never_be_charged_is_set_aside(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        await meter.charge("org", "stranger", 5, request_id="a")
        await books.back()
        # As the settler notes when every account that Postgres knows is there.
        await books.redis.hset(books.shard.keys.meta, "complete_ms", 9 * 10**12)
        refused = books.journal.with_suffix(".refused")

        async def set_aside() -> bool:
            return refused.exists()

        await eventually(set_aside)
        line = json.loads(refused.read_text())
        assert line["operation"][1:4] == ["org/stranger", "org/a", 5]
        assert "stranger" in line["why"]


async def test_many_at_once_stay_within_the_line(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        results = await asyncio.gather(
            *(meter.charge("org", "u", 3, request_id=f"r{n}") for n in range(100)),
            return_exceptions=True,
        )
        admitted = [result for result in results if not isinstance(result, BaseException)]
        assert len(admitted) == LINE // 3
        await books.back()
        await books.all_charged(*(receipt.request_id for receipt in admitted))
        assert (await books.shard.account())[0] == 1000 - 3 * len(admitted)


@pytest.mark.parametrize("limit", [0, -1, 10**12 + 1])
def test_a_line_has_bounds(limit: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the line of org must be 1 to 1000000000000"):
        CreditLines({"org": limit}, tmp_path / "journal")

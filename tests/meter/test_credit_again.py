"""A credit line whose process restarts, whose disk is full, and whose Redis had done it already."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.credit import Books, die
from support.proxy import Proxy
from support.waiting import eventually

from taximeter.meter import LoadedAccount, Meter, OutcomeUnknown, RequestConflict, StoreError
from taximeter.meter.credit_line.desk import CreditDesk, CreditLines
from taximeter.meter.credit_line.journal import Journal
from taximeter.meter.wire.operations import Operation

pytestmark = pytest.mark.slow


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """Let this process make no file longer than this one and `room` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def expired(meter: Meter, request_id: str) -> None:
    async def over() -> bool:
        found = await meter.request("org", request_id)
        return found is not None and found.state == "expired"

    await eventually(over, what="the end of the hold at its deadline")


async def total_charged(books: Books, request_id: str) -> int:
    events = await books.shard.events()
    return sum(int(event[4]) for event in events if event[3] == f"org/{request_id}")


async def all_of(books: Books, request_id: str, amount: int) -> None:
    async def there() -> bool:
        return await total_charged(books, request_id) == amount

    await eventually(there, what=f"{amount} charged for {request_id}")


@pytest.mark.parametrize("reported", [None, 12])
async def test_whoever_held_it_may_commit_after_a_restart(
    books: Books, reported: int | None
) -> None:
    """A sidecar restarts, and the gateway behind it goes on: what it used is charged, not only
    what it had reported. Its hold lives as long as before, whether it has reported or not.
    """
    first = await books.meter()
    books.server.kill()
    hold = await first.reserve("org", "u", 60, request_id="a")
    if reported is not None:
        await hold.touch(reported)
    await die(first)
    await books.back()
    async with await books.meter() as second:
        books.server.kill()
        assert second._desk is not None
        await second._desk.expire()  # whose time is over ends now, and not when it happens to
        receipt = await second.commit("org", "u", "a", 45)
        assert (receipt.state, receipt.charged, receipt.late) == ("committed", 45, False)
        await books.back()
        await books.all_charged("a")
    assert await books.charged() == {"a": 45}
    assert await books.shard.account() == (955, 0, 1)


@pytest.mark.parametrize("reported", [0, 12])
async def test_a_hold_waits_as_long_as_it_was_told_to_after_every_restart(
    tmp_path: Path, reported: int
) -> None:
    """A restart writes the journal anew: how long the last touch asked for is in it again, and not
    the second that the reserve asked for.
    """
    lines = CreditLines({"org": 100}, tmp_path / "journal")
    desk = CreditDesk(lines, None)
    reserve = Operation("reserve", "org/u", "org/a", 60, 1_000, "x")
    await desk.admit(reserve, StoreError("away"), 1_000)
    entry = desk.entry("org/a")
    assert entry is not None
    await desk.touch(entry, Operation("touch", "org/u", "org/a", reported, 3_600_000))
    for _ in range(3):
        await desk.aclose()
        desk = CreditDesk(lines, None)
        entry = desk.entry("org/a")
        assert entry is not None
        assert (entry.progress, entry.ttl_ms) == (reported, 3_600_000)
        assert entry.deadline > asyncio.get_running_loop().time() + 1_800
    await desk.aclose()


async def test_a_commit_after_its_deadline_adds_the_rest_while_redis_is_away(
    books: Books,
) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        hold = await meter.reserve("org", "u", 60, request_id="a", ttl_s=0.05)
        await hold.touch(12, ttl_s=0.05)
        await expired(meter, "a")
        assert (await hold.release()).replayed
        receipt = await hold.commit(45)
        assert (receipt.charged, receipt.late) == (45, True)
        await books.back()
        await all_of(books, "a", 45)
        assert await books.shard.account() == (955, 0, 1)


async def test_a_commit_after_its_deadline_adds_the_rest_in_redis(books: Books) -> None:
    async with await books.meter() as meter:
        books.server.kill()
        hold = await meter.reserve("org", "u", 60, request_id="a", ttl_s=0.05)
        await hold.touch(12, ttl_s=0.05)
        await expired(meter, "a")
        await books.back()
        await all_of(books, "a", 12)

        async def in_redis() -> bool:
            return meter._on_credit("org", "a") is None

        await eventually(in_redis)
        receipt = await hold.commit(45)
        assert (receipt.charged, receipt.late) == (45, True)
        assert await total_charged(books, "a") == 45
        kinds = [event[1] for event in await books.shard.events()]
        assert kinds == ["expire", "commit"]


async def test_what_a_full_disk_refused_is_not_charged_later(books: Books) -> None:
    """Half of its line fitted, and the next line is written when there is room again."""
    meter = await books.meter()
    books.server.kill()
    await meter.charge("org", "u", 1, request_id="before")
    with full_disk(books.journal, 20), pytest.raises(StoreError, match="journal") as refused:
        await meter.charge("org", "u", 20, request_id="refused")
    assert not isinstance(refused.value, OutcomeUnknown)
    hold = await meter.reserve("org", "u", 30, request_id="held")
    with full_disk(books.journal, 20), pytest.raises(StoreError, match="journal"):
        await hold.commit(25)
    found = await meter.request("org", "held")
    assert found is not None
    assert found.state == "open", "a commit that was refused has no effect"
    with full_disk(books.journal, 20), pytest.raises(StoreError, match="journal"):
        await hold.touch(9)
    assert (await hold.commit(25)).charged == 25
    await meter.charge("org", "u", 2, request_id="after")
    await die(meter)
    await books.back()
    async with await books.meter():
        await books.all_charged("before", "held", "after")
    assert await books.charged() == {"before": 1, "held": 25, "after": 2}


async def test_a_journal_takes_back_what_did_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, _ = Journal.open(path)
    await journal.append({"n": 1})
    with full_disk(path, 5), pytest.raises(OSError, match="File too large"):
        await journal.append({"n": 2}, {"n": 3})
    await journal.append({"n": 4})
    await journal.aclose()
    again, lines = Journal.open(path)
    assert lines == [{"n": 1}, {"n": 4}]
    await again.aclose()


async def test_what_redis_had_charged_before_is_not_for_a_person(books: Books) -> None:
    """The reply is lost with the server, the charge goes on credit, and Redis has it when it is
    back: it is charged, once, and nobody is asked to charge it by hand.
    """
    async with Proxy(books.server.url) as proxy, await books.meter(url=proxy.url) as meter:
        await meter.charge("org", "u", 1, request_id="warm")

        async def die_with_it() -> None:
            books.server.kill()

        proxy.lose_replies(1, then=die_with_it)
        receipt = await meter.charge("org", "u", 20, request_id="a")
        assert receipt.charged == 20
        await books.back()

        async def settled() -> bool:
            return meter._on_credit("org", "a") is None

        await eventually(settled)
        assert await books.charged() == {"warm": 1, "a": 20}
        assert not books.journal.with_suffix(".refused").exists()


async def test_what_redis_may_have_charged_is_not_refused_by_the_desk(books: Books) -> None:
    async def loader(org_id: str, user_id: str) -> LoadedAccount | None:
        return None

    async with (
        Proxy(books.server.url) as proxy,
        await books.meter(loader, url=proxy.url) as meter,
    ):
        await meter.charge("org", "u", 1, request_id="warm")

        async def die_with_it() -> None:
            books.server.kill()

        proxy.lose_replies(1, then=die_with_it)
        with pytest.raises(OutcomeUnknown):
            await meter.charge("org", "u", 20, request_id="a")
        await books.back()
        assert await books.charged() == {"warm": 1, "a": 20}


async def test_a_charge_on_credit_that_is_repeated_when_redis_has_it_is_a_repeat(
    books: Books,
) -> None:
    """Its answer was lost, say: who asks again is told that it is charged, and not of a conflict.
    Another amount under its id is one.
    """
    async with await books.meter() as meter:
        books.server.kill()
        assert (await meter.charge("org", "u", 20, request_id="a")).charged == 20
        await books.back()
        await books.all_charged("a")

        async def forgotten() -> bool:
            return meter._on_credit("org", "a") is None

        await eventually(forgotten)
        again = await meter.charge("org", "u", 20, request_id="a")
        assert (again.charged, again.replayed) == (20, True)
        with pytest.raises(RequestConflict):
            await meter.charge("org", "u", 21, request_id="a")
        hold = await meter.reserve("org", "u", 20, request_id="held")
        await hold.commit(20)
        with pytest.raises(RequestConflict):
            await meter.charge("org", "u", 20, request_id="held")
    assert await books.charged() == {"a": 20, "held": 20}

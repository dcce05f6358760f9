"""What is put back, and what of it is missing then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
from redis.asyncio import Redis
from support.books import Books
from support.receiving import Receiver, add, listening
from support.waiting import eventually

from drill.world import BOUND_S, System

ALLOCATED: Final = "SELECT sum(allocated_credits) FROM user_credit_allocations"


@dataclass
class Result:
    """What one case came to. `missing`: requests that were answered and are in no book, and their
    millicredits; `said`: events that the system itself says are lost. Times in seconds.
    """

    name: str
    missing: int = 0
    missing_amount: int = 0
    said: int = 0
    guardian: list[str] = field(default_factory=list)
    objected: dict[str, list[str]] = field(default_factory=dict)
    silent: bool = False
    times: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


class Timed:
    """Notes how long a block took."""

    def __init__(self, result: Result, name: str) -> None:
        self._result, self._name = result, name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._result.times[self._name] = time.monotonic() - self._began


async def _judge(
    system: System, result: Result, *, missing: set[str], some: bool = False
) -> Result:
    """Compare the log of what was answered with the books, and ask `check`. `missing`: the requests
    that may be missing, and must be, or with `some` as many of them as are said to be lost.
    """
    await system.settled()
    async with system.database() as conn:
        rows = await conn.fetch("SELECT request_id, amount FROM taximeter.charged_requests")
        result.said = await conn.fetchval(
            "SELECT coalesce(sum(seq_last - seq_first + 1), 0)::bigint FROM taximeter.lost_events"
            " AS lost WHERE NOT EXISTS (SELECT FROM taximeter.acknowledgements AS a WHERE"
            " (a.shard, a.epoch, a.seq_first) = (lost.shard, lost.epoch, lost.seq_first))"
        )
    asked, answered = system.log.asked, system.log.answered
    booked = {row[0]: row[1] for row in rows if row[0] in asked}
    gone = answered.keys() - booked.keys()
    result.missing, result.missing_amount = len(gone), sum(answered[one] for one in gone)
    is_right = gone <= missing and 0 < len(gone) == result.said if some else gone == missing
    result.must(is_right, f"{len(gone)} are missing, {len(missing)} were to be")
    wrong = {one for one, amount in booked.items() if amount != asked[one]}
    result.must(not wrong, f"other amounts: {sorted(wrong)[:3]}")
    assert system.settler is not None
    log = system.settler.log_path.read_text()
    result.guardian = [line for line in log.splitlines() if "rebuilt" in line][-1:]
    with Timed(result, "check"):
        result.objected = await system.check()
    if result.said:
        result.must(result.objected.keys() == {"I4"}, "a loss that is known is no alarm of I4")
        code, printed = await system.run("check", "acknowledge", "--note", f"drill: {result.name}")
        result.must(code == 0, printed)
        still = await system.check()
        result.must(not still, f"check objects after the loss was acknowledged: {still}")
    else:
        result.must(not result.objected, f"check objects: {result.objected}")
    code, printed = await system.run("restored")
    if code == 1:
        result.silent = True
        code, printed = await system.run("restored", "--same", f"drill: {result.name}")
        result.must(code == 0, printed)
    # What was found missing is charged again, as the page says, and no case sees the one before it.
    async with system.meter() as meter:
        for one in sorted(gone):
            await meter.charge("acme", "user-0", answered[one], request_id=one)
    await system.settled()
    return result


async def _allocate(system: System) -> None:
    await system.ask("SELECT allocate_credits_to_user('acme', 'user-0', 1000, 'drill')")


async def postgres_back(system: System, count: int, name: str, *, retention: bool) -> Result:
    """Postgres to a moment; Redis goes on, and charges meanwhile. With `retention`, what was
    settled since has left the stream.
    """
    result = Result(name)
    async with system.meter() as meter:
        await system.charge(meter, f"{name}-a", count)
        await system.settled()
        moment = await system.moment()
        await _allocate(system)
        before = await system.ask(ALLOCATED)
        await system.charge(meter, f"{name}-b", count)
        await system.settled()
        if retention:
            await _trimmed(system)
        system.postgres.kill()
        away = asyncio.create_task(system.charge(meter, f"{name}-c", count // 2))
        with Timed(result, "postgres"):
            await asyncio.to_thread(system.postgres.put_back, moment)
        with Timed(result, "open again"):
            await away
            await system.charge(meter, f"{name}-d", 10)
    after = await system.ask(ALLOCATED)
    result.must(before - after == 1000, "what was administered since the moment is not gone")
    settled = {one for one in system.log.answered if one.startswith(f"{name}-b-")}
    await _judge(system, result, missing=settled if retention else set(), some=retention)
    result.must(not result.silent, "silent, though Redis knows its Postgres")
    return result


async def _trimmed(system: System) -> None:
    """As if so much had been charged since that nothing settled is kept but the last entry: a
    settler takes away whole nodes of the stream alone.
    """
    async with Redis.from_url(system.valkey.url) as redis:
        newest = await redis.xrevrange("{tm:0}:events", count=1)
        await redis.xtrim("{tm:0}:events", minid=newest[0][0], approximate=False)


async def redis_lost(system: System, count: int, name: str, *, postgres: bool) -> Result:
    """Redis comes back empty; with `postgres`, Postgres is put back to a moment before."""
    result = Result(name)
    async with system.meter() as meter:
        await system.charge(meter, f"{name}-a", count)
        await system.settled()
        moment = await system.moment()
        if postgres:
            await system.charge(meter, f"{name}-b", count)
            await system.settled()
        # What waits to be settled when Redis goes, as in any second of a busy system.
        await asyncio.to_thread(system.stop_settler)
        await system.charge(meter, f"{name}-c", count // 10)
    system.valkey.kill()
    if postgres:
        system.postgres.kill()
        with Timed(result, "postgres"):
            await asyncio.to_thread(system.postgres.put_back, moment)
    await asyncio.to_thread(system.put_redis_back, None)
    await _opens(system, result, name, stays_closed=postgres)
    gone = ("-b-", "-c-") if postgres else ("-c-",)
    lost = {one for one in system.log.answered if one.startswith(tuple(name + g for g in gone))}
    await _judge(system, result, missing=lost)
    result.must(result.silent, "not silent, though Redis was empty")
    return result


async def both_back(system: System, count: int, name: str, *, redis_first: bool) -> Result:
    """Each to a moment of its own, that of Redis first or that of Postgres."""
    result = Result(name)
    copy = system.folder / f"redis-{name}"
    async with system.meter() as meter:
        await system.charge(meter, f"{name}-a", count)
        if redis_first:
            await asyncio.to_thread(system.copy_redis, copy)
            await system.charge(meter, f"{name}-b", count)
            await system.settled()
            moment = await system.moment()
        else:
            await system.settled()
            moment = await system.moment()
            await system.charge(meter, f"{name}-b", count)
            await system.settled()
            await asyncio.to_thread(system.copy_redis, copy)
        await system.charge(meter, f"{name}-c", count)
        await system.settled()
    await asyncio.to_thread(system.stop_settler)
    system.valkey.kill()
    system.postgres.kill()
    with Timed(result, "postgres"):
        await asyncio.to_thread(system.postgres.put_back, moment)
    await asyncio.to_thread(system.put_redis_back, copy)
    await _opens(system, result, name)
    lost = {one for one in system.log.answered if one.startswith(f"{name}-c-")}
    await _judge(system, result, missing=lost)
    result.must(not result.silent, "silent, though this Redis knows this Postgres")
    return result


async def _opens(system: System, result: Result, name: str, *, stays_closed: bool = False) -> None:
    """`stays_closed`: neither store knows the other, so an operator is asked first."""
    system.start_settler()
    if stays_closed:
        await system.stopped()
        result.silent = True
        code, printed = await system.run("restored", "--same", f"drill: {name}")
        result.must(code == 0, printed)
    with Timed(result, "open again"):
        async with system.meter() as meter:
            await system.charge(meter, f"{name}-d", 10)


async def a_copy(system: System, count: int, name: str) -> Result:
    """Yesterday in a test system, with everything that production has in its environment."""
    result = Result(name)
    async with listening(Receiver()) as receiver, asyncpg.create_pool(system.postgres.url) as pool:
        await add(Books(pool), receiver.url, org="acme")
        await _buy(system)

        async def has_heard() -> bool:
            return bool(receiver.seen)

        await eventually(has_heard, within_s=BOUND_S, what="production's receiver hears")
        await system.settled()
        moment = await system.moment()
        await asyncio.to_thread(system.stop_settler)
        heard = len(receiver.seen)
        copy = System(system.folder / "copy", system.backups, is_copy=True)
        try:
            with Timed(result, "postgres"):
                await asyncio.to_thread(copy.postgres.put_back, moment)
            await asyncio.to_thread(copy.valkey.start)
            copy.start_settler()
            await copy.stopped()
            await _buy(copy)
            await copy.rounds_of_notices()
            code, _ = await copy.run("restored")
            result.silent = code == 1
            result.must(result.silent, "the copy does not know that it may be one")
            code, printed = await copy.run("restored", "--copy", "test-system")
            result.must(code == 0, printed)
            async with copy.meter() as meter:
                await copy.charge(meter, name, count)
            await _buy(copy)
            await copy.rounds_of_notices()
            result.must(len(receiver.seen) == heard, "the copy has called production's receiver")
            await copy.settled()
            result.objected = await copy.check()
            result.must(not result.objected, f"check objects in the copy: {result.objected}")
        finally:
            await asyncio.to_thread(copy.stop)
        system.start_settler()
        await _buy(system)

        async def hears() -> bool:
            return len(receiver.seen) > heard

        await eventually(hears, within_s=BOUND_S, what="production's receiver hears again")
        pool.terminate()
    return result


async def _buy(system: System) -> None:
    await system.ask("SELECT add_credits_to_pool('acme', 1000, 1.00)")


Case = Callable[[System, int, str], Awaitable[Result]]
CASES: Final[dict[str, Case]] = {
    "postgres-back": lambda s, n, name: postgres_back(s, n, name, retention=False),
    "beyond-retention": lambda s, n, name: postgres_back(s, n, name, retention=True),
    "redis-lost": lambda s, n, name: redis_lost(s, n, name, postgres=False),
    "postgres-back-redis-lost": lambda s, n, name: redis_lost(s, n, name, postgres=True),
    "both-redis-later": lambda s, n, name: both_back(s, n, name, redis_first=False),
    "both-redis-earlier": lambda s, n, name: both_back(s, n, name, redis_first=True),
    "copy": a_copy,
}


async def drill(
    folder: Path, *, rows: int, count: int, cases: list[str], say: Callable[[str], None]
) -> list[Result]:
    """Make a system with so many charges, back it up, and go through the cases, each with `count`
    charges between its steps. Everything is stopped at the end.
    """
    system = System(folder, folder / "backups")
    results: list[Result] = []
    try:
        began = time.monotonic()
        await system.make()
        async with system.meter() as meter:
            await system.charge(meter, "history", rows, logged=False)
        await system.settled()
        say(f"{rows} charges made and booked in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        await asyncio.to_thread(system.postgres.back_up)
        size = sum(
            one.stat().st_size for one in (folder / "backups" / "base").rglob("*") if one.is_file()
        )
        say(f"base backup: {time.monotonic() - began:.1f} s, {size / 2**20:.0f} MiB")
        for name in cases:
            results.append(await CASES[name](system, count, name))
            tell(results[-1], say)
    finally:
        await asyncio.to_thread(system.stop)
    return results


def tell(result: Result, say: Callable[[str], None]) -> None:
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.times.items())
    silent = ", silent" if result.silent else ""
    say(
        f"{result.name}: {result.missing} charges of {result.missing_amount} millicredits are"
        f" missing, {result.said} are said to be lost{silent}; {times}"
    )
    for line in result.guardian:
        say(f"  guardian: {line[:300]}")
    for name, violations in result.objected.items():
        say(f"  check: {name} {violations[0]}")
    for line in result.wrong:
        say(f"  WRONG: {line}")

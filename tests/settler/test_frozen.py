"""Settlers that freeze, wake, or have a wrong clock: the others go on, and nothing goes by a clock
that may step. The old cases waited for Postgres to give up (30 s) or for arq's cron; the bounds
here are far below that, and far above what it takes on a busy machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.exceptions import ResponseError
from settler_world import World, eventually
from support.settlers import (
    FAKETIME,
    SettlerProcess,
    beats,
    set_clock,
    settler_process,
)

from taximeter.meter.wire.scripts import Script, load_script
from taximeter.settler.books.stores import Stores
from taximeter.settler.shards.guardian import guard
from taximeter.settler.worker.heartbeat import STOPPED_S, Watch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.own_database]

BOUND_S = 25.0
Env = dict[str, str]


@pytest.fixture
async def env(settler_database_url: str, redis_url: str, key_prefix: str) -> Env:
    return {
        "TAXIMETER_DATABASE_URL": settler_database_url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_QUEUE": f"{key_prefix}:queue",
        "TAXIMETER_KEY_PREFIX": key_prefix,
    }


@pytest.fixture
async def world(stores: Stores) -> World:
    made = World(stores)
    await made.start()
    await made.organization("acme", ann=1_000_000)
    return made


@pytest.fixture
def settlers(env: Env, tmp_path: Path) -> Iterator[list[SettlerProcess]]:
    """Two of them."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(settler_process(env, tmp_path / f"settler{number}"))
            for number in range(2)
        ]


@pytest.fixture
async def locker(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A session of somebody who holds locks."""
    conn = await asyncpg.connect(database_url)
    yield conn
    await conn.close()


async def both_beat(world: World, settlers: list[SettlerProcess]) -> None:
    async def beat() -> bool:
        found = [await beats(world.pool, one) for one in settlers]
        return all("settle" in one and "heart" in one for one in found)

    await eventually(beat, 60.0)


async def settled(world: World, user_id: str, used: int, bound_s: float = BOUND_S) -> None:
    async def is_booked() -> bool:
        return await world.used(user_id) == used

    await eventually(is_booked, bound_s)


async def test_one_that_freezes_with_the_shard_locked_holds_up_nobody(
    world: World, settlers: list[SettlerProcess], locker: asyncpg.Connection[asyncpg.Record]
) -> None:
    await both_beat(world, settlers)
    # Whoever settles waits in the middle of its transaction, with the watermark locked.
    transaction = locker.transaction()
    await transaction.start()
    await locker.execute("SELECT FROM user_credit_allocations FOR UPDATE")
    await world.charge("ann", 10)
    holder: SettlerProcess | None = None

    async def waits() -> bool:
        nonlocal holder
        name = await world.pool.fetchval(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'taximeter-settler %' AND wait_event_type = 'Lock'"
        )
        found = [one for one in settlers if name and f"-{one.process.pid}-" in name]
        holder = found[0] if found else None
        return holder is not None

    await eventually(waits)
    assert holder is not None
    frozen: SettlerProcess = holder
    frozen.freeze()
    await transaction.rollback()
    await settled(world, "ann", 10)
    await world.charge("ann", 5)
    await settled(world, "ann", 15)

    before = await beats(world.pool, frozen)
    frozen.thaw()

    async def is_back() -> bool:
        now = await beats(world.pool, frozen)
        return now.get("settle", 0) > before.get("settle", 0) + 8

    await eventually(is_back)
    assert all(one.is_alive() for one in settlers)
    for other in settlers:
        if other is not frozen:
            other.kill()
    await world.charge("ann", 7)
    await settled(world, "ann", 22)
    await world.assert_books()


async def test_a_guardian_that_freezes_is_replaced(
    world: World, settlers: list[SettlerProcess], locker: asyncpg.Connection[asyncpg.Record]
) -> None:
    """One freezes in the middle of a rebuild: it has the guardian's lock, and the shard closed."""
    await both_beat(world, settlers)
    await world.charge("ann", 10)
    await settled(world, "ann", 10)
    transaction = locker.transaction()
    await transaction.start()
    # It waits for this after it has become the guardian.
    await locker.execute("SELECT FROM taximeter.watermarks FOR UPDATE")
    await world.stores.redis.delete(*world.keys().batch())
    holder: SettlerProcess | None = None

    async def guards() -> bool:
        nonlocal holder
        name = await world.pool.fetchval(
            "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)"
            " WHERE datname = current_database() AND locktype = 'advisory' AND granted"
            " AND application_name LIKE 'taximeter-settler %' AND wait_event_type = 'Lock'"
        )
        found = [one for one in settlers if name and f"-{one.process.pid}-" in name]
        holder = found[0] if found else None
        return holder is not None

    await eventually(guards)
    assert holder is not None
    holder.freeze()
    await transaction.rollback()

    async def is_open() -> bool:
        epoch = await world.stores.redis.hget(world.keys().meta, "epoch")
        return epoch is not None and epoch.isdigit() and int(epoch) > 1

    await eventually(is_open, BOUND_S)
    holder.thaw()
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
    )

    async def is_loaded() -> bool:
        return await world.live("ann") is not None

    await eventually(is_loaded)
    await world.charge("ann", 5)
    await settled(world, "ann", 15)
    await world.assert_books()


async def test_a_guardian_that_wakes_opens_nothing_that_another_one_has_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It froze with its epoch begun and not opened. The next one has begun its own, and not opened
    it yet: who was let in at the old epoch now would be charged by nobody.
    """
    await world.charge("ann", 10)
    await world.stores.redis.delete(*world.keys().batch())
    call = Script.call
    late: list[Any] = []

    async def frozen_before_open(script: Script, *arguments: Any) -> Any:
        if script is load_script("open"):
            late.append(arguments)
            raise TimeoutError("it freezes here, and its session is ended")
        return await call(script, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Script, "call", frozen_before_open)
        with pytest.raises(TimeoutError):
            await guard(world.stores, 0, 1)
    tried: list[str] = []

    async def it_wakes_before_open(script: Script, *arguments: Any) -> Any:
        if script is load_script("open"):
            with pytest.raises(ResponseError, match="EPOCH_USED"):
                await call(script, *late[0])
            tried.append("open")
        return await call(script, *arguments)

    monkeypatch.setattr(Script, "call", it_wakes_before_open)
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.epoch, tried) == ("rebuilt", 3, ["open"])
    await world.assert_books(but="I4")


@pytest.mark.skipif(FAKETIME is None, reason="Debian's package libfaketime is missing")
@pytest.mark.parametrize("step_s", [-30.0, -3_600.0])
async def test_a_clock_that_steps_back_stops_nothing(
    world: World, env: Env, tmp_path: Path, step_s: float
) -> None:
    clock = tmp_path / "clock"
    set_clock(clock, 0.0)
    with settler_process(env, tmp_path / "log", clock) as settler:
        await world.charge("ann", 10)
        await settled(world, "ann", 10, 60.0)
        settler.set_clock(step_s)
        await world.operate("acme", ("reserve", "ann", "due", 3, 1), ("charge", "ann", "c2", 5))
        await settled(world, "ann", 15)

        async def is_swept() -> bool:
            live = await world.live("ann")
            return live is not None and live[1] == 0

        await eventually(is_swept)

        async def says_so() -> bool:
            return bool(await asyncio.to_thread(settler.lines, "clock"))

        await eventually(says_so)
    await world.assert_books()


@pytest.mark.skipif(FAKETIME is None, reason="Debian's package libfaketime is missing")
async def test_one_that_starts_in_the_far_future_ends_nothing_early(
    world: World, env: Env, tmp_path: Path
) -> None:
    await world.pool.execute(
        "INSERT INTO organization_subscriptions (org_id, plan_code, plan_name, monthly_price,"
        " status, billing_cycle_start, billing_cycle_end, cancel_at_period_end)"
        " VALUES ('acme', 'trial', 'Trial', 0, 'active', current_date - 5, current_date + 25, true)"
    )
    await world.pool.execute(
        "UPDATE organization_credit_pools SET monthly_refresh_amount = 500,"
        " last_refresh_date = current_date"
    )
    await world.pool.execute(
        "UPDATE user_credit_allocations SET expires_at = now() + interval '9 days'"
    )
    clock = tmp_path / "clock"
    set_clock(clock, 400 * 86_400.0)
    with settler_process(env, tmp_path / "log", clock) as settler:
        await world.charge("ann", 10)
        await settled(world, "ann", 10, 60.0)

        async def has_done_all() -> bool:
            lines = [await asyncio.to_thread(settler.lines, name) for name in ("daily", "clock")]
            return all(lines)

        await eventually(has_done_all)
    row = await world.pool.fetchrow(
        "SELECT status, (SELECT total_credits FROM organization_credit_pools) AS total,"
        " (SELECT count(*) FROM user_credit_allocations WHERE is_active) AS allocations"
        " FROM organization_subscriptions"
    )
    assert row is not None
    assert tuple(row) == ("active", 10**9, 1)
    assert settler.lines("daily")[0]["periods_ended"] == 0


async def test_a_settler_waits_for_postgres_at_its_start(
    env: Env, tmp_path: Path, stores: Stores, database_url: str
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    admin = await asyncpg.connect(database_url.replace(f"/{name}", "/postgres"))
    try:
        # Nobody is let in, as while it starts.
        await admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        with settler_process(env, tmp_path / "log") as settler:

            async def waits() -> bool:
                return bool(await asyncio.to_thread(settler.lines, "waiting"))

            await eventually(waits, 60.0)
            assert settler.is_alive()
            await admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
            world = World(stores)

            async def is_open() -> bool:
                return bool(await stores.redis.hget(world.keys().meta, "run_id"))

            await eventually(is_open, BOUND_S)
            settler.process.terminate()
            assert await asyncio.to_thread(settler.process.wait, 30) == 0
            assert await beats(stores.pool, settler) == {}, "one that has ended is not missed"
    finally:
        await admin.close()


def test_a_watcher_counts_beats_and_asks_no_clock() -> None:
    watch = Watch()
    now = 100.0
    for look in range(20):
        stopped = list(watch.look({"alive": look, "frozen": 7}, now + look * 0.25))
        assert stopped == (["frozen"] if look * 0.25 >= STOPPED_S else [])
    # It was frozen itself: it does not know what the others did meanwhile.
    assert list(watch.look({"alive": 20, "frozen": 7}, now + 60)) == []
    assert list(watch.look({"alive": 20, "frozen": 8}, now + 60.5)) == []

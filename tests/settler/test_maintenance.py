"""`rebuild` and `reshard` on demand, with traffic: nobody spends twice, nothing is lost."""

from __future__ import annotations

import asyncio
import os

import pytest
from settler_world import World, eventually, settling
from support.forked import run_forked

from taximeter.meter import AdmissionPaused, Meter, MeterError, RequestReplayed
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.shards.drain import HoldsOpen, ShardBusy, guardian_locks, rebuild_on_demand
from taximeter.settler.shards.guardian import guard
from taximeter.settler.shards.reshard import EventsMissing, reshard
from taximeter.settler.worker.sweep import sweep

ORGS = [f"org{number}" for number in range(6)]
CREDITS = 400


async def test_reshard_under_traffic_admits_nothing_wrongly_and_loses_nothing(
    world: World, redis_url: str, key_prefix: str
) -> None:
    for org in ORGS:
        await world.organization(org, ann=CREDITS)
    loader = account_loader(world.pool)
    spent: dict[str, int] = dict.fromkeys(ORGS, 0)
    refused = 0
    done = asyncio.Event()

    async def caller(meter: Meter, org: str, name: str) -> None:
        nonlocal refused
        number = 0
        while not done.is_set():
            number += 1
            request = f"{name}-{number}"
            try:
                hold = await meter.reserve(org, "ann", 3, request_id=request)
            except RequestReplayed:  # our own, of before a lost reply
                pass
            except MeterError:
                refused += 1
                await asyncio.sleep(0.005)
                continue
            else:
                receipt = await hold.commit(2)
                spent[org] += receipt.charged

    async with (
        settling(world),
        await Meter.connect(redis_url, key_prefix=key_prefix, loader=loader) as one,
        await Meter.connect(redis_url, key_prefix=key_prefix, loader=loader) as two,
        asyncio.TaskGroup() as tasks,
    ):
        for index, org in enumerate(ORGS):
            for meter in (one, two):
                tasks.create_task(caller(meter, org, f"{index}-{id(meter)}"))
        before = 1
        for wanted in (3, 5, 2):
            seen = dict(spent)
            assert await reshard(world.stores, wanted, wait_s=20) == before
            before = wanted

            async def everybody_went_on(seen: dict[str, int] = seen) -> bool:
                # An organisation spends in the shard where it is now, until it is empty.
                return all(spent[org] > seen[org] or spent[org] + 3 > CREDITS for org in ORGS)

            await eventually(everybody_went_on)
        done.set()
    assert refused, "nobody noticed: the drain did not bite"
    world.shards = 2
    assert {shard_of(org, 2) for org in ORGS} == {0, 1}
    await world.assert_books()
    for org in ORGS:
        assert await world.used("ann", org) == spent[org] <= CREDITS
    assert await world.stores.redis.keys(f"{{{key_prefix}:4}}:*") == [
        world.stores.keys(4).meta.encode()
    ]


async def test_rebuild_waits_for_holds_and_gives_up_without_a_trace(
    world: World, redis_url: str, key_prefix: str
) -> None:
    await world.organization(ann=1_000)
    async with await Meter.connect(
        redis_url, key_prefix=key_prefix, loader=account_loader(world.pool)
    ) as meter:
        hold = await meter.reserve("acme", "ann", 100)
        with pytest.raises(HoldsOpen) as left:
            await rebuild_on_demand(world.stores, 0, reason="test", wait_s=0.1)
        assert left.value.holds == 1
        await meter.charge("acme", "ann", 1)  # credit is taken again
        stopped = asyncio.create_task(reshard(world.stores, 2, wait_s=60))

        async def drained() -> bool:
            return bool(await world.stores.redis.hexists(world.keys().meta, "drain_until_ms"))

        await eventually(drained)
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
        await meter.charge("acme", "ann", 1)  # also when whoever waits is stopped
        rebuilding = asyncio.create_task(
            rebuild_on_demand(world.stores, 0, reason="test", wait_s=20)
        )

        async def paused() -> bool:
            try:
                await meter.charge("acme", "ann", 1)
            except AdmissionPaused:
                return True
            return False

        await eventually(paused)
        await hold.commit(40)
        rebuilt = await rebuilding
        assert (rebuilt.epoch, rebuilt.lost, rebuilt.holds_dropped) == (2, 0, 0)
        await meter.charge("acme", "ann", 1)
    await world.assert_books()
    mark = await world.mark()
    assert mark["epoch"] == 2


async def test_a_forced_rebuild_keeps_holds_and_what_they_reported(
    world: World, redis_url: str, key_prefix: str
) -> None:
    await world.organization(ann=1_000)
    async with await Meter.connect(
        redis_url, key_prefix=key_prefix, loader=account_loader(world.pool)
    ) as meter:
        hold = await meter.reserve("acme", "ann", 100)
        left = await meter.reserve("acme", "ann", 200)
        await left.touch(40)
        ended = await meter.reserve("acme", "ann", 300)
        await ended.release()
        rebuilt = await rebuild_on_demand(world.stores, 0, reason="t", wait_s=0, force=True)
        assert (rebuilt.holds_kept, rebuilt.holds_dropped) == (2, 0)
        assert await world.live("ann") == (700, 300, 1)
        receipt = await hold.commit(60)
        assert not receipt.late
        assert (receipt.available, receipt.held) == (740, 200)
        # Redis is whole, so it also remembers what has ended.
        assert (await ended.release()).replayed
        await world.overdue(left.request_id)
        swept = await sweep(world.stores, 0, rebuilt.epoch)
        assert (swept.ended, swept.events, swept.uncharged) == (1, 1, 0)
    await world.assert_books()
    assert await world.used("ann") == 100


async def test_only_one_maintenance_at_a_time(world: World) -> None:
    async with guardian_locks(world.stores, [0]):
        with pytest.raises(ShardBusy):
            await rebuild_on_demand(world.stores, 0, reason="t", wait_s=0)
        with pytest.raises(ShardBusy):
            await reshard(world.stores, 2, wait_s=0)
    assert await reshard(world.stores, 2, wait_s=0) == 1


async def test_whoever_waits_is_told_how_far_it_is(world: World) -> None:
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 10))
    told: list[tuple[int, int, str]] = []
    await reshard(world.stores, 2, wait_s=0.2, force=True, tell=lambda *step: told.append(step))
    assert told[0][0] == 0
    assert told[0][2].startswith("1 holds are open, 0 s to wait")
    steps = [done for done, _, _ in told if done]
    # Drained, closed, settled, changed, and two that are opened.
    assert steps == list(range(1, 7))
    assert {total for _, total, _ in told} == {6}
    assert told[-1][2] == "shard 1 is open"
    said: list[str] = []
    await rebuild_on_demand(world.stores, 1, reason="t", wait_s=0.2, force=True, says=said.append)
    assert said[-1] == "balances come from Postgres"


async def test_events_that_are_missing_stop_a_reshard(world: World) -> None:
    await world.organization(ann=1_000)
    await world.charge("ann", 5)
    await world.stores.redis.hincrby(world.keys().meta, "seq", 3)
    with pytest.raises(EventsMissing, match="rebuild --shard 0"):
        await reshard(world.stores, 2, wait_s=0)
    found = await guard(world.stores, 0, 1)
    assert (found.action, found.lost) == ("rebuilt", 3)


async def test_a_settler_that_believes_in_another_number_does_nothing(world: World) -> None:
    await reshard(world.stores, 3, wait_s=0)
    marks = [await world.mark(shard) for shard in range(3)]
    stale = await guard(world.stores, 0, 1)
    assert (stale.usable, stale.reason) == (False, "there are 3 shards now")
    await reshard(world.stores, 1, wait_s=0)
    gone = await guard(world.stores, 2, 3)
    assert (gone.usable, gone.reason) == (
        False,
        "Postgres has no shard 2: its watermark is missing",
    )
    assert (await world.mark())["epoch"] > max(mark["epoch"] for mark in marks)


async def test_the_commands_say_what_they_did(
    world: World, database_url: str, redis_url: str, key_prefix: str
) -> None:
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r1", 10))
    env = {
        **os.environ,
        "TAXIMETER_DATABASE_URL": database_url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_KEY_PREFIX": key_prefix,
    }

    async def taximeter(*arguments: str) -> tuple[int, str]:
        return await asyncio.to_thread(run_forked, *arguments, environment=env)

    code, said = await taximeter("reshard", "--shards", "2", "--wait", "0")
    assert (code, said) == (
        1,
        "Error: 1 holds were still open after 0 s. Nothing was done."
        " Wait longer with --wait, or keep them open with --force.\n",
    )
    assert await taximeter("rebuild", "--wait", "0", "--force") == (
        0,
        "shard 0: open at epoch 2, 0 events lost, 1 open holds go on\n",
    )
    assert await taximeter("rebuild", "--shard", "3") == (
        1,
        "Error: Postgres has no shard 3: its watermark is missing\n",
    )
    keep = ("--wait", "0", "--force")
    assert await taximeter("reshard", "--shards", "2", *keep) == (0, "1 -> 2 shards\n")
    assert await taximeter("reshard", "--shards", "2") == (0, "2 shards, as before\n")
    world.shards = 2
    await world.assert_books()

"""Loops that go on whatever their work does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from settler_world import eventually

from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.loops import Bell, Loop, run_loops
from taximeter.settler.worker.turns import Turns


@asynccontextmanager
async def running(
    activity: LoopActivity, *loops: Loop, grace_s: float = 1.0, bell: Bell | None = None
) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(run_loops(loops, activity, stop, grace_s=grace_s, bell=bell))
    yield
    stop.set()
    async with asyncio.timeout(60):
        await task


def troubles(activity: LoopActivity) -> dict[str, str | None]:
    return {name: trouble for name, _, _, trouble in activity.signs()}


@pytest.mark.parametrize(
    "ending", [RuntimeError, asyncio.CancelledError, TimeoutError, OSError, None]
)
async def test_a_loop_goes_on(ending: Callable[[], BaseException] | None) -> None:
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if ending is None:
            await asyncio.Event().wait()  # For ever: its time is bounded.
        raise ending()

    activity = LoopActivity()

    async def three() -> bool:
        return rounds >= 3

    async with running(activity, Loop("work", work, 0.01, 0.01)):
        await eventually(three)
        if ending is not asyncio.CancelledError:
            assert troubles(activity)["work"] is not None


@pytest.mark.parametrize("rings_in_a_round", [True, False])
async def test_a_bell_begins_the_next_round_of_every_loop(rings_in_a_round: bool) -> None:
    rounds = {"guard": 0, "settle": 0}
    bell = Bell()

    def loop(name: str) -> Loop:
        async def work() -> None:
            rounds[name] += 1
            if rings_in_a_round and rounds[name] == 1:
                bell.ring()

        return Loop(name, work, 3_600.0, 10.0)

    async def all_did(wanted: int) -> bool:
        return all(count >= wanted for count in rounds.values())

    async with running(LoopActivity(), *map(loop, rounds), bell=bell):
        if not rings_in_a_round:
            await eventually(lambda: all_did(1))
            bell.ring()
        await eventually(lambda: all_did(2))


async def test_what_is_cancelled_ends_whatever_comes_up_on_its_way_out() -> None:
    """A transaction whose connection was closed meanwhile raises that in place of the cancelling;
    whoever cancelled it waited for ever.
    """
    begun: list[str] = []
    activity = LoopActivity()
    turns = Turns(activity, at_once={}, timeout_s=3_600)

    async def again_and_again(name: str) -> None:
        async def work() -> None:
            begun.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("the connection is closed")

        while begun.count(name) < 2:
            await turns.once(name, work)

    for name in ("aside", "task"):
        activity.expect(name, 1.0)
    turns.aside("aside", lambda: again_and_again("aside"))
    task = asyncio.create_task(again_and_again("task"))

    async def both() -> bool:
        return sorted(begun) == ["aside", "task"]

    await eventually(both)
    task.cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(task, turns.end(0.0), return_exceptions=True)
    assert task.cancelled()
    assert len(begun) == 2


async def test_a_long_round_delays_no_other_loop_and_is_cut_off_at_the_end() -> None:
    rounds = 0
    was_cut_off = False

    async def short() -> None:
        nonlocal rounds
        rounds += 1

    async def long() -> None:
        nonlocal was_cut_off
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cut_off = True
            raise

    async def ten() -> bool:
        return rounds >= 10

    activity = LoopActivity()
    loops = Loop("short", short, 0.001, 5), Loop("long", long, 0.001, 60)
    async with running(activity, *loops, grace_s=0.01):
        await eventually(ten)
    assert was_cut_off
    assert troubles(activity) == {"short": None, "long": None}


async def test_a_shard_that_takes_long_delays_no_other() -> None:
    activity = LoopActivity()
    activity.expect("settle", 1.0)
    turns = Turns(activity, at_once={"settle": 2}, timeout_s=30)
    worked = [0, 0, 0]
    release = asyncio.Event()

    async def work(shard: int) -> bool:
        worked[shard] += 1
        if shard == 1:
            await release.wait()
        if shard == 2:
            raise OSError("away")
        return False

    for _ in range(3):
        await turns.each_shard("settle", 3, work, patience_s=0.05)
    assert worked == [3, 1, 3], "the one that is still worked on is passed over"
    assert troubles(activity) == {"settle": "OSError"}, "another shard's luck hides nothing"
    release.set()
    await turns.end(5)
    await turns.each_shard("settle", 2, work)
    assert worked == [4, 2, 3]

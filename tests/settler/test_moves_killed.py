"""A move or a closing that dies at any await is finished or undone, and every credit is where it
was or where it should go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from settler_kill import CutOff, own_stores, run_cut_off
from settler_moves import assert_history_adds_up, close, deallocation, pool_of, remove, transfer
from settler_world import World, eventually

from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.closing import Closed, close_all, expire
from taximeter.settler.moves.moves import move, undo_left

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SUSPENSIONS_MAX = 300
PROVED_EVERY = 4
EVERY = range(1, SUSPENSIONS_MAX + 1)
NOON = datetime(2031, 5, 5, 12, tzinfo=UTC)
Work = Callable[[Stores], Coroutine[Any, Any, Any]]


async def user(world: World, user_id: str, allocated: int) -> None:
    """A member with this much, of whose account 100 are held by an open request."""
    await world.pool.execute(
        "INSERT INTO organization_members (org_id, user_id) VALUES ('acme', $1)", user_id
    )
    await world.pool.execute(
        "SELECT allocate_credits_to_user('acme', $1, $2, 'boss')", user_id, allocated
    )
    await world.relay()
    await world.operate("acme", ("reserve", user_id, f"open-{user_id}", 100))


async def killed_at_awaits(
    world: World,
    urls: tuple[str, str, str],
    abrupt: bool,
    work: Callable[[str], Work],
    awaits: Iterable[int] = EVERY,
) -> AsyncIterator[tuple[str, bool]]:
    """For each of these awaits of `work`, a new user whose work dies there; yields (user, died)."""
    for turn, at in enumerate(awaits, start=1):
        assert at < SUSPENSIONS_MAX, "the work never came to its end"
        user_id = f"u{at}"
        await user(world, user_id, 1_000)
        async with own_stores(*urls) as (stores, pool):
            cut = CutOff(work(user_id)(stores), at, pool.terminate if abrupt else None)
            died = await run_cut_off(cut)
        # Whatever it died in, nothing is free twice: the live side says so before anybody recovers.
        # What is wrong once stays wrong, so not every death is looked at alone.
        if turn % PROVED_EVERY == 0 or not died:
            assert (await world.check()).holds, f"cut off at await {at}"

        async def nothing_left() -> bool:
            # Postgres may take a moment to see that a session is gone, and to give up its locks.
            await undo_left(world.stores, grace_s=0)
            return not await world.pool.fetchval(
                "SELECT count(*) FROM taximeter.moves WHERE state = 'pending'"
            )

        await eventually(nothing_left)
        await world.relay()
        yield user_id, died
        if not died:
            assert at > 10, "it suspends more often than that"
            return


@pytest.fixture
def urls(database_url: str, redis_url: str, key_prefix: str) -> tuple[str, str, str]:
    return database_url, redis_url, key_prefix


@pytest.mark.parametrize(
    ("kind", "abrupt", "awaits"),
    # A transfer is killed at every fourth await, and cancelled at those half-way between them.
    [
        ("transfer", True, EVERY[::4]),
        pytest.param("transfer", False, EVERY[2::4], marks=pytest.mark.whole),
        pytest.param("deallocation", True, EVERY[1::3], marks=pytest.mark.whole),
        pytest.param("transfer", True, EVERY, marks=pytest.mark.long),
        pytest.param("transfer", False, EVERY, marks=pytest.mark.long),
        pytest.param("deallocation", True, EVERY, marks=pytest.mark.long),
    ],
    ids=lambda value: f"{value.step}" if isinstance(value, range) else str(value),
)
async def test_a_move_is_made_or_not(
    world: World, urls: tuple[str, str, str], kind: str, abrupt: bool, awaits: range
) -> None:
    await world.organization("acme", bob=1)
    await world.pool.execute(
        "INSERT INTO organization_members (org_id, user_id) VALUES ('acme', 'bob')"
    )

    def work(user_id: str) -> Work:
        request = (
            transfer(user_id, "bob", 300, user_id)
            if kind == "transfer"
            else deallocation(user_id, 300, user_id)
        )
        return lambda stores: move(stores, request)

    moved = 0
    outcomes = set()
    async for user_id, died in killed_at_awaits(world, urls, abrupt, work, awaits):
        live = await world.live(user_id)
        assert live is not None
        assert (live[0], live[1]) in ((900, 100), (600, 100))
        made = live[0] == 600
        outcomes.add(made)
        assert made or died
        # The caller who heard nothing asks again with the same key: it is made once, in the end.
        assert (await work(user_id)(world.stores)).state == "done"
        moved += 300
        live = await world.live(user_id)
        assert live is not None
        assert (live[0], live[1]) == (600, 100)
        if kind == "transfer":
            bob = await world.live("bob")
            assert bob is not None
            assert bob[0] == 1 + moved
    assert outcomes == {True, False}, "some died before the booking, and some after it"
    await assert_history_adds_up(world)
    await world.assert_books()


@pytest.mark.parametrize(
    ("why", "abrupt", "awaits"),
    [
        ("removal", True, EVERY[::6]),
        pytest.param("expiry", False, EVERY[3::6], marks=pytest.mark.whole),
        pytest.param("removal", True, EVERY, marks=pytest.mark.long),
        pytest.param("expiry", False, EVERY, marks=pytest.mark.long),
    ],
    ids=["removal-True", "expiry-False", "removal-everywhere", "expiry-everywhere"],
)
async def test_a_closing_goes_on_and_returns_each_credit_once(
    world: World, urls: tuple[str, str, str], why: str, abrupt: bool, awaits: range
) -> None:
    await world.organization("acme", total=10**6)

    def work(user_id: str) -> Work:
        async def removed(stores: Stores) -> None:
            await remove(stores, user_id)

        async def expired(stores: Stores) -> None:
            await world.pool.execute(
                "UPDATE user_credit_allocations SET expires_at = $2 WHERE user_id = $1",
                user_id,
                NOON,
            )
            done = Closed()
            await expire(stores, NOON, 10, done)
            await close_all(stores, done)

        return removed if why == "removal" else expired

    used = 0
    async for user_id, _ in killed_at_awaits(world, urls, abrupt, work, awaits):
        # The removal is one transaction: it was made or not. Then the job goes on, or it is asked
        # for again.
        if why == "removal":
            await remove(world.stores, user_id)
        await work(user_id)(world.stores)
        await close(world)
        live = await world.live(user_id)
        assert live is not None
        assert (live[0], live[1]) == (0, 100)
        (reply,) = await world.operate("acme", ("commit", user_id, f"open-{user_id}", 30))
        assert reply == "1 70 0"
        await close(world)
        await world.settle()
        await close(world)
        used += 30
        assert await pool_of(world) == (0, used, 10**6 - used), "what is used is closed"
    await assert_history_adds_up(world)
    await world.assert_books()

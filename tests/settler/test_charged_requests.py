"""A commit that comes after its hold has expired, and after Redis has forgotten that."""

from __future__ import annotations

import pytest
from settler_world import World

from taximeter.settler.worker.sweep import sweep


async def expire(world: World, request_id: str, progress: int) -> None:
    """A hold of ann's that ended by its deadline after `progress` was reported."""
    await world.operate("acme", ("reserve", "ann", request_id, 200))
    await world.operate("acme", ("touch", "ann", request_id, progress))
    deadlines = world.keys().deadlines
    await world.stores.redis.zadd(deadlines, {f"acme/{request_id}": 1}, xx=True)
    assert (await sweep(world.stores, 0, 1)).ended == 1


async def commit_forgotten(world: World, request_id: str, amount: int) -> None:
    """Commit when neither the hold nor its outcome is known any more."""
    await world.stores.redis.delete(world.keys().outcomes, world.keys().outcomes_old)
    (reply,) = await world.operate("acme", ("commit", "ann", request_id, amount))
    assert reply.startswith("3 "), reply


async def charged(world: World, request_id: str) -> list[tuple[int, int]]:
    """(phase, amount) of a request in the ledger."""
    rows = await world.pool.fetch(
        "SELECT phase, amount FROM taximeter.charged_requests WHERE request_id = $1 ORDER BY phase",
        request_id,
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("settled_between", [True, False])
async def test_what_the_expiry_has_not_charged_is_charged(
    world: World, settled_between: bool
) -> None:
    await world.organization("acme", ann=10_000)
    await expire(world, "h", 30)
    if settled_between:
        await world.settle()
    await commit_forgotten(world, "h", 100)
    await world.assert_books()
    assert await charged(world, "h") == [(0, 30), (1, 70)]
    assert await world.used("ann") == 100
    assert (await world.live("ann") or ())[:2] == (9_900, 0)
    assert await world.dead_letters() == []


async def test_it_is_charged_once_however_often_it_comes(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await expire(world, "h", 30)
    for _ in range(3):
        await commit_forgotten(world, "h", 100)
        await world.settle()
    await commit_forgotten(world, "h", 100)
    await commit_forgotten(world, "h", 100)
    await world.assert_books()
    assert await charged(world, "h") == [(0, 30), (1, 70)]
    assert (await world.live("ann") or ())[:2] == (9_900, 0)
    letters = await world.dead_letters()
    assert {(row["reason"], row["amount"]) for row in letters} == {("duplicate", 100)}


async def test_a_commit_of_no_more_than_the_expiry_charged_is_a_duplicate(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await expire(world, "h", 30)
    await commit_forgotten(world, "h", 30)
    await world.assert_books()
    assert await charged(world, "h") == [(0, 30)]
    assert (await world.live("ann") or ())[:2] == (9_970, 0)


async def test_a_commit_that_was_a_charge_before_is_a_duplicate_whatever_its_amount(
    world: World,
) -> None:
    """The first answer counts: only an expiry leaves a rest."""
    await world.organization("acme", ann=10_000)
    await world.operate("acme", ("reserve", "ann", "h", 200), ("commit", "ann", "h", 30))
    await world.settle()
    await commit_forgotten(world, "h", 100)
    await world.assert_books()
    assert await charged(world, "h") == [(0, 30)]
    assert (await world.live("ann") or ())[:2] == (9_970, 0)


async def test_another_users_commit_is_not_the_rest(world: World) -> None:
    await world.organization("acme", ann=10_000, bob=10_000)
    await expire(world, "h", 30)
    await world.settle()
    await world.stores.redis.delete(world.keys().outcomes)
    await world.operate("acme", ("commit", "bob", "h", 100))
    await world.assert_books()
    assert await charged(world, "h") == [(0, 30)]
    assert (await world.live("bob") or ())[:2] == (10_000, 0)

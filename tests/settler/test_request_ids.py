"""What settling does with ids of the generation before, and with events from before all that is
remembered.
"""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from settler_world import World

from taximeter.settler.books.settings import REQUEST_IDS_KEPT_MIN_S, SettlerSettings
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.request_ids import Remembering, forget_request_ids
from taximeter.settler.worker.sweep import sweep

KEPT_S = REQUEST_IDS_KEPT_MIN_S


async def a_month_passes(world: World) -> None:
    """As far as the generations go, whose hours are those of Postgres."""
    await world.pool.execute(
        "UPDATE taximeter.charge_generations SET began_at = began_at - interval '31 days',"
        " frozen_at = frozen_at - interval '31 days'"
    )


async def freeze(world: World) -> None:
    await a_month_passes(world)
    assert await forget_request_ids(world.stores, KEPT_S) == Remembering(put_away=True)


async def forget_outcomes(world: World) -> None:
    await world.stores.redis.delete(world.keys().outcomes, world.keys().outcomes_old)


async def charged(world: World) -> list[tuple[str, int, int]]:
    rows = await world.pool.fetch(
        "SELECT request_id, phase, amount FROM taximeter.charged_requests ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows]


async def test_a_repeat_across_the_freeze_is_a_duplicate(world: World) -> None:
    await world.organization("acme", ann=10_000, bob=10_000)
    await world.charge("ann", 30, "r")
    await world.settle()
    await freeze(world)
    await forget_outcomes(world)
    await world.charge("ann", 100, "r")
    await world.charge("bob", 100, "r2")
    await world.assert_books()
    assert await charged(world) == [("r", 0, 30), ("r2", 0, 100)]
    assert (await world.live("ann") or ())[:2] == (9_970, 0)
    assert [row["reason"] for row in await world.dead_letters()] == ["duplicate"]


async def test_the_rest_of_an_expiry_is_found_in_the_generation_before(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.operate("acme", ("reserve", "ann", "h", 200), ("touch", "ann", "h", 30))
    await world.overdue("h")
    assert (await sweep(world.stores, 0, 1)).ended == 1
    await world.settle()
    await freeze(world)
    await forget_outcomes(world)
    await world.operate("acme", ("commit", "ann", "h", 100))
    await world.assert_books()
    assert await charged(world) == [("h", 0, 30), ("h", 1, 70)]
    assert await world.used("ann") == 100


async def test_an_event_from_before_what_is_remembered_is_set_aside(world: World) -> None:
    """It may be charged already, and nobody can tell: it is given back, and on record."""
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 30, "r")
    await world.settle()
    await freeze(world)
    await world.charge("ann", 1, "between")
    await world.settle()
    await a_month_passes(world)
    assert await forget_request_ids(world.stores, KEPT_S) == Remembering(forgotten=1)
    await world.assert_books()
    assert await charged(world) == [("between", 0, 1)]
    # As a server has it that was away all that time.
    forty_days_ago = int(
        await world.pool.fetchval("SELECT extract(epoch FROM now() - interval '40 days') * 1000")
    )
    old = await world.line("ann", 30, "r")
    await world.inject(old, fields={b"t": b"%d" % forty_days_ago, b"v1": old})
    await world.settle()
    (letter,) = await world.dead_letters()
    assert letter["reason"] == "refused_by_database"
    assert "the ids of before" in letter["detail"]
    await world.relay()
    assert (await world.live("ann") or ())[:2] == (9_969, 0)
    # An id that comes again after that time is a new request.
    young = await world.line("ann", 5, "r")
    now = int(await world.pool.fetchval("SELECT extract(epoch FROM now()) * 1000"))
    await world.inject(young, fields={b"t": b"%d" % now, b"v1": young})
    await world.assert_books()
    assert await charged(world) == [("between", 0, 1), ("r", 0, 5)]
    report = await world.check()
    (events,) = [one for one in report.invariants if one.name == "I4"]
    assert events.figures["forgotten"] == 1


async def test_nothing_is_forgotten_while_old_events_may_wait(world: World) -> None:
    """A charge that Postgres has not booked for a month is booked, and its id is not forgotten
    before.
    """
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 30, "r")
    await freeze(world)
    await a_month_passes(world)
    assert await forget_request_ids(world.stores, KEPT_S) == Remembering(unsettled=(0,))
    await world.settle()
    assert await forget_request_ids(world.stores, KEPT_S) == Remembering(forgotten=0)
    await world.assert_books()
    assert await charged(world) == [("r", 0, 30)]


async def test_the_daily_work_forgets(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 30, "r")
    await world.settle()
    daily = Settler(world.stores, SettlerSettings(request_id_retention_s=KEPT_S)).daily
    for _ in range(2):
        await a_month_passes(world)
        await daily()
    assert await charged(world) == []
    await world.assert_books()


def test_a_retention_is_long_enough_or_none() -> None:
    assert SettlerSettings(request_id_retention_s=0).request_id_retention_s == 0
    with pytest.raises(ValidationError, match="at least 2592000"):
        SettlerSettings(request_id_retention_s=2_591_999)
    with pytest.raises(ValidationError, match="not be less than TAXIMETER_IDEMPOTENCY_RETENTION_S"):
        SettlerSettings(idempotency_retention_s=31_536_000, request_id_retention_s=2_592_000)

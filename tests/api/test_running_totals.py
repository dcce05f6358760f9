"""Reports that are read from running totals of months are a recount of the rows, for any range."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta

from settler_world import World

from taximeter.api.billing.usage_reports import Scope
from taximeter.api.sql import DASHBOARDS

FIRST, DAYS = date(2027, 12, 20), 120  # Over a new year and the 29th of a February.
ORGS, USERS = ("acme", "beta"), ("ann", "bob", "cleo")
RANGES = 60

Row = tuple[str, str, str, int, date]


async def use(world: World, dice: random.Random) -> list[Row]:
    rows: list[Row] = []
    for number in range(400):
        # The ends of the range and of months are met often enough.
        day = FIRST + timedelta(days=dice.choice((0, 11, 12, 42, 70, 71, DAYS - 1, number % DAYS)))
        rows.append(
            (dice.choice(ORGS), dice.choice(USERS), dice.choice("st"), dice.randint(0, 99), day)
        )
    await world.stores.pool.executemany(
        "INSERT INTO credit_usage_attribution"
        " (org_id, user_id, service_type, credits_used, created_at) VALUES ($1, $2, $3, $4, $5)",
        [
            (*row[:4], datetime(row[4].year, row[4].month, row[4].day, 23, tzinfo=UTC))
            for row in rows
        ],
    )
    return rows


def some_range(dice: random.Random) -> tuple[date, date]:
    one, other = (FIRST + timedelta(days=dice.randint(-40, DAYS + 40)) for _ in range(2))
    return min(one, other), max(one, other)


def added_up(rows: list[tuple[object, int]]) -> list[tuple[object, int, int]]:
    """Name, requests and credits; the largest first."""
    names = {name for name, _ in rows}
    totals = [
        (name, sum(one == name for one, _ in rows), sum(c for one, c in rows if one == name))
        for name in names
    ]
    return sorted(totals, key=lambda total: (-total[2], str(total[0])))


async def test_any_range_by_user(world: World) -> None:
    dice = random.Random(1)
    rows = await use(world, dice)
    async with world.stores.pool.acquire() as conn:
        for number in range(RANGES):
            first, last = some_range(dice)
            kind = "s" if number % 4 == 0 else None
            scope = Scope("acme", first, last, service_type=kind)
            found = [tuple(row) for row in await scope.by_user(conn, 100)]
            wanted = [
                (user, amount)
                for org, user, service, amount, day in rows
                if org == "acme" and first <= day <= last and kind in (None, service)
            ]
            assert found == added_up(wanted), (first, last, kind)


async def test_any_range_by_day_and_by_organization(world: World) -> None:
    dice = random.Random(2)
    rows = await use(world, dice)
    for _ in range(RANGES):
        first, last = some_range(dice)
        inside = [row for row in rows if first <= row[4] <= last]
        top = await world.stores.pool.fetch(DASHBOARDS["top_organizations"], first, last, 10)
        assert [tuple(row)[:3] for row in top] == added_up([(row[0], row[3]) for row in inside])
        trend = await world.stores.pool.fetch(DASHBOARDS["usage_trend"], first, last)
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        assert [tuple(row) for row in trend] == [
            (day, sum(row[4] == day for row in inside), sum(r[3] for r in inside if r[4] == day))
            for day in days
        ]


async def test_a_deletion_is_taken_out_of_every_day_after_it(world: World) -> None:
    dice = random.Random(3)
    rows = await use(world, dice)
    await world.stores.pool.execute(
        "DELETE FROM credit_usage_attribution WHERE service_type = 's' OR user_id = 'bob'"
    )
    left = [row for row in rows if row[2] == "t" and row[1] != "bob"]
    async with world.stores.pool.acquire() as conn:
        for _ in range(RANGES):
            first, last = some_range(dice)
            found = [tuple(row) for row in await Scope("beta", first, last).by_user(conn, 100)]
            assert found == added_up(
                [(row[1], row[3]) for row in left if row[0] == "beta" and first <= row[4] <= last]
            )
    # Nothing stays behind of a user all of whose usage is gone.
    users = await world.stores.pool.fetch(
        "SELECT DISTINCT user_id FROM taximeter.usage_monthly_by_user ORDER BY 1"
    )
    assert [row[0] for row in users] == ["ann", "cleo"]

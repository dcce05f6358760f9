"""Everything that the settler does, with the rights of its role alone."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest
from settler_world import World
from structlog.testing import capture_logs

from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.proof.check import check
from taximeter.settler.worker.jobs import Settler


@pytest.mark.timeout(120)
async def test_every_tick_does_its_work_without_owning_anything(
    world: World, settler_database_url: str, redis_url: str, key_prefix: str
) -> None:
    await world.organization(ann=500_000, bob=200_000, eve=100_000, dan=100_000)
    settings = SettlerSettings(
        database_url=settler_database_url,
        redis_url=redis_url,
        key_prefix=key_prefix,
        partition_months_ahead=5,
        event_retention_s=0,
        event_retention_max=0,
    )
    async with asyncpg.create_pool(settler_database_url, min_size=1, max_size=8) as pool:
        stores = replace(world.stores, pool=pool)
        settler = Settler(stores, settings)
        with capture_logs() as logs:
            assert await settler.start() == 1
            await world.charge("ann", 1_000, "r-1")
            await world.inject(await world.line("gone", 5, "r-2", "nobody"))  # A dead letter.
            await world.inject(await world.line("bob", 700, "r-3"), skip=2)  # Lost events.
            # A charge of a closed allocation, and one that finds none at all.
            await world.charge("eve", 300, "r-4")
            await world.charge("dan", 400, "r-5")
            await world.pool.execute(
                "UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'eve'"
            )
            await world.pool.execute("DELETE FROM user_credit_allocations WHERE user_id = 'dan'")
            await world.operate("acme", ("reserve", "ann", "r-6", 5_000, 1))
            await world.pool.execute(
                "UPDATE user_credit_allocations SET expires_at = now() - interval '1 second',"
                " auto_renew = true WHERE user_id = 'bob'"
            )
            await settler.daily()
            await settler.refresh()
            await settler.moves()
            for _ in range(3):
                await settler.settle()
                await settler.relay()
                await settler.sweep()
            await settler.reconcile()
            report = await check(stores)
        wrong = [one for one in logs if "failed" in one or "could_not_look" in one]
        assert not wrong
        assert {one.name for one in report.invariants if not one.holds} == {"I4"}, "the loss alone"
        assert [row["request_id"] for row in await world.dead_letters()] == ["r-2"]
        assert await world.pool.fetchval("SELECT count(*) FROM taximeter.lost_events") == 1
        assert await world.used("ann") == 1_000
        assert await world.used("dan") == 400
        daily = next(one for one in logs if one["event"] == "daily")
        assert daily["months_made"] == 2
        renewed = "SELECT count(*) FROM user_credit_allocations WHERE user_id = 'bob'"
        assert await world.pool.fetchval(renewed) == 2

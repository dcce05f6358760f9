"""Postgres fails over to a standby that lags: what it lacks is charged again from the stream, once;
what only the dead primary knew is said, and nothing is invented.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis.asyncio as redis_asyncio
from settler_world import World
from support.memory import memory_folder
from support.proxy import Proxy
from support.standby import Pair, primary_and_standby

from taximeter.api.embedded.machine import LOOPBACK
from taximeter.api.processes.migrate import migrate
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, open_pool
from taximeter.settler.shards.guardian import guard
from taximeter.settler.worker.sweep import sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    with memory_folder() as memory, TemporaryDirectory(prefix="taximeter-standby-") as disk:
        folder = memory or Path(disk)
        folder.chmod(0o755)
        async with primary_and_standby(folder / "servers") as found:
            yield found


def timeline(ledger: str) -> int:
    """Of a ledger as it is named in a reason: after the system it is of."""
    return int(ledger.partition("/")[2].split()[0], 16)


async def test_a_promoted_standby_that_lags_is_noticed_and_all_that_was_charged_is_booked(
    pair: Pair, redis: redis_asyncio.Redis, key_prefix: str
) -> None:
    migrate(pair.urls[0])
    # An address that follows the primary, as a virtual one or a TCP proxy does.
    async with (
        Proxy(pair.urls[0]) as address,
        await open_pool(StoreSettings(database_url=address.url)) as pool,
    ):
        world = World(Stores(pool, redis, key_prefix))
        await world.start()
        await world.organization("acme", ann=10_000)
        await world.charge("ann", 10, "both")
        await world.settle()
        await pair.follow()
        await pair.cut_off()

        await world.charge("ann", 20, "settled")
        await world.settle()
        await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 12000")
        await world.relay()
        await world.charge("ann", 5, "waiting")
        await world.operate("acme", ("reserve", "ann", "held", 50), ("touch", "ann", "held", 30))
        assert await world.used("ann") == 30
        assert (await guard(world.stores, 0, 1)).action == "nothing"

        await pair.fail_over()
        address.target = (LOOPBACK, pair.ports[1])
        address.reset_all()
        await pool.expire_connections()
        assert await world.used("ann") == 10, "the standby did not lag"
        assert (
            await pool.fetchval("SELECT allocated_credits FROM user_credit_allocations") == 10_000
        )

        guarded = await guard(world.stores, 0, 1)
        assert guarded.action == "rebuilt"
        now, was = guarded.reason.split(", it was ")
        assert "Postgres went back or is another one" in now
        assert (timeline(now), timeline(was)) == (2, 1), guarded.reason
        await world.overdue("held")
        await sweep(world.stores, 0, (await world.mark())["epoch"])
        await world.assert_books()
        booked = await pool.fetch(
            "SELECT request_id, sum(credits_used)::bigint FROM credit_usage_attribution GROUP BY 1"
        )
        assert dict(booked) == {"both": 10, "settled": 20, "waiting": 5, "held": 30}
        # 2,000 were never there for this Postgres; whoever allocated them finds them missing.
        assert await world.live("ann") == (10_000 - 65, 0, 1)
        assert (await guard(world.stores, 0, 1)).action == "nothing"

"""The guide's load test, its deductions going through Meter and the settler instead of SQL."""

from __future__ import annotations

import asyncio

import asyncpg
from redis.asyncio import Redis

from taximeter.meter import Meter, Usage
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.relay import relay
from taximeter.settler.proof.check import check
from taximeter.settler.settling.settle import settle_shard
from taximeter.settler.shards.guardian import ensure_shards, guard

WORKERS, AMOUNT = 100, 50
ORG_ID, USER_ID = "load-test-org", "load-test-user"


async def test_a_hundred_concurrent_deductions_add_up(
    pool: asyncpg.Pool[asyncpg.Record], redis: Redis, redis_url: str
) -> None:
    """Every deduction succeeds, and what is used in the end is what was deducted."""
    await pool.execute(
        "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ($1, 'Load', $1, $2)",
        ORG_ID,
        USER_ID,
    )
    await pool.execute("SELECT add_credits_to_pool($1, 10000000, 100.00)", ORG_ID)
    await pool.execute(
        "SELECT allocate_credits_to_user($1, $2, 10000000, 'system')", ORG_ID, USER_ID
    )
    stores = Stores(pool, redis, "tm")
    shards = await ensure_shards(stores, None)
    for shard in range(shards):
        assert (await guard(stores, shard, shards)).usable
    await relay(stores)
    usage = Usage("load_test", "test-model")
    async with await Meter.connect(redis_url, loader=account_loader(pool)) as meter:
        receipts = await asyncio.gather(
            *[
                meter.charge(ORG_ID, USER_ID, AMOUNT, request_id=f"req-{number}", usage=usage)
                for number in range(WORKERS)
            ]
        )
    assert {receipt.charged for receipt in receipts} == {AMOUNT}
    for shard in range(shards):
        await settle_shard(stores, shard)
    used = await pool.fetchval(
        "SELECT used_credits FROM user_credit_allocations WHERE org_id = $1 AND user_id = $2",
        ORG_ID,
        USER_ID,
    )
    assert used == WORKERS * AMOUNT
    rows = await pool.fetch(
        "SELECT service_type, service_name, credits_used FROM credit_usage_attribution"
    )
    assert {tuple(row) for row in rows} == {("load_test", "test-model", AMOUNT)}
    assert len(rows) == WORKERS
    assert (await check(stores)).holds

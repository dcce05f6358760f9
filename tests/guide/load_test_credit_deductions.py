# The owner's file as it stands in the developer guide. Changed: the connection comes from the environment, and
# `float(...)` around the used credits, which asyncpg gives as a Decimal that a float cannot be subtracted from.
# ruff: noqa
# fmt: off
# tests/load_test_credit_deductions.py

import asyncio
import asyncpg
import os
import time
from concurrent.futures import ThreadPoolExecutor

async def deduct_credits_worker(org_id: str, user_id: str, request_num: int):
    """Worker function to deduct credits."""
    conn = await asyncpg.connect(os.environ["TAXIMETER_DATABASE_URL"])

    try:
        result = await conn.fetchrow("""
            SELECT * FROM deduct_credits(
                $1::VARCHAR, $2::VARCHAR, 50::BIGINT,
                'load_test'::VARCHAR, 'test-model'::VARCHAR,
                $3::VARCHAR, '{}'::JSONB
            )
        """, org_id, user_id, f"req-{request_num}")

        return result['success']

    finally:
        await conn.close()

async def load_test_concurrent_deductions(num_workers: int = 100):
    """Test concurrent credit deductions."""
    org_id = "load-test-org"
    user_id = "load-test-user"

    # Setup: Create org with credits
    conn = await asyncpg.connect(os.environ["TAXIMETER_DATABASE_URL"])

    await conn.execute(f"""
        INSERT INTO organizations (id, org_name, slug, created_by)
        VALUES ('{org_id}', 'Load Test Org', '{org_id}', '{user_id}')
        ON CONFLICT DO NOTHING;
    """)

    await conn.execute(f"""
        SELECT add_credits_to_pool('{org_id}', 10000000, 100.00);
        SELECT allocate_credits_to_user('{org_id}', '{user_id}', 10000000, 'system');
    """)

    await conn.close()

    # Run concurrent deductions
    start_time = time.time()

    tasks = [
        deduct_credits_worker(org_id, user_id, i)
        for i in range(num_workers)
    ]

    results = await asyncio.gather(*tasks)

    end_time = time.time()

    # Verify results
    successes = sum(1 for r in results if r)
    failures = num_workers - successes

    print(f"\n🚀 Load Test Results:")
    print(f"  Workers: {num_workers}")
    print(f"  Successes: {successes}")
    print(f"  Failures: {failures}")
    print(f"  Time: {end_time - start_time:.2f}s")
    print(f"  Throughput: {num_workers / (end_time - start_time):.2f} req/s")

    # Verify final balance
    conn = await asyncpg.connect(os.environ["TAXIMETER_DATABASE_URL"])

    final_used = float(await conn.fetchval(f"""
        SELECT used_credits / 1000.0
        FROM user_credit_allocations
        WHERE org_id = '{org_id}' AND user_id = '{user_id}';
    """))

    expected_used = successes * 0.05
    print(f"\n  Final credits used: {final_used}")
    print(f"  Expected: {expected_used}")
    print(f"  Difference: {abs(final_used - expected_used):.3f}")

    # Cleanup
    await conn.execute(f"""
        DELETE FROM credit_usage_attribution WHERE org_id = '{org_id}';
        DELETE FROM user_credit_allocations WHERE org_id = '{org_id}';
        DELETE FROM organization_credit_pools WHERE org_id = '{org_id}';
        DELETE FROM organizations WHERE id = '{org_id}';
    """)

    await conn.close()

    assert failures == 0, f"{failures} deductions failed"
    assert abs(final_used - expected_used) < 0.001, "Final balance mismatch"

# Run load test
if __name__ == "__main__":
    asyncio.run(load_test_concurrent_deductions(100))

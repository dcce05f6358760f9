# The owner's file as it stands in the developer guide. Changed: the connection comes from a fixture.
# ruff: noqa
# fmt: off
# tests/test_org_billing_functions.py

import pytest
import asyncpg

@pytest.fixture
async def db_connection(database_url):
    """Create database connection for tests."""
    conn = await asyncpg.connect(database_url)
    yield conn
    await conn.close()

@pytest.mark.asyncio
async def test_has_sufficient_credits(db_connection):
    """Test has_sufficient_credits function."""
    # Setup: Create test org and allocation
    await db_connection.execute("""
        INSERT INTO organizations (id, org_name, slug, created_by)
        VALUES ('test-org-unit', 'Test Org', 'test-org-unit', 'test-user');
    """)

    await db_connection.execute("""
        SELECT add_credits_to_pool('test-org-unit', 10000000, 100.00);
    """)

    await db_connection.execute("""
        SELECT allocate_credits_to_user(
            'test-org-unit', 'test-user', 5000000, 'system'
        );
    """)

    # Test: Check sufficient credits
    result = await db_connection.fetchval("""
        SELECT has_sufficient_credits('test-org-unit', 'test-user', 1000000);
    """)

    assert result is True, "Should have sufficient credits"

    # Test: Check insufficient credits
    result = await db_connection.fetchval("""
        SELECT has_sufficient_credits('test-org-unit', 'test-user', 10000000);
    """)

    assert result is False, "Should not have sufficient credits"

    # Cleanup
    await db_connection.execute("""
        DELETE FROM user_credit_allocations WHERE org_id = 'test-org-unit';
        DELETE FROM organization_credit_pools WHERE org_id = 'test-org-unit';
        DELETE FROM organizations WHERE id = 'test-org-unit';
    """)

@pytest.mark.asyncio
async def test_deduct_credits_atomic(db_connection):
    """Test atomic credit deduction."""
    # Setup
    org_id = 'test-org-atomic'
    user_id = 'test-user-atomic'

    await db_connection.execute(f"""
        INSERT INTO organizations (id, org_name, slug, created_by)
        VALUES ('{org_id}', 'Test Atomic', '{org_id}', '{user_id}');
    """)

    await db_connection.execute(f"""
        SELECT add_credits_to_pool('{org_id}', 10000000, 100.00);
        SELECT allocate_credits_to_user('{org_id}', '{user_id}', 5000000, 'system');
    """)

    # Test: Successful deduction
    result = await db_connection.fetchrow(f"""
        SELECT * FROM deduct_credits(
            '{org_id}'::VARCHAR,
            '{user_id}'::VARCHAR,
            50000::BIGINT,
            'test'::VARCHAR,
            'test-model'::VARCHAR,
            'req-123'::VARCHAR,
            '{{}}'::JSONB
        );
    """)

    assert result['success'] is True, "Deduction should succeed"
    assert result['remaining_credits'] == 4950000, "Should have 4,950 credits remaining"

    # Test: Verify usage attribution recorded
    count = await db_connection.fetchval(f"""
        SELECT COUNT(*) FROM credit_usage_attribution
        WHERE org_id = '{org_id}' AND user_id = '{user_id}' AND request_id = 'req-123';
    """)

    assert count == 1, "Should have recorded usage attribution"

    # Cleanup
    await db_connection.execute(f"""
        DELETE FROM credit_usage_attribution WHERE org_id = '{org_id}';
        DELETE FROM user_credit_allocations WHERE org_id = '{org_id}';
        DELETE FROM organization_credit_pools WHERE org_id = '{org_id}';
        DELETE FROM organizations WHERE id = '{org_id}';
    """)

-- The developer guide, word for word.
SELECT 'Pool' as type, total_credits/1000.0 as value
FROM organization_credit_pools WHERE org_id = 'test-dev-org'
UNION ALL
SELECT 'Allocation', allocated_credits/1000.0
FROM user_credit_allocations
WHERE org_id = 'test-dev-org' AND user_id = 'test-user-123';

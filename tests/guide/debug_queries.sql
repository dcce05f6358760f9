-- The developer guide, word for word.
-- Check user allocation before request
SELECT
    org_id,
    user_id,
    allocated_credits / 1000.0 as allocated,
    used_credits / 1000.0 as used,
    (allocated_credits - used_credits) / 1000.0 as remaining
FROM user_credit_allocations
WHERE org_id = 'ORG_ID' AND user_id = 'USER_ID' AND is_active = TRUE;

-- Check if deduction was recorded
SELECT
    created_at,
    service_name,
    credits_used / 1000.0 as credits,
    request_id,
    request_metadata
FROM credit_usage_attribution
WHERE org_id = 'ORG_ID' AND user_id = 'USER_ID'
ORDER BY created_at DESC
LIMIT 10;

-- Check pool consistency
SELECT
    'Allocation' as type,
    SUM(allocated_credits) / 1000.0 as value
FROM user_credit_allocations
WHERE org_id = 'ORG_ID' AND is_active = TRUE
UNION ALL
SELECT
    'Pool Allocated',
    allocated_credits / 1000.0
FROM organization_credit_pools
WHERE org_id = 'ORG_ID';

-- Should match!

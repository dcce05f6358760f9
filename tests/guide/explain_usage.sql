-- The developer guide, word for word.
-- Check query performance
EXPLAIN ANALYZE
SELECT
    uca.user_id,
    uca.allocated_credits / 1000.0 as allocated,
    uca.used_credits / 1000.0 as used,
    SUM(cua.credits_used) / 1000.0 as total_usage
FROM user_credit_allocations uca
LEFT JOIN credit_usage_attribution cua
    ON cua.org_id = uca.org_id
    AND cua.user_id = uca.user_id
    AND cua.created_at >= NOW() - INTERVAL '30 days'
WHERE uca.org_id = 'org_abc123'
  AND uca.is_active = TRUE
GROUP BY uca.user_id, uca.allocated_credits, uca.used_credits;

-- Look for "Seq Scan" - add indexes to avoid
-- Target: < 50ms execution time

-- The developer guide, word for word.
-- Verify index usage
EXPLAIN ANALYZE
SELECT * FROM credit_usage_attribution
WHERE org_id = 'org_abc123'
  AND created_at >= NOW() - INTERVAL '30 days';

-- Should show "Index Scan" not "Seq Scan"

-- name: list_requests
-- Why: single charges of an organisation, newest first. A page begins after the last row of the one before, so that page 10,000
--      costs what page 1 does, and what is charged meanwhile shifts nothing. Moves between accounts are no requests.
-- $1 org_id, $2 from, $3 before, $4 user_id or null, $5 service_type or null, $6 service_name or null, $7 request_id or null,
-- $8 created_at of the last row or null, $9 its id, $10 limit
SELECT id, created_at, user_id, service_type, service_name, credits_used, request_id, reserved, late,
       request_metadata::text AS metadata
FROM credit_usage_attribution
WHERE org_id = $1 AND created_at >= $2 AND created_at < $3
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR service_type = $5)
    AND ($6::text IS NULL OR service_name = $6)
    AND ($7::text IS NULL OR request_id = $7)
    AND ($8::timestamptz IS NULL OR (created_at, id) < ($8, $9::bigint))
    AND service_type <> 'credit_transfer'
ORDER BY created_at DESC, id DESC
LIMIT $10;

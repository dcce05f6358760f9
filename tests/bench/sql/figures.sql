-- name: explain
-- Runs what follows it and says how long the server took, with nothing measured at every node.
EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON)

-- name: alone
-- One process answers, so that its processor time is all there is.
SET max_parallel_workers_per_gather = 0

-- name: sufficient
-- $1 org id, $2 user id, $3 millicredits
SELECT has_sufficient_credits($1, $2, $3)

-- name: deduct
-- $1 org id, $2 user id, $3 millicredits, $4 request id
SELECT * FROM deduct_credits($1, $2, $3, 'llm_inference', 'gpt-4o', $4, '{"provider": "openai"}')

-- name: end_large
-- As the API ends it.
WITH ended AS (UPDATE organizations SET suspended_at = now(), deleted_at = now() WHERE id = 'big' RETURNING id)
INSERT INTO taximeter.endings (org_id) SELECT id FROM ended

-- name: pool
-- Why: a pool as it is now, and what is promised to its running requests or not settled yet, as the settler saw it last.
-- $1 org_id
SELECT
    total_credits, allocated_credits, used_credits, available_credits, closed_credits,
    (SELECT coalesce(sum(open), 0)::bigint FROM taximeter.exposures WHERE exposures.org_id = pool.org_id) AS in_progress
FROM organization_credit_pools AS pool
WHERE pool.org_id = $1;

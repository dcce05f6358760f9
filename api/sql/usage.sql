-- name: usage_by_service
-- Why: settled usage of a range of days, by kind of service.
-- $1 org_id, $2 first day, $3 last day, $4 user_id or null, $5 service_type or null
SELECT service_type AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND day BETWEEN $2 AND $3
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR service_type = $5)
GROUP BY service_type
ORDER BY credits_used DESC, name;

-- name: usage_by_model
-- Why: as above, by model (the name of the service). At most $6 rows, since callers choose the names.
-- $1 org_id, $2 first day, $3 last day, $4 user_id or null, $5 service_type or null, $6 limit
SELECT service_name AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND day BETWEEN $2 AND $3
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR service_type = $5)
GROUP BY service_name
ORDER BY credits_used DESC, name
LIMIT $6;

-- name: usage_by_user
-- Why: as above, by user. At most $6 rows, those who used most.
-- $1 org_id, $2 first day, $3 last day, $4 user_id or null, $5 service_type or null, $6 limit
SELECT user_id AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND day BETWEEN $2 AND $3
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR service_type = $5)
GROUP BY user_id
ORDER BY credits_used DESC, name
LIMIT $6;

-- name: usage_by_period
-- Why: as above, by day, week (from Monday) or month, in UTC. Days without usage have no row.
-- $1 org_id, $2 first day, $3 last day, $4 user_id or null, $5 service_type or null, $6 day, week or month
SELECT
    date_trunc($6::text, day::timestamp)::date AS period,
    sum(requests)::bigint AS requests,
    sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND day BETWEEN $2 AND $3
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR service_type = $5)
GROUP BY period
ORDER BY period;

-- name: settled_as_of
-- Why: until when usage is settled, in the worst shard: figures of the ledger say as of when.
SELECT min(settled_at) FROM taximeter.watermarks;

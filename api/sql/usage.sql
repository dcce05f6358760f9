-- name: usage_by_service
-- Why: settled usage of an organisation over a range of days, by kind of service. A day of an organisation is one row a model.
-- $1 org_id, $2 first day, $3 last day, $4 service_type or null
SELECT service_type AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily_by_org
WHERE org_id = $1 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR service_type = $4)
GROUP BY service_type
HAVING sum(requests) <> 0
ORDER BY credits_used DESC, name;

-- name: usage_by_model
-- Why: as above, by model (the name of the service). At most $5 rows, since callers choose the names.
-- $1 org_id, $2 first day, $3 last day, $4 service_type or null, $5 limit
SELECT service_name AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily_by_org
WHERE org_id = $1 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR service_type = $4)
GROUP BY service_name
HAVING sum(requests) <> 0
ORDER BY credits_used DESC, name
LIMIT $5;

-- name: usage_by_period
-- Why: as above, by day, week (from Monday) or month, in UTC. Days without usage have no row.
-- $1 org_id, $2 first day, $3 last day, $4 service_type or null, $5 day, week or month
SELECT
    date_trunc($5::text, day::timestamp)::date AS period,
    sum(requests)::bigint AS requests,
    sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily_by_org
WHERE org_id = $1 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR service_type = $4)
GROUP BY period
HAVING sum(requests) <> 0
ORDER BY period;

-- name: usage_by_user
-- Why: as above, by user, from the running totals of the months: a row a user and month. At most $4 rows, those who used most.
-- $1 org_id, $2 first day, $3 last day, $4 limit
SELECT
    user_id AS name,
    sum(taximeter.used_between(requests_to_day, month, $2, $3))::bigint AS requests,
    sum(taximeter.used_between(credits_to_day, month, $2, $3))::bigint AS credits_used
FROM taximeter.usage_monthly_by_user
WHERE org_id = $1 AND month BETWEEN date_trunc('month', $2::date::timestamp)::date AND $3::date
GROUP BY user_id
HAVING sum(taximeter.used_between(requests_to_day, month, $2, $3)) <> 0
ORDER BY credits_used DESC, name
LIMIT $4;

-- name: usage_by_user_of_service
-- Why: the same of one kind of service, which the months do not tell apart.
-- $1 org_id, $2 first day, $3 last day, $4 limit, $5 service_type
SELECT user_id AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND day BETWEEN $2 AND $3 AND service_type = $5
GROUP BY user_id
ORDER BY credits_used DESC, name
LIMIT $4;

-- name: own_usage_by_service
-- Why: settled usage of one user in an organisation, by kind of service.
-- $1 org_id, $2 first day, $3 last day, $4 service_type or null, $5 user_id
SELECT service_type AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND user_id = $5 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR service_type = $4)
GROUP BY service_type
ORDER BY credits_used DESC, name;

-- name: own_usage_by_model
-- Why: as above, by model. At most $6 rows.
-- $1 org_id, $2 first day, $3 last day, $4 service_type or null, $5 user_id, $6 limit
SELECT service_name AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND user_id = $5 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR service_type = $4)
GROUP BY service_name
ORDER BY credits_used DESC, name
LIMIT $6;

-- name: own_usage_by_period
-- Why: as above, by day, week (from Monday) or month, in UTC.
-- $1 org_id, $2 first day, $3 last day, $4 service_type or null, $5 user_id, $6 day, week or month
SELECT
    date_trunc($6::text, day::timestamp)::date AS period,
    sum(requests)::bigint AS requests,
    sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND user_id = $5 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR service_type = $4)
GROUP BY period
ORDER BY period;

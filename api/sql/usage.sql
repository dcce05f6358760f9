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

-- name: users_with_usage
-- Why: whether adding up a figure for each user is cheap: how many rows of users and months there are, counted up to $4.
-- $1 org_id, $2 first day, $3 last day, $4 most
SELECT count(*) FROM (
    SELECT FROM taximeter.usage_monthly_by_user
    WHERE org_id = $1 AND month BETWEEN date_trunc('month', $2::date::timestamp)::date AND $3::date LIMIT $4
) AS counted;

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

-- name: usage_by_label
-- Why: as above, by what charges say of themselves: the API key or the tag. A day of an organisation is one row a label.
-- $1 org_id, $2 first day, $3 last day, $4 key or tag, $5 limit
SELECT label AS name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily_by_label
WHERE org_id = $1 AND kind = $4 AND day BETWEEN $2 AND $3
GROUP BY label
HAVING sum(requests) <> 0
ORDER BY credits_used DESC, name
LIMIT $5;

-- name: label_series
-- Why: the same by period, for a picture; what these leave of the whole has no label, or is none of the largest.
-- $1 org_id, $2 first day, $3 last day, $4 day, week or month, $5 key or tag, $6 how many
WITH largest AS (
    SELECT label
    FROM taximeter.usage_daily_by_label
    WHERE org_id = $1 AND kind = $5 AND day BETWEEN $2 AND $3
    GROUP BY label
    HAVING sum(requests) <> 0
    ORDER BY sum(credits_used) DESC, label
    LIMIT $6
)

SELECT
    date_trunc($4::text, usage.day::timestamp)::date AS period, usage.label AS name,
    sum(usage.requests)::bigint AS requests, sum(usage.credits_used)::bigint AS credits_used
FROM taximeter.usage_daily_by_label AS usage JOIN largest USING (label)
WHERE usage.org_id = $1 AND usage.kind = $5 AND usage.day BETWEEN $2 AND $3
GROUP BY 1, 2
HAVING sum(usage.requests) <> 0
ORDER BY 1, 2;

-- name: names_of_keys
-- Why: usage is of a key's id; people know its name. $1 org_id, $2 key ids
SELECT key_id, name FROM taximeter.api_keys WHERE org_id = $1 AND key_id = ANY($2::text[]);

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

-- name: own_usage_by_label
-- Why: usage of one user by period and API key or tag, from the charges themselves, since no rollup has both: the newest $8 of them.
--      Whoever asks compares the sum with the rollup, which has all. A name is null for what says none; where $7, also for keys that
--      act for somebody else or for all members.
-- $1 org_id, $2 first day, $3 last day, $4 day, week or month, $5 user_id, $6 key or tag, $7 only keys of the user's own, $8 limit
WITH looked AS MATERIALIZED (
    SELECT created_at, credits_used, request_metadata
    FROM credit_usage_attribution
    WHERE org_id = $1 AND user_id = $5
        AND created_at >= $2::date::timestamp AT TIME ZONE 'UTC' AND created_at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
    ORDER BY created_at DESC
    LIMIT $8
)

SELECT
    date_trunc($4::text, looked.created_at AT TIME ZONE 'UTC')::date AS period,
    CASE WHEN NOT $7 OR key.key_id IS NOT NULL THEN said.label END AS name,
    count(*) AS requests, sum(looked.credits_used)::bigint AS credits_used
FROM looked
LEFT JOIN LATERAL taximeter.labels_of(looked.request_metadata) AS said ON said.kind = $6
LEFT JOIN taximeter.api_keys AS key ON $7 AND key.org_id = $1 AND key.key_id = said.label AND key.user_id = $5
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: organization_exists
-- Why: a name that is spelled wrongly must not look like an organisation without usage.
-- $1 org_id
SELECT true FROM organizations WHERE id = $1;

-- name: usage_by_month_and_service
-- Why: what the command line prints; months that are archived are in the rollup as all others.
-- $1 org_id, $2 first day, $3 last day, $4 user_id or null
SELECT
    date_trunc('month', day::timestamp)::date AS month,
    service_type AS name,
    sum(requests)::bigint AS requests,
    sum(credits_used)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = $1 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR user_id = $4)
GROUP BY 1, 2
HAVING sum(requests) <> 0
ORDER BY 1, 4 DESC, 2;

-- name: series
-- Why: usage of an organisation by period and one more thing, for a picture: the largest of those have a name of their own, all others
--      are the one without a name, so that the picture adds up.
-- $1 org_id, $2 first day, $3 last day, $4 day, week or month, $5 service or model, $6 how many have a name
WITH days AS (
    SELECT
        date_trunc($4::text, day::timestamp)::date AS period,
        CASE $5::text WHEN 'service' THEN service_type ELSE service_name END AS name,
        sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
    FROM taximeter.usage_daily_by_org
    WHERE org_id = $1 AND day BETWEEN $2 AND $3
    GROUP BY 1, 2
), largest AS (
    SELECT name FROM days GROUP BY name ORDER BY sum(credits_used) DESC, name LIMIT $6
)

SELECT days.period, largest.name, sum(days.requests)::bigint AS requests, sum(days.credits_used)::bigint AS credits_used
FROM days LEFT JOIN largest USING (name)
GROUP BY 1, 2
HAVING sum(days.requests) <> 0
ORDER BY 1, 2;

-- name: own_series
-- Why: the same of one user.
-- $1 org_id, $2 first day, $3 last day, $4 day, week or month, $5 service or model, $6 how many have a name, $7 user_id
WITH days AS (
    SELECT
        date_trunc($4::text, day::timestamp)::date AS period,
        CASE $5::text WHEN 'service' THEN service_type ELSE service_name END AS name,
        sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
    FROM taximeter.usage_daily
    WHERE org_id = $1 AND user_id = $7 AND day BETWEEN $2 AND $3
    GROUP BY 1, 2
), largest AS (
    SELECT name FROM days GROUP BY name ORDER BY sum(credits_used) DESC, name LIMIT $6
)

SELECT days.period, largest.name, sum(days.requests)::bigint AS requests, sum(days.credits_used)::bigint AS credits_used
FROM days LEFT JOIN largest USING (name)
GROUP BY 1, 2
HAVING sum(days.requests) <> 0
ORDER BY 1, 2;

-- name: periods_of_users
-- Why: what these users used by period; the largest are found by usage_by_user before.
-- $1 org_id, $2 first day, $3 last day, $4 day, week or month, $5 user ids
SELECT
    date_trunc($4::text, usage.day::timestamp)::date AS period, named.user_id AS name,
    sum(usage.requests)::bigint AS requests, sum(usage.credits_used)::bigint AS credits_used
FROM unnest($5::text[]) AS named (user_id)
JOIN taximeter.usage_daily AS usage ON usage.org_id = $1 AND usage.user_id = named.user_id AND usage.day BETWEEN $2 AND $3
GROUP BY 1, 2
ORDER BY 1, 2;

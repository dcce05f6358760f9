-- name: organization
-- Why: who the dashboard is about.
-- $1 org_id
SELECT id, org_name, created_at FROM organizations WHERE id = $1;

-- name: subscription
-- Why: what the organisation pays; no lock, since this is only shown.
-- $1 org_id
SELECT plan_code, plan_name, monthly_price, status, billing_cycle_end, cancel_at_period_end
FROM organization_subscriptions WHERE org_id = $1;

-- name: recent_activity
-- Why: the last lines of the billing history.
-- $1 org_id, $2 how many
SELECT event_type, amount, status, (metadata ->> 'millicredits')::bigint AS millicredits, created_at
FROM org_billing_history
WHERE org_id = $1
ORDER BY created_at DESC, id
LIMIT $2;

-- name: system_metrics
-- Why: the whole system in one row. A canceled subscription brings in nothing, and an organisation of
--      one user's individual credits is none that anybody made.
SELECT
    (SELECT count(*) FROM organizations WHERE personal_of IS NULL) AS organizations,
    (SELECT count(*) FROM organization_subscriptions WHERE status = 'active') AS active_subscriptions,
    (SELECT coalesce(sum(monthly_price), 0) FROM organization_subscriptions WHERE status = 'active') AS mrr,
    coalesce(sum(allocated_credits), 0)::bigint AS allocated_credits,
    coalesce(sum(used_credits), 0)::bigint AS used_credits
FROM organization_credit_pools;

-- name: subscription_distribution
-- Why: how many active subscriptions each plan has, and what they bring in a month.
SELECT plan_code, count(*) AS subscriptions, sum(monthly_price) AS mrr
FROM organization_subscriptions
WHERE status = 'active'
GROUP BY plan_code
ORDER BY mrr DESC, plan_code;

-- name: usage_trend
-- Why: what the whole system used, day by day in UTC; a day without usage is there with zeros.
-- $1 first day, $2 last day
SELECT
    day::date AS day,
    coalesce(usage.requests, 0)::bigint AS requests,
    coalesce(usage.credits_used, 0)::bigint AS credits_used
FROM generate_series($1::date::timestamp, $2::date::timestamp, interval '1 day') AS day
LEFT JOIN (
    SELECT by_org.day AS used_on, sum(by_org.requests) AS requests, sum(by_org.credits_used) AS credits_used
    FROM taximeter.usage_daily_by_org AS by_org
    WHERE by_org.day BETWEEN $1 AND $2
    GROUP BY by_org.day
) AS usage ON usage.used_on = day::date
ORDER BY day;

-- name: top_organizations
-- Why: the organisations that used most over a range of days, without adding up every organisation day by day: the months that
--      the range touches bound what an organisation can have used in it, and only those with the highest bounds are
--      added up. others_at_most is the bound of the best one left out: the answer is right when the last row has as much.
--      Without any usage the one row has no organisation.
-- $1 first day, $2 last day, $3 how many, $4 how many to add up
WITH bounded AS (
    SELECT org_id, sum(credits_used)::bigint AS at_most
    FROM taximeter.usage_monthly_by_org
    WHERE month BETWEEN date_trunc('month', $1::date::timestamp)::date AND $2
    GROUP BY org_id
),

candidates AS (
    SELECT org_id, at_most, row_number() OVER (ORDER BY at_most DESC, org_id) AS place
    FROM bounded
    ORDER BY at_most DESC, org_id
    LIMIT $4 + 1
),

added_up AS (
    SELECT candidates.org_id, usage.requests, usage.credits_used
    FROM candidates
    CROSS JOIN LATERAL (
        SELECT sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
        FROM taximeter.usage_daily_by_org AS daily
        WHERE daily.org_id = candidates.org_id AND daily.day BETWEEN $1 AND $2
    ) AS usage
    WHERE candidates.place <= $4 AND usage.requests > 0
    ORDER BY usage.credits_used DESC, candidates.org_id
    LIMIT $3
)

SELECT
    added_up.org_id, added_up.requests, added_up.credits_used,
    organizations.org_name, subscriptions.plan_code, subscriptions.monthly_price, subscriptions.status,
    rest.others_at_most
FROM (SELECT coalesce(max(at_most), 0) AS others_at_most FROM candidates WHERE place > $4) AS rest
LEFT JOIN added_up ON true
LEFT JOIN organizations ON organizations.id = added_up.org_id
LEFT JOIN organization_subscriptions AS subscriptions ON subscriptions.org_id = added_up.org_id
ORDER BY added_up.credits_used DESC, added_up.org_id;

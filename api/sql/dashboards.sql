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
-- Why: the whole system in one row; what it earns is in subscription_distribution. An organisation of one user's individual credits
--      is none that anybody made. One that has left for another cell counts there, here as in all that follows.
SELECT
    (
        SELECT count(*) FROM organizations WHERE personal_of IS NULL AND deleted_at IS NULL
            AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = organizations.id AND away.said LIKE 'gone %')
    ) AS organizations,
    coalesce(sum(total_credits), 0)::bigint AS total_credits,
    coalesce(sum(allocated_credits + closed_credits), 0)::bigint AS allocated_credits,
    coalesce(sum(used_credits), 0)::bigint AS used_credits
FROM organization_credit_pools
WHERE NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = organization_credit_pools.org_id AND away.said LIKE 'gone %');

-- name: subscription_distribution
-- Why: how many active subscriptions each plan has, and what they bring in a month. A canceled one brings nothing.
SELECT plan_code, count(*) AS subscriptions, sum(monthly_price) AS mrr
FROM organization_subscriptions
WHERE status = 'active'
    AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = organization_subscriptions.org_id AND away.said LIKE 'gone %')
GROUP BY plan_code
ORDER BY mrr DESC, plan_code;

-- name: usage_trend
-- Why: what the whole system used, day by day in UTC; a day without usage is there with zeros.
-- $1 first day, $2 last day
SELECT
    day::date AS day,
    coalesce(sum(sign * taximeter.used_between(monthly.requests_to_day, monthly.month, day::date, day::date)), 0)::bigint AS requests,
    coalesce(sum(sign * taximeter.used_between(monthly.credits_to_day, monthly.month, day::date, day::date)), 0)::bigint AS credits_used
FROM generate_series($1::date::timestamp, $2::date::timestamp, interval '1 day') AS day
LEFT JOIN (
    SELECT month, requests_to_day, credits_to_day, 1 AS sign FROM taximeter.usage_monthly
    UNION ALL
    SELECT month, requests_to_day, credits_to_day, -1
    FROM taximeter.usage_monthly_by_org JOIN taximeter.organizations_away USING (org_id)
    WHERE said LIKE 'gone %'
) AS monthly ON monthly.month = date_trunc('month', day)::date
GROUP BY day
ORDER BY day;

-- name: top_organizations
-- Why: the organisations that used most credits over a range of days, from the running totals of the months. Requests are counted
--      for those alone: adding up a second figure of everybody takes a third of the time.
-- $1 first day, $2 last day, $3 how many
WITH most AS (
    SELECT org_id, sum(taximeter.used_between(credits_to_day, month, $1, $2))::bigint AS credits_used
    FROM taximeter.usage_monthly_by_org
    WHERE month BETWEEN date_trunc('month', $1::date::timestamp)::date AND $2::date
        AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = usage_monthly_by_org.org_id AND away.said LIKE 'gone %')
    GROUP BY org_id
    ORDER BY credits_used DESC, org_id
    LIMIT $3
)

SELECT
    most.org_id, usage.requests, most.credits_used,
    organizations.org_name, subscriptions.plan_code, subscriptions.monthly_price, subscriptions.status
FROM most
CROSS JOIN LATERAL (
    SELECT sum(taximeter.used_between(monthly.requests_to_day, monthly.month, $1, $2))::bigint AS requests
    FROM taximeter.usage_monthly_by_org AS monthly
    WHERE monthly.org_id = most.org_id AND monthly.month BETWEEN date_trunc('month', $1::date::timestamp)::date AND $2::date
) AS usage
LEFT JOIN organizations ON organizations.id = most.org_id
LEFT JOIN organization_subscriptions AS subscriptions ON subscriptions.org_id = most.org_id
WHERE most.credits_used > 0
ORDER BY most.credits_used DESC, most.org_id;

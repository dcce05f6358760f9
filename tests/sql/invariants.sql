-- What is true of the tables after every statement. A query that returns a row has found a mistake.

-- name: pool sums are those of its allocations: allocated of the active ones, closed of the others
SELECT coalesce(p.org_id, a.org_id), p.allocated_credits, a.allocated, p.closed_credits, a.closed, p.used_credits, a.used
  FROM organization_credit_pools AS p
  FULL JOIN (SELECT org_id, sum(allocated_credits) FILTER (WHERE is_active) AS allocated,
                    sum(allocated_credits) FILTER (WHERE NOT is_active) AS closed, sum(used_credits) AS used
               FROM user_credit_allocations GROUP BY 1) AS a USING (org_id)
 WHERE p.org_id IS NULL
    OR (p.allocated_credits, p.closed_credits, p.used_credits)
       <> (coalesce(a.allocated, 0), coalesce(a.closed, 0), coalesce(a.used, 0));

-- name: what was bought is free, allocated or closed
SELECT org_id FROM organization_credit_pools
 WHERE total_credits <> available_credits + allocated_credits + closed_credits;

-- name: entries less settled events are what is left of the allocations
SELECT org_id, user_id, coalesce(entries, 0), coalesce(events, 0), coalesce(remaining, 0)
  FROM (SELECT org_id, user_id, sum(delta) AS entries FROM taximeter.account_entries GROUP BY 1, 2) AS e
  FULL JOIN (SELECT org_id, user_id, sum(credits_used) AS events FROM credit_usage_attribution
              WHERE shard IS NOT NULL GROUP BY 1, 2) AS u USING (org_id, user_id)
  FULL JOIN (SELECT org_id, user_id, sum(remaining_credits) AS remaining
               FROM user_credit_allocations GROUP BY 1, 2) AS a USING (org_id, user_id)
 WHERE coalesce(entries, 0) - coalesce(events, 0) <> coalesce(remaining, 0);

-- name: entry numbers have no holes
SELECT org_id, user_id, a.entry_seq, e.last, e.entries
  FROM taximeter.accounts AS a
  FULL JOIN (SELECT org_id, user_id, max(entry_seq) AS last, count(*) AS entries
               FROM taximeter.account_entries GROUP BY 1, 2) AS e USING (org_id, user_id)
 WHERE a.entry_seq IS DISTINCT FROM coalesce(e.last, 0) OR coalesce(e.last, 0) <> coalesce(e.entries, 0);

-- name: used is the attribution and what was changed by hand
SELECT org_id, user_id, coalesce(used, 0), coalesce(attributed, 0), coalesce(used_by_hand, 0)
  FROM (SELECT org_id, user_id, sum(used_credits) AS used FROM user_credit_allocations GROUP BY 1, 2) AS a
  FULL JOIN (SELECT org_id, user_id, sum(credits_used) AS attributed
               FROM credit_usage_attribution GROUP BY 1, 2) AS u USING (org_id, user_id)
  FULL JOIN taximeter.accounts USING (org_id, user_id)
 WHERE coalesce(used, 0) <> coalesce(attributed, 0) + coalesce(used_by_hand, 0);

-- name: the daily rollup is a recount of the attribution
SELECT *
  FROM taximeter.usage_daily AS d
  FULL JOIN (SELECT org_id, user_id, day,
                    CASE WHEN is_named OR EXISTS (
                             SELECT FROM taximeter.usage_names AS n
                              WHERE (n.org_id, n.month, n.by_sql, n.service_type) = (u.org_id, u.month, u.by_sql, u.service_type))
                         THEN service_type ELSE 'other' END AS service_type,
                    CASE WHEN is_named THEN service_name ELSE 'other' END AS service_name,
                    count(*) AS counted, sum(credits_used) AS summed
               FROM (SELECT a.*, (a.created_at AT TIME ZONE 'UTC')::date AS day, t.month, t.by_sql, EXISTS (
                            SELECT FROM taximeter.usage_names AS n
                             WHERE (n.org_id, n.month, n.by_sql, n.service_type, n.service_name)
                                 = (a.org_id, t.month, t.by_sql, a.service_type, a.service_name)) AS is_named
                       FROM credit_usage_attribution AS a
                      CROSS JOIN LATERAL (SELECT date_trunc('month', a.created_at AT TIME ZONE 'UTC')::date AS month,
                                                 a.seq IS NULL AS by_sql) AS t) AS u
              GROUP BY 1, 2, 3, 4, 5) AS recount
       USING (org_id, user_id, service_type, service_name, day)
 WHERE (d.requests, d.credits_used) IS DISTINCT FROM (recount.counted, recount.summed::bigint);

-- name: the rollups of organisations are that of their users, however many wrote them
SELECT *
  FROM (SELECT org_id, day, service_type, service_name, sum(requests) AS requests, sum(credits_used) AS credits
          FROM taximeter.usage_daily_by_org GROUP BY 1, 2, 3, 4) AS of_orgs
  FULL JOIN (SELECT org_id, day, service_type, service_name, sum(requests) AS counted, sum(credits_used) AS summed
               FROM taximeter.usage_daily GROUP BY 1, 2, 3, 4) AS of_users USING (org_id, day, service_type, service_name)
 WHERE (coalesce(requests, 0), coalesce(credits, 0)) <> (coalesce(counted, 0), coalesce(summed, 0));

-- name: the rollup by label has every charge that says one
SELECT *
  FROM (SELECT org_id, kind, day, sum(requests) AS requests, sum(credits_used) AS credits
          FROM taximeter.usage_daily_by_label GROUP BY 1, 2, 3) AS kept
  FULL JOIN (SELECT a.org_id, labels.kind, (a.created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS counted, sum(a.credits_used) AS summed
               FROM credit_usage_attribution AS a CROSS JOIN LATERAL taximeter.labels_of(a.request_metadata) AS labels
              GROUP BY 1, 2, 3) AS recount USING (org_id, kind, day)
 WHERE (coalesce(requests, 0), coalesce(credits, 0)) <> (coalesce(counted, 0), coalesce(summed, 0));

-- name: the months of organisations are their days
SELECT *
  FROM (SELECT org_id, month, sum(requests) AS requests, sum(credits_used) AS credits
          FROM taximeter.usage_monthly_by_org GROUP BY 1, 2) AS months
  FULL JOIN (SELECT org_id, date_trunc('month', day::timestamp)::date AS month, sum(requests) AS counted,
                    sum(credits_used) AS summed
               FROM taximeter.usage_daily_by_org GROUP BY 1, 2) AS days USING (org_id, month)
 WHERE (requests, credits) IS DISTINCT FROM (counted, summed);

-- name: running totals of organisations are sums of days, each from its first
SELECT months.org_id, months.month, nth
  FROM (SELECT org_id, month FROM taximeter.usage_monthly_by_org GROUP BY 1, 2) AS months, generate_series(1, 31) AS nth,
       LATERAL (SELECT sum(m.requests_to_day[nth]) AS requests, sum(m.credits_to_day[nth]) AS credits
                  FROM taximeter.usage_monthly_by_org AS m WHERE (m.org_id, m.month) = (months.org_id, months.month)) AS kept,
       LATERAL (SELECT coalesce(sum(d.requests), 0) AS requests, coalesce(sum(d.credits_used), 0) AS credits
                  FROM taximeter.usage_daily_by_org AS d
                 WHERE d.org_id = months.org_id AND d.day >= months.month
                   AND d.day < least(months.month + nth, months.month + interval '1 month')) AS counted
 WHERE (kept.requests, kept.credits) IS DISTINCT FROM (counted.requests, counted.credits);

-- name: running totals of users are sums of days, each from its first
SELECT org_id, month, user_id, nth
  FROM taximeter.usage_monthly_by_user AS m, generate_series(1, 31) AS nth,
       LATERAL (SELECT coalesce(sum(d.requests), 0) AS requests, coalesce(sum(d.credits_used), 0) AS credits
                  FROM taximeter.usage_daily AS d
                 WHERE d.org_id = m.org_id AND d.user_id = m.user_id AND d.day >= m.month
                   AND d.day < least(m.month + nth, m.month + interval '1 month')) AS counted
 WHERE (m.requests_to_day[nth], m.credits_to_day[nth]) IS DISTINCT FROM (counted.requests, counted.credits);

-- name: every month of a user has its running totals
SELECT DISTINCT org_id, user_id, date_trunc('month', day::timestamp)::date
  FROM taximeter.usage_daily
EXCEPT
SELECT org_id, user_id, month FROM taximeter.usage_monthly_by_user;

-- name: running totals of everybody are those of the organisations
SELECT month, nth
  FROM generate_series(1, 31) AS nth,
       (SELECT DISTINCT month FROM taximeter.usage_monthly_by_org
        UNION SELECT DISTINCT month FROM taximeter.usage_monthly) AS months,
       LATERAL (SELECT coalesce(sum(m.requests_to_day[nth]), 0) AS requests, coalesce(sum(m.credits_to_day[nth]), 0) AS credits
                  FROM taximeter.usage_monthly AS m WHERE m.month = months.month) AS of_all,
       LATERAL (SELECT coalesce(sum(m.requests_to_day[nth]), 0) AS requests, coalesce(sum(m.credits_to_day[nth]), 0) AS credits
                  FROM taximeter.usage_monthly_by_org AS m WHERE m.month = months.month) AS of_orgs
 WHERE (of_all.requests, of_all.credits) <> (of_orgs.requests, of_orgs.credits);

-- name: every attributed request is a charged request of the same user
SELECT u.org_id, u.request_id
  FROM credit_usage_attribution AS u
  LEFT JOIN taximeter.charged_requests AS c
    ON c.org_id = u.org_id AND c.request_id = u.request_id AND c.user_id = u.user_id
 WHERE u.request_id IS NOT NULL AND c.request_id IS NULL
   AND u.service_type <> 'by_hand';

-- What is exported: of a day with all organisations, read through a cursor; and of an organisation, page by page. Both name the columns of
-- settler/exports/columns.py.

-- name: usage_of_day
-- $1 day
SELECT u.day, u.org_id, u.user_id, u.service_type, u.service_name, u.requests, u.credits_used
  FROM organizations AS o JOIN taximeter.usage_daily AS u ON u.org_id = o.id AND u.day = $1
 ORDER BY u.org_id COLLATE "C", u.user_id COLLATE "C", u.service_type COLLATE "C", u.service_name COLLATE "C"

-- name: requests_of_day
-- Moves between accounts, which older programs write here, are no requests.
-- $1 from, $2 before
SELECT id, created_at, org_id, user_id, service_type, service_name, credits_used, reserved, request_id, late,
       request_metadata::text AS metadata
  FROM credit_usage_attribution
 WHERE created_at >= $1 AND created_at < $2 AND service_type <> 'credit_transfer'
 ORDER BY org_id COLLATE "C", created_at DESC, id DESC

-- name: ledger_of_day
-- $1 from, $2 before
SELECT org_id, user_id, entry_seq, created_at, kind, delta, reference
  FROM taximeter.account_entries
 WHERE created_at >= $1 AND created_at < $2
 ORDER BY org_id COLLATE "C", user_id COLLATE "C", entry_seq

-- name: audit_of_day
-- $1 from, $2 before
SELECT id, at, actor, action, org_id, target, before::text AS before, after::text AS after, request_id
  FROM taximeter.audit_log
 WHERE at >= $1 AND at < $2
 ORDER BY at, id

-- name: focus_of_day
-- $1 day, $2 from, $3 before
SELECT u.day, u.org_id, o.org_name, u.user_id, u.service_type, u.service_name, u.requests, u.credits_used,
       NULL::numeric AS bought_for, NULL AS currency, NULL::uuid AS line
  FROM organizations AS o JOIN taximeter.usage_daily AS u ON u.org_id = o.id AND u.day = $1
UNION ALL
SELECT $1, h.org_id, o.org_name, NULL, '', '', 0, 0, h.amount, h.currency, h.id
  FROM organizations AS o JOIN org_billing_history AS h ON h.org_id = o.id AND h.created_at >= $2 AND h.created_at < $3
 WHERE h.event_type IN ('credits_purchased', 'credits_refunded') AND h.amount IS NOT NULL
 ORDER BY 2, 11 NULLS FIRST, 4, 5, 6

-- name: usage_of_org
-- $1 org_id, $2 first day, $3 last day, $4 to $7 the last row of the page before (day, user, kind, name) or nulls, $8 limit
SELECT day, org_id, user_id, service_type, service_name, requests, credits_used
  FROM taximeter.usage_daily
 WHERE org_id = $1 AND day BETWEEN coalesce($4::date, $2::date) AND $3::date
   AND ($4::date IS NULL OR (day, user_id, service_type, service_name) > ($4::date, $5::text, $6::text, $7::text))
 ORDER BY day, user_id, service_type, service_name
 LIMIT $8

-- name: ledger_of_org
-- $1 org_id, $2 from, $3 before, $4 and $5 the last row of the page before (user, entry) or nulls, $6 limit
SELECT org_id, user_id, entry_seq, created_at, kind, delta, reference
  FROM taximeter.account_entries
 WHERE org_id = $1 AND (user_id, entry_seq) > (coalesce($4::text, ''), coalesce($5::bigint, 0)) AND created_at >= $2 AND created_at < $3
 ORDER BY user_id, entry_seq
 LIMIT $6

-- name: audit_of_org
-- $1 org_id, $2 from, $3 before, $4 and $5 the last row of the page before (at, id) or nulls, $6 limit
SELECT id, at, actor, action, org_id, target, before::text AS before, after::text AS after, request_id
  FROM taximeter.audit_log
 WHERE org_id = $1 AND at >= coalesce($4::timestamptz, $2) AND at < $3
   AND ($4::timestamptz IS NULL OR (at, id) > ($4::timestamptz, $5::bigint))
 ORDER BY at, id
 LIMIT $6

-- name: focus_of_org
-- $1 org_id, $2 first day, $3 last day, $4 to $8 the last row of the page before (day, line, user, kind, name) or nulls, $9 limit
SELECT f.day, f.org_id, o.org_name, f.user_id, f.service_type, f.service_name, f.requests, f.credits_used, f.bought_for, f.currency, f.line
  FROM organizations AS o
 CROSS JOIN LATERAL (
    SELECT u.day, u.org_id, u.user_id, u.service_type, u.service_name, u.requests, u.credits_used,
           NULL::numeric AS bought_for, NULL AS currency, '00000000-0000-0000-0000-000000000000'::uuid AS line
      FROM taximeter.usage_daily AS u
     WHERE u.org_id = o.id AND u.day BETWEEN coalesce($4::date, $2::date) AND $3::date
    UNION ALL
    SELECT (h.created_at AT TIME ZONE 'UTC')::date, h.org_id, NULL, '', '', 0, 0, h.amount, h.currency, h.id
      FROM org_billing_history AS h
     WHERE h.org_id = o.id AND h.created_at >= coalesce($4::date, $2::date)::timestamp AT TIME ZONE 'UTC'
       AND h.created_at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
       AND h.event_type IN ('credits_purchased', 'credits_refunded') AND h.amount IS NOT NULL
 ) AS f
 WHERE o.id = $1
   AND ($4::date IS NULL OR (f.day, f.line, coalesce(f.user_id, ''), f.service_type, f.service_name)
                          > ($4::date, $5::uuid, coalesce($6::text, ''), $7::text, $8::text))
 ORDER BY f.day, f.line, coalesce(f.user_id, ''), f.service_type, f.service_name
 LIMIT $9

-- name: organizations_after
-- $1 the last one before, $2 limit
SELECT id FROM organizations WHERE id > $1 ORDER BY id LIMIT $2

-- name: sums_of_usage
-- What usage, requests and FOCUS of each day come to, by the rollups. $1 first day, $2 last day
SELECT u.day, count(*) AS rows, coalesce(sum(u.credits_used), 0)::bigint AS millicredits,
       coalesce(sum(u.requests) FILTER (WHERE u.service_type <> 'credit_transfer'), 0)::bigint AS requests,
       coalesce(sum(u.credits_used) FILTER (WHERE u.service_type <> 'credit_transfer'), 0)::bigint AS of_requests
  FROM organizations AS o JOIN taximeter.usage_daily AS u ON u.org_id = o.id AND u.day BETWEEN $1 AND $2
 GROUP BY u.day

-- name: sums_of_ledger
-- $1 from, $2 before
SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS rows, sum(delta)::bigint AS millicredits
  FROM taximeter.account_entries WHERE created_at >= $1 AND created_at < $2 GROUP BY 1

-- name: sums_of_audit
-- $1 from, $2 before
SELECT (at AT TIME ZONE 'UTC')::date AS day, count(*) AS rows FROM taximeter.audit_log WHERE at >= $1 AND at < $2 GROUP BY 1

-- name: purchases
-- $1 from, $2 before
SELECT (h.created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS rows
  FROM organizations AS o JOIN org_billing_history AS h ON h.org_id = o.id AND h.created_at >= $1 AND h.created_at < $2
 WHERE h.event_type IN ('credits_purchased', 'credits_refunded') AND h.amount IS NOT NULL
 GROUP BY 1

-- name: gone_month
-- A month whose rows have left Postgres, of those that these two days touch. $1 first day, $2 last day
SELECT month FROM taximeter.dropped_months
 WHERE month BETWEEN date_trunc('month', $1::date::timestamp)::date AND $2::date ORDER BY month LIMIT 1

-- name: alone
-- One process at a time writes exports, for this session.
SELECT pg_try_advisory_lock(74105, 0)

-- name: is_ours
-- Whether this session still has that.
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 74105 AND objid = 0 AND pid = pg_backend_pid() AND granted)

-- name: now
SELECT now()

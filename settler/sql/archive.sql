-- name: months
-- Months whose rows are there, oldest first, and how many rows that are not in the rollup's record of what was dropped.
SELECT month, partition, requests, credits_used, dropped_requests FROM taximeter.usage_months()
 WHERE partition IS NOT NULL OR requests > dropped_requests

-- name: ledger
-- Which Postgres this is and how far it has written.
SELECT history, position FROM taximeter.ledger_position()

-- name: watermarks
SELECT shard, epoch, seq FROM taximeter.watermarks ORDER BY shard

-- name: rows
-- The rows of a month as they are archived: by organisation, the newest first. $1 from, $2 before
SELECT id, org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata::text, created_at, shard, epoch, seq,
       late, reserved
  FROM credit_usage_attribution
 WHERE created_at >= $1 AND created_at < $2
 ORDER BY org_id COLLATE "C", created_at DESC, id DESC

-- name: tally
-- What the rows of a month come to, with the digests of Tally. $1 from, $2 before
SELECT count(*) AS rows, coalesce(sum(credits_used), 0)::text AS credits_used, min(id) AS id_min, max(id) AS id_max,
       coalesce(sum(taximeter.usage_digest(id, org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata,
                                           created_at, shard, epoch, seq, late, reserved)), 0)::text AS digest
  FROM credit_usage_attribution
 WHERE created_at >= $1 AND created_at < $2

-- name: alone
-- One archive at a time is written, for this session.
SELECT pg_try_advisory_lock(74104, 0)

-- name: begun
-- The part of a month that was begun and not ended, or restored. $1 month
SELECT month, part, token FROM taximeter.archived_months WHERE month = $1 AND state <> 'archived' ORDER BY part LIMIT 1

-- name: begin
-- The next part of a month. $1 month, $2 token
INSERT INTO taximeter.archived_months (month, part, token)
SELECT $1, coalesce(max(part), 0) + 1, $2 FROM taximeter.archived_months WHERE month = $1
RETURNING month, part, token

-- name: rename
-- $1 month, $2 part, $3 token
UPDATE taximeter.archived_months SET token = $3 WHERE month = $1 AND part = $2

-- name: lock_month
-- Nothing is added to the rows of this month any more, nor taken away. $1 month
SELECT taximeter.lock_attribution_month($1)

-- name: note_archived
-- $1 month, $2 part, $3 rows, $4 millicredits, $5 SHA-256 of the manifest
UPDATE taximeter.archived_months
   SET state = 'archived', requests = $3, credits_used = $4, manifest_sha256 = $5, archived_at = now()
 WHERE month = $1 AND part = $2

-- name: drop_month
SELECT taximeter.drop_attribution_month($1)

-- name: parts
-- Archived parts of these months, the newest first. $1 from, $2 before
SELECT month, part, token, manifest_sha256 AS sha256, requests, credits_used
  FROM taximeter.archived_months
 WHERE state = 'archived' AND month >= date_trunc('month', $1::timestamptz AT TIME ZONE 'UTC')::date
   AND month < ($2::timestamptz AT TIME ZONE 'UTC')::date
 ORDER BY month DESC, part DESC

-- name: listed
-- Every month that was dropped or archived.
SELECT month, gone.requests AS dropped, coalesce(sum(a.requests) FILTER (WHERE a.state = 'archived'), 0)::bigint AS archived,
       coalesce(sum(a.credits_used) FILTER (WHERE a.state = 'archived'), 0)::bigint AS credits_used,
       array_agg(a.state ORDER BY a.part) AS states
  FROM taximeter.archived_months AS a FULL JOIN taximeter.dropped_months AS gone USING (month)
 GROUP BY month, gone.requests ORDER BY month

-- name: restorable
-- The newest dropped month, how many of its rows are archived, and how many were dropped.
SELECT gone.month, gone.requests AS dropped,
       (SELECT coalesce(sum(a.requests), 0)::bigint FROM taximeter.archived_months AS a
         WHERE a.month = gone.month AND a.state = 'archived') AS archived
  FROM taximeter.dropped_months AS gone ORDER BY gone.month DESC LIMIT 1

-- name: begin_restoring
-- An empty table beside the months. $1 month
SELECT taximeter.begin_restoring_month($1)

-- name: end_restoring
-- The table becomes the month, and the month is not dropped any more. $1 month
SELECT taximeter.end_restoring_month($1)

-- name: used_by_org
-- What the rollup has of a month, by organisation. $1 month
SELECT org_id, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
  FROM taximeter.usage_monthly_by_org WHERE month = $1 GROUP BY org_id

-- name: rows_by_org
-- What came after the month was dropped, by organisation. $1 from, $2 before
SELECT org_id, count(*) AS requests, sum(credits_used)::bigint AS credits_used
  FROM credit_usage_attribution WHERE created_at >= $1 AND created_at < $2 GROUP BY org_id

-- name: all_parts
-- Everything that is archived, oldest first.
SELECT month, part, token, manifest_sha256 AS sha256, requests, credits_used
  FROM taximeter.archived_months WHERE state = 'archived' ORDER BY month, part

-- name: rows_of_part
-- $1 month, $2 part
SELECT requests FROM taximeter.archived_months WHERE month = $1 AND part = $2

-- name: dropped
-- How many rows of a month were dropped. $1 month
SELECT coalesce((SELECT requests FROM taximeter.dropped_months WHERE month = $1), 0)::bigint AS dropped

-- name: count_parts
SELECT count(*) AS parts, coalesce(sum(requests), 0)::bigint AS requests FROM taximeter.archived_months WHERE state = 'archived'

-- name: sealed_digests
-- What the seals say has left for the archive, by month.
SELECT date_trunc('month', day::timestamp)::date AS month, -sum(rows)::bigint AS rows, -sum(digest) AS digest
  FROM taximeter.sealed_rows WHERE kind IN ('archived', 'restored') GROUP BY 1 HAVING sum(rows) <> 0

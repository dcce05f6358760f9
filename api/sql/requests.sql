-- name: list_requests
-- Why: single charges of an organisation, newest first. A page begins after the last row of the one before, so that page 10,000
--      costs what page 1 does, and what is charged meanwhile shifts nothing. Moves between accounts are no requests.
-- $1 org_id, $2 from, $3 before, $4 user_id or null, $5 service_type or null, $6 service_name or null, $7 request_id or null,
-- $8 created_at of the last row or null, $9 its id, $10 late or null, $11 least and $12 most millicredits or null, $13 limit
SELECT id, created_at, user_id, service_type, service_name, credits_used, request_id, reserved, late,
       request_metadata::text AS metadata
FROM credit_usage_attribution
WHERE org_id = $1 AND created_at >= $2 AND created_at < $3
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR service_type = $5)
    AND ($6::text IS NULL OR service_name = $6)
    AND ($7::text IS NULL OR request_id = $7)
    AND ($8::timestamptz IS NULL OR (created_at, id) < ($8, $9::bigint))
    AND ($10::boolean IS NULL OR late = $10)
    AND ($11::bigint IS NULL OR credits_used >= $11)
    AND ($12::bigint IS NULL OR credits_used <= $12)
    AND service_type <> 'credit_transfer'
ORDER BY created_at DESC, id DESC
LIMIT $13;

-- name: list_requests_among
-- Why: the same for questions that no index answers: of the newest $14 charges, those that fit. Where there were so many, the last of
--      them comes as a row of its own (`is_end`), so that the next page goes on behind it; without a bound, a model that nobody used
--      would have millions of charges read.
-- $1 to $13 as in list_requests, $14 how many charges are looked at
WITH looked AS MATERIALIZED (
    SELECT id, created_at, user_id, service_type, service_name, credits_used, request_id, reserved, late, request_metadata
    FROM credit_usage_attribution
    WHERE org_id = $1 AND created_at >= $2 AND created_at < $3
        AND ($4::text IS NULL OR user_id = $4)
        AND ($8::timestamptz IS NULL OR (created_at, id) < ($8, $9::bigint))
    ORDER BY created_at DESC, id DESC
    LIMIT $14
)

SELECT id, created_at, user_id, service_type, service_name, credits_used, request_id, reserved, late,
       request_metadata::text AS metadata, false AS is_end
FROM (
    SELECT * FROM looked
    WHERE ($5::text IS NULL OR service_type = $5)
        AND ($6::text IS NULL OR service_name = $6)
        AND ($7::text IS NULL OR request_id = $7)
        AND ($10::boolean IS NULL OR late = $10)
        AND ($11::bigint IS NULL OR credits_used >= $11)
        AND ($12::bigint IS NULL OR credits_used <= $12)
        AND service_type <> 'credit_transfer'
    ORDER BY created_at DESC, id DESC
    LIMIT $13
) AS found
UNION ALL
SELECT id, created_at, user_id, service_type, service_name, credits_used, request_id, reserved, late, '{}', true
FROM (SELECT * FROM looked ORDER BY created_at, id LIMIT 1) AS last
WHERE (SELECT count(*) FROM looked) = $14
ORDER BY is_end, created_at DESC, id DESC;

-- name: moments_of_request
-- Why: when a request was charged, so that its charges are found without looking at those of others; none where that is forgotten.
-- $1 org_id, $2 request_id
SELECT min(created_at) AS first, max(created_at) AS last FROM taximeter.charged_requests WHERE org_id = $1 AND request_id = $2;

-- name: archived_parts
-- Why: which months between two moments lie in the archive, the newest first; rows of a month can lie in several parts.
-- $1 from, $2 before
SELECT month, part, token, manifest_sha256 AS sha256, requests, credits_used
FROM taximeter.archived_months
WHERE state = 'archived' AND month >= date_trunc('month', $1::timestamptz AT TIME ZONE 'UTC')::date
    AND month < $2::timestamptz AT TIME ZONE 'UTC'
ORDER BY month DESC, part DESC;

-- name: bookings_of_request
-- Why: the charges of one request as the ledger has them, at most two, each with the transaction that booked it, while that is kept.
-- $1 org_id, $2 request_id
SELECT
    charged.phase, charged.user_id, charged.amount, charged.created_at, charged.by_expiry, charged.shard, charged.epoch, charged.seq,
    batch.seq_first, batch.seq_last, batch.settled + batch.dead + batch.lost AS events, batch.settled_at
FROM taximeter.charged_requests AS charged
LEFT JOIN LATERAL (
    SELECT seq_first, seq_last, settled, dead, lost, settled_at
    FROM taximeter.settled_batches AS known
    WHERE known.shard = charged.shard AND known.epoch = charged.epoch AND known.seq_first <= charged.seq
    ORDER BY known.seq_first DESC
    LIMIT 1
) AS batch ON batch.seq_last >= charged.seq
WHERE charged.org_id = $1 AND charged.request_id = $2
ORDER BY charged.phase;

-- name: refunds_of_request
-- Why: what was given back of it, by whom and why.
-- $1 org_id, $2 request_id
SELECT
    (metadata ->> 'millicredits')::bigint AS millicredits, created_at, metadata ->> 'corrected_by' AS refunded_by,
    metadata ->> 'reason' AS reason
FROM org_billing_history
WHERE org_id = $1 AND event_type = 'credits_refunded' AND metadata ->> 'request_id' = $2
ORDER BY created_at;

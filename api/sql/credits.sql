-- name: pool
-- Why: the pool of one organisation.
-- $1 org_id
SELECT
    org_id, total_credits, allocated_credits, used_credits, available_credits, closed_credits,
    monthly_refresh_amount, last_refresh_date
FROM organization_credit_pools WHERE org_id = $1;

-- name: find_payment
-- Why: the purchase that this payment has made already, of whichever organisation.
-- $1 stripe_payment_id
SELECT id, org_id, event_type, amount, stripe_payment_id, metadata, created_at
FROM org_billing_history
WHERE event_type = 'credits_purchased' AND stripe_payment_id = $1;

-- name: buy_credits
-- Why: raises the pool and writes the history line, whole: lines are added and never changed.
-- $1 org_id, $2 millicredits, $3 purchase_amount in dollars, $4 stripe_payment_id or null, $5 metadata
SELECT id, event_type, amount, metadata, created_at
FROM taximeter.buy_credits($1, $2, $3, $4, $5::text::jsonb);

-- name: lock_member
-- Why: credits go to active members alone; the row stays as it is until the allocation is made.
-- Locks: the member's row, shared.
-- $1 org_id, $2 user_id
SELECT user_id FROM organization_members
WHERE org_id = $1 AND user_id = $2 AND status = 'active' FOR SHARE;

-- name: open_account
-- Why: who adds to the pool and allocates in one transaction locks what comes before the pool first: the allocation, then its account.
-- Both are made if they are missing, with nothing in them.
-- Locks: the user's active allocation, the account.
-- $1 org_id, $2 user_id, $3 allocated_by
WITH pool AS (
    INSERT INTO organization_credit_pools (org_id) VALUES ($1) ON CONFLICT (org_id) DO NOTHING
), allocation AS (
    INSERT INTO user_credit_allocations AS allocation (org_id, user_id, allocated_by) VALUES ($1, $2, $3)
    ON CONFLICT (org_id, user_id) WHERE is_active DO UPDATE SET updated_at = now()
    RETURNING allocation.org_id, allocation.user_id
)
INSERT INTO taximeter.accounts AS account (org_id, user_id)
SELECT org_id, user_id FROM allocation
ON CONFLICT (org_id, user_id) DO UPDATE SET entry_seq = account.entry_seq;

-- name: allocate
-- Why: takes credits from the pool for a user, on terms, by what operators' function uses too.
-- $1 org_id, $2 user_id, $3 millicredits, $4 allocated_by, $5 whether an end is named, $6 the end or null, $7 auto_renew or null
SELECT taximeter.allocate_credits($1, $2, $3, $4, $5, $6, $7);

-- name: read_allocation
-- Why: an allocation that was just changed, for the answer.
-- $1 id
SELECT
    id, user_id, allocated_credits, used_credits, remaining_credits, allocated_by,
    is_active, expires_at, auto_renew, created_at, updated_at,
    (
        SELECT users.email
        FROM organization_members AS members JOIN taximeter.users USING (user_id)
        WHERE members.org_id = user_credit_allocations.org_id
            AND members.user_id = user_credit_allocations.user_id AND members.status = 'active'
    ) AS email
FROM user_credit_allocations
WHERE id = $1;

-- name: list_allocations
-- Why: allocations of an organisation, active ones first, a page at a time.
-- $1 org_id, $2 user_id or null, $3 is_active or null, $4 limit, $5 offset, $6 is_active of the last row before or null,
-- $7 its created_at, $8 its id
SELECT
    allocations.id, allocations.user_id, allocations.allocated_credits, allocations.used_credits,
    allocations.remaining_credits, allocations.allocated_by, allocations.is_active, allocations.expires_at,
    allocations.auto_renew, allocations.created_at, users.email
FROM user_credit_allocations AS allocations
LEFT JOIN organization_members AS members
    ON members.org_id = allocations.org_id AND members.user_id = allocations.user_id AND members.status = 'active'
LEFT JOIN taximeter.users AS users ON users.user_id = members.user_id
WHERE allocations.org_id = $1
    AND ($2::text IS NULL OR allocations.user_id = $2)
    AND ($3::boolean IS NULL OR allocations.is_active = $3)
    AND ($6::boolean IS NULL
        OR (allocations.is_active, allocations.created_at, allocations.id) < ($6, $7::timestamptz, $8::uuid))
ORDER BY allocations.is_active DESC, allocations.created_at DESC, allocations.id DESC
LIMIT $4 OFFSET $5;

-- name: sorted_allocations
-- Why: the same, searched by a part of the user's id or address and in an order that people choose, from the place of a row on. Every row
-- that fits is read, so it is asked of lists that were counted and are short. Amounts are as settled.
-- $1 org_id, $2 user_id or null, $3 is_active or null, $4 LIKE pattern or null, $5 only those with an end, $6 sort, $7 descending, $8 limit,
-- $9 text, $10 number and $11 id of the last row before or null
WITH found AS (
    SELECT
        allocations.id, allocations.user_id, allocations.allocated_credits, allocations.used_credits,
        allocations.remaining_credits, allocations.allocated_by, allocations.is_active, allocations.expires_at,
        allocations.auto_renew, allocations.created_at, users.email,
        CASE $6::text WHEN 'user' THEN lower(coalesce(users.email, allocations.user_id)) ELSE '' END COLLATE "C" AS sort_text,
        CASE $6::text
            WHEN 'allocated_credits' THEN allocations.allocated_credits
            WHEN 'used_credits' THEN allocations.used_credits
            WHEN 'remaining_credits' THEN allocations.remaining_credits
            WHEN 'expires_at' THEN CASE WHEN isfinite(allocations.expires_at)
                THEN (extract(epoch FROM allocations.expires_at) * 1000000)::bigint ELSE 9223372036854775807 END
            WHEN 'allocated_at' THEN (extract(epoch FROM allocations.created_at) * 1000000)::bigint
            ELSE 0 END AS sort_number
    FROM user_credit_allocations AS allocations
    LEFT JOIN organization_members AS members
        ON members.org_id = allocations.org_id AND members.user_id = allocations.user_id AND members.status = 'active'
    LEFT JOIN taximeter.users AS users ON users.user_id = members.user_id
    WHERE allocations.org_id = $1
        AND ($2::text IS NULL OR allocations.user_id = $2)
        AND ($3::boolean IS NULL OR allocations.is_active = $3)
        AND ($4::text IS NULL OR allocations.user_id ILIKE $4 OR users.email ILIKE $4)
        AND (NOT $5::boolean OR allocations.expires_at IS NOT NULL)
)

SELECT * FROM found
WHERE $9::text IS NULL OR CASE WHEN $7::boolean
    THEN (sort_text, sort_number, id) < ($9 COLLATE "C", $10::bigint, $11::uuid)
    ELSE (sort_text, sort_number, id) > ($9 COLLATE "C", $10::bigint, $11::uuid) END
ORDER BY
    CASE WHEN $7 THEN sort_text END DESC, CASE WHEN NOT $7 THEN sort_text END,
    CASE WHEN $7 THEN sort_number END DESC, CASE WHEN NOT $7 THEN sort_number END,
    CASE WHEN $7 THEN id END DESC, CASE WHEN NOT $7 THEN id END
LIMIT $8;

-- name: count_found_allocations
-- Why: how many of them fit. $1 org_id, $2 user_id or null, $3 is_active or null, $4 LIKE pattern or null, $5 only those with an end
SELECT count(*)
FROM user_credit_allocations AS allocations
LEFT JOIN organization_members AS members
    ON members.org_id = allocations.org_id AND members.user_id = allocations.user_id AND members.status = 'active'
LEFT JOIN taximeter.users AS users ON users.user_id = members.user_id
WHERE allocations.org_id = $1
    AND ($2::text IS NULL OR allocations.user_id = $2)
    AND ($3::boolean IS NULL OR allocations.is_active = $3)
    AND ($4::text IS NULL OR allocations.user_id ILIKE $4 OR users.email ILIKE $4)
    AND (NOT $5::boolean OR allocations.expires_at IS NOT NULL);

-- name: ending_allocations
-- Why: what ends next, and how much of it is left as settled. $1 org_id, $2 limit
SELECT
    id, user_id, allocated_credits, used_credits, remaining_credits, allocated_by, is_active, expires_at, auto_renew, created_at,
    (
        SELECT users.email
        FROM organization_members AS members JOIN taximeter.users USING (user_id)
        WHERE members.org_id = user_credit_allocations.org_id
            AND members.user_id = user_credit_allocations.user_id AND members.status = 'active'
    ) AS email
FROM user_credit_allocations
WHERE org_id = $1 AND is_active AND expires_at IS NOT NULL
ORDER BY expires_at, id
LIMIT $2;

-- name: activity_of_users
-- Why: when each of these users was last charged, if that was in the last 90 days, and their days from $3 to $4: one look into an index a
-- user and month, and their rows of the rollup. $1 org_id, $2 user ids, $3 first day, $4 last day
SELECT
    named.user_id, last.created_at AS last_request_at, days.days, days.credits_used
FROM unnest($2::text[]) AS named (user_id)
LEFT JOIN LATERAL (
    SELECT usage.created_at FROM credit_usage_attribution AS usage
    WHERE usage.org_id = $1 AND usage.user_id = named.user_id AND usage.created_at > now() - interval '90 days'
    ORDER BY usage.created_at DESC LIMIT 1
) AS last ON true
LEFT JOIN LATERAL (
    SELECT array_agg(by_day.day ORDER BY by_day.day) AS days, array_agg(by_day.credits_used ORDER BY by_day.day) AS credits_used
    FROM (
        SELECT usage.day, sum(usage.credits_used)::bigint AS credits_used
        FROM taximeter.usage_daily AS usage
        WHERE usage.org_id = $1 AND usage.user_id = named.user_id AND usage.day BETWEEN $3 AND $4
        GROUP BY usage.day
    ) AS by_day
) AS days ON true;

-- name: count_allocations
-- Why: how many allocations a list has, counted up to $4.
-- $1 org_id, $2 user_id or null, $3 is_active or null, $4 most
SELECT count(*) FROM (
    SELECT FROM user_credit_allocations
    WHERE org_id = $1
        AND ($2::text IS NULL OR user_id = $2)
        AND ($3::boolean IS NULL OR is_active = $3)
    LIMIT $4
) AS counted;

-- name: charged_request
-- Why: an idempotency key that the live side has forgotten may still have been charged: the ledger remembers it longer.
-- $1 org_id, $2 request_id
SELECT sum(amount)::bigint FROM taximeter.charged_requests WHERE org_id = $1 AND request_id = $2;

-- name: booked_request
-- Why: what a user's request cost, as the ledger has it, with the usage of its first charge. The event is older than its
-- booking, mostly by a second, so the user's usage is read backwards from there and the row is found at once.
-- $1 org ids, $2 user_id, $3 request_id
SELECT charged.org_id, charged.amount, charged.settled_at, charged.first_at, usage.service_name, usage.reserved, usage.late,
       usage.request_metadata::text AS metadata
  FROM (SELECT org_id, user_id, request_id, sum(amount)::bigint AS amount, max(created_at) AS settled_at,
               min(created_at) AS first_at
          FROM taximeter.charged_requests
         WHERE org_id = ANY ($1::text[]) AND request_id = $3 AND user_id = $2
         GROUP BY org_id, user_id, request_id
         LIMIT 1) AS charged
  LEFT JOIN LATERAL (SELECT u.service_name, u.reserved, u.late, u.request_metadata
                       FROM credit_usage_attribution AS u
                      WHERE u.org_id = charged.org_id AND u.user_id = charged.user_id
                        AND u.request_id = charged.request_id
                        AND u.created_at <= charged.settled_at + interval '1 minute'
                        AND u.created_at > charged.settled_at - interval '7 days'
                      ORDER BY u.created_at DESC
                      LIMIT 1) AS usage ON true;

-- name: set_refresh
-- Why: what the pool gets every month, from the next one on.
-- Locks: the pool.
-- $1 org_id, $2 millicredits
UPDATE organization_credit_pools AS pool SET monthly_refresh_amount = $2, updated_at = now()
FROM (SELECT org_id, monthly_refresh_amount FROM organization_credit_pools WHERE org_id = $1 FOR NO KEY UPDATE) AS before
WHERE pool.org_id = before.org_id
RETURNING pool.*, before.monthly_refresh_amount AS amount_before;

-- name: correct_pool
-- Why: more or less credits in the pool than were bought; never less than what is allocated, which may be spent already.
-- Locks: the pool.
-- $1 org_id, $2 millicredits, more or less
UPDATE organization_credit_pools SET total_credits = total_credits + $2, updated_at = now()
WHERE org_id = $1 AND ($2 > 0 OR available_credits + $2 >= 0)
RETURNING *;

-- name: record_correction
-- Why: the line of the billing history that says how much, why and by whom.
-- $1 org_id, $2 credits_refunded or credits_adjusted, $3 dollars given back, $4 metadata
INSERT INTO org_billing_history (org_id, event_type, amount, currency, status, metadata)
VALUES ($1, $2, $3, 'USD', 'completed', $4::text::jsonb)
RETURNING id, created_at;

-- name: lock_charge
-- Why: what a request was charged, and what was refunded of it: at most that is given back, also by two at once.
-- Locks: the request's name, until the transaction ends; before any row.
-- $1 org_id, $2 request_id
SELECT pg_advisory_xact_lock(hashtextextended(concat_ws('/', 'refund', $1::text, $2::text), 0));

-- name: charged_and_refunded
-- $1 org_id, $2 user_id, $3 request_id
SELECT
    (
        SELECT sum(amount)::bigint FROM taximeter.charged_requests
        WHERE org_id = $1 AND user_id = $2 AND request_id = $3
    ) AS charged,
    coalesce((
        SELECT sum((metadata ->> 'millicredits')::bigint)::bigint FROM org_billing_history
        WHERE org_id = $1 AND event_type = 'credits_refunded' AND metadata ->> 'request_id' = $3
    ), 0) AS refunded;

-- name: change_terms
-- Why: when an allocation ends and whether it is renewed then; it is not changed while it is being closed.
-- Locks: the allocation.
-- $1 org_id, $2 user_id, $3 whether to change the end, $4 end or null, $5 auto_renew or null
UPDATE user_credit_allocations AS allocation
SET
    expires_at = CASE WHEN $3 THEN $4::timestamptz ELSE allocation.expires_at END,
    auto_renew = coalesce($5, allocation.auto_renew),
    updated_at = now()
FROM (
    SELECT id, expires_at, auto_renew FROM user_credit_allocations
    WHERE org_id = $1 AND user_id = $2 AND is_active AND closing IS NULL FOR NO KEY UPDATE
) AS before
WHERE allocation.id = before.id
RETURNING
    allocation.id, allocation.user_id, allocation.allocated_credits, allocation.used_credits, allocation.remaining_credits,
    allocation.allocated_by, allocation.is_active, allocation.expires_at, allocation.auto_renew, allocation.created_at,
    before.expires_at AS expires_before, before.auto_renew AS auto_renew_before,
    (
        SELECT users.email
        FROM organization_members AS members JOIN taximeter.users USING (user_id)
        WHERE members.org_id = $1 AND members.user_id = $2 AND members.status = 'active'
    ) AS email;

-- name: list_invoices
-- Why: the last word on each invoice, newest first.
-- $1 org_id, $2 paid, failed or null, $3 limit, $4 offset
SELECT * FROM (
    SELECT DISTINCT ON (coalesce(lago_invoice_id, id::text))
        coalesce(lago_invoice_id, id::text) AS invoice_id, event_type, amount, currency, created_at
    FROM org_billing_history
    WHERE org_id = $1 AND event_type IN ('invoice_paid', 'invoice_failed')
    ORDER BY coalesce(lago_invoice_id, id::text), created_at DESC, id DESC
) AS latest
WHERE $2::text IS NULL OR event_type = 'invoice_' || $2
ORDER BY created_at DESC, invoice_id
LIMIT $3 OFFSET $4;

-- name: count_invoices
-- Why: how many invoices there are, and what is open of them.
-- $1 org_id, $2 paid, failed or null
SELECT
    count(*) FILTER (WHERE $2::text IS NULL OR event_type = 'invoice_' || $2) AS total,
    coalesce(sum(amount) FILTER (WHERE event_type = 'invoice_failed'), 0) AS outstanding
FROM (
    SELECT DISTINCT ON (coalesce(lago_invoice_id, id::text)) event_type, amount
    FROM org_billing_history
    WHERE org_id = $1 AND event_type IN ('invoice_paid', 'invoice_failed')
    ORDER BY coalesce(lago_invoice_id, id::text), created_at DESC, id DESC
) AS latest;

-- name: find_invoice
-- Why: whether this word on this invoice was heard already.
-- $1 org_id, $2 lago_invoice_id
SELECT event_type, amount, created_at FROM org_billing_history
WHERE org_id = $1 AND lago_invoice_id = $2 AND event_type IN ('invoice_paid', 'invoice_failed')
ORDER BY created_at DESC, id DESC LIMIT 1;

-- name: record_invoice
-- $1 org_id, $2 invoice_paid or invoice_failed, $3 dollars, $4 lago_invoice_id, $5 metadata
INSERT INTO org_billing_history (org_id, event_type, amount, currency, lago_invoice_id, status, metadata)
VALUES ($1, $2, $3, 'USD', $4, CASE $2 WHEN 'invoice_paid' THEN 'completed' ELSE 'failed' END, $5::text::jsonb)
RETURNING created_at;

-- name: set_payment_status
-- Why: a subscription is past due as long as an invoice of it is open. One that was canceled stays that.
-- $1 org_id, $2 active or past_due
UPDATE organization_subscriptions SET status = $2, updated_at = now()
WHERE org_id = $1 AND status <> $2 AND status <> 'canceled'
RETURNING id;

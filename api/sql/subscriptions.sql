-- name: create_organization
-- Why: makes the organisation if it is new; a slug that another one uses leaves no row, and the caller tries the next slug.
-- $1 org_id, $2 org_name, $3 slug, $4 created_by
INSERT INTO organizations (id, org_name, slug, created_by)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING;

-- name: find_subscription
-- Why: the one subscription of an organisation.
-- Locks: its row, so that two requests to subscribe cannot both find it canceled.
-- $1 org_id
SELECT * FROM organization_subscriptions WHERE org_id = $1 FOR NO KEY UPDATE;

-- name: read_subscription
-- Why: the subscription of an organisation, with what its invoices leave open: those whose last word is that they failed.
-- $1 org_id
SELECT
    subscription.*,
    subscription.metadata ->> 'lago_status' AS lago_status,
    (
        SELECT coalesce(sum(latest.amount), 0) FROM (
            SELECT DISTINCT ON (coalesce(lago_invoice_id, id::text)) amount, event_type
            FROM org_billing_history
            WHERE org_id = $1 AND event_type IN ('invoice_paid', 'invoice_failed')
            ORDER BY coalesce(lago_invoice_id, id::text), created_at DESC
        ) AS latest WHERE latest.event_type = 'invoice_failed'
    ) AS outstanding_balance
FROM organization_subscriptions AS subscription WHERE org_id = $1;

-- name: put_subscription
-- Why: a new subscription, or a canceled one that starts again: an organisation has one row for ever.
-- $1 org_id, $2 plan_code, $3 plan_name, $4 monthly_price, $5 metadata
INSERT INTO organization_subscriptions (
    org_id, plan_code, plan_name, monthly_price, status,
    billing_cycle_start, billing_cycle_end, billing_anchor_day, metadata
)
VALUES (
    $1, $2, $3, $4, 'active',
    (now() AT TIME ZONE 'UTC')::date,
    ((now() AT TIME ZONE 'UTC')::date + interval '1 month')::date,
    extract(DAY FROM now() AT TIME ZONE 'UTC'),
    $5::text::jsonb
)
ON CONFLICT (org_id) DO UPDATE SET
    plan_code = excluded.plan_code,
    plan_name = excluded.plan_name,
    monthly_price = excluded.monthly_price,
    status = 'active',
    billing_cycle_start = excluded.billing_cycle_start,
    billing_cycle_end = excluded.billing_cycle_end,
    billing_anchor_day = excluded.billing_anchor_day,
    cancel_at_period_end = false,
    pending_plan = NULL,
    metadata = organization_subscriptions.metadata || excluded.metadata,
    updated_at = now()
RETURNING *;

-- name: change_plan
-- Why: another plan from now on; a plan that was chosen for later is forgotten.
-- $1 org_id, $2 plan_code, $3 plan_name, $4 monthly_price
UPDATE organization_subscriptions
SET plan_code = $2, plan_name = $3, monthly_price = $4, pending_plan = NULL, updated_at = now()
WHERE org_id = $1
RETURNING *;

-- name: plan_for_later
-- Why: another plan from the end of the period on, when the settler applies it.
-- $1 org_id, $2 pending_plan
UPDATE organization_subscriptions SET pending_plan = $2::text::jsonb, updated_at = now()
WHERE org_id = $1
RETURNING *;

-- name: cancel_subscription
-- Why: no next period: the settler ends the subscription with this one. A plan for later is forgotten.
-- $1 org_id
UPDATE organization_subscriptions
SET cancel_at_period_end = true, pending_plan = NULL, updated_at = now()
WHERE org_id = $1
RETURNING *;

-- name: resume_subscription
-- Why: the cancellation is taken back before its period has ended.
-- $1 org_id
UPDATE organization_subscriptions SET cancel_at_period_end = false, updated_at = now()
WHERE org_id = $1
RETURNING *;

-- name: today
-- Why: the day by the clock of the database, which the periods are counted by.
SELECT (now() AT TIME ZONE 'UTC')::date;

-- name: record_event
-- Why: a line of the billing history.
-- $1 org_id, $2 event_type, $3 amount in dollars or null, $4 metadata
INSERT INTO org_billing_history (org_id, event_type, amount, currency, status, metadata)
VALUES ($1, $2, $3, 'USD', 'completed', $4::text::jsonb);

-- name: list_history
-- Why: the billing history of an organisation, newest first, a page at a time.
-- $1 org_id, $2 event_type or null, $3 limit, $4 offset
SELECT
    id, event_type, amount, currency, lago_invoice_id, stripe_payment_id, status, metadata, created_at
FROM org_billing_history
WHERE org_id = $1 AND ($2::text IS NULL OR event_type = $2)
ORDER BY created_at DESC, id
LIMIT $3 OFFSET $4;

-- name: count_history
-- Why: how many lines the history has in all.
-- $1 org_id, $2 event_type or null
SELECT count(*) FROM org_billing_history
WHERE org_id = $1 AND ($2::text IS NULL OR event_type = $2);

-- name: ensure_pool
-- Why: every subscribed organisation has a pool, also before it has bought anything.
-- $1 org_id
INSERT INTO organization_credit_pools (org_id) VALUES ($1) ON CONFLICT (org_id) DO NOTHING;

-- name: lock_organization
-- Why: two first subscriptions of one organisation follow each other; also tells whether the organisation is there.
-- Locks: the organisation's row, not its key, as in identity.sql.
-- $1 org_id
SELECT id, org_name, deleted_at FROM organizations WHERE id = $1 FOR NO KEY UPDATE;

-- name: put_admin
-- Why: whoever a subscription is made for administers the organisation, also if the user was a mere member before.
-- $1 org_id, $2 user_id
INSERT INTO organization_members (org_id, user_id, role, status)
VALUES ($1, $2, 'admin', 'active')
ON CONFLICT (org_id, user_id) DO UPDATE SET role = 'admin', status = 'active'
RETURNING user_id;

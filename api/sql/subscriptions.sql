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
SELECT * FROM organization_subscriptions WHERE org_id = $1 FOR UPDATE;

-- name: put_subscription
-- Why: a new subscription, or a canceled one that starts again: an organisation has one row for ever.
-- $1 org_id, $2 plan_code, $3 plan_name, $4 monthly_price, $5 metadata
INSERT INTO organization_subscriptions (
    org_id, plan_code, plan_name, monthly_price, status,
    billing_cycle_start, billing_cycle_end, metadata
)
VALUES (
    $1, $2, $3, $4, 'active',
    (now() AT TIME ZONE 'UTC')::date,
    ((now() AT TIME ZONE 'UTC')::date + interval '1 month')::date,
    $5::text::jsonb
)
ON CONFLICT (org_id) DO UPDATE SET
    plan_code = excluded.plan_code,
    plan_name = excluded.plan_name,
    monthly_price = excluded.monthly_price,
    status = 'active',
    billing_cycle_start = excluded.billing_cycle_start,
    billing_cycle_end = excluded.billing_cycle_end,
    metadata = organization_subscriptions.metadata || excluded.metadata,
    updated_at = now()
RETURNING *;

-- name: record_subscription
-- Why: the line of the billing history that says a subscription began.
-- $1 org_id, $2 amount, $3 metadata
INSERT INTO org_billing_history (org_id, event_type, amount, currency, status, metadata)
VALUES ($1, 'subscription_created', $2, 'USD', 'completed', $3::text::jsonb);

-- name: ensure_pool
-- Why: every subscribed organisation has a pool, also before it has bought anything.
-- $1 org_id
INSERT INTO organization_credit_pools (org_id) VALUES ($1) ON CONFLICT (org_id) DO NOTHING;

-- name: lock_organization
-- Why: two first subscriptions of one organisation follow each other; also tells whether the organisation is there.
-- Locks: the organisation's row.
-- $1 org_id
SELECT id FROM organizations WHERE id = $1 FOR UPDATE;

-- name: put_admin
-- Why: whoever a subscription is made for administers the organisation, also if the user was a mere member before.
-- $1 org_id, $2 user_id
INSERT INTO organization_members (org_id, user_id, role, status)
VALUES ($1, $2, 'admin', 'active')
ON CONFLICT (org_id, user_id) DO UPDATE SET role = 'admin', status = 'active'
RETURNING user_id;

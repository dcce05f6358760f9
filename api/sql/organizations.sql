-- name: list_organizations
-- Why: every organisation with its plan and its pool, a page at a time. Names and ids are searched by a part of them, whatever the
--      case; the order is one of those that the route knows, and the id where that is the same.
-- $1 part of id, name, slug or billing address, as LIKE pattern, or null, $2 active, suspended, deleted or null, $3 plan or null,
-- $4 also personal ones, $5 sort, $6 descending, $7 limit, $8 offset
SELECT
    organizations.id AS org_id, organizations.org_name, organizations.slug, organizations.created_by, organizations.created_at,
    organizations.personal_of IS NOT NULL AS personal, organizations.suspended_at, organizations.deleted_at,
    subscriptions.plan_code, subscriptions.status AS subscription_status, subscriptions.metadata ->> 'billing_email' AS billing_email,
    coalesce(pools.total_credits, 0) AS total_credits, coalesce(pools.allocated_credits, 0) AS allocated_credits,
    coalesce(pools.used_credits, 0) AS used_credits, coalesce(pools.available_credits, 0) AS available_credits
FROM organizations
LEFT JOIN organization_subscriptions AS subscriptions ON subscriptions.org_id = organizations.id
LEFT JOIN organization_credit_pools AS pools ON pools.org_id = organizations.id
WHERE ($1::text IS NULL OR organizations.id ILIKE $1 OR organizations.org_name ILIKE $1 OR organizations.slug ILIKE $1
        OR subscriptions.metadata ->> 'billing_email' ILIKE $1)
    AND ($2::text IS NULL OR $2 = CASE
        WHEN organizations.deleted_at IS NOT NULL THEN 'deleted'
        WHEN organizations.suspended_at IS NOT NULL THEN 'suspended' ELSE 'active' END)
    AND ($3::text IS NULL OR subscriptions.plan_code = $3)
    AND ($4 OR organizations.personal_of IS NULL)
    AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = organizations.id AND away.said LIKE 'gone %')
ORDER BY
    CASE WHEN $6 AND $5 = 'name' THEN organizations.org_name END DESC,
    CASE WHEN NOT $6 AND $5 = 'name' THEN organizations.org_name END,
    CASE WHEN $6 THEN CASE $5
        WHEN 'created_at' THEN extract(epoch FROM organizations.created_at)
        WHEN 'total_credits' THEN pools.total_credits
        WHEN 'available_credits' THEN pools.available_credits
        WHEN 'used_credits' THEN pools.used_credits END END DESC NULLS LAST,
    CASE WHEN NOT $6 THEN CASE $5
        WHEN 'created_at' THEN extract(epoch FROM organizations.created_at)
        WHEN 'total_credits' THEN pools.total_credits
        WHEN 'available_credits' THEN pools.available_credits
        WHEN 'used_credits' THEN pools.used_credits END END NULLS FIRST,
    organizations.id
LIMIT $7 OFFSET $8;

-- name: count_organizations
-- Why: how many organisations a list has in all.
-- $1 pattern or null, $2 state or null, $3 plan or null, $4 also personal ones
SELECT count(*)
FROM organizations
LEFT JOIN organization_subscriptions AS subscriptions ON subscriptions.org_id = organizations.id
WHERE ($1::text IS NULL OR organizations.id ILIKE $1 OR organizations.org_name ILIKE $1 OR organizations.slug ILIKE $1
        OR subscriptions.metadata ->> 'billing_email' ILIKE $1)
    AND ($2::text IS NULL OR $2 = CASE
        WHEN organizations.deleted_at IS NOT NULL THEN 'deleted'
        WHEN organizations.suspended_at IS NOT NULL THEN 'suspended' ELSE 'active' END)
    AND ($3::text IS NULL OR subscriptions.plan_code = $3)
    AND ($4 OR organizations.personal_of IS NULL)
    AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = organizations.id AND away.said LIKE 'gone %');

-- name: read_organization
-- Why: one organisation as it is.
-- $1 org_id
SELECT
    organizations.id AS org_id, organizations.org_name, organizations.slug, organizations.created_by, organizations.created_at,
    organizations.personal_of IS NOT NULL AS personal, organizations.suspended_at, organizations.deleted_at,
    subscriptions.id AS subscription_id, subscriptions.metadata ->> 'billing_email' AS billing_email
FROM organizations
LEFT JOIN organization_subscriptions AS subscriptions ON subscriptions.org_id = organizations.id
WHERE organizations.id = $1;

-- name: lock_organization
-- Why: changes of one organisation follow each other.
-- Locks: the organisation's row, not its key, as in identity.sql.
-- $1 org_id
SELECT id FROM organizations WHERE id = $1 FOR NO KEY UPDATE;

-- name: rename_organization
-- $1 org_id, $2 org_name
UPDATE organizations SET org_name = $2 WHERE id = $1;

-- name: change_billing_email
-- Why: where invoices go; it is kept with the subscription.
-- $1 org_id, $2 billing_email
UPDATE organization_subscriptions
SET metadata = metadata || jsonb_build_object('billing_email', $2::text), updated_at = now()
WHERE org_id = $1;

-- name: suspend
-- Why: nothing is spent or changed in its name from now on; null lifts that.
-- $1 org_id, $2 whether
UPDATE organizations SET suspended_at = CASE WHEN $2 THEN coalesce(suspended_at, now()) END WHERE id = $1;

-- name: delete
-- Why: it ends. Its rows stay: charges, payments and who did what are kept.
-- $1 org_id
UPDATE organizations SET suspended_at = coalesce(suspended_at, now()), deleted_at = now() WHERE id = $1;

-- name: end_subscription
-- $1 org_id
UPDATE organization_subscriptions
SET status = 'canceled', cancel_at_period_end = false, pending_plan = NULL, updated_at = now()
WHERE org_id = $1 AND status <> 'canceled'
RETURNING plan_code;

-- name: begin_ending
-- Why: its people and allocations end in batches after this, which whoever comes next goes on with.
-- $1 org_id
INSERT INTO taximeter.endings (org_id) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: count_to_close
-- Why: how many allocations are going to return something.
-- $1 org_id
SELECT count(*) FROM user_credit_allocations WHERE org_id = $1 AND is_active AND closing IS NULL AND allocated_credits > used_credits;

-- name: stop_refreshing
-- $1 org_id
UPDATE organization_credit_pools SET monthly_refresh_amount = 0, updated_at = now() WHERE org_id = $1;

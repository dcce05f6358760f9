-- name: note_user
-- Why: what a verified session says of its user, for lists that show people; written only when it is new.
-- $1 user_id, $2 email
INSERT INTO taximeter.users AS known (user_id, email) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, updated_at = now()
WHERE known.email IS DISTINCT FROM excluded.email;

-- name: emails
-- Why: the addresses of the users of an organisation's report: of its members alone, who have accepted to be that.
-- $1 org_id, $2 user_ids
SELECT user_id, email
FROM organization_members JOIN taximeter.users USING (user_id)
WHERE org_id = $1 AND user_id = ANY($2::text[]) AND status = 'active' AND email IS NOT NULL;

-- name: choose_default
-- Why: which organisation pays when a request does not say; null takes the choice back.
-- $1 user_id, $2 org_id or null
INSERT INTO taximeter.users AS known (user_id, default_org_id) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET default_org_id = excluded.default_org_id, updated_at = now();

-- name: create_personal_organization
-- Why: the organisation of one that holds a user's individual credits; made when credits first come.
-- $1 org_id, $2 org_name, $3 created_by, $4 user_id
INSERT INTO organizations (id, org_name, slug, created_by, personal_of) VALUES ($1, $2, $1, $3, $4)
ON CONFLICT DO NOTHING;

-- name: find_personal_organization
-- Why: the personal organisation of a user, locked like every organisation whose members change.
-- Locks: the organisation's row.
-- $1 user_id
SELECT id FROM organizations WHERE personal_of = $1 FOR NO KEY UPDATE;

-- name: join_personal_organization
-- Why: its user is a member and no admin: nobody grants credits to themselves.
-- $1 org_id, $2 user_id
INSERT INTO organization_members (org_id, user_id, role, status) VALUES ($1, $2, 'member', 'active')
ON CONFLICT (org_id, user_id) DO UPDATE SET role = 'member', status = 'active';

-- name: personal_owner
-- Why: whose personal organisation this is, if it is one.
-- $1 org_id
SELECT personal_of FROM organizations WHERE id = $1;

-- name: billing_of_user
-- Why: the caller's organisations with role, subscription and allocation, in the order in which they are asked to pay; those that
--      live in another cell are shown there.
-- $1 user_id, $2 how many at most
SELECT
    members.org_id, organizations.org_name, members.role,
    organizations.personal_of IS NOT NULL AS personal,
    subscriptions.plan_code, subscriptions.plan_name, subscriptions.status, subscriptions.monthly_price,
    subscriptions.billing_cycle_end, subscriptions.cancel_at_period_end,
    allocations.id AS allocation_id, allocations.allocated_credits, allocations.used_credits,
    allocations.remaining_credits, allocations.expires_at, allocations.auto_renew
FROM organization_members AS members
JOIN organizations ON organizations.id = members.org_id
LEFT JOIN organization_subscriptions AS subscriptions ON subscriptions.org_id = members.org_id
LEFT JOIN user_credit_allocations AS allocations
    ON allocations.org_id = members.org_id AND allocations.user_id = members.user_id AND allocations.is_active
LEFT JOIN taximeter.users ON users.user_id = members.user_id
WHERE members.user_id = $1 AND members.status = 'active'
    AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = members.org_id AND away.said LIKE 'gone %')
ORDER BY
    organizations.suspended_at IS NOT NULL, (users.default_org_id = members.org_id) IS NOT TRUE, coalesce(allocations.allocated_credits, 0) <= 0,
    personal, members.created_at, members.org_id
LIMIT $2;

-- name: last_request_of_user
-- Why: when a user was last charged in any of these organisations: one look into an index for each. $1 user_id, $2 org_ids
SELECT max(last.created_at)
FROM unnest($2::text[]) AS mine (org_id)
CROSS JOIN LATERAL (
    SELECT usage.created_at FROM credit_usage_attribution AS usage
    WHERE usage.org_id = mine.org_id AND usage.user_id = $1 AND usage.created_at > now() - interval '90 days'
    ORDER BY usage.created_at DESC LIMIT 1
) AS last;

-- name: usage_of_user
-- Why: what one user has used in all organisations from one day to another.
-- $1 user_id, $2 org_ids, $3 first day, $4 last day
SELECT coalesce(sum(requests), 0)::bigint AS requests, coalesce(sum(credits_used), 0)::bigint AS credits_used
FROM taximeter.usage_daily
WHERE org_id = ANY($2::text[]) AND user_id = $1 AND day BETWEEN $3 AND $4;

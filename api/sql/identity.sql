-- name: org_access
-- Why: what a caller may see of an organisation: one row with whether it exists, whether it is suspended or deleted, the caller's
--      active role, if any, and what is said of it where it is away, in another cell or on its way.
-- $1 org_id, $2 user_id
SELECT
    (
        SELECT CASE WHEN deleted_at IS NOT NULL THEN 'deleted' WHEN suspended_at IS NOT NULL THEN 'suspended' ELSE 'active' END
        FROM organizations WHERE id = $1
    ) AS state,
    (
        SELECT role FROM organization_members
        WHERE org_id = $1 AND user_id = $2 AND status = 'active'
    ) AS role,
    (SELECT said FROM taximeter.organizations_away WHERE org_id = $1) AS away;

-- name: is_here
-- Why: a new organisation is written into the directory of cells first; one that is here already needs no directory.
-- $1 org_id
SELECT EXISTS (SELECT FROM organizations WHERE id = $1);

-- name: memberships
-- Why: the caller's active memberships; the first one pays when a request does not say who does: the user's default, else the
--      oldest one that has an allocation for them, and the organisation of one that holds individual credits after all others.
--      Nobody's own credits are out of reach because an organisation has nothing for them, or is suspended.
--      It pays at the markup of its plan; one that was canceled holds to the end of its period. One that has left for another cell
--      comes last.
-- $1 user_id, $2 how many at most
SELECT
    members.org_id, organizations.org_name, members.role, members.created_at,
    organizations.personal_of IS NOT NULL AS personal,
    (users.default_org_id = members.org_id) IS TRUE AS is_default,
    allocations.id IS NOT NULL AS has_allocation,
    organizations.suspended_at IS NOT NULL AS suspended,
    subscriptions.plan_code
FROM organization_members AS members
JOIN organizations ON organizations.id = members.org_id
LEFT JOIN taximeter.users ON users.user_id = members.user_id
LEFT JOIN organization_subscriptions AS subscriptions ON subscriptions.org_id = members.org_id
LEFT JOIN user_credit_allocations AS allocations
    ON allocations.org_id = members.org_id AND allocations.user_id = members.user_id
    AND allocations.is_active AND allocations.allocated_credits > 0
LEFT JOIN taximeter.organizations_away AS away ON away.org_id = members.org_id AND away.said LIKE 'gone %'
WHERE members.user_id = $1 AND members.status = 'active'
ORDER BY away.org_id IS NOT NULL, suspended, is_default DESC, has_allocation DESC, personal, members.created_at, members.org_id
LIMIT $2;

-- name: list_members
-- Why: the members of one organisation, or those who were invited, a page at a time. The address is shown of those who have
--      accepted to be members, and of nobody else.
-- $1 org_id, $2 limit, $3 offset, $4 active or invited, $5 created_at of the last row before or null, $6 its user_id
SELECT user_id, CASE WHEN status = 'active' THEN email END AS email, role, status, created_at
FROM organization_members LEFT JOIN taximeter.users USING (user_id)
WHERE org_id = $1 AND status = $4
    AND ($5::timestamptz IS NULL OR (created_at, user_id) > ($5, $6::text))
ORDER BY created_at, user_id
LIMIT $2 OFFSET $3;

-- name: search_members
-- Why: members by a part of their id or address: among the first of an organisation, so that no search reads a million rows, and whoever
--      has exactly this id. $1 org_id, $2 limit, $3 active or invited, $4 what is searched, $5 how many are looked at
SELECT user_id, CASE WHEN status = 'active' THEN email END AS email, role, status, created_at
FROM (
    (SELECT * FROM organization_members WHERE org_id = $1 AND status = $3 ORDER BY created_at, user_id LIMIT $5)
    UNION
    SELECT * FROM organization_members WHERE org_id = $1 AND status = $3 AND user_id = $4
) AS looked_at
LEFT JOIN taximeter.users USING (user_id)
WHERE strpos(lower(user_id), lower($4::text)) > 0 OR (status = 'active' AND strpos(lower(email), lower($4)) > 0)
ORDER BY created_at, user_id
LIMIT $2;

-- name: count_members
-- Why: how many active or invited members there are, counted up to $3.
-- $1 org_id, $2 active or invited, $3 most
SELECT count(*) FROM (SELECT FROM organization_members WHERE org_id = $1 AND status = $2 LIMIT $3) AS counted;

-- name: lock_organization
-- Why: membership changes of one organisation wait for each other, so that its last admin cannot be removed twice at once.
-- Locks: the organisation's row, not its key: a new allocation shares that, and must not wait (or be waited for) here.
-- $1 org_id
SELECT id FROM organizations WHERE id = $1 FOR NO KEY UPDATE;

-- name: find_member
-- Why: the row of one user in one organisation, whatever its status.
-- $1 org_id, $2 user_id
SELECT user_id, role, status, created_at
FROM organization_members WHERE org_id = $1 AND user_id = $2;

-- name: put_member
-- Why: makes the user a member with this role, or invites them; whoever was one before comes back by the same row. The age of a
--      membership, which decides who pays, is counted from when it last began.
-- $1 org_id, $2 user_id, $3 role, $4 active or invited, $5 who does it
INSERT INTO organization_members AS known (org_id, user_id, role, status, invited_by)
VALUES ($1, $2, $3, $4, CASE $4 WHEN 'invited' THEN $5 END)
ON CONFLICT (org_id, user_id) DO UPDATE SET
    role = excluded.role,
    status = excluded.status,
    invited_by = excluded.invited_by,
    created_at = CASE WHEN known.status = excluded.status THEN known.created_at ELSE now() END
RETURNING
    user_id, role, status, created_at,
    CASE WHEN known.status = 'active' THEN
        (SELECT users.email FROM taximeter.users WHERE users.user_id = known.user_id)
    END AS email;

-- name: other_admins
-- Why: an organisation keeps at least one admin.
-- $1 org_id, $2 user_id
SELECT count(*) FROM (
    SELECT FROM organization_members
    WHERE org_id = $1 AND user_id <> $2 AND role = 'admin' AND status = 'active' LIMIT 1
) AS counted;

-- name: remove_member
-- Why: ends a membership or an invitation and keeps the row, which usage and audit refer to.
-- $1 org_id, $2 user_id
UPDATE organization_members SET status = 'removed' WHERE org_id = $1 AND user_id = $2;

-- name: withdraw_invitations_of
-- Why: whom a former admin has invited does not come in their name. $1 org_id, $2 who has invited
UPDATE organization_members SET status = 'removed' WHERE org_id = $1 AND invited_by = $2 AND status = 'invited'
RETURNING user_id, role;

-- name: list_invitations
-- Why: the organisations that want a user to be their member, newest first, a page at a time.
-- $1 user_id, $2 limit, $3 offset
SELECT members.org_id, organizations.org_name, members.role, members.created_at
FROM organization_members AS members JOIN organizations ON organizations.id = members.org_id
WHERE members.user_id = $1 AND members.status = 'invited'
ORDER BY members.created_at DESC, members.org_id
LIMIT $2 OFFSET $3;

-- name: count_invitations
-- $1 user_id
SELECT count(*) FROM organization_members WHERE user_id = $1 AND status = 'invited';

-- name: lock_invitations_of
-- Why: two organisations at once must not both believe to send the last one. $1 user_id
SELECT pg_advisory_xact_lock(hashtextextended('taximeter.invitations/' || $1, 0));

-- name: open_invitations
-- Why: how many wait for an answer, of an organisation and to a user. $1 org_id, $2 user_id
SELECT
    (SELECT count(*) FROM organization_members WHERE org_id = $1 AND status = 'invited') AS of_organization,
    (SELECT count(*) FROM organization_members WHERE user_id = $2 AND status = 'invited') AS of_user;

-- name: answer_invitation
-- Why: the user accepts, declines or wants no more; no row when there is no invitation (any more). Declining ends a block.
-- $1 org_id, $2 user_id, $3 active, declined or blocked
UPDATE organization_members SET status = $3, created_at = now()
WHERE org_id = $1 AND user_id = $2 AND (status = 'invited' OR (status = 'blocked' AND $3 = 'declined'))
RETURNING user_id, role, status, created_at;

-- name: write_audit
-- Why: who did what to whom, with the state before and after, in the transaction of the change itself. The actor is set for that
--      transaction, here alone, and the function takes it from there.
-- $1 actor, $2 action, $3 org_id, $4 target, $5 before, $6 after, $7 request_id
SELECT taximeter.write_audit($2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7)
FROM set_config('taximeter.actor', $1, true);

-- name: list_audit
-- Why: the audit log of one organisation, newest first.
-- $1 org_id, $2 action or null, $3 actor or null, $4 limit, $5 offset
SELECT id, at, actor, action, target, before::text AS before, after::text AS after, request_id
FROM taximeter.audit_log
WHERE org_id = $1 AND ($2::text IS NULL OR action = $2) AND ($3::text IS NULL OR actor = $3)
ORDER BY at DESC, id DESC
LIMIT $4 OFFSET $5;

-- name: count_audit
-- Why: how many lines the log has, counted up to $4.
-- $1 org_id, $2 action or null, $3 actor or null, $4 most
SELECT count(*) FROM (
    SELECT FROM taximeter.audit_log
    WHERE org_id = $1 AND ($2::text IS NULL OR action = $2) AND ($3::text IS NULL OR actor = $3) LIMIT $4
) AS counted;

-- name: list_audit_of_all
-- Why: the audit log of the whole installation, newest first, a page at a time.
-- $1 from, $2 before, $3 at of the last row before or null, $4 its id, $5 limit
SELECT id, at, actor, action, org_id, target, before::text AS before, after::text AS after, request_id
FROM taximeter.audit_log
WHERE at >= $1 AND at < $2 AND ($3::timestamptz IS NULL OR (at, id) < ($3, $4::bigint))
ORDER BY at DESC, id DESC
LIMIT $5;

-- name: list_audit_of_one
-- Why: the same of one organisation, by its own index. $1 to $5 as above, $6 org_id
SELECT id, at, actor, action, org_id, target, before::text AS before, after::text AS after, request_id
FROM taximeter.audit_log
WHERE org_id = $6 AND at >= $1 AND at < $2 AND ($3::timestamptz IS NULL OR (at, id) < ($3, $4::bigint))
ORDER BY at DESC, id DESC
LIMIT $5;

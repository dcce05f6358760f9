-- name: count_active_members
-- Why: who of these users is an active member: credits are transferred between members alone.
-- $1 org_id, $2 user_ids
SELECT count(*) FROM organization_members
WHERE org_id = $1 AND user_id = ANY($2::text[]) AND status = 'active';

-- name: is_known_user
-- Why: credits are taken back from whoever has any, also from a user who is no member any more.
-- $1 org_id, $2 user_id
SELECT
    EXISTS (
        SELECT FROM organization_members WHERE org_id = $1 AND user_id = $2 AND status = 'active'
    )
    OR EXISTS (
        SELECT FROM user_credit_allocations WHERE org_id = $1 AND user_id = $2 AND is_active
    );

-- name: list_moves
-- Why: credits that have left an account, newest first, a page at a time.
-- $1 org_id, $2 user_id or null, $3 limit, $4 offset
SELECT id, kind, from_user, to_user, amount, actor, ended_at
FROM taximeter.moves
WHERE org_id = $1 AND state = 'done' AND ($2::text IS NULL OR from_user = $2 OR to_user = $2)
ORDER BY created_at DESC, id
LIMIT $3 OFFSET $4;

-- name: count_moves
-- Why: how many moves a list has, counted up to $3.
-- $1 org_id, $2 user_id or null, $3 most
SELECT count(*) FROM (
    SELECT FROM taximeter.moves
    WHERE org_id = $1 AND state = 'done' AND ($2::text IS NULL OR from_user = $2 OR to_user = $2) LIMIT $3
) AS counted;

-- name: is_active_allocation
-- Why: whether an allocation that is being closed still has requests to wait for.
-- $1 id
SELECT is_active FROM user_credit_allocations WHERE id = $1;

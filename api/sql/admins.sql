-- name: listed
-- Why: who is a system admin by this list; a handful of rows, which the API remembers for a moment.
-- $1 issuer
SELECT user_id, email FROM taximeter.system_admins WHERE issuer = $1 AND removed_at IS NULL;

-- name: claim
-- $1 issuer, $2 user_id, $3 email
SELECT taximeter.claim_system_admin($1, $2, $3);

-- name: lock
-- Why: two operators who bootstrap at once make one first system admin.
LOCK TABLE taximeter.system_admins IN SHARE ROW EXCLUSIVE MODE;

-- name: all
-- Why: what an operator is shown, with those who were removed.
SELECT id, issuer, user_id, email, reason, added_by, added_at, removed_by, removed_at
FROM taximeter.system_admins ORDER BY id;

-- name: add
-- $1 issuer, $2 user_id or null, $3 email or null, $4 reason or null, $5 added_by
INSERT INTO taximeter.system_admins (issuer, user_id, email, reason, added_by) VALUES ($1, $2, lower($3), $4, $5);

-- name: remove
-- $1 id, $2 removed_by
UPDATE taximeter.system_admins SET removed_at = now(), removed_by = $2 WHERE id = $1 AND removed_at IS NULL;

-- name: end_keys_of
-- Why: API keys that a system admin has made in organisations whose admin they are not do not go on without them. Says how many.
-- $1 user_id, $2 who removes them
WITH ended AS (
    UPDATE taximeter.api_keys AS key SET revoked_at = now(), revoked_by = $2
    WHERE key.created_by = $1 AND key.revoked_at IS NULL AND key.expires_at > now()
      AND NOT EXISTS (
            SELECT FROM organization_members AS member
            WHERE member.org_id = key.org_id AND member.user_id = $1 AND member.role = 'admin' AND member.status = 'active')
    RETURNING key.key_id, key.org_id, key.name
), noted AS (
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    SELECT $2, 'org.key.revoked', org_id, key_id, jsonb_build_object('name', name), jsonb_build_object('ended_with', $1)
    FROM ended
)
SELECT count(*) FROM ended;

-- name: write_audit
-- Why: of the installation itself, hence of no organisation.
-- $1 actor, $2 action, $3 target, $4 before, $5 after
INSERT INTO taximeter.audit_log (actor, action, target, before, after) VALUES ($1, $2, $3, $4::text::jsonb, $5::text::jsonb);

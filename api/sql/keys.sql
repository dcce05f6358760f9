-- name: read_seal
-- Why: what the check digits of keys are made with.
SELECT secret FROM taximeter.key_seal;

-- name: read_seals_taken
-- Why: the same of keys that came from other cells with their organisations.
SELECT secret FROM taximeter.key_seals_taken ORDER BY taken_at, secret;

-- name: has_old_keys
-- Why: whether any good key is of before there were seals. Without one, whoever shows such a key has made it up.
SELECT EXISTS (SELECT FROM taximeter.api_keys WHERE NOT sealed AND revoked_at IS NULL AND expires_at > now());

-- name: find_keys
-- Why: which keys are good now, and what they may do, for all that this process wants to know of at once. One for a user ends with
-- that user's membership, and none opens anything while its organisation is suspended.
-- $1 key_ids
SELECT key.key_id, key.org_id, key.user_id, key.operations, key.digest, key.name,
       extract(epoch FROM key.expires_at)::float8 AS expires_at
FROM taximeter.api_keys AS key
WHERE key.key_id = ANY ($1::text[]) AND key.revoked_at IS NULL AND key.expires_at > now()
  AND NOT EXISTS (SELECT FROM organizations WHERE id = key.org_id AND suspended_at IS NOT NULL)
  AND (key.user_id IS NULL OR EXISTS (
        SELECT FROM organization_members AS member
        WHERE member.org_id = key.org_id AND member.user_id = key.user_id AND member.status = 'active'));

-- name: note_use
-- Why: last use is visible to the minute; a key that is busy in many processes is still written once a minute.
-- $1 key_id
UPDATE taximeter.api_keys SET last_used_at = now()
WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

-- name: count_active_keys
-- Why: the bounds on keys. The organisation is locked, so two requests at once cannot both take the last place. What members have made
-- for themselves takes no place, and no name, from the organisation or from each other.
-- $1 org_id, $2 name, $3 who asks, $4 whether as a member for themselves
SELECT count(*) AS of_all, count(*) FILTER (WHERE name = $2) AS of_name
FROM taximeter.api_keys
WHERE org_id = $1 AND revoked_at IS NULL AND expires_at > now()
  AND CASE WHEN $4 THEN created_by = $3 AND user_id = $3 ELSE user_id IS DISTINCT FROM created_by OR created_by = $3 END;

-- name: insert_key
-- $1 key_id, $2 org_id, $3 user_id, $4 name, $5 operations, $6 digest, $7 last_four, $8 created_by, $9 expires_at
INSERT INTO taximeter.api_keys (key_id, org_id, user_id, name, operations, digest, last_four, created_by, expires_at, sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, true);

-- name: list_keys
-- Why: the keys of one organisation, newest first, with whether those who made them are its admins now.
-- $1 org_id, $2 also those that have ended, $3 limit, $4 offset, $5 only those that act for this user, or null
SELECT key.*, EXISTS (
           SELECT FROM organization_members AS member
           WHERE member.org_id = key.org_id AND member.user_id = key.created_by
             AND member.role = 'admin' AND member.status = 'active') AS creator_is_admin
FROM taximeter.api_keys AS key
WHERE key.org_id = $1 AND ($2 OR (key.revoked_at IS NULL AND key.expires_at > now()))
  AND ($5::text IS NULL OR key.user_id = $5)
ORDER BY key.created_at DESC, key.key_id
LIMIT $3 OFFSET $4;

-- name: count_keys
-- $1 org_id, $2 also those that have ended, $3 only those that act for this user, or null
SELECT count(*) FROM taximeter.api_keys
WHERE org_id = $1 AND ($2 OR (revoked_at IS NULL AND expires_at > now())) AND ($3::text IS NULL OR user_id = $3);

-- name: lock_key
-- Why: a key is found by its organisation too, so that a foreign one does not exist. $1 org_id, $2 key_id
SELECT key.*, EXISTS (
           SELECT FROM organization_members AS member
           WHERE member.org_id = key.org_id AND member.user_id = key.created_by
             AND member.role = 'admin' AND member.status = 'active') AS creator_is_admin
FROM taximeter.api_keys AS key
WHERE key.org_id = $1 AND key.key_id = $2
FOR NO KEY UPDATE OF key;

-- name: end_keys_of
-- Why: what a person has made, or what acts for them alone, does not go on without them. Whose membership goes on keeps the keys that
-- act for them and that others have made.
-- $1 org_id, $2 user_id, $3 who ends it, $4 whether the user is still a member, $5 whether keys that the user has made are kept
UPDATE taximeter.api_keys SET revoked_at = now(), revoked_by = $3
WHERE org_id = $1 AND revoked_at IS NULL AND expires_at > now()
  AND ((created_by = $2 AND NOT $5) OR (user_id = $2 AND NOT $4))
RETURNING key_id, name, last_four, user_id, created_by, revoked_at;

-- name: keys_made_by
-- Why: which keys go on although who made them does not. $1 org_id, $2 user_id
SELECT key_id, name, last_four, user_id, created_by, revoked_at
FROM taximeter.api_keys
WHERE org_id = $1 AND created_by = $2 AND revoked_at IS NULL AND expires_at > now();

-- name: end_all_keys
-- Why: a deleted organisation's keys are good for nothing. $1 org_id, $2 who ends it
UPDATE taximeter.api_keys SET revoked_at = now(), revoked_by = $2
WHERE org_id = $1 AND revoked_at IS NULL AND expires_at > now()
RETURNING key_id, name, last_four, user_id, created_by, revoked_at;

-- name: revoke_key
-- $1 key_id, $2 who
UPDATE taximeter.api_keys SET revoked_at = now(), revoked_by = $2 WHERE key_id = $1;

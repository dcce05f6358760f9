-- name: find
-- Why: whether a key of the installation is good now, and what it may do; asked on each request, so it ends at once.
-- $1 key_id
SELECT digest, rights, name, extract(epoch FROM expires_at)::float8 AS expires_at,
       last_used_at IS NULL OR last_used_at < now() - interval '1 minute' AS is_to_note
FROM taximeter.system_keys
WHERE key_id = $1 AND revoked_at IS NULL AND expires_at > now();

-- name: note_use
-- Why: last use is visible to the minute. $1 key_id
UPDATE taximeter.system_keys SET last_used_at = now()
WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

-- name: insert
-- $1 key_id, $2 name, $3 rights, $4 digest, $5 last_four, $6 created_by, $7 days
INSERT INTO taximeter.system_keys (key_id, name, rights, digest, last_four, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(days => $7))
RETURNING expires_at;

-- name: list
-- Why: what an operator is shown, the oldest first. $1 also those that have ended
SELECT key_id, name, rights, last_four, created_by, created_at, expires_at, revoked_by, revoked_at, last_used_at,
       expires_at <= now() AS is_expired
FROM taximeter.system_keys
WHERE $1 OR (revoked_at IS NULL AND expires_at > now())
ORDER BY created_at, key_id;

-- name: lock
-- $1 key_id
SELECT name, rights, revoked_at FROM taximeter.system_keys WHERE key_id = $1 FOR NO KEY UPDATE;

-- name: revoke
-- $1 key_id, $2 who
UPDATE taximeter.system_keys SET revoked_at = now(), revoked_by = $2 WHERE key_id = $1;

-- name: editions
-- Why: the lists that are in force and to come, for processes that price. Those of the last ten minutes are among them, for who has a
-- clock behind that of Postgres.
SELECT id, kind, version, digest, dated, starts_at
  FROM taximeter.price_lists
 WHERE withdrawn_at IS NULL
   AND starts_at >= coalesce((SELECT max(starts_at) FROM taximeter.price_lists
                               WHERE withdrawn_at IS NULL AND starts_at <= now() - interval '10 minutes'), '-infinity')
 ORDER BY starts_at, id;

-- name: content
-- Why: one list, whole.
-- $1 id
SELECT kind, version, digest, content FROM taximeter.price_lists WHERE id = $1;

-- name: history
-- Why: every list that there ever was, for people; which of them is in force.
SELECT id, kind, version, source, digest, models, dated, starts_at, back_to, created_at, created_by, withdrawn_at, withdrawn_by,
       id IS NOT DISTINCT FROM (SELECT id FROM taximeter.price_lists WHERE withdrawn_at IS NULL AND starts_at <= now()
                                 ORDER BY starts_at DESC, id DESC LIMIT 1) AS in_force
  FROM taximeter.price_lists
 ORDER BY id;

-- name: take_over
-- Why: a list is taken over, from a moment on. Its row is its history.
-- $1 kind, $2 version, $3 source, $4 digest, $5 content, $6 models, $7 dated, $8 starts_at or null for now, $9 back_to, $10 created_by
INSERT INTO taximeter.price_lists (kind, version, source, digest, content, models, dated, starts_at, back_to, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, now()), $9, $10)
RETURNING id, starts_at;

-- name: withdraw
-- Why: a list that has not begun does not begin. A minute before its moment it is too late, since processes know it and may not ask
-- again in time.
-- $1 id, $2 by whom
UPDATE taximeter.price_lists SET withdrawn_at = now(), withdrawn_by = $2
 WHERE id = $1 AND withdrawn_at IS NULL AND starts_at > now() + interval '1 minute'
RETURNING version, starts_at;

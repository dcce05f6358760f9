-- name: find_by_key
-- What this idempotency key has moved, or is moving. $1 org_id, $2 kind, $3 key
SELECT * FROM taximeter.moves
 WHERE org_id = $1 AND kind = $2 AND idempotency_key = $3 AND state IN ('pending', 'done')

-- name: begin_move
-- Writes the move down before anything is held, so that whatever is left half done can be found. No row: the key is in use.
-- $1 org_id, $2 kind, $3 from_user, $4 to_user or null, $5 millicredits, $6 allocation_id or null, $7 actor, $8 key or null,
-- $9 request id or null
INSERT INTO taximeter.moves (org_id, kind, from_user, to_user, amount, allocation_id, actor, idempotency_key, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT DO NOTHING
RETURNING *

-- name: lock_move
-- The right to go on with a move, waiting for whoever has it. $1 id
SELECT * FROM taximeter.moves WHERE id = $1 FOR UPDATE

-- name: carry_out
-- Books a move whose amount is held, or refuses it. $1 id
SELECT * FROM taximeter.carry_out_move($1)

-- name: end_move
-- Ends a move that has moved nothing. $1 id, $2 refused or undone, $3 reason, $4 have, $5 held
SELECT * FROM taximeter.end_move($1, $2, $3, $4, $5)

-- name: left_half_done
-- Moves that nobody has ended within the grace time. Those that somebody works on are left out. $1 seconds, $2 most rows
SELECT * FROM taximeter.moves
 WHERE state = 'pending' AND created_at < now() - make_interval(secs => $1)
 ORDER BY created_at
 LIMIT $2
   FOR UPDATE SKIP LOCKED

-- name: begin_expiry
-- Renews, or begins to close, what has expired. $1 the time, $2 most rows
SELECT * FROM taximeter.begin_expiry($1, $2)

-- name: begin_closing
-- Marks the active allocation of a member who leaves; the row says what it held. $1 org_id, $2 user_id
SELECT locked.id, locked.allocated_credits, locked.used_credits, taximeter.begin_closing(locked.id, 'removal') AS became
  FROM (SELECT * FROM user_credit_allocations WHERE org_id = $1 AND user_id = $2 AND is_active FOR NO KEY UPDATE) AS locked

-- name: close_emptied
-- Closes what has nothing left. In order, as allocations are locked everywhere. Returns how many. $1 ids
WITH emptied AS (
    SELECT id FROM user_credit_allocations AS allocation
     WHERE id = ANY ($1::uuid[]) AND is_active AND closing IS NOT NULL AND allocated_credits <= used_credits
       AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = allocation.org_id)
     ORDER BY org_id, user_id
       FOR NO KEY UPDATE SKIP LOCKED
), closed AS (
    UPDATE user_credit_allocations AS allocation SET is_active = false
      FROM emptied WHERE allocation.id = emptied.id
    RETURNING allocation.id
)
SELECT count(*) FROM closed

-- name: organizations_closing
-- Organisations with allocations that are being closed, by steps from one to the next: one may have a million of them.
WITH RECURSIVE step AS (
    (SELECT org_id FROM user_credit_allocations WHERE is_active AND closing IS NOT NULL ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT following.org_id FROM step CROSS JOIN LATERAL (
        SELECT org_id FROM user_credit_allocations
         WHERE is_active AND closing IS NOT NULL AND org_id > step.org_id ORDER BY org_id LIMIT 1) AS following
)
SELECT org_id FROM step
 WHERE NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = step.org_id)
 ORDER BY org_id

-- name: closing
-- Allocations of an organisation that are being closed, page by page. $1 org_id, $2 the last user seen, $3 page
SELECT id, org_id, user_id, closing
  FROM user_credit_allocations AS allocation
 WHERE is_active AND closing IS NOT NULL AND org_id = $1 AND user_id > $2
 ORDER BY org_id, user_id
 LIMIT $3

-- name: endings
-- Organisations that were deleted and have people or allocations left, the longest ago first. $1 most
SELECT ending.org_id FROM taximeter.endings AS ending
 WHERE NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = ending.org_id)
 ORDER BY ending.begun_at, ending.org_id
 LIMIT $1

-- name: end_accounts
-- $1 org_id, $2 most
SELECT taximeter.end_accounts($1, $2)

-- name: seal_audit
-- Links the rows of the audit log that are not linked yet.
SELECT taximeter.seal_audit()

-- name: refresh_pools
-- Gives pools the months that they have not had. $1 the time, $2 most pools
SELECT * FROM taximeter.refresh_pools($1, $2)

-- name: count_shards
-- How many shards the system has; 0 before it was first used.
SELECT count(*) FROM taximeter.watermarks

-- name: create_shards
-- All watermarks of a fresh system in one statement, so that their number is never half right. $1 how many
INSERT INTO taximeter.watermarks (shard, epoch)
SELECT shard, 1 FROM generate_series(0, $1::integer - 1) AS shard

-- name: guard_alone
-- One guardian at a time, for this session. $1 a number for the shard
SELECT pg_try_advisory_lock(74097, $1)

-- name: create_alone
-- One creator of shards at a time, for this transaction.
SELECT pg_advisory_xact_lock(74098, 0)

-- name: read_watermark
-- With the ledger that it stands in. $1 shard
SELECT mark.shard, epoch, seq, run_id, starts, settled_entry, departures, (SELECT count(*) FROM taximeter.watermarks) AS shards, ledger.history, ledger.position,
       coalesce(steps.step, 0) AS step, coalesce(steps.tokens, '{}') AS tokens
  FROM taximeter.ledger_position() AS ledger, taximeter.watermarks AS mark
  LEFT JOIN taximeter.ledger_steps AS steps ON steps.shard = mark.shard
 WHERE mark.shard = $1

-- name: read_watermarks
-- Every shard, without the ledger. What Redis says is only believed while epoch and server are still these.
SELECT shard, epoch, seq, run_id, starts, settled_entry, departures FROM taximeter.watermarks ORDER BY shard

-- name: read_position
-- Up to where a shard is settled now. $1 shard
SELECT epoch, seq FROM taximeter.watermarks WHERE shard = $1

-- name: lock_watermark_if_free
-- The right to settle a shard, for this transaction. No row: another worker has it (or the shard is unknown), and that
-- worker does the work, so waiting for it would only pile up workers.
-- $1 shard
SELECT epoch, seq, run_id, starts, settled_entry, (SELECT history FROM taximeter.ledger_position()) AS history
  FROM taximeter.watermarks
 WHERE shard = $1
   FOR UPDATE SKIP LOCKED

-- name: wait_for_watermark
-- As lock_watermark_if_free, but waiting: a settle that has read from a server before its restart must be through. $1 shard
SELECT mark.shard, epoch, seq, run_id, starts, settled_entry, departures, (SELECT count(*) FROM taximeter.watermarks) AS shards, ledger.history, ledger.position,
       coalesce(steps.step, 0) AS step, coalesce(steps.tokens, '{}') AS tokens
  FROM taximeter.ledger_position() AS ledger, taximeter.watermarks AS mark
  LEFT JOIN taximeter.ledger_steps AS steps ON steps.shard = mark.shard
 WHERE mark.shard = $1
   FOR UPDATE OF mark

-- name: read_ledger
-- Which Postgres this is, how far it has written, and how far the shard is settled. $1 shard
SELECT ledger.history, ledger.position, mark.seq, coalesce(steps.step, 0) AS step, coalesce(steps.tokens, '{}') AS tokens
  FROM taximeter.ledger_position() AS ledger, taximeter.watermarks AS mark
  LEFT JOIN taximeter.ledger_steps AS steps ON steps.shard = mark.shard
 WHERE mark.shard = $1

-- name: move_ledger
-- A step of this Postgres's history that no other copy of it will make. A transaction of its own when it is relayed: its commit waits
-- for the disk, and so for everything that was read before. $1 shard, $2 a random number
INSERT INTO taximeter.ledger_steps AS steps (shard, step, tokens)
VALUES ($1, 1, ARRAY[$2::integer])
    ON CONFLICT (shard) DO UPDATE SET step = steps.step + 1, tokens = ($2::integer || steps.tokens)[1:128]

-- name: wait_for_watermarks
-- All of them, waiting for whoever settles.
SELECT shard, epoch, seq FROM taximeter.watermarks ORDER BY shard FOR UPDATE

-- name: approve_server
-- A start of a server, under a number that none has had; answers the number. $1 shard, $2 run id, $3 the highest that Redis knows
UPDATE taximeter.watermarks SET run_id = $2, starts = greatest(starts, $3) + 1 WHERE shard = $1 RETURNING starts

-- name: doubt_latest_hints
-- What was applied last a restart may have lost: the relay sends the entries of the last minute again, at most $1 of them. Rows that others
-- hold are left to the walk through all accounts.
UPDATE taximeter.accounts AS account
   SET applied_seq = doubted.applied
  FROM (SELECT a.org_id, a.user_id, lately.applied
          FROM taximeter.accounts AS a
          JOIN (SELECT org_id, user_id, min(entry_seq) - 1 AS applied
                  FROM (SELECT org_id, user_id, entry_seq
                          FROM taximeter.account_entries
                         WHERE created_at > now() - interval '1 minute'
                         ORDER BY created_at DESC
                         LIMIT $1) AS entry
                 GROUP BY org_id, user_id) AS lately
            ON a.org_id = lately.org_id AND a.user_id = lately.user_id
         WHERE a.applied_seq > lately.applied
         ORDER BY a.org_id, a.user_id
           FOR NO KEY UPDATE OF a SKIP LOCKED) AS doubted
 WHERE account.org_id = doubted.org_id AND account.user_id = doubted.user_id

-- name: let_hints_end
-- Returns when nobody moves hints any more who has looked before this moment at which start counts. $1 shard
SELECT pg_advisory_xact_lock(74099, $1)

-- name: begin_epoch
-- Every event of the epoch before is settled, set aside or written down as lost. $1 shard, $2 new epoch, $3 run id
UPDATE taximeter.watermarks
   SET epoch = $2, seq = 0, settled_events = 0, dead_events = 0, lost_events = 0,
       opened_at = now(), run_id = $3
 WHERE shard = $1 AND epoch < $2

-- name: begin_epoch_everywhere
-- Every event of every shard is settled. No server is approved for it yet. $1 new epoch, above all that there were
UPDATE taximeter.watermarks
   SET epoch = $1, seq = 0, settled_events = 0, dead_events = 0, lost_events = 0,
       opened_at = now(), run_id = NULL

-- name: remove_shards
-- $1 how many stay
DELETE FROM taximeter.watermarks WHERE shard >= $1

-- name: add_shards
-- $1 how many there were, $2 how many there are to be, $3 epoch
INSERT INTO taximeter.watermarks (shard, epoch)
SELECT shard, $3 FROM generate_series($1::integer, $2::integer - 1) AS shard

-- name: note_layout
-- $1 first epoch of it, $2 how many shards it has
INSERT INTO taximeter.shard_layouts (since_epoch, shards) VALUES ($1, $2)

-- name: holds_ended
-- Which of these holds of moves nobody will end any more: an entry has ended it that is in a balance already, or no such move is under way
-- (this Postgres was put back to a copy that does not know it). $1 holds, $2 org ids, $3 user ids, $4 last entries
SELECT wanted.hold
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS wanted (hold, org_id, user_id, applied)
 WHERE EXISTS (SELECT FROM taximeter.account_entries AS entry
                WHERE entry.org_id = wanted.org_id AND entry.user_id = wanted.user_id
                  AND entry.entry_seq <= wanted.applied AND entry.hold = wanted.hold)
    OR NOT EXISTS (SELECT FROM taximeter.moves AS move
                    WHERE move.org_id || '/move/' || move.id = wanted.hold AND move.state = 'pending'
                      AND move.org_id = wanted.org_id AND move.from_user = wanted.user_id)

-- name: forget_settled_entry
-- The last settled entry is in no stream. $1 shard
UPDATE taximeter.watermarks SET settled_entry = NULL WHERE shard = $1

-- name: set_aside
-- Which of these lines are dead letters already. $1 shard, $2 epoch, $3 raw lines
SELECT raw FROM taximeter.dead_letters WHERE shard = $1 AND epoch = $2 AND raw = ANY ($3::bytea[])

-- name: recent_expiries
-- What requests are charged whose holds have expired with something since $1, the latest $2 of them, as `charged_in_all`; and what was
-- held for each.
WITH lately AS (
    SELECT org_id, request_id, user_id, created_at
      FROM taximeter.charged_requests
     WHERE by_expiry AND created_at > $1
     ORDER BY created_at DESC
     LIMIT $2)
SELECT l.org_id, l.request_id, l.user_id,
       (SELECT sum(c.amount)::bigint FROM taximeter.charged_requests AS c
         WHERE c.org_id = l.org_id AND c.request_id = l.request_id) AS amount,
       NOT EXISTS (SELECT FROM taximeter.charged_requests AS c
                    WHERE c.org_id = l.org_id AND c.request_id = l.request_id AND NOT c.by_expiry) AS by_expiry,
       coalesce((SELECT max(a.reserved) FROM credit_usage_attribution AS a
                  WHERE a.org_id = l.org_id AND a.user_id = l.user_id AND a.created_at = l.created_at
                    AND a.request_id = l.request_id), 0) AS reserved
  FROM lately AS l

-- name: charged_in_all
-- What each of these requests is charged, and whether by the expiry of its hold alone. $1 org ids, $2 request ids
SELECT c.org_id, c.request_id, min(c.user_id) AS user_id, sum(c.amount)::bigint AS amount, bool_and(c.by_expiry) AS by_expiry
  FROM taximeter.charged_requests AS c
  JOIN unnest($1::text[], $2::text[]) AS wanted (org_id, request_id)
    ON c.org_id = wanted.org_id AND c.request_id = wanted.request_id
 GROUP BY c.org_id, c.request_id

-- name: organizations_away
-- What is said of organisations that nobody may use here, for a shard that is opened anew.
SELECT org_id, said FROM taximeter.organizations_away ORDER BY org_id

-- name: count_departure
-- From now on a Redis that knows of fewer has gone back in time. $1 shard, $2 epoch, $3 how many there were
UPDATE taximeter.watermarks SET departures = $3 + 1 WHERE shard = $1 AND epoch = $2 AND departures = $3 RETURNING departures

-- name: is_moving
-- Whether an organisation is on its way to another cell or from one.
SELECT EXISTS (SELECT FROM taximeter.organizations_away WHERE said LIKE 'moving%')

-- name: settled_before
-- Shards of which we do not know from the time of their last settled event that they are settled up to this moment. $1 moment
SELECT shard, epoch, seq FROM taximeter.watermarks WHERE settled_to IS NULL OR settled_to <= $1 ORDER BY shard

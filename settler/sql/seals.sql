-- name: alone
-- One settler at a time looks and seals, in this session.
SELECT pg_try_advisory_lock(74106, 0)

-- name: not_alone
SELECT pg_advisory_unlock(74106, 0)

-- name: state
-- How far rows are sealed, and whether every transaction that runs notes what it changes of before `announced`.
SELECT announced, sealed_until, n, link, round_day, round_began_at, round_ended_at,
       coalesce(pg_snapshot_xmin(pg_current_snapshot()) >= announced_xid, false) AS is_noted
  FROM taximeter.seal_state

-- name: read_much
-- For the transaction that compares sums of everything: its sorts stay in memory, and no query is compiled that runs once.
SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true)

-- name: due
-- The hour that can be announced: hours that ended $1 seconds ago.
SELECT date_trunc('hour', now() - make_interval(secs => $1), 'UTC')

-- name: announce
-- $1 up to which hour
UPDATE taximeter.seal_state SET announced = $1, announced_xid = NULL WHERE announced IS NULL OR announced < $1

-- name: announced
-- After that is committed: whatever begins to write from here on has seen it.
UPDATE taximeter.seal_state SET announced_xid = pg_snapshot_xmax(pg_current_snapshot()) WHERE announced_xid IS NULL

-- name: next_rows
-- When the first usage or entry is from that no seal has. $1 from when on
SELECT least((SELECT min(created_at) FROM credit_usage_attribution WHERE created_at >= $1::text::timestamptz),
             (SELECT min(created_at) FROM taximeter.account_entries WHERE created_at >= $1::text::timestamptz))

-- name: pending
-- Changes behind the seals that none has yet, by day or month. $1 where the seals end
SELECT kind, coalesce((hour AT TIME ZONE 'UTC')::date, month) AS day, count(*) AS changes
  FROM taximeter.seal_changes WHERE hour IS NULL OR hour < $1::text::timestamptz GROUP BY 1, 2 ORDER BY 2 NULLS FIRST, 1

-- name: take_changes
-- Changes that were made, to be sealed: those of before $1, where the seals end. What is of later is read with the rows.
WITH taken AS (DELETE FROM taximeter.seal_changes RETURNING *)
SELECT kind, what, (hour AT TIME ZONE 'UTC')::date AS day, shard, epoch, sum(rows)::bigint AS rows, sum(credits) AS credits, sum(digest) AS digest
  FROM taken WHERE hour < $1::text::timestamptz GROUP BY 1, 2, 3, 4, 5

-- name: whole_changes
-- Tables that came or went since. Read before they are taken.
SELECT (array_agg(kind ORDER BY id DESC))[1] AS kind, what, month,
       CASE WHEN count(*) = count(rows) THEN sum(rows)::bigint END AS rows, sum(credits) AS credits
  FROM taximeter.seal_changes WHERE hour IS NULL GROUP BY what, month

-- name: rows
-- What the rows of a span of time come to, by day, shard and epoch. $1 from, $2 before, $3 which tables
SELECT 'usage' AS what, (created_at AT TIME ZONE 'UTC')::date AS day, shard, epoch, count(*) AS rows, sum(credits_used) AS credits,
       sum(taximeter.usage_digest(id, org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata, created_at,
                                  shard, epoch, seq, late, reserved)) AS digest
  FROM credit_usage_attribution WHERE created_at >= $1::text::timestamptz AND created_at < $2::text::timestamptz AND 'usage' = ANY ($3::text[]) GROUP BY 2, 3, 4
UNION ALL
SELECT 'charges', (created_at AT TIME ZONE 'UTC')::date, shard, epoch, count(*), sum(amount),
       sum(taximeter.charge_digest(org_id, request_id, phase, user_id, shard, epoch, seq, amount, created_at, by_expiry))
  FROM taximeter.charged_requests WHERE created_at >= $1::text::timestamptz AND created_at < $2::text::timestamptz AND 'charges' = ANY ($3::text[]) GROUP BY 2, 3, 4
UNION ALL
SELECT 'entries', (created_at AT TIME ZONE 'UTC')::date, NULL, NULL, count(*), sum(delta),
       sum(taximeter.entry_digest(org_id, user_id, entry_seq, delta, kind, reference, hold, created_at))
  FROM taximeter.account_entries WHERE created_at >= $1::text::timestamptz AND created_at < $2::text::timestamptz AND 'entries' = ANY ($3::text[]) GROUP BY 2

-- name: sealed
-- What was sealed of a span of days, and what was noted since. $1 first day, $2 before which day, $3 which tables, $4 where the seals end
SELECT what, day, shard, epoch, sum(rows)::bigint AS rows, sum(credits) AS credits, sum(digest) AS digest
  FROM (SELECT what, day, shard, epoch, rows, credits, digest FROM taximeter.sealed_rows
        UNION ALL
        SELECT what, (hour AT TIME ZONE 'UTC')::date, shard, epoch, rows, credits, digest FROM taximeter.seal_changes WHERE hour < $4::text::timestamptz) AS known
 WHERE day >= $1 AND day < $2 AND what = ANY ($3::text[])
 GROUP BY 1, 2, 3, 4

-- name: add_rows
-- $1 number of the seal, then line by line: $2 kinds, $3 which tables, $4 days, $5 shards, $6 epochs, $7 rows, $8 millicredits, $9 digests
INSERT INTO taximeter.sealed_rows (seal_n, place, kind, what, day, shard, epoch, rows, credits, digest)
SELECT $1, place, kind, what, day, shard, epoch, rows, credits, digest
  FROM unnest($2::text[], $3::text[], $4::date[], $5::integer[], $6::bigint[], $7::bigint[], $8::numeric[], $9::numeric[])
       WITH ORDINALITY AS line (kind, what, day, shard, epoch, rows, credits, digest, place)

-- name: add_seal
-- The seal of these lines. $1 number, $2 until when rows are sealed now, $3 link before, $4 note
INSERT INTO taximeter.seals (n, at, by, until, note, link)
SELECT seal.n, seal.at, seal.by, seal.until, seal.note, taximeter.seal_link($3, seal)
  FROM (SELECT (ROW($1::bigint, now(), session_user::text, $2::timestamptz, $4::text, ''::bytea)::taximeter.seals).*) AS seal
RETURNING link

-- name: move_end
-- $1 number of the last seal, $2 its link, $3 until when rows are sealed
UPDATE taximeter.seal_state SET n = $1, link = $2, sealed_until = $3

-- name: forget_sealed_usage
-- Days that are over, or are counted anew. $1 from which day on days are kept, $2 whether none is
DELETE FROM taximeter.sealed_usage WHERE day < $1 OR $2

-- name: add_sealed_usage
-- What the day that goes on has of what is sealed now. $1 from, $2 before
INSERT INTO taximeter.sealed_usage AS known (day, org_id, user_id, service_type, service_name, by_sql, requests, credits)
SELECT (created_at AT TIME ZONE 'UTC')::date, org_id, user_id, service_type, service_name, seq IS NULL, count(*), sum(credits_used)
  FROM credit_usage_attribution WHERE created_at >= $1::text::timestamptz AND created_at < $2::text::timestamptz GROUP BY 1, 2, 3, 4, 5, 6
ON CONFLICT (day, org_id, user_id, service_type, service_name, by_sql) DO UPDATE
   SET requests = known.requests + EXCLUDED.requests, credits = known.credits + EXCLUDED.credits

-- name: add_sealed_shards
-- Through which shards organisations came. $1 from, $2 before
INSERT INTO taximeter.sealed_shards AS known (org_id, shard, epoch_last)
SELECT org_id, shard, max(epoch) FROM taximeter.charged_requests
 WHERE seq IS NOT NULL AND shard >= 0 AND created_at >= $1::text::timestamptz AND created_at < $2::text::timestamptz GROUP BY 1, 2
ON CONFLICT (org_id, shard) DO UPDATE SET epoch_last = EXCLUDED.epoch_last WHERE known.epoch_last < EXCLUDED.epoch_last

-- name: days
-- Days that have something sealed, after one. $1 after which day, $2 at most
SELECT DISTINCT day FROM taximeter.sealed_rows WHERE day > $1 ORDER BY day LIMIT $2

-- name: months
-- Months that have something sealed, and how many rows of each table and shard.
SELECT date_trunc('month', day::timestamp)::date AS month, sum(rows)::bigint AS rows
  FROM taximeter.sealed_rows GROUP BY 1 ORDER BY 1

-- name: figures
-- What the seals stand for.
SELECT count(DISTINCT day) AS days, coalesce(sum(rows), 0)::bigint AS rows,
       coalesce(sum(rows) FILTER (WHERE what = 'usage'), 0)::bigint AS usage,
       coalesce(sum(rows) FILTER (WHERE what = 'charges'), 0)::bigint AS charges,
       coalesce(sum(rows) FILTER (WHERE what = 'entries'), 0)::bigint AS entries,
       coalesce(sum(abs(rows)) FILTER (WHERE kind = 'late'), 0)::bigint AS late,
       coalesce(sum(abs(rows)) FILTER (WHERE kind = 'deleted'), 0)::bigint AS deleted,
       count(DISTINCT seal_n) FILTER (WHERE kind = 'accepted') AS accepted
  FROM taximeter.sealed_rows

-- name: rows_new
-- How many rows no seal has. $1 where the seals end
SELECT (SELECT count(*) FROM credit_usage_attribution WHERE created_at >= $1::text::timestamptz)
       + (SELECT count(*) FROM taximeter.charged_requests WHERE created_at >= $1::text::timestamptz)
       + (SELECT count(*) FROM taximeter.account_entries WHERE created_at >= $1::text::timestamptz)

-- name: link_of
-- $1 number of a seal
SELECT encode(link, 'hex') FROM taximeter.seals WHERE n = $1

-- name: note_altered
-- $1 day, $2 what is said of it
INSERT INTO taximeter.altered_days AS known (day, said) VALUES ($1, $2)
ON CONFLICT (day) DO UPDATE SET said = EXCLUDED.said WHERE known.said <> EXCLUDED.said

-- name: forget_altered
-- $1 days that are as they were sealed
DELETE FROM taximeter.altered_days WHERE day = ANY ($1::date[])

-- name: altered
SELECT day FROM taximeter.altered_days ORDER BY day

-- name: begin_round
UPDATE taximeter.seal_state SET round_day = NULL, round_began_at = now()

-- name: move_round
-- $1 the last day that was read again
UPDATE taximeter.seal_state SET round_day = $1, round_began_at = coalesce(round_began_at, now())

-- name: end_round
UPDATE taximeter.seal_state SET round_day = NULL, round_ended_at = now(), round_began_at = NULL

-- name: tried
-- $1 why nothing was seen, or null
UPDATE taximeter.check_state SET tried_at = now(), could_not_look = $1

-- name: note_state
-- $1 when it began, $2 seconds, $3 whether everything holds, $4 violations, $5 rows that no seal has
UPDATE taximeter.check_state AS state
   SET tried_at = now(), could_not_look = NULL, checked_at = $1, seconds = $2, holds = $3, violations = $4, rows_new = $5,
       proved_at = CASE WHEN $3 THEN $1 ELSE state.proved_at END,
       rows_sealed = sealed.rows, days = sealed.days, sealed_until = seals.sealed_until, seal_n = seals.n,
       seal_head = encode(seals.link, 'hex'), round_day = seals.round_day, round_began_at = seals.round_began_at,
       round_ended_at = seals.round_ended_at
  FROM taximeter.seal_state AS seals,
       (SELECT coalesce(sum(rows), 0)::bigint AS rows, count(DISTINCT day) AS days FROM taximeter.sealed_rows) AS sealed

-- name: note_result
-- $1 invariant, $2 title, $3 holds, $4 figures, $5 violations, $6 reasons, $7 unread, $8 unjudged, $9 when it was looked at
INSERT INTO taximeter.check_results AS known
       (invariant, title, holds, figures, violations, reasons, unread, unjudged, checked_at, proved_at)
VALUES ($1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8, $9,
        CASE WHEN $3::boolean THEN $9::timestamptz END)
ON CONFLICT (invariant) DO UPDATE
   SET title = EXCLUDED.title, holds = EXCLUDED.holds, figures = EXCLUDED.figures, violations = EXCLUDED.violations,
       reasons = EXCLUDED.reasons, unread = EXCLUDED.unread, unjudged = EXCLUDED.unjudged, checked_at = EXCLUDED.checked_at,
       proved_at = coalesce(EXCLUDED.proved_at, known.proved_at)

-- name: last_look
-- What is told of the settler's last look.
SELECT extract(epoch FROM checked_at)::float8 AS checked_at, extract(epoch FROM proved_at)::float8 AS proved_at, seconds, holds, violations,
       rows_new, rows_sealed, days, extract(epoch FROM sealed_until)::float8 AS sealed_until, seal_n, seal_head,
       extract(epoch FROM now() - checked_at)::float8 AS age_s, could_not_look,
       extract(epoch FROM round_ended_at)::float8 AS round_ended_at,
       (SELECT coalesce(array_agg(invariant ORDER BY invariant), '{}') FROM taximeter.check_results WHERE NOT holds) AS violated
  FROM taximeter.check_state

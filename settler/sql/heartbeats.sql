-- name: beat
-- This settler is alive, and so much is known of its loops; answers who has beaten how often as of before, and what time it is.
-- $1 settler, then loop by loop: $2 names, $3 seconds since the last sign, $4 seconds between rounds, $5 troubles or null;
-- $6 seconds that its clock is off
WITH mine AS (
    INSERT INTO taximeter.heartbeats AS h
           (settler, loop, beats, beat_at, worked_at, every_s, trouble, clock_off_s)
    SELECT $1, sign.loop, 1, clock_timestamp(), clock_timestamp() - make_interval(secs => sign.age_s), sign.every_s,
           sign.trouble, $6
      FROM unnest($2::text[], $3::float8[], $4::float8[], $5::text[]) AS sign (loop, age_s, every_s, trouble)
        ON CONFLICT (settler, loop) DO UPDATE
       SET beats = h.beats + 1, beat_at = excluded.beat_at, worked_at = excluded.worked_at, every_s = excluded.every_s,
           trouble = excluded.trouble, clock_off_s = excluded.clock_off_s)
SELECT settler, max(beats)::bigint AS beats FROM taximeter.heartbeats WHERE settler <> $1 GROUP BY settler

-- name: forget_settler
-- It has ended. $1 settler
DELETE FROM taximeter.heartbeats WHERE settler = $1

-- name: forget_silent
-- Settlers that have not beaten for long; one that lives is back with its next beat. $1 seconds
DELETE FROM taximeter.heartbeats WHERE beat_at < clock_timestamp() - make_interval(secs => $1)

-- name: end_sessions
-- Ends what a settler that is frozen has locked: its open transactions, which leave nothing, and its rights as a guardian. Its
-- other sessions lock nothing. $1 their application_name, $2 milliseconds to wait for each to be gone
SELECT count(*) FILTER (WHERE ended) AS ended
  FROM (SELECT pg_terminate_backend(session.pid, $2) AS ended
          FROM pg_stat_activity AS session
         WHERE session.datname = current_database() AND session.usename = current_user
           AND session.application_name = $1
           AND (session.xact_start IS NOT NULL
                OR EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND pg_locks.locktype = 'advisory'))) AS found

-- name: read_clock
SELECT extract(epoch FROM clock_timestamp())::float8

-- name: trim_boundary
-- How far the stream may forget: the newest batch that was settled before the retention, or what exceeds the number of events
-- to keep, whichever is later; never past the watermark, whose own entry stays: it tells whether the stream is still the same.
-- Empty when nothing may go.
-- $1 shard, $2 retention in seconds, $3 most events to keep
SELECT boundary.epoch,
       CASE WHEN boundary.epoch = mark.epoch THEN least(boundary.seq, mark.seq - 1) ELSE boundary.seq END AS seq
  FROM taximeter.watermarks AS mark
 CROSS JOIN LATERAL (
       (SELECT batch.epoch, batch.seq_last AS seq
          FROM taximeter.settled_batches AS batch
         WHERE batch.shard = mark.shard
           AND batch.settled_at <= now() - make_interval(secs => $2)
         ORDER BY batch.settled_at DESC
         LIMIT 1)
       UNION ALL
       SELECT mark.epoch, mark.seq - $3
       ) AS boundary
 WHERE mark.shard = $1
   AND boundary.seq > 0
   AND (boundary.epoch, boundary.seq) <= (mark.epoch, mark.seq)
 ORDER BY boundary.epoch DESC, boundary.seq DESC
 LIMIT 1

-- name: prune_batches
-- Batches are only needed to find the boundary of trimming: the newest one beyond the retention is enough. $1 seconds
DELETE FROM taximeter.settled_batches AS batch
 WHERE batch.settled_at < now() - make_interval(secs => $1)
   AND EXISTS (SELECT 1
                 FROM taximeter.settled_batches AS newer
                WHERE newer.shard = batch.shard
                  AND newer.settled_at > batch.settled_at
                  AND newer.settled_at < now() - make_interval(secs => $1))

-- name: ensure_partitions
-- Makes the months that are missing. $1 months ahead
SELECT taximeter.ensure_attribution_partitions($1)

-- name: prune_answers
-- Answers are kept for clients that repeat a request; after the retention a repetition is a new request. $1 seconds
DELETE FROM taximeter.idempotent_answers WHERE created_at < now() - make_interval(secs => $1)

-- name: freeze_charges
-- Begins a new generation of request ids when the one that is written to is old enough. $1 seconds that ids are kept
SELECT taximeter.freeze_charges(make_interval(secs => $1))

-- name: charges_to_forget
-- Up to when every event must be settled before ids are forgotten; null when there is nothing to forget. $1 seconds
SELECT taximeter.charges_to_forget(make_interval(secs => $1))

-- name: forget_charges
-- How many ids were forgotten. $1 seconds
SELECT taximeter.forget_charges(make_interval(secs => $1))

-- name: read_clock
-- The time that decides what has expired, which month it is and which day: sessions are in UTC.
SELECT now()

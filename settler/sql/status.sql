-- name: shard_status
-- Where settling is, per shard.
SELECT shard, epoch, seq, settled_events, dead_events, lost_events, settled_at
  FROM taximeter.watermarks
 ORDER BY shard

-- name: unapplied_entries
-- Entries that are not known to have reached Redis, per organisation that has any (the shard follows from its id).
SELECT org_id, sum(entry_seq - applied_seq)::bigint AS entries
  FROM taximeter.accounts
 WHERE entry_seq > applied_seq
 GROUP BY org_id

-- name: settled_to
-- How far a shard is settled, for those who read the books. $1 shard
SELECT epoch, seq, settled_to FROM taximeter.watermarks WHERE shard = $1

-- name: heartbeats
-- What is known of every settler and its loops, by the clock that wrote it.
SELECT settler, loop, extract(epoch FROM clock_timestamp() - beat_at)::float8 AS silent_s,
       extract(epoch FROM clock_timestamp() - worked_at)::float8 AS idle_s, every_s, trouble, clock_off_s
  FROM taximeter.heartbeats
 ORDER BY settler, loop

-- name: ping
-- Whether Postgres answers at all.
SELECT 1

-- name: place_of_primary
-- Why: what a replica must have before it is read: the log that is on the primary's disk, and the epochs of the shards, which a standby
--      of an old primary lacks.
SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint AS position, clock_timestamp() AS asked_at,
       (SELECT system_identifier FROM pg_control_system()) AS system,
       coalesce((SELECT array_agg(epoch ORDER BY shard) FROM taximeter.watermarks), '{}') AS epochs;

-- name: place_of_replica
-- Why: how far a replica is. One that was promoted is as far as it has written.
SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, '0/0')::bigint AS position,
       (SELECT system_identifier FROM pg_control_system()) AS system,
       coalesce((SELECT array_agg(epoch ORDER BY shard) FROM taximeter.watermarks), '{}') AS epochs;

-- name: read_guarantees
-- What this session and its server promise about a commit, whether the settings that it was started with have arrived, and which history
-- the server goes on from: null on a standby.
SELECT current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('taximeter.started_with', true) AS started_with,
       current_setting('server_version_num')::int / 10000 AS version,
       CASE WHEN NOT pg_is_in_recovery()
            THEN (pg_control_system()).system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
       END AS history

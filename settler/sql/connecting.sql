-- name: read_guarantees
-- What this session and its server promise about a commit, and whether the settings that it was started with have arrived.
SELECT current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('taximeter.started_with', true) AS started_with,
       current_setting('server_version_num')::int / 10000 AS version

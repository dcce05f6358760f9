-- name: mark_and_time
-- Up to where events are settled, and when that was asked: whatever is open later is not in the look. $1 shard
SELECT epoch, seq, clock_timestamp() AS now FROM taximeter.watermarks WHERE shard = $1

-- name: note_exposures
-- Replaces what is known of a shard; false for a look that is older than the last one.
-- $1 shard, $2 when, $3 whether everything was read, then position by position: $4 org ids, $5 user ids, $6 millicredits
SELECT taximeter.note_exposures($1, $2, $3, $4, $5, $6)

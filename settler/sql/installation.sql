-- name: read_installation
-- Which installation this is, and why it tells nobody anything, if so.
SELECT name, history, silent_since, silent_because, is_stopped, answered_at, answer FROM taximeter.installation

-- name: whose
-- For a process that takes credits: the name of this database, and whether nothing is taken.
SELECT name, is_stopped FROM taximeter.installation

-- name: lock_installation
-- The same, for whoever changes it.
SELECT name, history, is_stopped FROM taximeter.installation FOR UPDATE

-- name: may_speak
-- Whether anybody may be told anything.
SELECT silent_since IS NULL FROM taximeter.installation

-- name: name_installation
-- What a settler starts with, where nothing was said before. $1 its name or null, $2 history of this Postgres
UPDATE taximeter.installation
   SET name = coalesce(name, $1), history = coalesce(history, $2)
 WHERE (name IS NULL AND $1::text IS NOT NULL) OR history IS NULL

-- name: fall_silent
-- Once: the first reason stays. $1 why, $2 whether credits are not taken either. Returns whether they are not.
UPDATE taximeter.installation
   SET silent_since = coalesce(silent_since, now()), silent_because = coalesce(silent_because, $1), is_stopped = is_stopped OR $2
RETURNING is_stopped

-- name: note_history
-- A Redis knows this Postgres. $1 its history
UPDATE taximeter.installation SET history = $1 WHERE history IS DISTINCT FROM $1

-- name: read_history
-- System identifier and timeline of this Postgres.
SELECT history FROM taximeter.ledger_position()

-- name: waiting
-- What would be sent if it might be: notices without deliveries yet, deliveries that wait, receivers that are told something.
SELECT (SELECT count(*) FROM taximeter.notices WHERE spread_at IS NULL) AS notices,
       (SELECT count(*) FROM taximeter.deliveries WHERE state = 'waiting') AS deliveries,
       (SELECT count(*) FROM taximeter.receivers WHERE state = 'active') AS receivers

-- name: speak_again
-- It is what it was. $1 history, $2 what was said
UPDATE taximeter.installation
   SET silent_since = NULL, silent_because = NULL, is_stopped = false, history = $1, answered_at = now(), answer = $2

-- name: become_another
-- It is another installation now. $1 history, $2 what was said, $3 its name
UPDATE taximeter.installation
   SET silent_since = NULL, silent_because = NULL, is_stopped = false, history = $1, answered_at = now(), answer = $2, name = $3

-- name: disable_receivers
-- Nobody who was told something by the original is told anything by its copy. Returns how many.
WITH locked AS (
    SELECT id FROM taximeter.receivers WHERE state <> 'disabled' ORDER BY id FOR NO KEY UPDATE
), disabled AS (
    UPDATE taximeter.receivers AS receiver SET state = 'disabled', reason = 'copy'
      FROM locked WHERE receiver.id = locked.id RETURNING receiver.id
)
SELECT count(*) FROM disabled

-- name: drop_deliveries
-- What waited is not sent. Returns how many.
WITH dropped AS (
    UPDATE taximeter.deliveries
       SET state = 'failed', ended_at = now(), leased_until = NULL,
           log = log || jsonb_build_object('at', now(), 'error', 'this is a copy')
     WHERE state = 'waiting' RETURNING id
)
SELECT count(*) FROM dropped

-- name: drop_notices
-- Nor is what was not given to receivers yet. Returns how many.
WITH dropped AS (UPDATE taximeter.notices SET spread_at = now() WHERE spread_at IS NULL RETURNING n)
SELECT count(*) FROM dropped

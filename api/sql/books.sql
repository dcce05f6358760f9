-- name: check_state
-- Why: when the settler last looked at the books, what it found, and how far they are sealed.
SELECT
    tried_at, could_not_look, checked_at, seconds, holds, proved_at, rows_new, rows_sealed, sealed_until, seal_n, seal_head,
    round_began_at, round_ended_at, days
FROM taximeter.check_state;

-- name: proofs
-- Why: what that look has found of each invariant, in the order of their numbers.
SELECT
    invariant AS name, title, holds, figures::text AS figures, violations::text AS violations, reasons::text AS reasons,
    unread::text AS unread, unjudged, checked_at, proved_at
FROM taximeter.check_results
ORDER BY length(invariant), invariant;

-- name: drift
-- Why: whether the comparison of every minute has found the books wrong, and since when.
SELECT is_wrong, since FROM taximeter.conditions WHERE subject = 'books';

-- name: lost_events
-- Why: holes that were found, the newest first, and whether somebody knows of them. $1 how many
SELECT lost.shard, lost.epoch, lost.seq_first, lost.seq_last, lost.found_at, known.acknowledged_at,
    known.acknowledged_by, known.note
FROM taximeter.lost_events AS lost
LEFT JOIN taximeter.acknowledgements AS known
    ON known.what = 'lost' AND (known.shard, known.epoch, known.seq_first) = (lost.shard, lost.epoch, lost.seq_first)
ORDER BY lost.found_at DESC, lost.shard, lost.epoch, lost.seq_first
LIMIT $1;

-- name: lost_event
-- $1 shard, $2 epoch, $3 number of the first event of the hole
SELECT lost.shard, lost.epoch, lost.seq_first, lost.seq_last, lost.found_at, known.acknowledged_at,
    known.acknowledged_by, known.note
FROM taximeter.lost_events AS lost
LEFT JOIN taximeter.acknowledgements AS known
    ON known.what = 'lost' AND (known.shard, known.epoch, known.seq_first) = (lost.shard, lost.epoch, lost.seq_first)
WHERE (lost.shard, lost.epoch, lost.seq_first) = ($1, $2, $3);

-- name: acknowledge_lost
-- Why: a hole is noted as known once; who comes second waits for the first, and gets false.
-- $1 shard, $2 epoch, $3 number of its first event, $4 note, $5 by whom
SELECT taximeter.acknowledge_lost($1, $2, $3, $4, $5);

-- name: count_dead_letters
-- Why: how many were set aside, counted up to $1, and what became of them.
SELECT
    (SELECT count(*) FROM (SELECT FROM taximeter.dead_letters LIMIT $1) AS counted) AS letters,
    count(*) FILTER (WHERE what = 'acknowledged') AS acknowledged,
    count(*) FILTER (WHERE what = 'charged') AS charged
FROM taximeter.dead_letter_answers;

-- name: dead_letters
-- Why: events that could not be booked, the newest first, a page at a time, with what was done about each.
-- $1 open, acknowledged, charged or null, $2 id of the last row before or null, $3 limit
SELECT
    letter.id, letter.created_at, letter.shard, letter.epoch, letter.seq, letter.reason, letter.detail, letter.org_id, letter.user_id,
    letter.request_id, letter.amount, substring(letter.raw FOR 1000) AS raw,
    coalesce(answer.what, 'open') AS state, answer.note, answer.answered_by, answer.answered_at
FROM taximeter.dead_letters AS letter
LEFT JOIN taximeter.dead_letter_answers AS answer ON answer.letter_id = letter.id
WHERE ($1::text IS NULL OR $1 = coalesce(answer.what, 'open')) AND ($2::bigint IS NULL OR letter.id < $2)
ORDER BY letter.id DESC
LIMIT $3;

-- name: dead_letter
-- $1 id
SELECT
    letter.id, letter.created_at, letter.shard, letter.epoch, letter.seq, letter.reason, letter.detail, letter.org_id, letter.user_id,
    letter.request_id, letter.amount, substring(letter.raw FOR 5000) AS raw,
    coalesce(answer.what, 'open') AS state, answer.note, answer.answered_by, answer.answered_at
FROM taximeter.dead_letters AS letter
LEFT JOIN taximeter.dead_letter_answers AS answer ON answer.letter_id = letter.id
WHERE letter.id = $1;

-- name: answer_dead_letter
-- Why: what is done about an event is done once; who comes second waits for the first, and finds no row of its own.
-- $1 id, $2 acknowledged or charged, $3 note, $4 by whom
INSERT INTO taximeter.dead_letter_answers (letter_id, what, note, answered_by)
VALUES ($1, $2, $3, $4)
ON CONFLICT (letter_id) DO NOTHING
RETURNING letter_id;

-- name: charge_dead_letter
-- Why: the live balance got back what the event had taken when it was set aside, so it is charged as any other request of SQL is: once
--      for its id, and only where the user can pay.
-- $1 org_id, $2 user_id, $3 millicredits, $4 service_type, $5 service_name, $6 request_id or null, $7 metadata
SELECT success, remaining_credits FROM deduct_credits($1, $2, $3, $4, $5, $6, $7::text::jsonb);

-- name: lock_key
-- Why: two requests with the same key follow each other, so that the second one finds what the first has answered.
-- Locks: the key, until the transaction ends; before any row. Who has two takes that of the header first.
-- $1 endpoint, $2 scope, $3 key
SELECT pg_advisory_xact_lock(hashtextextended(concat_ws('/', 'idempotency', $1::text, $2::text, $3::text), 0));

-- name: find_answer
-- Why: what the first request with this key asked for, and what it was answered.
-- $1 endpoint, $2 scope, $3 key
SELECT body_hash, answer FROM taximeter.idempotent_answers WHERE endpoint = $1 AND scope = $2 AND key = $3;

-- name: keep_answer
-- Why: the answer of a request that has taken effect, in the transaction of the effect.
-- $1 endpoint, $2 scope, $3 key, $4 body_hash, $5 answer
INSERT INTO taximeter.idempotent_answers (endpoint, scope, key, body_hash, answer) VALUES ($1, $2, $3, $4, $5);

-- name: lock_all
-- Why: receivers of an owner are counted and added one at a time. $1 org_id, or null for those of the installation
SELECT pg_advisory_xact_lock(74103, hashtext(coalesce($1::text, '')));

-- name: count
-- $1 org_id or null
SELECT count(*) FROM taximeter.receivers WHERE org_id IS NOT DISTINCT FROM $1::text;

-- name: insert
-- $1 org_id or null, $2 kind, $3 name, $4 address, $5 secret or null, $6 mark of the key, $7 types, $8 percents, $9 who
INSERT INTO taximeter.receivers (org_id, kind, name, address, secret, key_mark, types, percents, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING *;

-- name: list
-- Why: the receivers of an organisation, or of the installation, oldest first. $1 org_id or null, $2 limit, $3 offset
SELECT * FROM taximeter.receivers WHERE org_id IS NOT DISTINCT FROM $1::text
ORDER BY created_at, id LIMIT $2 OFFSET $3;

-- name: find
-- Why: a receiver is found by its owner too, so that a foreign one does not exist. $1 org_id or null, $2 id
SELECT * FROM taximeter.receivers WHERE org_id IS NOT DISTINCT FROM $1::text AND id = $2;

-- name: lock
-- Why: the same, as nobody else can change it now; before its deliveries. $1 org_id or null, $2 id
SELECT * FROM taximeter.receivers WHERE org_id IS NOT DISTINCT FROM $1::text AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- Why: what an admin changes. One that is enabled begins anew, without the rest of its failures.
-- $1 id, $2 name, $3 types, $4 percents, $5 state
UPDATE taximeter.receivers SET name = $2, types = $3, percents = $4, state = $5,
    reason = CASE WHEN $5 = 'active' THEN NULL ELSE reason END,
    failures = CASE WHEN $5 = 'active' AND state <> 'active' THEN 0 ELSE failures END,
    rests_until = CASE WHEN $5 = 'active' AND state <> 'active' THEN '-infinity' ELSE rests_until END
WHERE id = $1 RETURNING *;

-- name: rotate
-- Why: both secrets sign for a while, so that a receiver can change over without missing anything.
-- $1 id, $2 the new secret, $3 the one before, both encrypted with $4, a mark; $5 the address, the same; $6 seconds that the older signs
UPDATE taximeter.receivers SET secret = $2, old_secret = $3, key_mark = $4, address = $5,
    old_secret_until = now() + make_interval(secs => $6)
WHERE id = $1 RETURNING *;

-- name: delete
-- $1 id
DELETE FROM taximeter.receivers WHERE id = $1;

-- name: write_test
-- $1 id
SELECT taximeter.write_test_notice($1);

-- name: deliveries
-- Why: what became of notices, newest first, a page at a time. $1 receiver, $2 state or null, $3 the id before which, or null, $4 limit
SELECT delivery.id, notice.id AS notice, notice.type, notice.org_id, notice.at, delivery.state, delivery.tries,
       nullif(delivery.due_at, 'infinity') AS due_at, delivery.ended_at, delivery.log::text AS log
FROM taximeter.deliveries AS delivery JOIN taximeter.notices AS notice ON notice.n = delivery.notice_n
WHERE delivery.receiver_id = $1 AND ($2::text IS NULL OR delivery.state = $2) AND ($3::bigint IS NULL OR delivery.id < $3)
ORDER BY delivery.id DESC LIMIT $4;

-- name: notices_between
-- Why: what a receiver would have been told in a span of time, or one notice. $1 org_id or null, $2 from, $3 until, $4 types, $5 percents,
-- $6 receiver, $7 whether also what has reached it, $8 id of one notice or null, $9 most
SELECT notice.n
FROM taximeter.notices AS notice
WHERE ($8::uuid IS NULL AND notice.at >= $2 AND notice.at < $3 OR notice.id = $8)
  AND ($1::text IS NULL OR notice.org_id = $1)
  AND notice.receiver_id IS NULL AND notice.spread_at IS NOT NULL
  AND $4::text[] && ARRAY['*', notice.type]
  AND (NOT notice.data ? 'percents'
       OR EXISTS (SELECT FROM jsonb_array_elements_text(notice.data -> 'percents') AS passed (percent)
                  WHERE passed.percent::integer = ANY ($5::integer[])))
  AND NOT EXISTS (SELECT FROM taximeter.deliveries AS delivery
                  WHERE delivery.receiver_id = $6 AND delivery.notice_n = notice.n
                    AND (delivery.state = 'waiting' OR delivery.state = 'delivered' AND NOT $7))
ORDER BY notice.n LIMIT $9;

-- name: send_again
-- Why: under the same id, and with all its tries. None goes before `start` has looked at the order. $1 receiver, $2 numbers of notices
INSERT INTO taximeter.deliveries AS delivery (receiver_id, notice_n, subject, due_at)
SELECT $1, notice.n, notice.subject, 'infinity' FROM taximeter.notices AS notice WHERE notice.n = ANY ($2::bigint[])
ON CONFLICT ON CONSTRAINT a_notice_is_delivered_once_a_receiver DO UPDATE
   SET state = 'waiting', tries = 0, due_at = 'infinity', leased_until = NULL, ended_at = NULL
RETURNING id;

-- name: start
-- Why: the first of each subject goes; the others follow one another. $1 ids
UPDATE taximeter.deliveries AS delivery SET due_at = now()
WHERE delivery.id = ANY ($1::bigint[]) AND delivery.state = 'waiting' AND delivery.due_at = 'infinity'
  AND NOT EXISTS (SELECT FROM taximeter.deliveries AS other
                  WHERE other.receiver_id = delivery.receiver_id AND other.subject = delivery.subject AND other.state = 'waiting'
                    AND (other.notice_n < delivery.notice_n OR other.due_at < 'infinity'));

-- name: is_members
-- Why: nobody is sent e-mail who has not joined: an address counts when a session of a member has vouched for it. $1 org_id, $2 address
SELECT EXISTS (
    SELECT FROM organization_members AS member JOIN taximeter.users ON users.user_id = member.user_id
    WHERE member.org_id = $1 AND member.status = 'active' AND lower(users.email) = lower($2));

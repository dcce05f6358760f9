-- name: note_expiring
-- Notes what ends soon, at most so many of a kind. Returns how many. $1 the time, $2 most
SELECT taximeter.note_expiring($1, $2)

-- name: note_condition
-- Notes that something goes wrong, or is right again, once each. Returns whether it did.
-- $1 subject, $2 whether it is wrong, $3 the type that says so, $4 the type of the other, $5 data
SELECT taximeter.note_condition($1, $2, $3, $4, $5::text::jsonb)

-- name: prune_notices
-- Forgets notices after the retention, with what became of them. $1 seconds, $2 most
DELETE FROM taximeter.notices
 WHERE n IN (SELECT n FROM taximeter.notices WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2)

-- name: spread_alone
-- One at a time gives notices to receivers, so that those of one subject come in their order.
SELECT pg_try_advisory_xact_lock(74102)

-- name: unspread
-- Notices that no delivery was made of yet. $1 most
SELECT n, org_id FROM taximeter.notices WHERE spread_at IS NULL ORDER BY n LIMIT $1

-- name: lock_receivers
-- Whoever may hear of them, locked before their deliveries, as everywhere. $1 org ids
SELECT id FROM taximeter.receivers
 WHERE state = 'active' AND (org_id IS NULL OR org_id = ANY ($1::text[]))
 ORDER BY id
   FOR NO KEY UPDATE

-- name: spread
-- A delivery for each receiver that asks for the notice. None is due yet. $1 numbers of notices
INSERT INTO taximeter.deliveries (receiver_id, notice_n, subject, due_at)
SELECT receiver.id, notice.n, notice.subject, 'infinity'
  FROM taximeter.notices AS notice
  JOIN taximeter.receivers AS receiver
    ON receiver.state = 'active' AND (receiver.org_id = notice.org_id OR receiver.org_id IS NULL)
 WHERE notice.n = ANY ($1::bigint[])
   AND CASE WHEN notice.receiver_id IS NOT NULL THEN receiver.id = notice.receiver_id
            ELSE notice.at >= receiver.created_at AND receiver.types && ARRAY['*', notice.type]
                 AND (NOT notice.data ? 'percents'
                      OR EXISTS (SELECT FROM jsonb_array_elements_text(notice.data -> 'percents') AS passed (percent)
                                  WHERE passed.percent::integer = ANY (receiver.percents))) END
 ORDER BY receiver.id, notice.n
ON CONFLICT ON CONSTRAINT a_notice_is_delivered_once_a_receiver DO NOTHING
RETURNING id

-- name: start_deliveries
-- Those of them that are the first of their subject may go now. $1 ids
UPDATE taximeter.deliveries AS delivery SET due_at = now()
 WHERE delivery.id = ANY ($1::bigint[]) AND delivery.state = 'waiting' AND delivery.due_at = 'infinity'
   AND NOT EXISTS (SELECT FROM taximeter.deliveries AS other
                    WHERE other.receiver_id = delivery.receiver_id AND other.subject = delivery.subject AND other.state = 'waiting'
                      AND (other.notice_n < delivery.notice_n OR other.due_at < 'infinity'))

-- name: mark_spread
-- $1 numbers of notices
UPDATE taximeter.notices SET spread_at = now() WHERE n = ANY ($1::bigint[])

-- name: claim
-- Takes what is due into hand, from receivers that do not rest; those that were tried longest ago come first. Of each as many as may be
-- under way to it at a time. What another settler has taken between the two looks is left to it.
-- $1 marks of our keys, $2 kinds that can be sent, $3 whether those that failed last or the others, $4 most receivers, $5 most of each,
-- $6 seconds
WITH RECURSIVE with_work AS (
    (SELECT receiver_id FROM taximeter.deliveries WHERE state = 'waiting' ORDER BY receiver_id LIMIT 1)
    UNION ALL
    SELECT (SELECT next.receiver_id FROM taximeter.deliveries AS next
             WHERE next.state = 'waiting' AND next.receiver_id > seen.receiver_id ORDER BY next.receiver_id LIMIT 1)
      FROM with_work AS seen WHERE seen.receiver_id IS NOT NULL
), ready AS (
    SELECT receiver.id
      FROM taximeter.receivers AS receiver
     WHERE receiver.id IN (SELECT receiver_id FROM with_work)
       AND receiver.state = 'active' AND receiver.rests_until <= now() AND (receiver.failures > 0) = $3
       AND receiver.key_mark = ANY ($1::text[]) AND receiver.kind = ANY ($2::text[])
       AND EXISTS (SELECT FROM taximeter.deliveries AS due
                    WHERE due.receiver_id = receiver.id AND due.state = 'waiting' AND due.due_at <= now()
                      AND (due.leased_until IS NULL OR due.leased_until <= now()))
     ORDER BY receiver.tried_at, receiver.id
     LIMIT $4
       FOR NO KEY UPDATE SKIP LOCKED
), chosen AS (
    SELECT due.id
      FROM ready
     CROSS JOIN LATERAL (
           SELECT one.id
             FROM taximeter.deliveries AS one
            WHERE one.receiver_id = ready.id AND one.state = 'waiting' AND one.due_at <= now()
              AND (one.leased_until IS NULL OR one.leased_until <= now())
            ORDER BY one.due_at, one.notice_n
            LIMIT greatest(0, $5::integer - (SELECT count(*) FROM taximeter.deliveries AS in_hand
                                              WHERE in_hand.receiver_id = ready.id AND in_hand.state = 'waiting'
                                                AND in_hand.due_at <= now() AND in_hand.leased_until > now()))
           ) AS due
     LIMIT $4
), taken AS (
    UPDATE taximeter.deliveries AS delivery
       SET tries = delivery.tries + 1, leased_until = now() + make_interval(secs => $6)
      FROM chosen
     WHERE delivery.id = chosen.id AND delivery.state = 'waiting'
       AND (delivery.leased_until IS NULL OR delivery.leased_until <= now())
    RETURNING delivery.id, delivery.receiver_id, delivery.notice_n, delivery.tries
), tried AS (
    UPDATE taximeter.receivers AS receiver SET tried_at = now() FROM ready WHERE receiver.id = ready.id
)
SELECT taken.id AS delivery, taken.tries, receiver.kind, receiver.address, receiver.secret, receiver.key_mark, receiver.failures,
       CASE WHEN receiver.old_secret_until > now() THEN receiver.old_secret END AS old_secret,
       notice.id, notice.type, notice.at, notice.org_id, notice.data::text AS data
  FROM taken
  JOIN taximeter.receivers AS receiver ON receiver.id = taken.receiver_id
  JOIN taximeter.notices AS notice ON notice.n = taken.notice_n

-- name: end_try
-- What became of a try: the state of the delivery then, null when somebody else has it in hand by now.
-- $1 delivery, $2 number of the try, $3 whether it succeeded, $4 seconds until the next try or null, $5 seconds that the receiver rests,
-- $6 entry of the log, $7 why the receiver is to be disabled, or null
SELECT taximeter.end_try($1, $2, $3, $4, $5, $6::text::jsonb, $7)

-- name: accounts_page
-- Every account with its balance and last entry, page by page: both of the snapshot. $1, $2 the last account seen, $3 page
SELECT account.org_id, account.user_id, account.entry_seq, account.applied_seq,
       coalesce(sum(a.allocated_credits - a.used_credits), 0)::bigint AS remaining
  FROM (SELECT org_id, user_id, entry_seq, applied_seq
          FROM taximeter.accounts
         WHERE (org_id, user_id) > ($1::text, $2::text)
         ORDER BY org_id, user_id
         LIMIT $3) AS account
  LEFT JOIN user_credit_allocations AS a
    ON a.org_id = account.org_id AND a.user_id = account.user_id
 GROUP BY account.org_id, account.user_id, account.entry_seq, account.applied_seq
 ORDER BY account.org_id, account.user_id

-- name: accounts_named
-- The same for some accounts. $1 org ids, $2 user ids
SELECT account.org_id, account.user_id, account.entry_seq, account.applied_seq,
       coalesce(sum(a.allocated_credits - a.used_credits), 0)::bigint AS remaining
  FROM taximeter.accounts AS account
  JOIN unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
    ON account.org_id = wanted.org_id AND account.user_id = wanted.user_id
  LEFT JOIN user_credit_allocations AS a
    ON a.org_id = account.org_id AND a.user_id = account.user_id
 GROUP BY account.org_id, account.user_id, account.entry_seq, account.applied_seq
 ORDER BY account.org_id, account.user_id

-- name: entry_sums
-- Sum and age of the entries of each account in (low, high]. Read fresh: entries never change once they are there.
-- $1 org ids, $2 user ids, $3 low, $4 high
SELECT wanted.org_id, wanted.user_id, sum(entry.delta)::bigint AS delta,
       extract(epoch FROM now() - min(entry.created_at))::float8 AS oldest_age_s
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS wanted (org_id, user_id, low, high)
  JOIN taximeter.account_entries AS entry
    ON entry.org_id = wanted.org_id AND entry.user_id = wanted.user_id
   AND entry.entry_seq > wanted.low AND entry.entry_seq <= wanted.high
 GROUP BY wanted.org_id, wanted.user_id

-- name: entry_numbers
-- The last entry number of each account as it is now; unknown accounts are missing. $1 org ids, $2 user ids
SELECT account.org_id, account.user_id, account.entry_seq
  FROM taximeter.accounts AS account
  JOIN unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
    ON account.org_id = wanted.org_id AND account.user_id = wanted.user_id

-- name: totals
-- Everything that was bought, and where it is. The pools' free part may be negative, which is said aloud.
SELECT coalesce(sum(total_credits), 0)::bigint AS total,
       coalesce(sum(available_credits), 0)::bigint AS free,
       coalesce(sum(used_credits), 0)::bigint AS used,
       count(*) FILTER (WHERE available_credits < 0) AS overdrawn_pools
  FROM organization_credit_pools

-- name: remaining_total
-- What all allocations have left, whoever they belong to.
SELECT coalesce(sum(allocated_credits - used_credits), 0)::bigint FROM user_credit_allocations

-- name: event_counts
-- Per shard: what the watermark says became of the events of its epoch, and the rows that are there to prove it. Charges of before $1 are
-- those that are sealed. $1 since when charges are counted: where the seals end, or a day begins
SELECT mark.shard, mark.epoch, mark.seq, mark.settled_events, mark.dead_events, mark.lost_events,
       (SELECT count(*) FROM taximeter.charged_requests AS c
         WHERE c.shard = mark.shard AND c.epoch = mark.epoch AND c.seq IS NOT NULL AND c.created_at >= $1::text::timestamptz)
       + CASE WHEN $1::text::timestamptz > '-infinity' THEN
             coalesce((SELECT sum(sealed.rows) FROM taximeter.sealed_rows AS sealed
                        WHERE sealed.what = 'charges' AND sealed.shard = mark.shard AND sealed.epoch = mark.epoch
                          AND sealed.day < ($1::text::timestamptz AT TIME ZONE 'UTC')::date), 0)
             + coalesce((SELECT sum(open_day.rows) FROM taximeter.sealed_rows AS open_day, taximeter.seal_state
                          WHERE open_day.what = 'charges' AND open_day.shard = mark.shard AND open_day.epoch = mark.epoch
                            AND open_day.day >= ($1::text::timestamptz AT TIME ZONE 'UTC')::date AND sealed_until = $1::text::timestamptz), 0)
             + coalesce((SELECT sum(late.rows) FROM taximeter.seal_changes AS late
                          WHERE late.what = 'charges' AND late.shard = mark.shard AND late.epoch = mark.epoch AND late.hour < $1::text::timestamptz), 0)
         ELSE 0 END::bigint AS charged_rows,
       (SELECT count(*) FROM taximeter.dead_letters AS d
         WHERE d.shard = mark.shard AND d.epoch = mark.epoch AND d.seq IS NOT NULL) AS dead_rows,
       (SELECT coalesce(sum(l.seq_last - l.seq_first + 1), 0) FROM taximeter.lost_events AS l
         WHERE l.shard = mark.shard AND l.epoch = mark.epoch)::bigint AS lost_rows,
       (SELECT coalesce(sum(d.events), 0) FROM taximeter.deletions AS d
         WHERE d.shard = mark.shard AND d.epoch = mark.epoch)::bigint AS deleted,
       (SELECT coalesce(sum(a.events), 0) FROM taximeter.acknowledgements AS a
         WHERE a.shard = mark.shard AND a.epoch = mark.epoch AND a.what = 'uncharged')::bigint AS acknowledged,
       (SELECT coalesce(sum(f.events), 0) FROM taximeter.forgotten_charges AS f
         WHERE f.shard = mark.shard AND f.epoch = mark.epoch)::bigint AS forgotten
  FROM taximeter.watermarks AS mark
 ORDER BY mark.shard

-- name: numbers_used_twice
-- Events that are booked twice, or both booked and set aside: one number stands for one event. Those of other cells, which may have the
-- same numbers, have shards below zero. One that is used again beside a sealed one is one charge too many. $1 since when charges are read
SELECT format('shard %s event %s-%s stands in %s rows', shard, epoch, seq, count(*)) AS violation
  FROM (SELECT shard, epoch, seq FROM taximeter.charged_requests
         WHERE seq IS NOT NULL AND shard >= 0 AND created_at >= $1::text::timestamptz
        UNION ALL
        SELECT shard, epoch, seq FROM taximeter.dead_letters WHERE seq IS NOT NULL) AS events
 GROUP BY shard, epoch, seq
HAVING count(*) > 1
 LIMIT 21

-- name: losses
-- Every hole that was ever found, newest first. $1 how long a loss is an alarm, in seconds
SELECT shard, epoch, seq_first, seq_last, found_at,
       found_at > now() - make_interval(secs => $1) AND NOT EXISTS (
           SELECT FROM taximeter.acknowledgements AS a
            WHERE a.what = 'lost' AND (a.shard, a.epoch, a.seq_first) = (lost.shard, lost.epoch, lost.seq_first)) AS alarming
  FROM taximeter.lost_events AS lost
 ORDER BY found_at DESC
 LIMIT 1000

-- name: acknowledge_losses
-- Notes that somebody knows of every hole that was found. $1 note
INSERT INTO taximeter.acknowledgements (what, shard, epoch, seq_first, events, note)
SELECT 'lost', lost.shard, lost.epoch, lost.seq_first, lost.seq_last - lost.seq_first + 1, $1
  FROM taximeter.lost_events AS lost
 ORDER BY lost.shard, lost.epoch, lost.seq_first
ON CONFLICT (shard, epoch, seq_first) WHERE what = 'lost' DO NOTHING
RETURNING what, shard, epoch, seq_first, events

-- name: acknowledge_uncharged
-- The same of events that are settled and have neither a charge nor a record of its deletion. $1 note
INSERT INTO taximeter.acknowledgements (what, shard, epoch, events, note)
SELECT 'uncharged', missing.shard, missing.epoch, missing.events, $1
  FROM (SELECT mark.shard, mark.epoch,
               mark.settled_events
               - (SELECT count(*) FROM taximeter.charged_requests AS c
                   WHERE c.shard = mark.shard AND c.epoch = mark.epoch AND c.seq IS NOT NULL)
               - (SELECT coalesce(sum(d.events), 0) FROM taximeter.deletions AS d
                   WHERE d.shard = mark.shard AND d.epoch = mark.epoch)
               - (SELECT coalesce(sum(a.events), 0) FROM taximeter.acknowledgements AS a
                   WHERE a.shard = mark.shard AND a.epoch = mark.epoch AND a.what = 'uncharged')
               - (SELECT coalesce(sum(f.events), 0) FROM taximeter.forgotten_charges AS f
                   WHERE f.shard = mark.shard AND f.epoch = mark.epoch) AS events
          FROM taximeter.watermarks AS mark) AS missing
 WHERE missing.events > 0
 ORDER BY missing.shard
RETURNING what, shard, epoch, seq_first, events

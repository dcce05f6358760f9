-- name: shard_status
-- Where settling is, per shard.
SELECT shard, epoch, seq, settled_events, dead_events, lost_events, settled_at
  FROM taximeter.watermarks
 ORDER BY shard

-- name: unapplied_entries
-- Entries that are not known to have reached Redis, per organisation that has any (the shard follows from its id).
SELECT org_id, sum(entry_seq - applied_seq)::bigint AS entries
  FROM taximeter.accounts
 WHERE entry_seq > applied_seq
 GROUP BY org_id

-- name: settled_to
-- How far a shard is settled, for those who read the books. $1 shard
SELECT epoch, seq, settled_to FROM taximeter.watermarks WHERE shard = $1

-- name: heartbeats
-- What is known of every settler and its loops, by the clock that wrote it.
SELECT settler, loop, extract(epoch FROM clock_timestamp() - beat_at)::float8 AS silent_s,
       extract(epoch FROM clock_timestamp() - worked_at)::float8 AS idle_s, every_s, trouble, clock_off_s
  FROM taximeter.heartbeats
 ORDER BY settler, loop

-- name: ping
-- Whether Postgres answers at all.
SELECT 1

-- name: money
-- What all pools have together, and what the books have charged since the beginning.
SELECT count(*) AS pools,
       coalesce(sum(total_credits), 0)::bigint AS total,
       coalesce(sum(available_credits), 0)::bigint AS available,
       coalesce(sum(allocated_credits), 0)::bigint AS allocated,
       coalesce(sum(closed_credits), 0)::bigint AS closed,
       coalesce(sum(used_credits), 0)::bigint AS used,
       (SELECT coalesce(sum(requests_to_day[31]), 0)::bigint FROM taximeter.usage_monthly) AS booked_requests,
       (SELECT coalesce(sum(credits_to_day[31]), 0)::bigint FROM taximeter.usage_monthly) AS booked,
       (SELECT coalesce(sum(lost.seq_last - lost.seq_first + 1), 0)::bigint
          FROM taximeter.lost_events AS lost
         WHERE NOT EXISTS (SELECT FROM taximeter.acknowledgements AS a
                            WHERE a.what = 'lost'
                              AND (a.shard, a.epoch, a.seq_first) = (lost.shard, lost.epoch, lost.seq_first))) AS unacknowledged,
       (SELECT count(*) FROM taximeter.dead_letters) AS dead_letters,
       (SELECT (silent_since IS NOT NULL)::integer FROM taximeter.installation) AS silent
  FROM organization_credit_pools

-- name: receivers
-- How many receivers there are: of organisations or of the installation, and how they are.
SELECT CASE WHEN org_id IS NULL THEN 'installation' ELSE 'organization' END AS of,
       CASE WHEN state = 'active' AND failures > 0 THEN 'failing' ELSE state END AS state,
       count(*) AS number
  FROM taximeter.receivers
 GROUP BY 1, 2

-- name: notices_late
-- What could have been sent and was not: seconds since the first of it was due. What waits for another try, or behind an
-- earlier one of its subject, is not late. Notices that nobody has given to the receivers yet count where there are some.
SELECT coalesce(extract(epoch FROM now() - least(
           (SELECT min(due.due_at)
              FROM taximeter.receivers AS receiver
              JOIN taximeter.deliveries AS due ON due.receiver_id = receiver.id
             WHERE receiver.state = 'active' AND receiver.failures = 0
               AND due.state = 'waiting' AND due.due_at <= now()
               AND (due.leased_until IS NULL OR due.leased_until <= now())),
           (SELECT min(at) FROM taximeter.notices
             WHERE spread_at IS NULL AND EXISTS (SELECT FROM taximeter.receivers WHERE state = 'active')))), 0)::float8

-- name: organizations
-- The same of some organisations, and what is promised to their running requests or not settled yet. $1 org ids
SELECT pool.org_id, pool.total_credits AS total, pool.available_credits AS available, pool.allocated_credits AS allocated,
       pool.closed_credits AS closed, pool.used_credits AS used,
       (SELECT coalesce(sum(open), 0)::bigint FROM taximeter.exposures AS e WHERE e.org_id = pool.org_id) AS in_progress,
       usage.requests, usage.credits AS booked
  FROM organization_credit_pools AS pool
 CROSS JOIN LATERAL (SELECT coalesce(sum(u.requests), 0)::bigint AS requests, coalesce(sum(u.credits_used), 0)::bigint AS credits
                       FROM taximeter.usage_monthly_by_org AS u
                      WHERE u.org_id = pool.org_id) AS usage
 WHERE pool.org_id = ANY($1::text[])
 ORDER BY pool.org_id

-- name: marks
-- The watermarks of the snapshot that everything else is compared with.
SELECT shard, epoch, seq FROM taximeter.watermarks ORDER BY shard

-- name: mark_now
-- The watermark as it is now. $1 shard
SELECT epoch, seq FROM taximeter.watermarks WHERE shard = $1

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

-- name: load_accounts
-- What Redis does not have: the balance and the number of the last entry in it, both of one snapshot because it is one
-- statement, and the epochs of all shards. Accounts that Postgres does not know are missing from the answer.
-- $1 org ids, $2 user ids
SELECT wanted.org_id,
       wanted.user_id,
       coalesce(account.entry_seq, 0) AS applied,
       coalesce(balance.remaining, 0)::bigint AS available,
       (SELECT array_agg(mark.epoch ORDER BY mark.shard) FROM taximeter.watermarks AS mark) AS epochs
  FROM unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
  LEFT JOIN taximeter.accounts AS account
    ON account.org_id = wanted.org_id AND account.user_id = wanted.user_id
  LEFT JOIN LATERAL (SELECT sum(a.allocated_credits - a.used_credits) AS remaining
                       FROM user_credit_allocations AS a
                      WHERE a.org_id = wanted.org_id AND a.user_id = wanted.user_id) AS balance ON true
 WHERE account.org_id IS NOT NULL OR balance.remaining IS NOT NULL

-- name: accounts_behind
-- Accounts with entries that are not known to be applied, page by page; none of organisations that are away. $1, $2 the last account seen, $3 page
SELECT org_id, user_id, applied_seq
  FROM taximeter.accounts AS account
 WHERE entry_seq > applied_seq
   AND (org_id, user_id) > ($1::text, $2::text)
   AND NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = account.org_id)
 ORDER BY org_id, user_id
 LIMIT $3

-- name: accounts_short_of
-- Those of some accounts that have entries after the given number, or after the hint where none is given; unknown accounts are missing.
-- $1 org ids, $2 user ids, $3 numbers or null
SELECT account.org_id, account.user_id, coalesce(wanted.applied, account.applied_seq) AS applied
  FROM taximeter.accounts AS account
  JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (org_id, user_id, applied)
    ON account.org_id = wanted.org_id AND account.user_id = wanted.user_id
 WHERE account.entry_seq > coalesce(wanted.applied, account.applied_seq)

-- name: entries_after
-- The entries of these accounts after the given numbers, in order. $1 org ids, $2 user ids, $3 numbers, $4 most rows
SELECT entry.org_id, entry.user_id, entry.entry_seq, entry.delta, entry.hold
  FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (org_id, user_id, applied)
  JOIN taximeter.account_entries AS entry
    ON entry.org_id = wanted.org_id AND entry.user_id = wanted.user_id AND entry.entry_seq > wanted.applied
 ORDER BY entry.org_id, entry.user_id, entry.entry_seq
 LIMIT $4

-- name: move_hints
-- What Redis said is applied, if the shard is still as it was asked. $1 org ids, $2 user ids, $3 numbers, $4 shard, $5 epoch, $6 run id, $7 start
SELECT taximeter.move_hints($1, $2, $3, $4, $5, $6, $7)

-- name: lower_hints
-- What a server has really applied, where the hint says more. $1 org ids, $2 user ids, $3 numbers
UPDATE taximeter.accounts AS account
   SET applied_seq = said.applied
  FROM (SELECT a.org_id, a.user_id, wanted.applied
          FROM taximeter.accounts AS a
          JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (org_id, user_id, applied)
            ON a.org_id = wanted.org_id AND a.user_id = wanted.user_id
         WHERE a.applied_seq > wanted.applied
         ORDER BY a.org_id, a.user_id
           FOR NO KEY UPDATE OF a) AS said
 WHERE account.org_id = said.org_id AND account.user_id = said.user_id

-- name: accounts_page
-- All accounts, page by page, each with its balance and the number of the last entry in it, both of one snapshot because a page is
-- one statement; and up to which entry it is taken to be applied. $1, $2 the last account seen, $3 page
SELECT account.org_id, account.user_id, account.entry_seq AS applied, coalesce(balance.remaining, 0)::bigint AS available,
       account.applied_seq AS hint
  FROM (SELECT org_id, user_id, entry_seq, applied_seq
          FROM taximeter.accounts
         WHERE (org_id, user_id) > ($1::text, $2::text)
         ORDER BY org_id, user_id
         LIMIT $3) AS account
  LEFT JOIN LATERAL (SELECT sum(a.allocated_credits - a.used_credits) AS remaining
                       FROM user_credit_allocations AS a
                      WHERE a.org_id = account.org_id AND a.user_id = account.user_id) AS balance ON true
 ORDER BY account.org_id, account.user_id

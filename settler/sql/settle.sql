-- name: mark_settling
-- Tells the triggers of this transaction that changes of `used` are already known to the live side and are added to
-- the pools here, once a pool and not once a row. The rows of a batch (16 MiB of events at most) are kept in memory for the
-- daily rollup: with the default of 4 MB they would go through a file.
SELECT set_config('taximeter.settling', 'on', true), set_config('work_mem', '32MB', true)

-- name: known_organizations
-- Which of these exist. $1 org ids
SELECT id FROM organizations WHERE id = ANY ($1::text[])

-- name: charged_already
-- Which of these charges are in the ledger. Only asked when the unique key has just refused one of them.
-- $1 org ids, $2 request ids, $3 phases, position by position
SELECT c.org_id, c.request_id, c.phase, c.by_expiry, c.user_id, c.amount
  FROM taximeter.charged_requests AS c
  JOIN unnest($1::text[], $2::text[], $3::smallint[]) AS wanted (org_id, request_id, phase)
    ON c.org_id = wanted.org_id AND c.request_id = wanted.request_id AND c.phase = wanted.phase

-- name: keep_partitions
-- What COPY into the whole table takes as well: whoever takes a partition away waits for this transaction.
LOCK TABLE ONLY credit_usage_attribution IN ROW EXCLUSIVE MODE

-- name: partition_of_month
-- The partition of a month if each trigger that an insert into the whole table fires stands on it too, and we may write to it. $1 YYYY_MM
SELECT partition.relname
  FROM pg_inherits
  JOIN pg_class AS partition ON partition.oid = inhrelid
 WHERE inhparent = 'credit_usage_attribution'::regclass AND NOT inhdetachpending
   AND partition.relnamespace = 'taximeter'::regnamespace AND partition.relname = 'attribution_' || $1::text
   AND has_table_privilege(partition.oid, 'INSERT')
   AND NOT EXISTS (SELECT FROM pg_trigger AS of_all
                    WHERE of_all.tgrelid = inhparent AND of_all.tgtype & 4 <> 0 -- INSERT
                      AND NOT EXISTS (SELECT FROM pg_trigger AS of_it
                                       WHERE of_it.tgrelid = partition.oid AND of_it.tgname = of_all.tgname
                                         AND of_it.tgfoid = of_all.tgfoid AND of_it.tgtype & of_all.tgtype = of_all.tgtype
                                         AND of_it.tgenabled = of_all.tgenabled))

-- name: lock_active_allocations
-- The active allocation of each account, locked in the order that everybody locks them: by (org_id, user_id).
-- An account that has none is missing from the answer. $1 org ids, $2 user ids
SELECT a.id, a.org_id, a.user_id
  FROM user_credit_allocations AS a
  JOIN unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
    ON a.org_id = wanted.org_id AND a.user_id = wanted.user_id
 WHERE a.is_active
 ORDER BY a.org_id, a.user_id
   FOR UPDATE OF a

-- name: lock_closed_allocations
-- The newest closed allocation of each account: where a charge goes that came after the closing. Locked in order.
-- $1 org ids, $2 user ids
SELECT a.id, a.org_id, a.user_id
  FROM user_credit_allocations AS a
  JOIN unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
    ON a.org_id = wanted.org_id AND a.user_id = wanted.user_id
 WHERE NOT a.is_active
   AND a.id = (SELECT newest.id
                 FROM user_credit_allocations AS newest
                WHERE newest.org_id = a.org_id AND newest.user_id = a.user_id AND NOT newest.is_active
                ORDER BY newest.created_at DESC, newest.id DESC
                LIMIT 1)
 ORDER BY a.org_id, a.user_id
   FOR UPDATE OF a

-- name: lock_accounts
-- Accounts that get an entry, by (org_id, user_id), after allocations and before rollups and pools: triggers and give_back would
-- only come to them when the pools are locked, and whoever changes a new allocation has its account and waits for the pool.
-- $1 org ids, $2 user ids
SELECT a.org_id
  FROM taximeter.accounts AS a
  JOIN unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
    ON a.org_id = wanted.org_id AND a.user_id = wanted.user_id
 ORDER BY a.org_id, a.user_id
   FOR NO KEY UPDATE OF a

-- name: lock_pools
-- Pools last, by org_id. Not FOR UPDATE: the foreign key of a new allocation shares its pool's key before it takes its account.
-- $1 org ids
SELECT org_id
  FROM organization_credit_pools
 WHERE org_id = ANY ($1::text[])
 ORDER BY org_id
   FOR NO KEY UPDATE

-- name: add_used
-- Charges of active allocations, once a row. The rows are locked. $1 allocation ids, $2 millicredits
UPDATE user_credit_allocations AS a
   SET used_credits = a.used_credits + charge.amount, updated_at = now()
  FROM unnest($1::uuid[], $2::bigint[]) AS charge (id, amount)
 WHERE a.id = charge.id

-- name: add_to_closed
-- Charges that came after the closing: allocated and used grow by the same, so the row stays closed and its pool pays; the
-- trigger's entry gives the live account back what the script took. The rows are locked. $1 allocation ids, $2 millicredits
UPDATE user_credit_allocations AS a
   SET allocated_credits = a.allocated_credits + charge.amount,
       used_credits = a.used_credits + charge.amount,
       updated_at = now()
  FROM unnest($1::uuid[], $2::bigint[]) AS charge (id, amount)
 WHERE a.id = charge.id

-- name: insert_closed
-- Charges of accounts whose allocations were all deleted: a closed row that holds exactly what was used. A trigger gives
-- the organisation an empty pool if that was deleted as well.
-- $1 org ids, $2 user ids, $3 millicredits
INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, used_credits, allocated_by, is_active)
SELECT org_id, user_id, amount, amount, 'taximeter:settle', false
  FROM unnest($1::text[], $2::text[], $3::bigint[]) AS charge (org_id, user_id, amount)
 ORDER BY org_id, user_id

-- name: add_used_to_pools
-- Once a pool. The rows are locked. $1 org ids, $2 millicredits
UPDATE organization_credit_pools AS p
   SET used_credits = p.used_credits + charge.amount, updated_at = now()
  FROM unnest($1::text[], $2::bigint[]) AS charge (org_id, amount)
 WHERE p.org_id = charge.org_id

-- name: insert_dead_letters
-- What could not be booked, with the raw line. Nothing here may be refused: the table has no limits.
-- $1 shard, $2 epoch, then position by position: $3 seqs, $4 reasons, $5 details, $6 org ids, $7 user ids,
-- $8 request ids, $9 amounts, $10 raw lines
INSERT INTO taximeter.dead_letters
       (shard, epoch, seq, stream_id, reason, detail, org_id, user_id, request_id, amount, raw)
SELECT $1::integer, $2::bigint, seq, $2::bigint || '-' || seq, reason, detail, org_id, user_id, request_id, amount, raw
  FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bytea[])
       AS letter (seq, reason, detail, org_id, user_id, request_id, amount, raw)

-- name: give_back
-- Entries of kind `repair`: the live balance gets back what the set-aside events took. Accounts in the order that
-- everybody locks them. $1 org ids, $2 user ids, $3 millicredits, $4 references
SELECT taximeter.append_entry(org_id, user_id, amount, 'repair', reference)
  FROM (SELECT org_id, user_id, amount, reference
          FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) WITH ORDINALITY
               AS repair (org_id, user_id, amount, reference, place)
         ORDER BY org_id, user_id, place) AS in_order

-- name: insert_lost
-- Numbers that nobody has an event for. $1 shard, $2 epoch, $3 first numbers, $4 last numbers
INSERT INTO taximeter.lost_events (shard, epoch, seq_first, seq_last)
SELECT $1, $2, seq_first, seq_last
  FROM unnest($3::bigint[], $4::bigint[]) AS hole (seq_first, seq_last)

-- name: insert_batch
-- One row a transaction: when what was settled, which is what trimming goes by.
-- $1 shard, $2 epoch, $3 first, $4 last, $5 settled, $6 dead, $7 lost
INSERT INTO taximeter.settled_batches (shard, epoch, seq_first, seq_last, settled, dead, lost)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: move_watermark
-- Exactly-once hangs on this row moving in the same transaction. It must match the one that was locked.
-- $1 shard, $2 epoch, $3 seq before, $4 seq after, $5 settled, $6 dead, $7 lost, $8 time of the last event or null,
-- $9 fingerprint of the last entry, null when the last number has none
UPDATE taximeter.watermarks
   SET seq = $4,
       settled_events = settled_events + $5,
       dead_events = dead_events + $6,
       lost_events = lost_events + $7,
       settled_at = now(),
       settled_to = coalesce($8, settled_to),
       settled_entry = $9
 WHERE shard = $1 AND epoch = $2 AND seq = $3

-- name: accounts_page
-- The accounts of an organisation, page by page, each with its balance and the number of its last entry, both of one snapshot.
-- $1 org_id, $2 the last user seen, $3 page
SELECT account.org_id, account.user_id, account.entry_seq AS applied, coalesce(balance.remaining, 0)::bigint AS available
  FROM taximeter.accounts AS account
  LEFT JOIN LATERAL (SELECT sum(a.allocated_credits - a.used_credits) AS remaining
                       FROM user_credit_allocations AS a
                      WHERE a.org_id = account.org_id AND a.user_id = account.user_id) AS balance ON true
 WHERE account.org_id = $1 AND account.user_id > $2
 ORDER BY account.user_id
 LIMIT $3

-- name: find_move
-- The move of an organisation that has not ended here. $1 org_id
SELECT * FROM taximeter.cell_moves WHERE org_id = $1 AND state NOT IN ('done', 'undone')

-- name: move_state
-- $1 id
SELECT state FROM taximeter.cell_moves WHERE id = $1

-- name: begin_move
-- $1 org_id, $2 the other cell, $3 address of its API, $4 address of its sidecar, $5 how long it may be closed, in seconds
INSERT INTO taximeter.cell_moves (org_id, role, cell, api_url, sidecar_url, state, pause_max_s)
VALUES ($1, 'source', $2, $3, $4, 'copying', $5)
RETURNING id

-- name: close_alone
-- Waits until every change of the organisation that has begun has ended; later ones wait for this transaction. $1 org_id
SELECT pg_advisory_xact_lock(74100, hashtext($1))

-- name: alone_with
-- One at a time works on the move of an organisation, for this session. $1 org_id
SELECT pg_try_advisory_lock(74101, hashtext($1))

-- name: no_longer_alone
-- $1 org_id
SELECT pg_advisory_unlock(74101, hashtext($1))

-- name: end_when_idle
-- This session ends when nothing is heard of its process for so long, and gives its lock back.
SELECT set_config('idle_session_timeout', '120s', false)

-- name: end_when_idle_here
-- The same in the middle of this transaction.
SELECT set_config('idle_in_transaction_session_timeout', '10s', true)

-- name: set_away
-- $1 org_id, $2 what is said of it
INSERT INTO taximeter.organizations_away AS away (org_id, said) VALUES ($1, $2)
ON CONFLICT (org_id) DO UPDATE SET said = EXCLUDED.said

-- name: read_away
-- $1 org_id
SELECT said FROM taximeter.organizations_away WHERE org_id = $1

-- name: let_in
-- $1 org_id
DELETE FROM taximeter.organizations_away WHERE org_id = $1

-- name: set_closed
-- $1 id
UPDATE taximeter.cell_moves SET state = 'closed', closed_at = now() WHERE id = $1 AND state = 'copying' RETURNING id

-- name: set_gone
-- From here there is no way back: the organisation lives in the other cell. $1 id, $2 proof
UPDATE taximeter.cell_moves SET state = 'gone', proof = $2::jsonb WHERE id = $1 AND state = 'closed' RETURNING id

-- name: set_done
-- $1 id
UPDATE taximeter.cell_moves SET state = 'done', ended_at = now() WHERE id = $1 AND state IN ('gone', 'arrived')

-- name: set_undone
-- From here nobody goes on with it. $1 id
UPDATE taximeter.cell_moves SET state = 'undone', ended_at = now() WHERE id = $1 AND state IN ('copying', 'closed') RETURNING id

-- name: note_arrival
-- $1 id, $2 org_id, $3 the other cell, $4, $5 its addresses, $6 proof
INSERT INTO taximeter.cell_moves (id, org_id, role, cell, api_url, sidecar_url, state, proof)
VALUES ($1, $2, 'target', $3, $4, $5, 'arrived', $6::jsonb)

-- name: left
-- Moves that somebody may have left, and whether they are closed for longer than whoever works on them may keep them so: those that were
-- closed $1 seconds ago; those that were undone, and nobody has let the organisation in again; and organisations that have arrived.
SELECT move.org_id, move.id,
       move.state IN ('copying', 'closed', 'undone')
       AND coalesce(move.ended_at, move.closed_at) < now() - make_interval(secs => $1 + move.pause_max_s) AS overdue
  FROM taximeter.cell_moves AS move
  JOIN taximeter.organizations_away AS away ON away.org_id = move.org_id
 WHERE (move.role = 'source' AND away.said = 'moving ' || move.id
        AND (move.state = 'undone' OR move.state IN ('copying', 'closed') AND move.closed_at < now() - make_interval(secs => $1)))
    OR (move.role = 'source' AND move.state = 'gone' AND move.closed_at < now() - make_interval(secs => $1))
    OR move.state = 'arrived'
 ORDER BY move.org_id

-- name: read_move
-- $1 id
SELECT state, cell FROM taximeter.cell_moves WHERE id = $1

-- name: undone_and_away
-- The undone move after which nobody has let this organisation in. $1 org_id
SELECT move.id
  FROM taximeter.organizations_away AS away
  JOIN taximeter.cell_moves AS move ON away.said = 'moving ' || move.id AND move.role = 'source' AND move.state = 'undone'
 WHERE away.org_id = $1

-- name: pending_moves
-- Moves of credits that are under way. $1 org_id
SELECT count(*) FROM taximeter.moves WHERE org_id = $1 AND state = 'pending'

-- name: accounts_behind
-- Accounts of the organisation with entries that are not known to be applied. $1 org_id, $2 most
SELECT org_id, user_id FROM taximeter.accounts WHERE org_id = $1 AND entry_seq > applied_seq ORDER BY user_id LIMIT $2

-- name: columns
-- What a table holds that can be copied. $1 schema, $2 table
SELECT attname::text FROM pg_attribute
 WHERE attrelid = format('%I.%I', $1::text, $2::text)::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
 ORDER BY attnum

-- name: releases
-- The migrations that this database has.
SELECT string_agg(version, ',' ORDER BY version) FROM public.schema_migrations

-- name: is_there
-- Whether the organisation is in this database, and whether rows of its usage are. $1 org_id
SELECT EXISTS (SELECT FROM organizations WHERE id = $1)
       OR EXISTS (SELECT FROM taximeter.accounts WHERE org_id = $1)
       OR EXISTS (SELECT FROM credit_usage_attribution WHERE org_id = $1)

-- name: some_of_cell
-- Organisations that the directory has in a cell. $1 the cell
SELECT org_id FROM taximeter.cell_organizations WHERE cell = $1 ORDER BY since LIMIT 100

-- name: has_one_of
-- Whether this database has one of these. $1 org ids
SELECT EXISTS (SELECT FROM organizations WHERE id = ANY ($1::text[]))

-- name: yesterday
-- What was used before it is copied while the organisation works: nothing is added there any more.
SELECT (now() AT TIME ZONE 'UTC')::date - 1

-- name: oldest_usage
-- $1 org_id
SELECT min(day) FROM taximeter.usage_daily_by_org WHERE org_id = $1

-- name: usage_floor
-- The first day whose rows were not dropped.
SELECT taximeter.usage_floor()

-- name: add_to_all
-- The usage of an organisation that has come, to that of everybody. $1 org_id
INSERT INTO taximeter.usage_monthly AS monthly (month, lane, requests_to_day, credits_to_day)
SELECT month, -257 - abs(hashtext(org_id) % 256), taximeter.sum_totals(requests_to_day), taximeter.sum_totals(credits_to_day)
  FROM taximeter.usage_monthly_by_org WHERE org_id = $1 GROUP BY month, org_id
ON CONFLICT (month, lane) DO UPDATE
   SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
       credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day)

-- name: take_from_all
-- The opposite, of an organisation that comes back to its record. $1 org_id
INSERT INTO taximeter.usage_monthly AS monthly (month, lane, requests_to_day, credits_to_day)
SELECT month, -257 - abs(hashtext($1) % 256),
       (SELECT array_agg(-total ORDER BY nth) FROM unnest(requests) WITH ORDINALITY AS totals (total, nth)),
       (SELECT array_agg(-total ORDER BY nth) FROM unnest(credits) WITH ORDINALITY AS totals (total, nth))
  FROM (SELECT month, taximeter.sum_totals(requests_to_day) AS requests, taximeter.sum_totals(credits_to_day) AS credits
          FROM taximeter.usage_monthly_by_org WHERE org_id = $1 GROUP BY month) AS known
ON CONFLICT (month, lane) DO UPDATE
   SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
       credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day)

-- name: take_from_dropped
-- The opposite of what is added there. $1 org_id
UPDATE taximeter.dropped_months AS gone
   SET requests = gone.requests - known.requests, credits_used = gone.credits_used - known.credits
  FROM (SELECT month, sum(requests)::bigint AS requests, sum(credits)::bigint AS credits
          FROM (SELECT date_trunc('month', day::timestamp)::date AS month, requests, credits_used AS credits
                  FROM taximeter.usage_daily WHERE org_id = $1 AND day < taximeter.usage_floor()
                UNION ALL
                SELECT date_trunc('month', created_at AT TIME ZONE 'UTC')::date, -1, -credits_used
                  FROM credit_usage_attribution
                 WHERE org_id = $1 AND (created_at AT TIME ZONE 'UTC')::date < taximeter.usage_floor()) AS terms
         GROUP BY month) AS known
 WHERE known.month = gone.month

-- name: key_columns
-- The columns of a table's key. $1 schema, $2 table
SELECT attname::text
  FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
 WHERE indrelid = format('%I.%I', $1::text, $2::text)::regclass AND indisprimary
 ORDER BY attnum

-- name: add_to_dropped
-- The same of months whose rows were dropped. $1 org_id
INSERT INTO taximeter.dropped_months AS gone (month, requests, credits_used)
SELECT month, sum(requests)::bigint, sum(credits)::bigint
  FROM (SELECT date_trunc('month', day::timestamp)::date AS month, requests, credits_used AS credits
          FROM taximeter.usage_daily WHERE org_id = $1 AND day < taximeter.usage_floor()
        UNION ALL
        SELECT date_trunc('month', created_at AT TIME ZONE 'UTC')::date, -1, -credits_used
          FROM credit_usage_attribution WHERE org_id = $1 AND (created_at AT TIME ZONE 'UTC')::date < taximeter.usage_floor()) AS terms
 GROUP BY month
HAVING sum(requests) <> 0 OR sum(credits) <> 0
ON CONFLICT ON CONSTRAINT dropped_months_pkey DO UPDATE
   SET requests = gone.requests + EXCLUDED.requests, credits_used = gone.credits_used + EXCLUDED.credits_used

-- name: members_known
-- Addresses of an organisation's members. $1 org_id
SELECT user_id, email FROM taximeter.users
 WHERE email IS NOT NULL AND user_id IN (SELECT user_id FROM organization_members WHERE org_id = $1)

-- name: note_member
-- $1 user_id, $2 address
INSERT INTO taximeter.users (user_id, email) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: seals
-- What the check digits of its keys are made with, its own and those that it took.
SELECT secret FROM taximeter.key_seal UNION SELECT secret FROM taximeter.key_seals_taken

-- name: take_seals
-- $1 seals
INSERT INTO taximeter.key_seals_taken (secret)
SELECT secret FROM unnest($1::bytea[]) AS taken (secret) WHERE secret NOT IN (SELECT secret FROM taximeter.key_seal)
ON CONFLICT DO NOTHING

-- name: carried
-- Holds and outcomes that came with the organisation and are not open yet. $1 org_id
SELECT key, kind, account, record, left_ms, counts FROM taximeter.cell_move_holds WHERE org_id = $1

-- name: opened
-- These accounts are open. $1 org_id, $2 accounts
DELETE FROM taximeter.cell_move_holds WHERE org_id = $1 AND account = ANY ($2::text[])

-- name: none_is_left
-- What came for accounts that are not there. $1 org_id
DELETE FROM taximeter.cell_move_holds WHERE org_id = $1

-- name: fill_pool
-- A pool begins empty; its sums come after its allocations. $1 org_id
UPDATE organization_credit_pools AS pool
   SET allocated_credits = came.allocated_credits, used_credits = came.used_credits, closed_credits = came.closed_credits,
       refreshed_through = came.refreshed_through, updated_at = came.updated_at, topped_up_credits = came.topped_up_credits
  FROM pg_temp.came_pools AS came
 WHERE pool.org_id = came.org_id

-- name: begin_pool
INSERT INTO organization_credit_pools (org_id, total_credits, monthly_refresh_amount, last_refresh_date, created_at, updated_at)
SELECT org_id, total_credits, monthly_refresh_amount, last_refresh_date, created_at, updated_at FROM pg_temp.came_pools

-- name: flip
-- The directory's part of a move. $1 org_id, $2 the cell, $3 the one before
UPDATE taximeter.cell_organizations SET cell = $2, since = now() WHERE org_id = $1 AND cell IN ($2, $3)

-- name: write_audit
-- $1 actor, $2 action, $3 org_id, $4 the other cell, $5 the move
INSERT INTO taximeter.audit_log (actor, action, org_id, target, after)
VALUES ($1, $2, $3, $4, jsonb_build_object('move', $5::text))

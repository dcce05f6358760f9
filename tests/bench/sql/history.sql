-- name: mark_loading
-- This transaction writes past the triggers, which would add to the rollups row by row: those are added up once at the end, and
-- `check` proves that they are the sums of the rows. What a crash would take with it is made again.
SELECT set_config('session_replication_role', 'replica', true), set_config('work_mem', '512MB', true),
       set_config('maintenance_work_mem', '1GB', true), set_config('synchronous_commit', 'off', true), set_config('jit', 'off', true)

-- name: make_organizations
-- Organisations of very different sizes with members, subscriptions and pools: the first one is by far the largest.
-- $1 how many, $2 members of the largest
WITH sizes AS (
    SELECT n, 'org-' || lpad(n::text, 6, '0') AS id, greatest(3, round($2::integer / power(n, 0.6)))::integer AS members
      FROM generate_series(1, $1::integer) AS n
), made AS (
    INSERT INTO organizations (id, org_name, slug, created_by, created_at)
    SELECT id, 'Organisation ' || n, id, id || '-user-1', now() - interval '13 months' FROM sizes
), joined AS (
    INSERT INTO organization_members (org_id, user_id, role, created_at)
    SELECT id, id || '-user-' || m, CASE WHEN m = 1 THEN 'admin' ELSE 'member' END, now() - interval '13 months'
      FROM sizes, generate_series(1, members) AS m
), subscribed AS (
    INSERT INTO organization_subscriptions (org_id, plan_code, plan_name, monthly_price, status)
    SELECT id, plan.code, initcap(plan.code), plan.price, CASE WHEN n % 20 = 0 THEN 'canceled' ELSE 'active' END
      FROM sizes
      JOIN (VALUES (0, 'trial', 1), (1, 'starter', 19), (2, 'professional', 49), (3, 'enterprise', 99))
           AS plan (number, code, price) ON plan.number = n % 4
)
INSERT INTO organization_credit_pools (org_id, total_credits, allocated_credits, topped_up_credits)
SELECT id, (members + 10) * 1000000000::bigint, members * 1000000000::bigint, (members + 10) * 1000000000::bigint FROM sizes

-- name: make_allocations
-- An allocation for each member with its account and its entry, and a closed one from before for one in ten. The entries reach no live
-- balance here, which is loaded from the books when somebody asks for it.
WITH open AS (
    INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, allocated_by, created_at, topped_up_credits)
    SELECT org_id, user_id, 1000000000, 'generator', created_at, 1000000000 FROM organization_members ORDER BY org_id, user_id
), accounts AS (
    INSERT INTO taximeter.accounts (org_id, user_id, entry_seq, applied_seq)
    SELECT org_id, user_id, 1, 1 FROM organization_members ORDER BY org_id, user_id
), entries AS (
    INSERT INTO taximeter.account_entries (org_id, user_id, entry_seq, delta, kind, created_at)
    SELECT org_id, user_id, 1, 1000000000, 'allocation', created_at FROM organization_members ORDER BY org_id, user_id
)
INSERT INTO user_credit_allocations (org_id, user_id, is_active, allocated_by, created_at)
SELECT org_id, user_id, false, 'generator', created_at - interval '1 day'
  FROM organization_members
 WHERE hashtext(user_id) % 10 = 0

-- name: drop_request_key
-- Ids are random, so their index is made once at the end instead of being searched ten million times.
ALTER TABLE taximeter.charged_requests DROP CONSTRAINT charged_requests_pkey

-- name: add_request_key
-- As it was.
SET maintenance_work_mem = '1GB';
ALTER TABLE taximeter.charged_requests
    ADD CONSTRAINT charged_requests_pkey PRIMARY KEY (org_id, request_id, phase);
RESET maintenance_work_mem

-- name: drop_month
-- The migrations have made the months around today. $1 is put in: its name
DROP TABLE IF EXISTS taximeter.partition_name

-- name: make_month
-- A month that is not part of the attribution yet, so that its indexes are made once. $1 is put in: its name
CREATE TABLE taximeter.partition_name (LIKE credit_usage_attribution INCLUDING ALL EXCLUDING INDEXES)

-- name: make_usage
-- Requests of a month, of the first epoch, evenly in time but three times as many at the end of the year as at its beginning. A tenth
-- are of the first organisation; of the others the share of an organisation falls with its number (Zipf, the first having a ninth), so
-- that it has a fifth of all; most requests of an organisation are those of a few of its users.
-- $1 from, $2 before, $3 when the year begins, $4 its length, $5 requests of the year, $6 organisations, $7 members of the largest,
-- $8 first and $9 last event
WITH drawn AS (
    SELECT seq, $3::timestamptz + $4::interval * ((sqrt(1 + 8 * (seq - 0.5)::float8 / $5::bigint) - 1) / 2) AS at,
           CASE WHEN random() < 0.1 THEN 1
                ELSE least($6::integer, greatest(1, round(0.5 * power(2 * $6 + 1, random()))))::integer END AS org,
           random() AS who, random() AS what, random() AS size
      FROM generate_series($8::bigint, $9::bigint) AS seq
    OFFSET 0
), requests AS (
    SELECT seq, at, what, 'org-' || lpad(org::text, 6, '0') AS org_id,
           'org-' || lpad(org::text, 6, '0') || '-user-'
           || 1 + floor(greatest(3, round($7::integer / power(org, 0.6))) * who * who)::integer AS user_id,
           md5(seq::text) AS request_id, ceil(2 * exp(5 * size))::bigint AS amount
      FROM drawn WHERE at >= $1::timestamptz AND at < $2::timestamptz
)
INSERT INTO taximeter.partition_name
       (org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata, created_at,
        shard, epoch, seq, late, reserved)
SELECT org_id, user_id,
       CASE WHEN what < 0.87 THEN 'llm_inference' WHEN what < 0.97 THEN 'embedding' ELSE 'image_generation' END,
       CASE WHEN what < 0.50 THEN 'gpt-4o-mini' WHEN what < 0.75 THEN 'gpt-4o' WHEN what < 0.87 THEN 'claude-sonnet'
            WHEN what < 0.97 THEN 'text-embedding-3-small' ELSE 'dall-e-3' END,
       amount, request_id, jsonb_build_object('provider', 'openai', 'tokens_used', amount * 17), at, 0, 1, seq,
       seq % 2000 = 0, 2 * amount
  FROM requests

-- name: make_charges
-- Of the usage of a month, which is in the order of time, as settle writes both: a block index finds them by that.
INSERT INTO taximeter.charged_requests (org_id, request_id, phase, user_id, shard, epoch, seq, amount, created_at)
SELECT org_id, request_id, 0, user_id, shard, epoch, seq, credits_used, created_at FROM taximeter.partition_name

-- name: attach_month
-- $1 and $2 are put in: its name, from, before
ALTER TABLE credit_usage_attribution ATTACH PARTITION taximeter.partition_name FOR VALUES FROM ('month_from') TO ('month_before')

-- name: guard_month
-- $1 its name
SELECT taximeter.guard_partition($1)

-- name: add_names
-- What the triggers would have kept of all that usage: first the names that it is counted under.
INSERT INTO taximeter.usage_names (org_id, month, by_sql, service_type, service_name)
SELECT DISTINCT org_id, date_trunc('month', created_at AT TIME ZONE 'UTC')::date, false, service_type, service_name
  FROM credit_usage_attribution

-- name: add_days
-- Of users, day after day, as they come: a block index finds a day.
INSERT INTO taximeter.usage_daily (org_id, user_id, service_type, service_name, day, requests, credits_used)
SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date, count(*), sum(credits_used)
  FROM credit_usage_attribution GROUP BY 1, 2, 3, 4, 5 ORDER BY 5

-- name: add_days_by_org
INSERT INTO taximeter.usage_daily_by_org (org_id, day, service_type, service_name, writer, requests, credits_used)
SELECT org_id, day, service_type, service_name, 0, sum(requests), sum(credits_used) FROM taximeter.usage_daily GROUP BY 1, 2, 3, 4
 ORDER BY 2

-- name: add_months_by_user
-- `totals_of` is put in: 31 running totals.
INSERT INTO taximeter.usage_monthly_by_user (org_id, month, user_id, requests_to_day, credits_to_day)
SELECT org_id, month, user_id, totals_of(requests), totals_of(credits)
  FROM (SELECT org_id, date_trunc('month', day::timestamp)::date AS month, user_id, extract(day FROM day)::integer AS day,
               sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits
          FROM taximeter.usage_daily GROUP BY 1, 2, 3, 4) AS days
 GROUP BY 1, 2, 3
 ORDER BY 2

-- name: add_months_by_org
INSERT INTO taximeter.usage_monthly_by_org (org_id, month, writer, requests_to_day, credits_to_day)
SELECT org_id, month, 0, totals_of(requests), totals_of(credits)
  FROM (SELECT org_id, date_trunc('month', day::timestamp)::date AS month, extract(day FROM day)::integer AS day,
               sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits
          FROM taximeter.usage_daily_by_org GROUP BY 1, 2, 3) AS days
 GROUP BY 1, 2

-- name: add_months
INSERT INTO taximeter.usage_monthly (month, lane, requests_to_day, credits_to_day)
SELECT month, 0, totals_of(requests), totals_of(credits)
  FROM (SELECT date_trunc('month', day::timestamp)::date AS month, extract(day FROM day)::integer AS day,
               sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits
          FROM taximeter.usage_daily_by_org GROUP BY 1, 2) AS days
 GROUP BY 1

-- name: add_used
-- What settle would have added to each allocation, at once.
UPDATE user_credit_allocations AS allocation
   SET used_credits = usage.credits_used, updated_at = now()
  FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
          FROM taximeter.usage_daily GROUP BY 1, 2) AS usage
 WHERE allocation.org_id = usage.org_id AND allocation.user_id = usage.user_id AND allocation.is_active

-- name: add_used_to_pools
-- As add_used.
UPDATE organization_credit_pools AS pool
   SET used_credits = usage.credits_used, updated_at = now()
  FROM (SELECT org_id, sum(credits_used)::bigint AS credits_used FROM taximeter.usage_monthly_by_org GROUP BY 1) AS usage
 WHERE pool.org_id = usage.org_id

-- name: begin_second_epoch
-- The usage is that of an epoch that is over: the shard opens at the next one, as after a rebuild.
UPDATE taximeter.watermarks SET epoch = 2 WHERE shard = 0 AND run_id IS NULL AND seq = 0

-- name: tidy
-- What autovacuum would come to by itself.
VACUUM (ANALYZE)

-- name: size
-- How much there is, for the report.
SELECT (SELECT sum(requests) FROM taximeter.usage_monthly_by_org)::bigint AS rows,
       (SELECT count(*) FROM organizations) AS organisations,
       (SELECT count(*) FROM organization_members) AS members,
       pg_database_size(current_database()) AS bytes

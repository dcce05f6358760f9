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
INSERT INTO organization_credit_pools (org_id, total_credits)
SELECT id, (members + 10) * 1000000000::bigint FROM sizes

-- name: make_allocations
-- An allocation for each member, and a closed one from before for one in ten. The entries reach no live balance here, which
-- is loaded from the books when somebody asks for it.
WITH open AS (
    INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, allocated_by, created_at)
    SELECT org_id, user_id, 1000000000, 'generator', created_at FROM organization_members ORDER BY org_id, user_id
)
INSERT INTO user_credit_allocations (org_id, user_id, is_active, allocated_by, created_at)
SELECT org_id, user_id, false, 'generator', created_at - interval '1 day'
  FROM organization_members
 WHERE hashtext(user_id) % 10 = 0

-- name: make_months
-- Every month that the usage falls into. $1 first day, $2 last day
SELECT taximeter.make_attribution_month(month::date)
  FROM generate_series(date_trunc('month', $1::date::timestamp), $2::date::timestamp, interval '1 month') AS month

-- name: drop_request_key
-- Ids are random, so their index is made once at the end instead of being searched ten million times.
ALTER TABLE taximeter.charged_requests DROP CONSTRAINT charged_requests_pkey

-- name: add_request_key
-- As it was.
SET maintenance_work_mem = '512MB';
ALTER TABLE taximeter.charged_requests
    ADD CONSTRAINT charged_requests_pkey PRIMARY KEY (org_id, request_id, phase);
RESET maintenance_work_mem

-- name: mark_settling
-- This transaction books usage as settle does. What a crash would take with it is made again.
SELECT set_config('taximeter.settling', 'on', true), set_config('work_mem', '64MB', true),
       set_config('synchronous_commit', 'off', true)

-- name: make_usage
-- One stretch of time: requests of the first epoch, booked as settle books them, triggers included. The share of an organisation
-- falls with its number (Zipf), the first having a ninth of all; most requests of an organisation are those of a few of its
-- users. $1 from, $2 to, $3 how many, $4 organisations, $5 members of the largest, $6 last event before
WITH drawn AS MATERIALIZED (
    SELECT $6::bigint + row_number() OVER (ORDER BY at) AS seq, *
      FROM (SELECT $1::timestamptz + ($2::timestamptz - $1::timestamptz) * random() AS at,
                   least($4::integer, greatest(1, round(0.5 * power(2 * $4 + 1, random()))))::integer AS org,
                   random() AS who, random() AS what, random() AS size
              FROM generate_series(1, $3::integer)) AS dice
), requests AS MATERIALIZED (
    SELECT seq, at, what, 'org-' || lpad(org::text, 6, '0') AS org_id,
           'org-' || lpad(org::text, 6, '0') || '-user-'
           || 1 + floor(greatest(3, round($5::integer / power(org, 0.6))) * who * who)::integer AS user_id,
           md5(seq::text) AS request_id, ceil(2 * exp(5 * size))::bigint AS amount
      FROM drawn
), charged AS (
    INSERT INTO taximeter.charged_requests (org_id, request_id, phase, user_id, shard, epoch, seq, amount, created_at)
    SELECT org_id, request_id, 0, user_id, 0, 1, seq, amount, at FROM requests ORDER BY org_id, request_id
)
INSERT INTO credit_usage_attribution
       (org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata, created_at,
        shard, epoch, seq)
SELECT org_id, user_id,
       CASE WHEN what < 0.87 THEN 'llm_inference' WHEN what < 0.97 THEN 'embedding' ELSE 'image_generation' END,
       CASE WHEN what < 0.50 THEN 'gpt-4o-mini' WHEN what < 0.75 THEN 'gpt-4o' WHEN what < 0.87 THEN 'claude-sonnet'
            WHEN what < 0.97 THEN 'text-embedding-3-small' ELSE 'dall-e-3' END,
       amount, request_id, jsonb_build_object('provider', 'openai', 'tokens_used', amount * 17), at, 0, 1, seq
  FROM requests
 ORDER BY org_id, user_id, seq

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

-- name: note_entries_applied
-- Nothing waits for the relay.
UPDATE taximeter.accounts SET applied_seq = entry_seq WHERE applied_seq < entry_seq

-- name: begin_second_epoch
-- The usage is that of an epoch that is over: the shard opens at the next one, as after a rebuild.
UPDATE taximeter.watermarks SET epoch = 2 WHERE shard = 0 AND run_id IS NULL AND seq = 0

-- name: tidy
-- What autovacuum would come to by itself.
VACUUM (ANALYZE)

-- name: tidy_pools
-- One transaction has rewritten each pool once for each of its members, which no living system does.
VACUUM (FULL, ANALYZE) organization_credit_pools

-- name: size
-- How much there is, for the report.
SELECT (SELECT sum(requests) FROM taximeter.usage_monthly_by_org)::bigint AS rows,
       (SELECT count(*) FROM organizations) AS organisations,
       (SELECT count(*) FROM organization_members) AS members,
       pg_database_size(current_database()) AS bytes

-- name: server_version
-- For the head of the report.
SELECT 'Postgres ' || current_setting('server_version')

-- name: drop_database
-- Removes the database that a benchmark has made; its name is put in by the caller, who has chosen it.
DROP DATABASE IF EXISTS database_name WITH (FORCE)

-- name: make_organizations
-- As many organisations as a run wants, each with a pool that cannot run dry. $1 ids, $2 millicredits of each pool
WITH made AS (
    INSERT INTO organizations (id, org_name, slug, created_by)
    SELECT id, id, id, 'bench' FROM unnest($1::text[]) AS wanted (id)
    RETURNING id
)
SELECT add_credits_to_pool(id, $2::bigint, 1.00) FROM made

-- name: make_allocations
-- An allocation for each user, through the function that operators call. $1 org ids, $2 user ids, $3 millicredits each
SELECT allocate_credits_to_user(org_id, user_id, $3::bigint, 'bench')
  FROM unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
 ORDER BY org_id, user_id

-- name: fund_at_once
-- What the two above come to for many accounts, in a hundredth of the time: nothing of what triggers keep besides. Each account has one
-- entry, which counts as applied. $1 org ids, $2 user ids, $3 millicredits each
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[]) AS wanted (org_id, user_id)
), made AS (
    INSERT INTO organizations (id, org_name, slug, created_by)
    SELECT DISTINCT org_id, org_id, org_id, 'bench' FROM wanted ON CONFLICT (id) DO NOTHING
), pools AS (
    INSERT INTO organization_credit_pools AS pool (org_id, total_credits, allocated_credits)
    SELECT org_id, sum($3::bigint)::bigint, sum($3::bigint)::bigint FROM wanted GROUP BY org_id
    ON CONFLICT (org_id) DO UPDATE SET total_credits = pool.total_credits + EXCLUDED.total_credits,
                                       allocated_credits = pool.allocated_credits + EXCLUDED.allocated_credits
), allocated AS (
    INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, allocated_by)
    SELECT org_id, user_id, $3::bigint, 'bench' FROM wanted
), entries AS (
    INSERT INTO taximeter.account_entries (org_id, user_id, entry_seq, delta, kind)
    SELECT org_id, user_id, 1, $3::bigint, 'allocation' FROM wanted
)
INSERT INTO taximeter.accounts (org_id, user_id, entry_seq, applied_seq) SELECT org_id, user_id, 1, 1 FROM wanted

-- name: deduct
-- The guide's way of charging. $1 org id, $2 user id, $3 millicredits, $4 request id, $5 metadata, $6 model
SELECT success FROM deduct_credits($1::text, $2::text, $3::bigint, 'llm_inference', $6::text, $4::text, $5::text::jsonb)

-- name: deducted
-- What has been charged in all, for the proof that both sides did the work.
SELECT coalesce(sum(used_credits), 0)::bigint FROM user_credit_allocations

-- name: make_copies
-- The two tables that settling writes, with all their indexes, checks and defaults, but without partitions and triggers.
CREATE SCHEMA bench;
CREATE TABLE bench.charged_requests (LIKE taximeter.charged_requests INCLUDING ALL);
CREATE TABLE bench.credit_usage_attribution (LIKE public.credit_usage_attribution INCLUDING ALL);

-- name: settled_claims
-- What the last settle has written, to be copied again. $1 the watermark before it
SELECT org_id, request_id, phase, user_id, shard, epoch, seq, amount, created_at
  FROM taximeter.charged_requests
 WHERE shard = 0 AND seq > $1
 ORDER BY seq

-- name: settled_usage
-- As settled_claims. $1 the watermark before it
SELECT org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata::text, created_at,
       shard, epoch, seq, late, reserved
  FROM credit_usage_attribution
 WHERE shard = 0 AND seq > $1
 ORDER BY seq

-- name: watermark
-- How far the only shard is settled.
SELECT seq FROM taximeter.watermarks WHERE shard = 0

-- name: connections
-- Who works for this benchmark.
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'

-- name: wal_position
-- Bytes that were ever written ahead.
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn

-- name: sizes
-- What a row takes in each table that settling adds rows to, and in each of its indexes: those of this month. Its last page counts whole.
WITH tables AS (
    SELECT 'charged_requests' AS name, 'taximeter.charged_requests'::regclass AS of_table
    UNION ALL
    SELECT 'usage', inhrelid::regclass
      FROM pg_inherits
     WHERE inhparent = 'credit_usage_attribution'::regclass
       AND inhrelid = to_regclass('taximeter.attribution_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM'))
), counted AS (
    SELECT count(*) AS rows FROM taximeter.charged_requests WHERE seq IS NOT NULL
)
SELECT name, pg_relation_size(of_table)::float / rows AS bytes FROM tables, counted
UNION ALL
SELECT name || ' (' || array_to_string(ARRAY(SELECT pg_get_indexdef(indexrelid, place, true) FROM generate_series(1, indnkeyatts) AS place), ', ')
       || CASE WHEN indpred IS NULL THEN ')' ELSE ') where ' || pg_get_expr(indpred, indrelid) END,
       pg_relation_size(indexrelid)::float / rows
  FROM tables
  JOIN pg_index ON indrelid = of_table, counted
 ORDER BY name

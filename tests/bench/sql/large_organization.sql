-- An organisation of :users users, each with a row of everything; nothing of what triggers keep.
SET session_replication_role = replica;
INSERT INTO organizations (id, org_name, slug, created_by)
SELECT org, org, org, 'c' FROM unnest('{big,small}'::text[]) AS org;
INSERT INTO organization_members (org_id, user_id, role, created_at)
SELECT 'big', 'u' || n, CASE WHEN n = 1 THEN 'admin' ELSE 'member' END, timestamptz '2026-01-01T00:00Z' + n * interval '1 s'
  FROM generate_series(1, :users) AS n;
INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, created_at)
SELECT org_id, user_id, 100, created_at FROM organization_members;
INSERT INTO organization_credit_pools (org_id, total_credits, allocated_credits) VALUES ('big', 200::bigint * :users, 100::bigint * :users);
INSERT INTO taximeter.accounts (org_id, user_id, entry_seq, applied_seq)
SELECT org_id, user_id, 1, 1 FROM organization_members;
INSERT INTO taximeter.moves (org_id, kind, from_user, to_user, amount, state, actor, created_at, ended_at)
SELECT 'big', 'transfer', 'u' || n, 'u' || n + 1, 1, 'done', 'c', timestamptz '2026-01-01T00:00Z' + n * interval '1 s', now()
  FROM generate_series(1, :users) AS n;
INSERT INTO taximeter.audit_log (actor, action, org_id, at)
SELECT 'u' || n % 1000, CASE WHEN n % 1000 = 7 THEN 'org.rare' ELSE 'org.often' END, 'big',
       timestamptz '2026-01-01T00:00Z' + n * interval '1 s'
  FROM generate_series(1, :users) AS n;
INSERT INTO taximeter.usage_monthly_by_user
SELECT 'big', date '2026-11-01', user_id, array_fill(1::bigint, ARRAY[31]), array_fill(5::bigint, ARRAY[31])
  FROM organization_members;
INSERT INTO credit_usage_attribution (org_id, user_id, service_type, service_name, credits_used, created_at)
SELECT org_id, user_id, 'by_hand', 'm', 1, timestamptz '2026-11-02' + row_number() OVER () * interval '1 s'
  FROM organization_members;
RESET session_replication_role;

-- Why: the processes run as roles that own nothing. What they may do stands here: attribution, entries and audit log can be
-- added to and never be changed or deleted by them, and none of them can change the schema. The owner, who runs the migrations
-- and cleans up by hand, keeps every right.
--   taximeter_app      the API
--   taximeter_settler  the settler, and `taximeter check`
--   taximeter_sidecar  the sidecar: loads balances and checks keys
-- They cannot log in: an operator makes users with passwords in them, such as CREATE ROLE api LOGIN PASSWORD '...' IN ROLE taximeter_app.
-- Roles belong to the whole server, so they may be there already. Who migrates needs CREATEROLE only to make those that are missing.
--
-- A table of schema taximeter that a later migration adds may be read, added to and updated by the API and the settler, unless
-- that migration says otherwise with GRANT and REVOKE; tests/sql/test_grants.py asks for its line.
-- Locks: ACCESS EXCLUSIVE on nothing; the grants wait for nobody.
-- Older code beside it: yes, as the user that it logs in as now.

-- migrate:up
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['taximeter_app', 'taximeter_settler', 'taximeter_sidecar'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = role_name);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION
            -- Another database of this server is migrated at the same moment.
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                -- The way out stands in the message: dbmate prints no hint.
                RAISE EXCEPTION 'role % is missing, and % may not make it: as a superuser, CREATE ROLE % NOLOGIN',
                    role_name, current_user, role_name USING ERRCODE = 'insufficient_privilege';
        END;
    END LOOP;
END;
$$;

-- Postgres before 15 lets everybody make tables here.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public, taximeter TO taximeter_app, taximeter_settler, taximeter_sidecar;

-- Tables of migrations that are older than this one and are not named below, and of all that follow. Partitions are left
-- out: the right to use them is that of their table.
DO $$
DECLARE
    found regclass;
BEGIN
    FOR found IN SELECT oid FROM pg_class
                  WHERE relnamespace = 'taximeter'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %s TO taximeter_app, taximeter_settler', found);
    END LOOP;
END;
$$;
ALTER DEFAULT PRIVILEGES IN SCHEMA taximeter GRANT SELECT, INSERT, UPDATE ON TABLES TO taximeter_app, taximeter_settler;
ALTER DEFAULT PRIVILEGES IN SCHEMA taximeter GRANT USAGE ON SEQUENCES TO taximeter_app, taximeter_settler;

GRANT SELECT, INSERT, UPDATE ON
    organizations, organization_members, organization_subscriptions, organization_credit_pools, user_credit_allocations,
    org_billing_history
    TO taximeter_app;
-- Who reads usage settles what was charged before (docs/decisions/0017-readers-settle.md), which only adds.
GRANT SELECT, INSERT ON credit_usage_attribution TO taximeter_app;
GRANT USAGE ON SEQUENCE credit_usage_attribution_id_seq TO taximeter_app;

GRANT SELECT ON organizations, organization_members TO taximeter_settler;
GRANT SELECT, UPDATE ON organization_subscriptions TO taximeter_settler; -- It ends their periods.
GRANT SELECT, INSERT, UPDATE ON organization_credit_pools, user_credit_allocations TO taximeter_settler;
GRANT SELECT, INSERT ON org_billing_history, credit_usage_attribution TO taximeter_settler;
GRANT USAGE ON SEQUENCE credit_usage_attribution_id_seq TO taximeter_settler;

GRANT SELECT ON user_credit_allocations, taximeter.accounts TO taximeter_sidecar;

-- Append-only for everybody but the owner.
REVOKE UPDATE ON taximeter.account_entries, taximeter.audit_log FROM taximeter_app, taximeter_settler;
-- What settling writes is added and stays. Shards are made and removed by the settler.
REVOKE UPDATE ON
    taximeter.settled_batches, taximeter.charged_requests, taximeter.dead_letters, taximeter.lost_events
    FROM taximeter_app, taximeter_settler;
REVOKE INSERT ON taximeter.watermarks FROM taximeter_app;
-- Months are dropped by the owner.
REVOKE INSERT, UPDATE ON taximeter.dropped_months FROM taximeter_app, taximeter_settler;
-- Pools are refreshed by the settler, and a month is given once.
REVOKE INSERT, UPDATE ON taximeter.pool_refreshes FROM taximeter_app;
REVOKE UPDATE ON taximeter.pool_refreshes FROM taximeter_settler;
REVOKE INSERT, UPDATE ON taximeter.users FROM taximeter_settler;
-- What is kept for a while, and by whom it is pruned.
REVOKE INSERT, UPDATE ON taximeter.idempotent_answers FROM taximeter_settler;
REVOKE UPDATE ON taximeter.idempotent_answers FROM taximeter_app;
GRANT DELETE ON taximeter.settled_batches, taximeter.idempotent_answers TO taximeter_settler;
-- A change of the number of shards.
GRANT DELETE ON taximeter.watermarks TO taximeter_settler;

-- The one change of the schema that happens while the system runs, and only in this shape.
ALTER FUNCTION taximeter.ensure_attribution_partitions(integer) SECURITY DEFINER;
REVOKE EXECUTE ON FUNCTION taximeter.ensure_attribution_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.ensure_attribution_partitions(integer) TO taximeter_settler;

-- migrate:down
GRANT EXECUTE ON FUNCTION taximeter.ensure_attribution_partitions(integer) TO PUBLIC;
ALTER FUNCTION taximeter.ensure_attribution_partitions(integer) SECURITY INVOKER;
ALTER DEFAULT PRIVILEGES IN SCHEMA taximeter REVOKE ALL ON SEQUENCES FROM taximeter_app, taximeter_settler;
ALTER DEFAULT PRIVILEGES IN SCHEMA taximeter REVOKE ALL ON TABLES FROM taximeter_app, taximeter_settler;
REVOKE ALL ON ALL TABLES IN SCHEMA public, taximeter FROM taximeter_app, taximeter_settler, taximeter_sidecar;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public, taximeter FROM taximeter_app, taximeter_settler, taximeter_sidecar;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public, taximeter FROM taximeter_app, taximeter_settler, taximeter_sidecar;
REVOKE ALL ON SCHEMA public, taximeter FROM taximeter_app, taximeter_settler, taximeter_sidecar;
-- Roles with users in them, or that another database of this server needs, stay.
DO $$
DECLARE
    role_name text;
BEGIN
    FOR role_name IN SELECT rolname FROM pg_roles AS role
                      WHERE rolname IN ('taximeter_app', 'taximeter_settler', 'taximeter_sidecar')
                        AND NOT EXISTS (SELECT FROM pg_auth_members WHERE roleid = role.oid) LOOP
        BEGIN
            EXECUTE format('DROP ROLE %I', role_name);
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege OR undefined_object THEN NULL;
        END;
    END LOOP;
END;
$$;

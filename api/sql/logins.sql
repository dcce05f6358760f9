-- name: make_logins
-- Why: on embedded servers each process logs in as a user of its own, as it should in production. The roles are those of
-- the migrations; there are no passwords, since an embedded server trusts its own machine alone.
DO $$
DECLARE
    login record;
BEGIN
    FOR login IN SELECT * FROM (VALUES ('api', 'taximeter_app'), ('settler', 'taximeter_settler'),
                                       ('sidecar', 'taximeter_sidecar')) AS wanted (name, role_name) LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = login.name);
        EXECUTE format('CREATE ROLE %I LOGIN IN ROLE %I', login.name, login.role_name);
    END LOOP;
END;
$$;

-- Why: [:cntrl:] means what the locale of the database says: beside the ASCII controls some count U+0080 to U+009F, and ICU the characters
-- that join an emoji. A user whom the API and the meter take was refused here, as an internal error. It is the ASCII controls everywhere now,
-- as in meter/wire/limits.py.
-- Locks: ACCESS EXCLUSIVE for a moment on each table, then a look at its rows that nobody waits for.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE organization_members
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$') NOT VALID;
ALTER TABLE user_credit_allocations
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$') NOT VALID;
ALTER TABLE taximeter.users
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$') NOT VALID;
ALTER TABLE taximeter.api_keys
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$') NOT VALID;
ALTER TABLE taximeter.system_admins
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$') NOT VALID;
ALTER TABLE taximeter.system_keys
    DROP CONSTRAINT name_is_short,
    ADD CONSTRAINT name_is_short CHECK (name ~ '^[^\u0001-\u001f\u007f]{1,255}$') NOT VALID;
ALTER TABLE organization_members VALIDATE CONSTRAINT user_id_is_well_formed;
ALTER TABLE user_credit_allocations VALIDATE CONSTRAINT user_id_is_well_formed;
ALTER TABLE taximeter.users VALIDATE CONSTRAINT user_id_is_well_formed;
ALTER TABLE taximeter.api_keys VALIDATE CONSTRAINT user_id_is_well_formed;
ALTER TABLE taximeter.system_admins VALIDATE CONSTRAINT user_id_is_well_formed;
ALTER TABLE taximeter.system_keys VALIDATE CONSTRAINT name_is_short;

-- Who did it is `taximeter.actor`, which the API sets for its transaction: a user, or a key of the installation.
CREATE OR REPLACE FUNCTION taximeter.write_audit(action text, org_id text, target text, before jsonb, after jsonb, request_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor text := current_setting('taximeter.actor', true);
BEGIN
    IF actor IS NULL OR actor !~ '^[^\u0001-\u001f\u007f]{1,255}$' THEN
        RAISE EXCEPTION 'taximeter.actor must say who does it, in 1 to 255 characters' USING ERRCODE = 'check_violation';
    END IF;
    IF actor ~ '^(taximeter|operator):' AND actor !~ '^taximeter:key:[0-9A-Za-z]{12}$' THEN
        RAISE EXCEPTION 'taximeter.actor is a user or a key of the installation, and not one of our own programs'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    VALUES (actor, action, org_id, target, before, after, request_id);
END;
$$;

-- migrate:down
CREATE OR REPLACE FUNCTION taximeter.write_audit(action text, org_id text, target text, before jsonb, after jsonb, request_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor text := current_setting('taximeter.actor', true);
BEGIN
    IF actor IS NULL OR actor !~ '^[^[:cntrl:]]{1,255}$' THEN
        RAISE EXCEPTION 'taximeter.actor must say who does it, in 1 to 255 characters' USING ERRCODE = 'check_violation';
    END IF;
    IF actor ~ '^(taximeter|operator):' AND actor !~ '^taximeter:key:[0-9A-Za-z]{12}$' THEN
        RAISE EXCEPTION 'taximeter.actor is a user or a key of the installation, and not one of our own programs'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    VALUES (actor, action, org_id, target, before, after, request_id);
END;
$$;
-- Refused where a name has been taken since that the old rule does not allow.
ALTER TABLE organization_members
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$');
ALTER TABLE user_credit_allocations
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$');
ALTER TABLE taximeter.users
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$');
ALTER TABLE taximeter.api_keys
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$');
ALTER TABLE taximeter.system_admins
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$');
ALTER TABLE taximeter.system_keys
    DROP CONSTRAINT name_is_short,
    ADD CONSTRAINT name_is_short CHECK (name ~ '^[^[:cntrl:]]{1,255}$');

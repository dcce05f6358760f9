-- Why: an organisation moves to another cell while it works. What is said of one that is away is written down here first, so that a shard
-- that is opened anew knows it too, and nobody changes its books meanwhile. See docs/cells.md.
-- Locks: ACCESS EXCLUSIVE on the watermarks, SHARE ROW EXCLUSIVE on allocations, attribution and the other tables of organisations, each
-- for the time of a trigger.
-- Older code beside it: yes, as long as no organisation moves.

-- migrate:up
-- Whoever changes an allocation goes on to its pool; whoever settles has both before usage.
LOCK TABLE user_credit_allocations, organization_credit_pools, credit_usage_attribution IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE taximeter.organizations_away (
    org_id text PRIMARY KEY,
    said   text NOT NULL CONSTRAINT said_is_known CHECK (said ~ '^(moving [0-9a-f-]{36}|gone [!-~]+ [!-~]+ [!-~]+)$')
);
COMMENT ON TABLE taximeter.organizations_away IS 'Organisations that nobody may use or change here: they are being moved, or live in another cell.';
COMMENT ON COLUMN taximeter.organizations_away.said IS 'moving, and which move; or gone, with cell and addresses.';

CREATE TABLE taximeter.cell_moves (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id      text NOT NULL,
    role        text NOT NULL CONSTRAINT role_is_known CHECK (role IN ('source', 'target')),
    cell        text NOT NULL,
    api_url     text NOT NULL,
    sidecar_url text NOT NULL,
    state       text NOT NULL CONSTRAINT state_is_known CHECK (state IN ('copying', 'closed', 'gone', 'arrived', 'done', 'undone')),
    started_at  timestamptz NOT NULL DEFAULT now(),
    closed_at   timestamptz,
    ended_at    timestamptz,
    proof       jsonb,
    CONSTRAINT ended_has_a_time CHECK ((state IN ('done', 'undone')) = (ended_at IS NOT NULL))
);
COMMENT ON COLUMN taximeter.cell_moves.cell IS 'The other cell.';
COMMENT ON COLUMN taximeter.cell_moves.proof IS 'Rows and digests of what was copied, the same on both sides.';
-- Serves "the move of this organisation that has not ended", and keeps it the only one.
CREATE UNIQUE INDEX one_cell_move_at_a_time ON taximeter.cell_moves (org_id) WHERE state NOT IN ('done', 'undone');

CREATE TABLE taximeter.cell_move_holds (
    org_id   text NOT NULL,
    key      text NOT NULL,
    kind     text NOT NULL CONSTRAINT kind_is_known CHECK (kind IN ('hold', 'outcome')),
    account  text NOT NULL,
    record   text NOT NULL,
    left_ms  bigint NOT NULL,
    counts   boolean NOT NULL,
    PRIMARY KEY (org_id, key)
);
COMMENT ON TABLE taximeter.cell_move_holds IS 'Open holds that came with an organisation, until they are open here.';

CREATE TABLE taximeter.cell_late_charges (
    org_id     text NOT NULL,
    request_id text NOT NULL,
    user_id    text NOT NULL,
    amount     bigint NOT NULL CONSTRAINT amount_is_in_range CHECK (amount BETWEEN 0 AND 1000000000000),
    payload    text NOT NULL,
    from_cell  text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, request_id)
);
COMMENT ON TABLE taximeter.cell_late_charges IS 'The directory: charges of requests that ended in a cell which their organisation has left; its cell takes them.';

-- Keys that came from other cells: their check digits are made with the seals of those.
CREATE TABLE taximeter.key_seals_taken (
    secret   bytea PRIMARY KEY CONSTRAINT secret_is_long CHECK (length(secret) = 32),
    taken_at timestamptz NOT NULL DEFAULT now()
);

REVOKE ALL ON taximeter.organizations_away, taximeter.cell_moves, taximeter.cell_move_holds, taximeter.cell_late_charges,
              taximeter.key_seals_taken
  FROM taximeter_app, taximeter_settler, taximeter_sidecar;
GRANT SELECT ON taximeter.organizations_away TO taximeter_app, taximeter_sidecar;
GRANT SELECT, DELETE ON taximeter.organizations_away TO taximeter_settler;
GRANT SELECT, UPDATE ON taximeter.cell_moves TO taximeter_settler;
GRANT SELECT ON taximeter.cell_move_holds TO taximeter_settler;
GRANT SELECT, INSERT, DELETE ON taximeter.cell_late_charges TO taximeter_app;
GRANT SELECT ON taximeter.key_seals_taken TO taximeter_app, taximeter_sidecar;

ALTER TABLE taximeter.watermarks
    ADD COLUMN departures bigint NOT NULL DEFAULT 0 CONSTRAINT departures_is_not_negative CHECK (departures >= 0);
COMMENT ON COLUMN taximeter.watermarks.departures IS 'How often an organisation of this shard was closed for a move: a Redis that knows of fewer has gone back in time.';

-- Refuses a change of what belongs to an organisation that is away. Whoever closes one takes the same lock alone, so that a change is
-- either before the closing or refused.
CREATE FUNCTION taximeter.refuse_away() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    org  text;
BEGIN
    IF TG_TABLE_NAME = 'organizations' THEN
        org := CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END;
    ELSE
        org := CASE WHEN TG_OP = 'DELETE' THEN OLD.org_id ELSE NEW.org_id END;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(74100, hashtext(org));
    IF EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = org) THEN
        RAISE EXCEPTION 'organisation % is being moved to another cell, or lives there', org
            USING ERRCODE = 'object_not_in_prerequisite_state', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END;
$$;

-- What is settled is not asked: an organisation is away only once all of its events are settled. What is brought from another cell is
-- written while the organisation is away here.
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OR DELETE ON organizations
    FOR EACH ROW WHEN (current_setting('taximeter.importing', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION taximeter.refuse_away();
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OR DELETE ON organization_members
    FOR EACH ROW WHEN (current_setting('taximeter.importing', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION taximeter.refuse_away();
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OR DELETE ON organization_subscriptions
    FOR EACH ROW WHEN (current_setting('taximeter.importing', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION taximeter.refuse_away();
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OR DELETE ON org_billing_history
    FOR EACH ROW WHEN (current_setting('taximeter.importing', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION taximeter.refuse_away();
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE OF revoked_at, operations ON taximeter.api_keys
    FOR EACH ROW WHEN (current_setting('taximeter.importing', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION taximeter.refuse_away();
CREATE TRIGGER away_is_left_alone BEFORE INSERT ON taximeter.moves
    FOR EACH ROW WHEN (current_setting('taximeter.importing', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION taximeter.refuse_away();
-- Usage that is written or deleted by hand is noted there.
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OF used_by_hand ON taximeter.accounts
    FOR EACH ROW WHEN (coalesce(current_setting('taximeter.settling', true), '') <> 'on'
                       AND coalesce(current_setting('taximeter.importing', true), '') <> 'on')
    EXECUTE FUNCTION taximeter.refuse_away();
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OR DELETE ON organization_credit_pools
    FOR EACH ROW WHEN (coalesce(current_setting('taximeter.settling', true), '') <> 'on'
                       AND coalesce(current_setting('taximeter.importing', true), '') <> 'on')
    EXECUTE FUNCTION taximeter.refuse_away();
CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OR DELETE ON user_credit_allocations
    FOR EACH ROW WHEN (coalesce(current_setting('taximeter.settling', true), '') <> 'on'
                       AND coalesce(current_setting('taximeter.importing', true), '') <> 'on')
    EXECUTE FUNCTION taximeter.refuse_away();

-- What is brought from another cell comes with its entries and its rollups.
CREATE OR REPLACE TRIGGER allocation_inserted AFTER INSERT ON user_credit_allocations
    FOR EACH ROW WHEN ((NEW.allocated_credits <> 0 OR NEW.used_credits <> 0)
                       AND coalesce(current_setting('taximeter.importing', true), '') <> 'on')
    EXECUTE FUNCTION taximeter.allocation_changed();
CREATE OR REPLACE TRIGGER usage_is_rolled_up AFTER INSERT ON credit_usage_attribution REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT WHEN (coalesce(current_setting('taximeter.importing', true), '') <> 'on')
    EXECUTE FUNCTION taximeter.usage_inserted();

-- Jobs pass over an organisation that is away: what is due waits until it is let in, here or there.
DO $$
DECLARE
    job  record;
    text text;
BEGIN
    FOR job IN
        SELECT * FROM (VALUES
            ('taximeter.refresh_pools'::regproc, 'WHERE due.monthly_refresh_amount', 'due'),
            ('taximeter.begin_expiry'::regproc, 'WHERE allocation.is_active AND allocation.closing IS NULL AND allocation.expires_at', 'allocation'),
            ('taximeter.end_billing_periods'::regproc, 'WHERE subscription.status <> ''canceled'' AND', 'subscription')
        ) AS jobs (name, condition, rows)
    LOOP
        text := pg_get_functiondef(job.name);
        IF position(job.condition IN text) = 0 THEN
            RAISE EXCEPTION '% is not as it is changed here', job.name;
        END IF;
        EXECUTE replace(text, job.condition, format(
            'WHERE NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = %s.org_id) AND%s',
            job.rows, substr(job.condition, 6)));
    END LOOP;
END;
$$;

-- migrate:down
DO $$
DECLARE
    job regproc;
BEGIN
    FOREACH job IN ARRAY ARRAY['taximeter.refresh_pools', 'taximeter.begin_expiry', 'taximeter.end_billing_periods']::regproc[] LOOP
        EXECUTE regexp_replace(
            pg_get_functiondef(job),
            'NOT EXISTS \(SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = \w+.org_id\) AND ', '');
    END LOOP;
END;
$$;
LOCK TABLE user_credit_allocations, organization_credit_pools, credit_usage_attribution IN SHARE ROW EXCLUSIVE MODE;
CREATE OR REPLACE TRIGGER allocation_inserted AFTER INSERT ON user_credit_allocations
    FOR EACH ROW WHEN (NEW.allocated_credits <> 0 OR NEW.used_credits <> 0)
    EXECUTE FUNCTION taximeter.allocation_changed();
CREATE OR REPLACE TRIGGER usage_is_rolled_up AFTER INSERT ON credit_usage_attribution REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.usage_inserted();
DROP TRIGGER away_is_left_alone ON user_credit_allocations;
DROP TRIGGER away_is_left_alone ON organization_credit_pools;
DROP TRIGGER away_is_left_alone ON taximeter.accounts;
DROP TRIGGER away_is_left_alone ON taximeter.moves;
DROP TRIGGER away_is_left_alone ON taximeter.api_keys;
DROP TRIGGER away_is_left_alone ON org_billing_history;
DROP TRIGGER away_is_left_alone ON organization_subscriptions;
DROP TRIGGER away_is_left_alone ON organization_members;
DROP TRIGGER away_is_left_alone ON organizations;
DROP FUNCTION taximeter.refuse_away;
ALTER TABLE taximeter.watermarks DROP CONSTRAINT departures_is_not_negative, DROP COLUMN departures;
DROP TABLE taximeter.key_seals_taken, taximeter.cell_late_charges, taximeter.cell_move_holds, taximeter.cell_moves, taximeter.organizations_away;

-- Why: allocated of a pool is the sum of its active allocations, always, so that the query which operators know (active rows against
-- pool) matches after a removal or an expiry too. What closed allocations have used stands in a column of its own:
-- total = available + allocated + closed.
-- Locks: EXCLUSIVE on the allocations and ACCESS EXCLUSIVE on the pools while these are written anew, a second a hundred
-- thousand: settling and administration wait as long, requests do not.
-- Older code beside it: yes; what it writes to allocations moves the pool by the new triggers.

-- migrate:up
-- Whoever changes an allocation goes on to its pool: they are waited for before the pools are touched.
LOCK TABLE user_credit_allocations IN EXCLUSIVE MODE;
SET LOCAL taximeter.settling = 'on'; -- The sums are moved here, and not by a statement of somebody's.
ALTER TABLE organization_credit_pools
    ADD COLUMN closed_credits bigint NOT NULL DEFAULT 0
        CONSTRAINT closed_is_in_range CHECK (closed_credits BETWEEN 0 AND 900000000000000);
COMMENT ON COLUMN organization_credit_pools.closed_credits IS 'What closed allocations have used.';
UPDATE organization_credit_pools AS pool
   SET closed_credits = closed.credits, allocated_credits = pool.allocated_credits - closed.credits
  FROM (SELECT org_id, sum(allocated_credits)::bigint AS credits
          FROM user_credit_allocations WHERE NOT is_active GROUP BY org_id HAVING sum(allocated_credits) > 0) AS closed
 WHERE closed.org_id = pool.org_id;
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 170000 THEN
        EXECUTE 'ALTER TABLE organization_credit_pools ALTER COLUMN available_credits SET EXPRESSION AS (total_credits - allocated_credits - closed_credits)';
    ELSE -- The column changes its place, which nobody should go by.
        ALTER TABLE organization_credit_pools DROP COLUMN available_credits;
        EXECUTE 'ALTER TABLE organization_credit_pools ADD COLUMN available_credits bigint GENERATED ALWAYS AS (total_credits - allocated_credits - closed_credits) STORED';
    END IF;
END;
$$;

-- Moves the sums of a pool. Raises `pool_can_pay` when what must be paid does not fit; a closed row is never refused, since what it
-- holds was spent.
CREATE FUNCTION taximeter.move_pool(org text, allocated_change bigint, closed_change bigint, used_change bigint, enforce boolean)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    need CONSTANT bigint := allocated_change + closed_change;
    have bigint;
BEGIN
    UPDATE public.organization_credit_pools AS pool
       SET allocated_credits = pool.allocated_credits + allocated_change,
           closed_credits = pool.closed_credits + closed_change,
           used_credits = pool.used_credits + used_change,
           updated_at = now()
     WHERE pool.org_id = org
       AND (NOT enforce OR need <= 0 OR pool.total_credits - pool.allocated_credits - pool.closed_credits >= need);
    IF NOT FOUND THEN
        SELECT pool.available_credits INTO have FROM public.organization_credit_pools AS pool WHERE pool.org_id = org;
        RAISE EXCEPTION 'Insufficient credits in the pool of organisation %: need % millicredits, have %',
            org, need, coalesce(have, 0)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'pool_can_pay', SCHEMA = 'public',
                  TABLE = 'organization_credit_pools';
    END IF;
END;
$$;
DROP FUNCTION taximeter.move_pool(text, bigint, bigint, boolean);

CREATE OR REPLACE FUNCTION taximeter.allocation_changed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settling      boolean := coalesce(current_setting('taximeter.settling', true), '') = 'on';
    charging      boolean := coalesce(current_setting('taximeter.charging', true), '') = 'on';
    kind          text := nullif(current_setting('taximeter.entry_kind', true), '');
    org           text;
    usr           text;
    active_change bigint := 0; -- Of what active rows have allocated,
    closed_change bigint := 0; -- and of what closed ones have.
    used_change   bigint := 0;
    stays_open    boolean := false;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        org := NEW.org_id;
        usr := NEW.user_id;
        stays_open := NEW.is_active;
        used_change := NEW.used_credits;
        active_change := CASE WHEN NEW.is_active THEN NEW.allocated_credits ELSE 0 END;
        closed_change := CASE WHEN NEW.is_active THEN 0 ELSE NEW.allocated_credits END;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        org := OLD.org_id;
        usr := OLD.user_id;
        used_change := used_change - OLD.used_credits;
        active_change := active_change - CASE WHEN OLD.is_active THEN OLD.allocated_credits ELSE 0 END;
        closed_change := closed_change - CASE WHEN OLD.is_active THEN 0 ELSE OLD.allocated_credits END;
    END IF;
    IF TG_OP = 'INSERT' THEN
        kind := coalesce(kind, CASE WHEN settling THEN 'give_back' ELSE 'allocation' END);
    ELSIF TG_OP = 'DELETE' THEN
        kind := coalesce(kind, 'deletion');
    ELSE
        kind := coalesce(kind, CASE
            WHEN settling THEN 'give_back'
            WHEN OLD.is_active AND NOT NEW.is_active THEN 'closing'
            WHEN active_change + closed_change <> 0 THEN 'allocation'
            WHEN charging THEN 'deduction'
            ELSE 'correction' END);
    END IF;

    PERFORM taximeter.append_entry(
        org, usr, active_change + closed_change - CASE WHEN settling THEN 0 ELSE used_change END, kind,
        nullif(current_setting('taximeter.entry_reference', true), ''),
        nullif(current_setting('taximeter.entry_hold', true), ''));
    IF used_change <> 0 AND NOT settling AND NOT charging THEN
        PERFORM taximeter.note_used_by_hand(org, usr, used_change);
    END IF;
    -- A transfer has lowered one allocation before it raises the other: it asks nothing of the pool, overdrawn or not.
    PERFORM taximeter.move_pool(
        org, active_change, closed_change, CASE WHEN settling THEN 0 ELSE used_change END,
        stays_open AND NOT settling AND kind <> 'transfer');
    RETURN NULL;
END;
$$;

-- A row that opens or closes moves its part of the pool, also when its figures stay.
DROP TRIGGER allocation_updated ON user_credit_allocations;
CREATE TRIGGER allocation_updated AFTER UPDATE ON user_credit_allocations
    FOR EACH ROW WHEN (
        OLD.allocated_credits <> NEW.allocated_credits
        OR OLD.is_active <> NEW.is_active
        OR (OLD.used_credits <> NEW.used_credits AND current_setting('taximeter.settling', true) IS DISTINCT FROM 'on'))
    EXECUTE FUNCTION taximeter.allocation_changed();

DROP TRIGGER pool_starts_empty ON organization_credit_pools;
CREATE TRIGGER pool_starts_empty BEFORE INSERT ON organization_credit_pools
    FOR EACH ROW WHEN (NEW.allocated_credits <> 0 OR NEW.used_credits <> 0 OR NEW.closed_credits <> 0)
    EXECUTE FUNCTION taximeter.refuse('allocated_credits, closed_credits and used_credits are sums of allocations and start at 0');
DROP TRIGGER pool_sums_are_derived ON organization_credit_pools;
CREATE TRIGGER pool_sums_are_derived BEFORE UPDATE OF allocated_credits, used_credits, closed_credits ON organization_credit_pools
    FOR EACH ROW WHEN (
        (OLD.allocated_credits <> NEW.allocated_credits OR OLD.used_credits <> NEW.used_credits
         OR OLD.closed_credits <> NEW.closed_credits)
        AND pg_trigger_depth() = 0 AND current_setting('taximeter.settling', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION taximeter.refuse('allocated_credits, closed_credits and used_credits are sums of allocations; change those');
DROP TRIGGER pool_covers_its_allocations ON organization_credit_pools;
CREATE TRIGGER pool_covers_its_allocations BEFORE UPDATE OF total_credits ON organization_credit_pools
    FOR EACH ROW WHEN (
        NEW.total_credits < OLD.total_credits AND NEW.total_credits < NEW.allocated_credits + NEW.closed_credits)
    EXECUTE FUNCTION taximeter.refuse('total_credits would fall below what is allocated or was used; take back allocations first');

-- migrate:down
LOCK TABLE user_credit_allocations IN EXCLUSIVE MODE;
SET LOCAL taximeter.settling = 'on';
DROP TRIGGER pool_covers_its_allocations ON organization_credit_pools;
DROP TRIGGER pool_sums_are_derived ON organization_credit_pools;
DROP TRIGGER pool_starts_empty ON organization_credit_pools;
UPDATE organization_credit_pools SET allocated_credits = allocated_credits + closed_credits WHERE closed_credits > 0;
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 170000 THEN
        EXECUTE 'ALTER TABLE organization_credit_pools ALTER COLUMN available_credits SET EXPRESSION AS (total_credits - allocated_credits)';
    ELSE -- The column changes its place, which nobody should go by.
        ALTER TABLE organization_credit_pools DROP COLUMN available_credits;
        EXECUTE 'ALTER TABLE organization_credit_pools ADD COLUMN available_credits bigint GENERATED ALWAYS AS (total_credits - allocated_credits) STORED';
    END IF;
END;
$$;
ALTER TABLE organization_credit_pools DROP COLUMN closed_credits;
CREATE TRIGGER pool_starts_empty BEFORE INSERT ON organization_credit_pools
    FOR EACH ROW WHEN (NEW.allocated_credits <> 0 OR NEW.used_credits <> 0)
    EXECUTE FUNCTION taximeter.refuse('allocated_credits and used_credits are sums of allocations and start at 0');
CREATE TRIGGER pool_sums_are_derived BEFORE UPDATE OF allocated_credits, used_credits ON organization_credit_pools
    FOR EACH ROW WHEN (
        (OLD.allocated_credits <> NEW.allocated_credits OR OLD.used_credits <> NEW.used_credits)
        AND pg_trigger_depth() = 0 AND current_setting('taximeter.settling', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION taximeter.refuse('allocated_credits and used_credits are sums of allocations; change those');
CREATE TRIGGER pool_covers_its_allocations BEFORE UPDATE OF total_credits ON organization_credit_pools
    FOR EACH ROW WHEN (NEW.total_credits < OLD.total_credits AND NEW.total_credits < NEW.allocated_credits)
    EXECUTE FUNCTION taximeter.refuse('total_credits would fall below what is allocated; take back allocations first');
DROP FUNCTION taximeter.move_pool(text, bigint, bigint, bigint, boolean);
CREATE FUNCTION taximeter.move_pool(org text, allocated_change bigint, used_change bigint, enforce boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    have bigint;
BEGIN
    UPDATE public.organization_credit_pools AS pool
       SET allocated_credits = pool.allocated_credits + allocated_change,
           used_credits = pool.used_credits + used_change,
           updated_at = now()
     WHERE pool.org_id = org
       AND (NOT enforce OR allocated_change <= 0 OR pool.total_credits - pool.allocated_credits >= allocated_change);
    IF NOT FOUND THEN
        SELECT pool.available_credits INTO have FROM public.organization_credit_pools AS pool WHERE pool.org_id = org;
        RAISE EXCEPTION 'Insufficient credits in the pool of organisation %: need % millicredits, have %',
            org, allocated_change, coalesce(have, 0)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'pool_can_pay', SCHEMA = 'public',
                  TABLE = 'organization_credit_pools';
    END IF;
END;
$$;
CREATE OR REPLACE FUNCTION taximeter.allocation_changed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settling         boolean := coalesce(current_setting('taximeter.settling', true), '') = 'on';
    charging         boolean := coalesce(current_setting('taximeter.charging', true), '') = 'on';
    kind             text := nullif(current_setting('taximeter.entry_kind', true), '');
    org              text;
    usr              text;
    allocated_change bigint;
    used_change      bigint;
    stays_open       boolean := false;
BEGIN
    IF TG_OP = 'INSERT' THEN
        org := NEW.org_id;
        usr := NEW.user_id;
        allocated_change := NEW.allocated_credits;
        used_change := NEW.used_credits;
        stays_open := NEW.is_active;
        kind := coalesce(kind, CASE WHEN settling THEN 'give_back' ELSE 'allocation' END);
    ELSIF TG_OP = 'UPDATE' THEN
        org := NEW.org_id;
        usr := NEW.user_id;
        allocated_change := NEW.allocated_credits - OLD.allocated_credits;
        used_change := NEW.used_credits - OLD.used_credits;
        stays_open := NEW.is_active;
        kind := coalesce(kind, CASE
            WHEN settling THEN 'give_back'
            WHEN OLD.is_active AND NOT NEW.is_active THEN 'closing'
            WHEN allocated_change <> 0 THEN 'allocation'
            WHEN charging THEN 'deduction'
            ELSE 'correction' END);
    ELSE
        org := OLD.org_id;
        usr := OLD.user_id;
        allocated_change := -OLD.allocated_credits;
        used_change := -OLD.used_credits;
        kind := coalesce(kind, 'deletion');
    END IF;

    PERFORM taximeter.append_entry(
        org, usr, allocated_change - CASE WHEN settling THEN 0 ELSE used_change END, kind,
        nullif(current_setting('taximeter.entry_reference', true), ''),
        nullif(current_setting('taximeter.entry_hold', true), ''));
    IF used_change <> 0 AND NOT settling AND NOT charging THEN
        PERFORM taximeter.note_used_by_hand(org, usr, used_change);
    END IF;
    -- A transfer has lowered one allocation before it raises the other: it asks nothing of the pool, overdrawn or not.
    PERFORM taximeter.move_pool(
        org, allocated_change, CASE WHEN settling THEN 0 ELSE used_change END,
        stays_open AND NOT settling AND kind <> 'transfer');
    RETURN NULL;
END;
$$;
DROP TRIGGER allocation_updated ON user_credit_allocations;
CREATE TRIGGER allocation_updated AFTER UPDATE ON user_credit_allocations
    FOR EACH ROW WHEN (
        OLD.allocated_credits <> NEW.allocated_credits
        OR (OLD.used_credits <> NEW.used_credits AND current_setting('taximeter.settling', true) IS DISTINCT FROM 'on'))
    EXECUTE FUNCTION taximeter.allocation_changed();

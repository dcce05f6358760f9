-- Why: whatever changes what a user may spend, be it a function, the API or an operator in psql, must reach the live balance
-- and keep the pool right. Row triggers on the allocations see every change, so nobody can forget.
--
-- Settings that a transaction may set (with SET LOCAL):
--   taximeter.settling = 'on'        the live side has charged already: a change of `used` is no part of the entry, is not added to
--                                    the pool row by row (settle does it once a pool), and the limit of the pool is not enforced
--   taximeter.charging = 'on'        as deduct_credits does: attribution and `used` move together, nothing is by hand
--   taximeter.entry_kind             the kind of the entries that follow, in place of the derived one
--   taximeter.entry_reference        what the entries that follow refer to, such as a request id
--   taximeter.entry_hold             the live hold that the entries that follow end
-- Lock order: allocations sorted by (org_id, user_id); then their accounts; then pools sorted by org_id. The triggers run after the
-- whole statement, so one UPDATE of many allocations keeps it if it finds them sorted; else it may be the one that Postgres undoes, whole, to
-- end a deadlock. Charged requests and the daily rollup of an account are only
-- touched by those who hold its allocation.
--
-- Locks: ACCESS EXCLUSIVE on the allocations and the pools for a moment, to create the triggers.
-- Older code beside it: yes; its plain SQL now reaches the live balance.

-- migrate:up
CREATE FUNCTION taximeter.refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% of %.% is refused: %', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'restrict_violation', TABLE = TG_TABLE_NAME;
END;
$$;

-- Appends the next entry of an account and returns its number; NULL (and no entry) for a delta of 0.
-- The number is given under the lock of the account's row, so it is in the order of commits.
CREATE FUNCTION taximeter.append_entry(
    org text, usr text, delta bigint, kind text, reference text DEFAULT NULL, hold text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number bigint;
BEGIN
    IF org IS NULL OR usr IS NULL OR delta IS NULL OR kind IS NULL THEN
        RAISE EXCEPTION 'an entry needs an organisation, a user, a delta and a kind'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF delta = 0 THEN
        RETURN NULL;
    END IF;
    INSERT INTO taximeter.accounts AS account (org_id, user_id, entry_seq) VALUES (org, usr, 1)
    ON CONFLICT (org_id, user_id) DO UPDATE SET entry_seq = account.entry_seq + 1
    RETURNING account.entry_seq INTO number;
    INSERT INTO taximeter.account_entries (org_id, user_id, entry_seq, delta, kind, reference, hold)
    VALUES (org, usr, number, delta, kind, reference, hold);
    RETURN number;
END;
$$;

CREATE FUNCTION taximeter.note_used_by_hand(org text, usr text, millicredits bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO taximeter.accounts AS account (org_id, user_id, used_by_hand) VALUES (org, usr, millicredits)
    ON CONFLICT (org_id, user_id) DO UPDATE SET used_by_hand = account.used_by_hand + EXCLUDED.used_by_hand;
$$;

-- Moves the allocated and used of a pool. Raises `pool_can_pay` when an increase that must be paid does not fit; a closed row
-- is never refused, since what it holds was spent.
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

CREATE FUNCTION taximeter.allocation_changed() RETURNS trigger
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

-- The name sorts after RI_: a missing pool or organisation is reported by its foreign key.
CREATE TRIGGER allocation_inserted AFTER INSERT ON user_credit_allocations
    FOR EACH ROW WHEN (NEW.allocated_credits <> 0 OR NEW.used_credits <> 0)
    EXECUTE FUNCTION taximeter.allocation_changed();
CREATE TRIGGER allocation_deleted AFTER DELETE ON user_credit_allocations
    FOR EACH ROW WHEN (OLD.allocated_credits <> 0 OR OLD.used_credits <> 0)
    EXECUTE FUNCTION taximeter.allocation_changed();
-- The condition keeps the function out of the path of settle, which moves `used` alone.
CREATE TRIGGER allocation_updated AFTER UPDATE ON user_credit_allocations
    FOR EACH ROW WHEN (
        OLD.allocated_credits <> NEW.allocated_credits
        OR (OLD.used_credits <> NEW.used_credits AND current_setting('taximeter.settling', true) IS DISTINCT FROM 'on'))
    EXECUTE FUNCTION taximeter.allocation_changed();

-- Closing, however it is done, keeps what was used and gives the rest back.
CREATE FUNCTION taximeter.close_allocation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.allocated_credits := NEW.used_credits;
    NEW.updated_at := now();
    RETURN NEW;
END;
$$;
CREATE TRIGGER allocation_closes BEFORE UPDATE OF is_active ON user_credit_allocations
    FOR EACH ROW WHEN (OLD.is_active AND NOT NEW.is_active)
    EXECUTE FUNCTION taximeter.close_allocation();

-- A closed row is born when a charge finds no allocation. Its organisation may have lost its pool by then: it gets an empty one.
CREATE FUNCTION taximeter.ensure_pool() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.organization_credit_pools (org_id) VALUES (NEW.org_id) ON CONFLICT (org_id) DO NOTHING;
    RETURN NEW;
END;
$$;
CREATE TRIGGER closed_allocation_has_a_pool BEFORE INSERT ON user_credit_allocations
    FOR EACH ROW WHEN (NOT NEW.is_active)
    EXECUTE FUNCTION taximeter.ensure_pool();

CREATE TRIGGER allocation_keeps_its_owner BEFORE UPDATE OF id, org_id, user_id ON user_credit_allocations
    FOR EACH ROW WHEN (OLD.id <> NEW.id OR OLD.org_id <> NEW.org_id OR OLD.user_id <> NEW.user_id)
    EXECUTE FUNCTION taximeter.refuse('an allocation keeps its id, organisation and user; close it and open another');
CREATE TRIGGER allocations_are_not_truncated BEFORE TRUNCATE ON user_credit_allocations
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('the live balances would not hear of it; use DELETE');

-- allocated and used of a pool are sums of its allocations: only the triggers above and settle may move them.
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

-- The ledger side is append-only.
CREATE TRIGGER entries_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.account_entries
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('entries are append-only; append another entry');
CREATE TRIGGER accounts_are_kept BEFORE DELETE OR TRUNCATE ON taximeter.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('entry numbers must go on; accounts are kept for ever');
CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('the audit log is append-only');

-- migrate:down
DROP TRIGGER audit_log_is_append_only ON taximeter.audit_log;
DROP TRIGGER accounts_are_kept ON taximeter.accounts;
DROP TRIGGER entries_are_append_only ON taximeter.account_entries;
DROP TRIGGER pool_covers_its_allocations ON organization_credit_pools;
DROP TRIGGER pool_sums_are_derived ON organization_credit_pools;
DROP TRIGGER pool_starts_empty ON organization_credit_pools;
DROP TRIGGER allocations_are_not_truncated ON user_credit_allocations;
DROP TRIGGER allocation_keeps_its_owner ON user_credit_allocations;
DROP TRIGGER closed_allocation_has_a_pool ON user_credit_allocations;
DROP FUNCTION taximeter.ensure_pool();
DROP TRIGGER allocation_closes ON user_credit_allocations;
DROP FUNCTION taximeter.close_allocation();
DROP TRIGGER allocation_updated ON user_credit_allocations;
DROP TRIGGER allocation_deleted ON user_credit_allocations;
DROP TRIGGER allocation_inserted ON user_credit_allocations;
DROP FUNCTION taximeter.allocation_changed();
DROP FUNCTION taximeter.move_pool(text, bigint, bigint, boolean);
DROP FUNCTION taximeter.note_used_by_hand(text, text, bigint);
DROP FUNCTION taximeter.append_entry(text, text, bigint, text, text, text);
DROP FUNCTION taximeter.refuse();

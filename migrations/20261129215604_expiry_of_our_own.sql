-- Why: operators replace deactivate_expired_allocations(), as their guide shows, and make an index under the name that the guide gives it.
-- What closes allocations for us has a name of its own, so that neither does anything to it.
-- Locks: SHARE UPDATE EXCLUSIVE on the index of expiring allocations for a moment.
-- Older code beside it: yes.

-- migrate:up
ALTER INDEX idx_user_allocations_expires RENAME TO allocations_by_expiry;
COMMENT ON INDEX allocations_by_expiry IS 'The guide makes idx_user_allocations_expires: that name is left to operators.';

-- Closes and renews what has expired; returns how many were closed. All allocations are locked, in order, before
-- the first is closed, since closing one locks its pool.
CREATE FUNCTION taximeter.close_expired() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expired_ids uuid[];
    expired_id  uuid;
BEGIN
    SELECT array_agg(locked.id) INTO expired_ids
      FROM (SELECT allocation.id FROM public.user_credit_allocations AS allocation
             WHERE allocation.is_active AND allocation.expires_at <= now()
             ORDER BY allocation.org_id, allocation.user_id
               FOR NO KEY UPDATE) AS locked;
    FOREACH expired_id IN ARRAY coalesce(expired_ids, '{}') LOOP
        PERFORM taximeter.expire_allocation(expired_id);
    END LOOP;
    RETURN coalesce(array_length(expired_ids, 1), 0);
END;
$$;

-- The contract's name for it. Nothing of ours calls this.
CREATE OR REPLACE FUNCTION deactivate_expired_allocations() RETURNS integer
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT taximeter.close_expired();
$$;

-- migrate:down
CREATE OR REPLACE FUNCTION deactivate_expired_allocations() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expired_ids uuid[];
    expired_id  uuid;
BEGIN
    SELECT array_agg(locked.id) INTO expired_ids
      FROM (SELECT allocation.id FROM public.user_credit_allocations AS allocation
             WHERE allocation.is_active AND allocation.expires_at <= now()
             ORDER BY allocation.org_id, allocation.user_id
               FOR NO KEY UPDATE) AS locked;
    FOREACH expired_id IN ARRAY coalesce(expired_ids, '{}') LOOP
        PERFORM taximeter.expire_allocation(expired_id);
    END LOOP;
    RETURN coalesce(array_length(expired_ids, 1), 0);
END;
$$;
DROP FUNCTION taximeter.close_expired();
DROP INDEX IF EXISTS idx_user_allocations_expires; -- Of the guide, if somebody followed it.
COMMENT ON INDEX allocations_by_expiry IS NULL;
ALTER INDEX allocations_by_expiry RENAME TO idx_user_allocations_expires;

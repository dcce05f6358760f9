-- Why: whoever gives credits to users is told when those of an allocation run low, are used up or have expired, once per crossing. The
-- condition needs no memory but what was there when credits were last added, of which the percentages are: a row that was above and is
-- below has crossed, and adding credits puts it above again. A row from before has no such figure: all it was ever given stands for it.
-- Locks: ACCESS EXCLUSIVE on the allocations for a moment, to add a column without a default and to create triggers.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE user_credit_allocations ADD COLUMN topped_up_credits bigint;
COMMENT ON COLUMN user_credit_allocations.topped_up_credits IS 'What remained when credits were last added: 100 % for notices. Derived.';

CREATE FUNCTION taximeter.top_up_allocation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.allocated_credits > OLD.allocated_credits THEN
        NEW.topped_up_credits := greatest(NEW.allocated_credits - NEW.used_credits, 0);
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER allocation_is_topped_up BEFORE INSERT OR UPDATE OF allocated_credits ON user_credit_allocations FOR EACH ROW
    WHEN (coalesce(current_setting('taximeter.importing', true), '') <> 'on') EXECUTE FUNCTION taximeter.top_up_allocation();

CREATE FUNCTION taximeter.note_low_allocation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    full_  CONSTANT bigint := coalesce(NEW.topped_up_credits, NEW.allocated_credits);
    passed integer[];
    data   CONSTANT jsonb := jsonb_build_object(
        'user_id', NEW.user_id, 'allocated_credits', NEW.allocated_credits, 'used_credits', NEW.used_credits,
        'remaining_credits', NEW.remaining_credits, 'expires_at', NEW.expires_at);
    about  CONSTANT text := 'allocation/' || NEW.org_id || '/' || NEW.user_id;
BEGIN
    SELECT array_agg(percent ORDER BY percent) INTO passed FROM unnest(ARRAY[50, 75, 80, 90, 95, 99]) AS percent
     WHERE NEW.remaining_credits * 100 <= (100 - percent) * full_ AND OLD.remaining_credits * 100 > (100 - percent) * full_;
    IF passed IS NOT NULL THEN
        PERFORM taximeter.write_notice('allocation.low', NEW.org_id, about, data || jsonb_build_object('percents', passed));
    END IF;
    IF NEW.remaining_credits <= 0 AND OLD.remaining_credits > 0 THEN
        PERFORM taximeter.write_notice('allocation.exhausted', NEW.org_id, about, data);
    END IF;
    RETURN NULL;
END;
$$;
-- The condition is all that settle pays for a row that does not cross: above half three comparisons, below it at most fifteen. An
-- allocation that is being closed is taken back, not used up. The multiples are those of the percentages above.
CREATE TRIGGER allocation_runs_low AFTER UPDATE OF allocated_credits, used_credits ON user_credit_allocations FOR EACH ROW
    WHEN (NEW.remaining_credits * 2 <= coalesce(NEW.topped_up_credits, NEW.allocated_credits)
      AND NEW.remaining_credits < OLD.remaining_credits AND NEW.is_active AND NEW.closing IS NULL
      AND (NEW.remaining_credits <= 0 AND OLD.remaining_credits > 0
        OR OLD.remaining_credits * 2 > coalesce(NEW.topped_up_credits, NEW.allocated_credits)
        OR NEW.remaining_credits * 4 <= coalesce(NEW.topped_up_credits, NEW.allocated_credits)
           AND OLD.remaining_credits * 4 > coalesce(NEW.topped_up_credits, NEW.allocated_credits)
        OR NEW.remaining_credits * 5 <= coalesce(NEW.topped_up_credits, NEW.allocated_credits)
           AND OLD.remaining_credits * 5 > coalesce(NEW.topped_up_credits, NEW.allocated_credits)
        OR NEW.remaining_credits * 10 <= coalesce(NEW.topped_up_credits, NEW.allocated_credits)
           AND OLD.remaining_credits * 10 > coalesce(NEW.topped_up_credits, NEW.allocated_credits)
        OR NEW.remaining_credits * 20 <= coalesce(NEW.topped_up_credits, NEW.allocated_credits)
           AND OLD.remaining_credits * 20 > coalesce(NEW.topped_up_credits, NEW.allocated_credits)
        OR NEW.remaining_credits * 100 <= coalesce(NEW.topped_up_credits, NEW.allocated_credits)
           AND OLD.remaining_credits * 100 > coalesce(NEW.topped_up_credits, NEW.allocated_credits)))
    EXECUTE FUNCTION taximeter.note_low_allocation();

-- An allocation has come to its end: it was renewed, or what remained goes back to the pool.
CREATE FUNCTION taximeter.note_expired() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM taximeter.write_notice(
        CASE current_setting('taximeter.renewing', true) WHEN 'on' THEN 'allocation.renewed' ELSE 'allocation.expired' END,
        NEW.org_id, 'allocation/' || NEW.org_id || '/' || NEW.user_id,
        jsonb_build_object(
            'user_id', NEW.user_id, 'allocated_credits', OLD.allocated_credits, 'used_credits', OLD.used_credits,
            'remaining_credits', OLD.remaining_credits, 'expires_at', NEW.expires_at));
    RETURN NULL;
END;
$$;
CREATE TRIGGER allocation_has_expired AFTER UPDATE OF is_active, closing ON user_credit_allocations FOR EACH ROW
    WHEN (OLD.is_active AND OLD.closing IS NULL AND (NOT NEW.is_active OR NEW.closing IS NOT NULL)
      AND current_setting('taximeter.entry_kind', true) = 'expiry')
    EXECUTE FUNCTION taximeter.note_expired();

-- migrate:down
LOCK TABLE user_credit_allocations IN ACCESS EXCLUSIVE MODE;
DROP TRIGGER allocation_has_expired ON user_credit_allocations;
DROP TRIGGER allocation_runs_low ON user_credit_allocations;
DROP TRIGGER allocation_is_topped_up ON user_credit_allocations;
DROP FUNCTION taximeter.note_expired;
DROP FUNCTION taximeter.note_low_allocation;
DROP FUNCTION taximeter.top_up_allocation;
ALTER TABLE user_credit_allocations DROP COLUMN topped_up_credits;

-- Why: whoever buys credits is told when those of a pool run low or are used up, once per crossing, as it is for allocations. What is used
-- counts, not what is allocated; 100 % is what was there when credits were last added.
-- Locks: ACCESS EXCLUSIVE on the pools for a moment, to add a column without a default and to create triggers.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE organization_credit_pools ADD COLUMN topped_up_credits bigint;
COMMENT ON COLUMN organization_credit_pools.topped_up_credits IS 'What was not used when credits were last added: 100 % for notices. Derived.';

CREATE FUNCTION taximeter.top_up_pool() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.total_credits > OLD.total_credits THEN
        NEW.topped_up_credits := greatest(NEW.total_credits - NEW.used_credits, 0);
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER pool_is_topped_up BEFORE INSERT OR UPDATE OF total_credits ON organization_credit_pools FOR EACH ROW
    WHEN (coalesce(current_setting('taximeter.importing', true), '') <> 'on') EXECUTE FUNCTION taximeter.top_up_pool();

CREATE FUNCTION taximeter.note_low_pool() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    full_  CONSTANT bigint := coalesce(NEW.topped_up_credits, NEW.total_credits);
    rest   CONSTANT bigint := NEW.total_credits - NEW.used_credits;
    before CONSTANT bigint := OLD.total_credits - OLD.used_credits;
    passed integer[];
    data   CONSTANT jsonb := jsonb_build_object(
        'total_credits', NEW.total_credits, 'allocated_credits', NEW.allocated_credits, 'used_credits', NEW.used_credits,
        'available_credits', NEW.available_credits, 'remaining_credits', rest);
BEGIN
    SELECT array_agg(percent ORDER BY percent) INTO passed FROM unnest(ARRAY[50, 75, 80, 90, 95, 99]) AS percent
     WHERE rest * 100 <= (100 - percent) * full_ AND before * 100 > (100 - percent) * full_;
    IF passed IS NOT NULL THEN
        PERFORM taximeter.write_notice('pool.low', NEW.org_id, 'pool/' || NEW.org_id, data || jsonb_build_object('percents', passed));
    END IF;
    IF rest <= 0 AND before > 0 THEN
        PERFORM taximeter.write_notice('pool.exhausted', NEW.org_id, 'pool/' || NEW.org_id, data);
    END IF;
    RETURN NULL;
END;
$$;
-- A batch changes a pool once, whatever it holds; so the function may look at all that is below half.
CREATE TRIGGER pool_runs_low AFTER UPDATE OF total_credits, used_credits ON organization_credit_pools FOR EACH ROW
    WHEN ((NEW.total_credits - NEW.used_credits) * 2 <= coalesce(NEW.topped_up_credits, NEW.total_credits)
      AND NEW.total_credits - NEW.used_credits < OLD.total_credits - OLD.used_credits
      AND ((NEW.total_credits - NEW.used_credits <= 0 AND OLD.total_credits - OLD.used_credits > 0)
        OR (NEW.total_credits - NEW.used_credits) * 100 / greatest(coalesce(NEW.topped_up_credits, NEW.total_credits), 1)
           < (OLD.total_credits - OLD.used_credits) * 100 / greatest(coalesce(NEW.topped_up_credits, NEW.total_credits), 1)
        OR (NEW.total_credits - NEW.used_credits) * 100 % greatest(coalesce(NEW.topped_up_credits, NEW.total_credits), 1) = 0))
    EXECUTE FUNCTION taximeter.note_low_pool();

-- migrate:down
LOCK TABLE organization_credit_pools IN ACCESS EXCLUSIVE MODE;
DROP TRIGGER pool_runs_low ON organization_credit_pools;
DROP TRIGGER pool_is_topped_up ON organization_credit_pools;
DROP FUNCTION taximeter.note_low_pool;
DROP FUNCTION taximeter.top_up_pool;
ALTER TABLE organization_credit_pools DROP COLUMN topped_up_credits;

-- Why: whoever has used more than 90 % of an allocation is about to be refused: the audit log says so once per crossing, whatever
-- moved the figures. The condition needs no memory: a row that was below and is above has crossed; raising the
-- allocation puts it below again.
-- Locks: ACCESS EXCLUSIVE on the allocations for a moment, to create the trigger.
-- Older code beside it: yes.

-- migrate:up
CREATE FUNCTION taximeter.note_exhausted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES (CASE WHEN current_setting('taximeter.settling', true) = 'on' THEN 'taximeter:settle' ELSE 'taximeter:sql' END,
            'user.allocation.exhausted', NEW.org_id, NEW.user_id,
            jsonb_build_object('allocated_credits', OLD.allocated_credits, 'used_credits', OLD.used_credits),
            jsonb_build_object('allocated_credits', NEW.allocated_credits, 'used_credits', NEW.used_credits));
    RETURN NULL;
END;
$$;
-- The condition is all that settle pays for a row that does not cross. An allocation that is being closed is taken back, not used up.
CREATE TRIGGER allocation_exhausted AFTER UPDATE OF allocated_credits, used_credits ON user_credit_allocations
    FOR EACH ROW WHEN (
        NEW.used_credits * 10 > NEW.allocated_credits * 9 AND OLD.used_credits * 10 <= OLD.allocated_credits * 9
        AND NEW.is_active AND NEW.closing IS NULL)
    EXECUTE FUNCTION taximeter.note_exhausted();

-- migrate:down
DROP TRIGGER allocation_exhausted ON user_credit_allocations;
DROP FUNCTION taximeter.note_exhausted();

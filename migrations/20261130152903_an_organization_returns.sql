-- Why: an organisation may return to a cell that it has left. What the cell kept as a record makes room for what comes, and the allocations
-- that go with it are no change of anybody's credits: they come with their entries, as an organisation that is new there brings them.
-- Locks: SHARE ROW EXCLUSIVE on allocations, for the time of a trigger.
-- Older code beside it: yes.

-- migrate:up
CREATE OR REPLACE TRIGGER allocation_deleted AFTER DELETE ON user_credit_allocations
    FOR EACH ROW WHEN ((OLD.allocated_credits <> 0 OR OLD.used_credits <> 0)
                       AND coalesce(current_setting('taximeter.importing', true), '') <> 'on')
    EXECUTE FUNCTION taximeter.allocation_changed();

-- migrate:down
DROP TRIGGER allocation_deleted ON user_credit_allocations;
CREATE TRIGGER allocation_deleted AFTER DELETE ON user_credit_allocations
    FOR EACH ROW WHEN (OLD.allocated_credits <> 0 OR OLD.used_credits <> 0)
    EXECUTE FUNCTION taximeter.allocation_changed();

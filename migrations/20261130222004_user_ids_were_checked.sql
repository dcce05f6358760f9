-- Why: the check of the migration before this one holds for the rows that were there as well.
-- Locks: SHARE UPDATE EXCLUSIVE on the allocations while they are read once; nobody waits.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE user_credit_allocations VALIDATE CONSTRAINT user_id_is_well_formed;

-- migrate:down
ALTER TABLE user_credit_allocations
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (length(user_id) BETWEEN 1 AND 255 AND user_id !~ '[\u0001-\u001f\u007f]') NOT VALID;

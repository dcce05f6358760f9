-- Why: the check of a user id was a pattern with a bounded repetition, for which Postgres builds states anew for each row: most of the time
-- that adding a charge to an allocation took. The same is said by a length and a pattern of one character. The next migration reads the
-- rows that are there, which satisfy the former check and so this one.
-- Locks: ACCESS EXCLUSIVE on the allocations for a moment; on the way back while they are read once.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE user_credit_allocations
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (length(user_id) BETWEEN 1 AND 255 AND user_id !~ '[\u0001-\u001f\u007f]') NOT VALID;

-- migrate:down
ALTER TABLE user_credit_allocations
    DROP CONSTRAINT user_id_is_well_formed,
    ADD CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$');

-- Why: a key ends and touches the holds that a key of its name has opened. One that is to end those of others too, such as a
-- watchdog's, is given that right by name: `any_hold`.
-- Locks: the table of keys for a moment, and without it while it is read through. A few hundred rows.
-- Older code beside it: yes, a right that it does not know is none there.

-- migrate:up
ALTER TABLE taximeter.api_keys
    DROP CONSTRAINT operations_are_known,
    ADD CONSTRAINT operations_are_known CHECK (
        cardinality(operations) > 0
        AND operations <@ ARRAY['reserve', 'commit', 'release', 'charge', 'touch', 'balance', 'lookup', 'any_hold', 'llm'])
        NOT VALID;
ALTER TABLE taximeter.api_keys VALIDATE CONSTRAINT operations_are_known;

-- migrate:down
DELETE FROM taximeter.api_keys WHERE 'any_hold' = ANY (operations);
ALTER TABLE taximeter.api_keys
    DROP CONSTRAINT operations_are_known,
    ADD CONSTRAINT operations_are_known CHECK (
        cardinality(operations) > 0
        AND operations <@ ARRAY['reserve', 'commit', 'release', 'charge', 'touch', 'balance', 'lookup', 'llm']);

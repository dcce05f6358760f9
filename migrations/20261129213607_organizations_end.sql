-- Why: an organisation can be suspended (nothing is spent or changed in its name until that is lifted) and deleted (it ends, its
-- credits return to its pool, and its books stay, since what was charged once is never forgotten).
-- Locks: ACCESS EXCLUSIVE on the organisations for a moment, to add two columns.
-- Older code beside it: yes; it lets a suspended organisation spend until it is replaced.

-- migrate:up
ALTER TABLE organizations
    ADD COLUMN suspended_at timestamptz,
    ADD COLUMN deleted_at timestamptz,
    ADD CONSTRAINT deleted_is_suspended CHECK (deleted_at IS NULL OR suspended_at IS NOT NULL);
COMMENT ON COLUMN organizations.suspended_at IS 'Since when nothing is spent or changed in its name; who and why is in the audit log.';
COMMENT ON COLUMN organizations.deleted_at IS 'Since when it has ended for ever. Its id is not used again.';

-- A key of a suspended organisation opens nothing, at the sidecar either.
GRANT SELECT (id, suspended_at) ON organizations TO taximeter_sidecar;

-- migrate:down
REVOKE SELECT (id, suspended_at) ON organizations FROM taximeter_sidecar;
ALTER TABLE organizations
    DROP CONSTRAINT deleted_is_suspended,
    DROP COLUMN deleted_at,
    DROP COLUMN suspended_at;

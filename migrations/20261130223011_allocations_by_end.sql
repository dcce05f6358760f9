-- Why: an organisation asks what ends next.
-- Locks: SHARE on the allocations while their index is made, in a transaction of its own: who holds the lock on the attribution and waits
-- for this one would wait for a charge that waits for the attribution.
-- Older code beside it: yes; an index.

-- migrate:up
-- Serves what ends next in an organisation: a list by date, however many members it has.
CREATE INDEX allocations_by_end ON user_credit_allocations (org_id, expires_at, id) WHERE is_active AND expires_at IS NOT NULL;

-- migrate:down
DROP INDEX allocations_by_end;

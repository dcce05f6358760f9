-- Why: an organisation of a million users was read from end to end for a page of its members, allocations, moves or audit log, and to
-- see whether it has another admin. Each list has an index in its own order now, also where it is narrowed to a user.
-- Locks: SHARE on members, allocations, moves and the audit log, one after the other, for as long as reading them once takes (about
-- 2 s for a million allocations): changes of them and settling wait, requests do not.
-- Older code beside it: yes.

-- migrate:up
-- Serves "a page of members, or of those who were invited, and how many there are".
CREATE INDEX members_in_order ON organization_members (org_id, status, created_at, user_id);

-- Serves "is there another admin", when one leaves.
CREATE INDEX members_who_administer ON organization_members (org_id) WHERE role = 'admin' AND status = 'active';

-- Serves "a page of allocations, active ones first". Nothing that settling changes is in it, so its updates stay on their page.
CREATE INDEX allocations_in_order ON user_credit_allocations (org_id, is_active, created_at, id);

-- Serves "the moves of one user", from whom credits went.
CREATE INDEX moves_from ON taximeter.moves (org_id, from_user, created_at DESC);

-- Serves the same, to whom they came.
CREATE INDEX moves_to ON taximeter.moves (org_id, to_user, created_at DESC);

-- Serves "what one person has done" in the audit log.
CREATE INDEX audit_log_by_actor ON taximeter.audit_log (org_id, actor, at DESC);

-- Serves "where one thing was done" in the audit log.
CREATE INDEX audit_log_by_action ON taximeter.audit_log (org_id, action, at DESC);

-- migrate:down
DROP INDEX taximeter.audit_log_by_action;
DROP INDEX taximeter.audit_log_by_actor;
DROP INDEX taximeter.moves_to;
DROP INDEX taximeter.moves_from;
DROP INDEX allocations_in_order;
DROP INDEX members_who_administer;
DROP INDEX members_in_order;

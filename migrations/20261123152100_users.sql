-- Why: lists show people and not only ids, users choose which organisation pays for them by default, and a user without an
-- organisation has one of their own, so that individual credits are credits of an organisation like all others.
-- Locks: ACCESS EXCLUSIVE on the organisations for a moment, to add a column, and SHARE to index it.
-- Older code beside it: yes; it writes neither.

-- migrate:up
-- Users live at the identity provider; a row is what their verified sessions have said, and what they have chosen.
CREATE TABLE taximeter.users (
    user_id        text PRIMARY KEY CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$'),
    email          text CONSTRAINT email_is_short CHECK (length(email) BETWEEN 1 AND 255),
    default_org_id text,
    updated_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN taximeter.users.default_org_id IS 'Counts only while the user is an active member of it.';

ALTER TABLE organizations ADD COLUMN personal_of text CONSTRAINT one_personal_organization_per_user UNIQUE;
COMMENT ON COLUMN organizations.personal_of IS 'The user whose individual credits this organisation of one holds; else null.';

-- migrate:down
ALTER TABLE organizations DROP COLUMN personal_of;
DROP TABLE taximeter.users;

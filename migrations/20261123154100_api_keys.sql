-- Why: gateways authenticate with keys that an org admin makes, narrows, lets expire and takes back, instead of a session.
-- The key itself is never here: a random secret needs no more than a plain digest.
-- Locks: none that matter, the table is new.
-- Older code beside it: yes, it does not read this table.

-- migrate:up
CREATE TABLE taximeter.api_keys (
    key_id       text PRIMARY KEY CONSTRAINT key_id_is_well_formed CHECK (key_id ~ '^[0-9A-Za-z]{12}$'),
    org_id       text NOT NULL CONSTRAINT key_has_an_organization REFERENCES organizations (id) ON DELETE CASCADE,
    user_id      text CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$'),
    name         text NOT NULL CONSTRAINT name_is_short CHECK (length(name) BETWEEN 1 AND 255),
    operations   text[] NOT NULL CONSTRAINT operations_are_known CHECK (
                     cardinality(operations) > 0
                     AND operations <@ ARRAY['reserve', 'commit', 'release', 'charge', 'touch', 'balance', 'lookup', 'llm']),
    digest       bytea NOT NULL CONSTRAINT digest_is_sha256 CHECK (length(digest) = 32),
    last_four    text NOT NULL,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    revoked_by   text,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT key_expires_after_it_was_made CHECK (expires_at > created_at),
    -- Who asks about a request learns of whichever user it was.
    CONSTRAINT lookup_is_for_the_whole_organization CHECK (user_id IS NULL OR NOT 'lookup' = ANY (operations))
);
COMMENT ON COLUMN taximeter.api_keys.user_id IS 'The only user that the key acts for; NULL: any user of the organisation.';
-- Serves the list of an organisation's keys, newest first.
CREATE INDEX api_keys_by_org ON taximeter.api_keys (org_id, created_at DESC);

-- What a key may do never changes: whoever wants another one makes another one.
REVOKE ALL ON taximeter.api_keys FROM taximeter_app, taximeter_settler;
GRANT SELECT, INSERT, UPDATE (revoked_by, revoked_at, last_used_at) ON taximeter.api_keys TO taximeter_app;
GRANT SELECT, UPDATE (last_used_at) ON taximeter.api_keys TO taximeter_sidecar;
-- A key of a user ends with the membership.
GRANT SELECT ON organization_members TO taximeter_sidecar;

-- migrate:down
REVOKE SELECT ON organization_members FROM taximeter_sidecar;
DROP TABLE taximeter.api_keys;

-- Why: an operator's automation calls the admin API by a key of the installation, with what it may do written in it, and not by the
-- session of a person. The owner of the database makes and revokes them (`taximeter admin key`); the API reads.
-- See docs/decisions/0064-rights-are-rows-and-rows-have-one-way.md.
-- Locks: none that matter, the table is new.
-- Older code beside it: yes, it knows no such keys and refuses them.

-- migrate:up
CREATE TABLE taximeter.system_keys (
    key_id       text PRIMARY KEY CONSTRAINT key_id_is_well_formed CHECK (key_id ~ '^[0-9A-Za-z]{12}$'),
    name         text NOT NULL CONSTRAINT name_is_short CHECK (name ~ '^[^[:cntrl:]]{1,255}$'),
    rights       text[] NOT NULL CONSTRAINT rights_are_words CHECK (
                     cardinality(rights) > 0 AND array_to_string(rights, ',', '') ~ '^[a-z_]+(,[a-z_]+)*$'),
    digest       bytea NOT NULL CONSTRAINT digest_is_sha256 CHECK (length(digest) = 32),
    last_four    text NOT NULL,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    revoked_by   text,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT key_expires_after_it_was_made CHECK (expires_at > created_at)
);
COMMENT ON TABLE taximeter.system_keys IS 'Keys of the installation, for the admin API; the keys themselves are nowhere.';
CREATE TRIGGER a_key_is_revoked_once BEFORE UPDATE OF revoked_at, revoked_by ON taximeter.system_keys
    FOR EACH ROW EXECUTE FUNCTION taximeter.revoke_once();

-- The API can neither make one nor widen it.
REVOKE ALL ON taximeter.system_keys FROM taximeter_app, taximeter_settler;
GRANT SELECT, UPDATE (last_used_at) ON taximeter.system_keys TO taximeter_app;

-- migrate:down
DROP TABLE taximeter.system_keys;

-- Why: an installation needs a first system admin, and some identity providers (Google) name no roles. Who is listed here is a
-- system admin besides those whose token has the role. The owner of the database adds and removes (`taximeter admin`); the API
-- reads, and binds a row that names an address to the first user of whom the issuer says that it is theirs.
-- See docs/decisions/0068-the-first-system-admin.md.
-- Locks: none that matter, the table is new.
-- Older code beside it: yes, it does not read this table: those who are listed are no system admins there.

-- migrate:up
CREATE TABLE taximeter.system_admins (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer     text NOT NULL CONSTRAINT issuer_is_short CHECK (length(issuer) BETWEEN 1 AND 2048),
    user_id    text CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$'),
    email      text CONSTRAINT email_is_in_lower_case CHECK (email = lower(email) AND email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    reason     text,
    added_by   text NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT now(),
    removed_by text,
    removed_at timestamptz,
    CONSTRAINT somebody_is_named CHECK (user_id IS NOT NULL OR email IS NOT NULL),
    CONSTRAINT removed_by_somebody CHECK ((removed_by IS NULL) = (removed_at IS NULL))
);
COMMENT ON TABLE taximeter.system_admins IS 'System admins besides those whose token has the role; rows stay when they end.';
COMMENT ON COLUMN taximeter.system_admins.user_id IS 'What the issuer calls them; null until the first session with the address.';
-- Serves the rule that nobody is listed twice.
CREATE UNIQUE INDEX system_admins_by_user ON taximeter.system_admins (issuer, user_id) WHERE removed_at IS NULL;
-- Serves taximeter.claim_system_admin(), and the same rule.
CREATE UNIQUE INDEX system_admins_by_email ON taximeter.system_admins (issuer, email) WHERE removed_at IS NULL;
REVOKE ALL ON taximeter.system_admins FROM taximeter_app, taximeter_settler, taximeter_sidecar;
GRANT SELECT ON taximeter.system_admins TO taximeter_app;

-- Binds the row that names this address, if it is nobody's yet, and says whether it did. With its owner's rights: the API writes
-- nothing else here.
CREATE FUNCTION taximeter.claim_system_admin(issuer text, user_id text, email text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE taximeter.system_admins AS listed SET user_id = $2
     WHERE listed.issuer = $1 AND listed.email = lower($3) AND listed.user_id IS NULL AND listed.removed_at IS NULL
       AND NOT EXISTS (SELECT FROM taximeter.system_admins AS other
                        WHERE other.issuer = $1 AND other.user_id = $2 AND other.removed_at IS NULL);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO taximeter.audit_log (actor, action, target, after)
    VALUES ($2, 'system.admin.claimed', $2, jsonb_build_object('issuer', $1, 'user_id', $2, 'email', lower($3)));
    RETURN true;
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.claim_system_admin(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.claim_system_admin(text, text, text) TO taximeter_app;

-- migrate:down
DROP FUNCTION taximeter.claim_system_admin(text, text, text);
DROP TABLE taximeter.system_admins;

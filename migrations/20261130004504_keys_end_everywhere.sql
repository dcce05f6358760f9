-- Why: a key that is revoked stops everywhere at once, also while somebody floods with made-up ones. The check digits of new keys are
-- made with a secret that is here, so a made-up key is refused without a look-up; and whoever remembers keys is told when one ends.
-- An invitation says who made it: it ends with who could make it. See docs/decisions/0063-a-key-ends-with-who-made-it.md.
-- Locks: ACCESS EXCLUSIVE on the keys and the members for a moment each, to add a column.
-- Older code beside it: yes; it makes keys of the old kind, which go on to work.

-- migrate:up
CREATE TABLE taximeter.key_seal (
    is_only boolean PRIMARY KEY DEFAULT true CONSTRAINT there_is_one CHECK (is_only),
    secret  bytea NOT NULL CONSTRAINT secret_is_long CHECK (length(secret) = 32)
);
COMMENT ON TABLE taximeter.key_seal IS 'What the check digits of API keys are made with. Who knows it can cause look-ups, and nothing else.';
-- Two random UUIDs: 244 bits of the server's best random numbers.
INSERT INTO taximeter.key_seal (secret) VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));
REVOKE ALL ON taximeter.key_seal FROM taximeter_app, taximeter_settler;
GRANT SELECT ON taximeter.key_seal TO taximeter_app, taximeter_sidecar;

ALTER TABLE taximeter.api_keys ADD COLUMN sealed boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN taximeter.api_keys.sealed IS 'Whether its check digits are made with taximeter.key_seal; those before it have a plain checksum.';
-- Serves "is any key of the old kind left?": without one, keys of that kind are made up.
CREATE INDEX api_keys_of_old ON taximeter.api_keys (expires_at) WHERE NOT sealed AND revoked_at IS NULL;
-- Serves "the keys that a member has made".
CREATE INDEX api_keys_by_maker ON taximeter.api_keys (org_id, created_by) WHERE revoked_at IS NULL;

ALTER TABLE organization_members ADD COLUMN invited_by text;
COMMENT ON COLUMN organization_members.invited_by IS 'Who made the invitation; null for members that were added directly, and before this was noted.';

-- Whoever remembers what keys allow listens. What is sent is the organisation: all that is known of its keys is asked for again.
CREATE FUNCTION taximeter.tell_of_ended_keys() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('taximeter_keys', CASE TG_TABLE_NAME WHEN 'organizations' THEN to_jsonb(NEW) ->> 'id' ELSE to_jsonb(NEW) ->> 'org_id' END);
    RETURN NULL;
END;
$$;
CREATE TRIGGER ended_keys_are_told AFTER UPDATE OF revoked_at ON taximeter.api_keys
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION taximeter.tell_of_ended_keys();
CREATE TRIGGER ended_keys_are_told AFTER UPDATE OF suspended_at ON organizations
    FOR EACH ROW WHEN (OLD.suspended_at IS NULL AND NEW.suspended_at IS NOT NULL) EXECUTE FUNCTION taximeter.tell_of_ended_keys();
CREATE TRIGGER ended_keys_are_told AFTER UPDATE OF status ON organization_members
    FOR EACH ROW WHEN (OLD.status = 'active' AND NEW.status <> 'active') EXECUTE FUNCTION taximeter.tell_of_ended_keys();

-- migrate:down
DROP TRIGGER ended_keys_are_told ON organization_members;
DROP TRIGGER ended_keys_are_told ON organizations;
DROP TRIGGER ended_keys_are_told ON taximeter.api_keys;
DROP FUNCTION taximeter.tell_of_ended_keys();
ALTER TABLE organization_members DROP COLUMN invited_by;
DROP INDEX taximeter.api_keys_by_maker;
DROP INDEX taximeter.api_keys_of_old;
ALTER TABLE taximeter.api_keys DROP COLUMN sealed;
DROP TABLE taximeter.key_seal;

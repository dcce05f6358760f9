-- Why: what was written down of people's doings stays so. A process cannot say who it is in the database, or when: both are taken from
-- its session. It cannot give a revoked key back, or write the billing history anew. And the rows of the audit log are chained by
-- digests, so that one which was changed or taken out by whoever can (the owner) shows in `taximeter check`.
-- See docs/decisions/0057-the-audit-log-is-chained.md.
-- Locks: ACCESS EXCLUSIVE on the audit log for a moment, to add a column; its rows are read once, about ten seconds a million.
-- Older code beside it: yes; but an older API cannot book purchases any more: it writes a line of the history and then changes it.

-- migrate:up
ALTER TABLE taximeter.audit_log ADD COLUMN written_by text;
COMMENT ON COLUMN taximeter.audit_log.written_by IS 'The role of the database that wrote the row; null before this was noted.';
COMMENT ON COLUMN taximeter.audit_log.actor IS 'Who did it, as the process in written_by says.';

CREATE FUNCTION taximeter.stamp_audit() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.written_by := session_user;
    NEW.at := now();
    RETURN NEW;
END;
$$;
CREATE TRIGGER audit_is_stamped BEFORE INSERT ON taximeter.audit_log
    FOR EACH ROW EXECUTE FUNCTION taximeter.stamp_audit();
-- Serves taximeter.seal_audit(), which reads the last days every minute.
CREATE INDEX audit_log_by_time ON taximeter.audit_log (at);

-- The chain: link n is the digest of link n - 1 and of one row. Rows are linked soon after they are committed, in an order that no
-- transaction has to wait for.
CREATE TABLE taximeter.audit_chain (
    n         bigint PRIMARY KEY CONSTRAINT n_is_positive CHECK (n > 0),
    audit_id  bigint NOT NULL CONSTRAINT a_row_is_linked_once UNIQUE,
    digest    bytea NOT NULL CONSTRAINT digest_is_sha256 CHECK (length(digest) = 32),
    linked_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER links_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('links are kept for ever');
REVOKE INSERT, UPDATE ON taximeter.audit_chain FROM taximeter_app, taximeter_settler;

-- What a link says of a row: everything, in a form that does not depend on settings.
CREATE FUNCTION taximeter.audit_link(link_before bytea, audit taximeter.audit_log) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(link_before || convert_to(jsonb_build_array(
               audit.id, extract(epoch FROM audit.at), audit.actor, audit.action, audit.org_id, audit.target, audit.before,
               audit.after, audit.request_id, audit.written_by)::text, 'UTF8'));
$$;

-- Links the rows of the time `since` that are not linked yet; returns how many. With its owner's rights: nobody else writes links.
CREATE FUNCTION taximeter.seal_audit(since interval DEFAULT '2 days') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audit  taximeter.audit_log;
    last_n bigint;
    link   bytea;
    linked integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('taximeter.audit_chain', 0));
    SELECT chain.n, chain.digest INTO last_n, link FROM taximeter.audit_chain AS chain ORDER BY chain.n DESC LIMIT 1;
    last_n := coalesce(last_n, 0);
    link := coalesce(link, decode(repeat('00', 32), 'hex'));
    FOR audit IN
        SELECT log.* FROM taximeter.audit_log AS log
         WHERE log.at > now() - since
           AND NOT EXISTS (SELECT FROM taximeter.audit_chain AS chain WHERE chain.audit_id = log.id)
         ORDER BY log.id
    LOOP
        last_n := last_n + 1;
        link := taximeter.audit_link(link, audit);
        INSERT INTO taximeter.audit_chain (n, audit_id, digest) VALUES (last_n, audit.id, link);
        linked := linked + 1;
    END LOOP;
    RETURN linked;
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.seal_audit(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.seal_audit(interval) TO taximeter_settler;
SELECT taximeter.seal_audit('1000 years');

-- A key that was revoked stays revoked, whoever asks, and nobody chooses when it was.
CREATE FUNCTION taximeter.revoke_once() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL AND (NEW.revoked_at, NEW.revoked_by) IS DISTINCT FROM (OLD.revoked_at, OLD.revoked_by) THEN
        RAISE EXCEPTION 'key % was revoked at %, and stays so', OLD.key_id, OLD.revoked_at
            USING ERRCODE = 'restrict_violation', TABLE = 'api_keys';
    END IF;
    IF OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL THEN
        NEW.revoked_at := now();
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER a_key_is_revoked_once BEFORE UPDATE OF revoked_at, revoked_by ON taximeter.api_keys
    FOR EACH ROW EXECUTE FUNCTION taximeter.revoke_once();

-- Lines of the history are added, whole: see taximeter.buy_credits.
REVOKE UPDATE ON org_billing_history FROM taximeter_app;

-- migrate:down
GRANT UPDATE ON org_billing_history TO taximeter_app;
DROP TRIGGER a_key_is_revoked_once ON taximeter.api_keys;
DROP FUNCTION taximeter.revoke_once();
DROP FUNCTION taximeter.seal_audit(interval);
DROP FUNCTION taximeter.audit_link(bytea, taximeter.audit_log);
DROP TABLE taximeter.audit_chain;
DROP INDEX taximeter.audit_log_by_time;
DROP TRIGGER audit_is_stamped ON taximeter.audit_log;
DROP FUNCTION taximeter.stamp_audit();
COMMENT ON COLUMN taximeter.audit_log.actor IS NULL;
ALTER TABLE taximeter.audit_log DROP COLUMN written_by;

-- Why: a Redis that has lost everything forgot which holds had expired, and told a late commit of less than the expiry had charged its own
-- amount: a rebuild gives it back what the ledger knows of the last minutes. And an older copy of the audit log with its chain fitted
-- in itself: what the last link is stands in a table of its own now, so that it shows.
-- See docs/decisions/0032-a-rebuild-remembers-expiries.md and docs/decisions/0057-the-audit-log-is-chained.md.
-- Locks: SHARE on the charged requests for as long as reading them once takes: settling waits, requests do not.
-- Older code beside it: yes.

-- migrate:up
-- Serves "the expiries of the last minutes": they are few, and nothing else is in it.
CREATE INDEX charged_requests_by_expiry ON taximeter.charged_requests (created_at) WHERE by_expiry;

CREATE TABLE taximeter.audit_end (
    is_only boolean PRIMARY KEY DEFAULT true CONSTRAINT there_is_one CHECK (is_only),
    n       bigint NOT NULL,
    digest  bytea NOT NULL
);
COMMENT ON TABLE taximeter.audit_end IS 'The last link of taximeter.audit_chain. One that the chain does not have says that the chain was put back.';
REVOKE ALL ON taximeter.audit_end FROM taximeter_app, taximeter_settler;
GRANT SELECT ON taximeter.audit_end TO taximeter_app, taximeter_settler;
INSERT INTO taximeter.audit_end (n, digest)
SELECT n, digest FROM taximeter.audit_chain ORDER BY n DESC LIMIT 1;

-- Moves with every link, as long as the link that it names is in the chain: one that is not stays, for check to see.
CREATE FUNCTION taximeter.note_audit_end() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO taximeter.audit_end AS known (n, digest) VALUES (NEW.n, NEW.digest)
        ON CONFLICT (is_only) DO UPDATE SET n = NEW.n, digest = NEW.digest
     WHERE EXISTS (SELECT FROM taximeter.audit_chain AS chain WHERE chain.n = known.n AND chain.digest = known.digest);
    RETURN NULL;
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.note_audit_end() FROM PUBLIC;
CREATE TRIGGER the_end_is_noted AFTER INSERT ON taximeter.audit_chain
    FOR EACH ROW EXECUTE FUNCTION taximeter.note_audit_end();

-- migrate:down
DROP TRIGGER the_end_is_noted ON taximeter.audit_chain;
DROP FUNCTION taximeter.note_audit_end();
DROP TABLE taximeter.audit_end;
DROP INDEX taximeter.charged_requests_by_expiry;

-- Why: two things that the ledger has to know of itself. Which charge was made by an expiry: a commit that comes after Redis has
-- forgotten that expiry is a duplicate by its id alone, and the rest of it would never be charged. And how far Postgres has
-- written: a shard that remembers it finds out when Postgres was put back to an older copy.
-- Locks: ACCESS EXCLUSIVE on charged_requests for a moment; a column with a constant default rewrites nothing.
-- Older code beside it: yes, it leaves the column at its default and loses what it has always lost.

-- migrate:up
ALTER TABLE taximeter.charged_requests ADD COLUMN by_expiry boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN taximeter.charged_requests.by_expiry IS 'The hold ended by its deadline: what was reported until then.';

-- history: which cluster on which timeline, so that another server or a recovery to an earlier point is another history.
-- position: bytes of the log that are on the disk, which a crash cannot take back.
CREATE FUNCTION taximeter.ledger_position(OUT history text, OUT "position" bigint)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (pg_control_system()).system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
           pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint
$$;

-- migrate:down
DROP FUNCTION taximeter.ledger_position();
ALTER TABLE taximeter.charged_requests DROP COLUMN by_expiry;

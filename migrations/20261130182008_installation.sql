-- Why: a copy of the database that was restored elsewhere, for a test say, must not call anybody's webhooks, mail anybody or write into an
-- archive. Postgres alone cannot tell a copy from itself: what can is Redis, which knows its Postgres, and a name in the settings. What
-- they say of this database stands in one row. See docs/backups.md.
-- Locks: none, the table is new.
-- Older code beside it: yes; it does not look, and sends as ever.

-- migrate:up
CREATE TABLE taximeter.installation (
    is_this        boolean PRIMARY KEY DEFAULT true,
    name           text,
    history        text,
    silent_since   timestamptz,
    silent_because text,
    answered_at    timestamptz,
    answer         text,
    CONSTRAINT installation_is_one CHECK (is_this),
    CONSTRAINT name_is_plain CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    CONSTRAINT silence_has_a_reason CHECK ((silent_since IS NULL) = (silent_because IS NULL))
);
COMMENT ON TABLE taximeter.installation IS 'Which installation this database is of, and whether it may tell anybody anything.';
COMMENT ON COLUMN taximeter.installation.name IS 'As TAXIMETER_INSTALLATION had it first: a settler with another name does not start.';
COMMENT ON COLUMN taximeter.installation.history IS 'System identifier and timeline of this Postgres when a Redis last knew it.';
COMMENT ON COLUMN taximeter.installation.silent_since IS 'Since when nothing is sent or archived: this may be a copy.';
COMMENT ON COLUMN taximeter.installation.answer IS 'What an operator has said to that, by `taximeter restored`.';
INSERT INTO taximeter.installation DEFAULT VALUES;

REVOKE ALL ON taximeter.installation FROM taximeter_app, taximeter_settler;
GRANT SELECT ON taximeter.installation TO taximeter_app;
GRANT SELECT, UPDATE ON taximeter.installation TO taximeter_settler;

-- migrate:down
DROP TABLE taximeter.installation;

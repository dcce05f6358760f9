-- Why: people sign in with a browser, and what the identity provider gave for them stays with the server. Each row is encrypted with a
-- key that only the browser's cookie has, so that a copy of this table signs nobody in. See docs/console.md.
-- Locks: none, the table is new.
-- Older code beside it: yes; it has no such sessions.

-- migrate:up
CREATE TABLE taximeter.browser_sessions (
    digest         bytea PRIMARY KEY,
    sealed         bytea NOT NULL,
    generation     integer NOT NULL DEFAULT 0,
    renewing_until timestamptz NOT NULL DEFAULT '-infinity',
    user_id        text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    ends_at        timestamptz NOT NULL,
    CONSTRAINT digest_is_one CHECK (length(digest) = 32),
    CONSTRAINT sealed_is_bounded CHECK (length(sealed) <= 65536)
);
COMMENT ON TABLE taximeter.browser_sessions IS 'People who are signed in with a browser. A row that is deleted signs its browser out.';
COMMENT ON COLUMN taximeter.browser_sessions.digest IS 'Of the cookie, which is kept nowhere.';
COMMENT ON COLUMN taximeter.browser_sessions.sealed IS 'The tokens of the identity provider, encrypted with a key made of the cookie.';
COMMENT ON COLUMN taximeter.browser_sessions.generation IS 'How often the tokens were renewed.';
COMMENT ON COLUMN taximeter.browser_sessions.renewing_until IS 'Until then one process asks for new tokens, and no other.';
-- Serves "those that have ended", which are deleted when somebody signs in.
CREATE INDEX browser_sessions_by_end ON taximeter.browser_sessions (ends_at);
REVOKE ALL ON taximeter.browser_sessions FROM taximeter_app, taximeter_settler, taximeter_sidecar;
GRANT SELECT, INSERT, UPDATE, DELETE ON taximeter.browser_sessions TO taximeter_app;

-- migrate:down
DROP TABLE taximeter.browser_sessions;

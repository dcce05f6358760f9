-- Why: a newer price list is taken over as an edition of its own, from a moment on that every process knows beforehand, and which one
-- was in force when, by whose word, stays on record (decision 0074).
-- Locks: ACCESS EXCLUSIVE on nothing; one new table and its trigger's function.
-- Older code beside it: yes; it goes on with the list of its installed package, so start it anew before the first list begins.

-- migrate:up
CREATE TABLE taximeter.price_lists (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CONSTRAINT kind_is_known CHECK (kind IN ('package', 'file')),
    version      text NOT NULL CONSTRAINT version_is_said CHECK (length(version) BETWEEN 1 AND 128),
    source       text NOT NULL CONSTRAINT source_is_said CHECK (length(source) BETWEEN 1 AND 256),
    digest       text NOT NULL CONSTRAINT digest_is_sha256 CHECK (digest ~ '^[0-9a-f]{64}$'),
    content      bytea NOT NULL,
    models       integer NOT NULL CONSTRAINT models_is_positive CHECK (models > 0),
    dated        date NOT NULL CONSTRAINT dated_is_a_day CHECK (isfinite(dated)),
    starts_at    timestamptz NOT NULL CONSTRAINT starts_at_is_a_moment CHECK (isfinite(starts_at)),
    back_to      bigint CONSTRAINT back_to_is_a_list REFERENCES taximeter.price_lists,
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL CONSTRAINT created_by_is_said CHECK (length(created_by) BETWEEN 1 AND 255),
    written_by   text NOT NULL DEFAULT session_user,
    withdrawn_at timestamptz,
    withdrawn_by text,
    -- Charges that were made keep their prices, so no list begins before it is known, and none is taken back once it has begun.
    CONSTRAINT begins_when_it_is_known CHECK (starts_at >= created_at),
    CONSTRAINT withdrawn_before_it_begins CHECK (withdrawn_at IS NULL OR withdrawn_at < starts_at),
    CONSTRAINT withdrawn_by_somebody CHECK ((withdrawn_at IS NULL) = (withdrawn_by IS NULL))
);
COMMENT ON COLUMN taximeter.price_lists.content IS 'The list, compressed by zlib; its SHA-256 before that is digest.';
COMMENT ON COLUMN taximeter.price_lists.dated IS 'The day of which its prices are: their age is counted from it.';
-- Serves every process that prices, which asks for what is in force and what is to come.
CREATE INDEX price_lists_by_start ON taximeter.price_lists (starts_at) WHERE withdrawn_at IS NULL;

CREATE FUNCTION taximeter.keep_price_list() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.withdrawn_at IS NULL
       AND to_jsonb(NEW) - 'withdrawn_at' - 'withdrawn_by' - 'content' = to_jsonb(OLD) - 'withdrawn_at' - 'withdrawn_by' - 'content'
       AND NEW.content = OLD.content THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'price lists stay as they are; one that has not begun can be withdrawn, once' USING ERRCODE = 'restrict_violation';
END;
$$;
CREATE TRIGGER price_lists_are_kept BEFORE UPDATE OR DELETE ON taximeter.price_lists
    FOR EACH ROW EXECUTE FUNCTION taximeter.keep_price_list();
CREATE TRIGGER price_lists_are_not_emptied BEFORE TRUNCATE ON taximeter.price_lists
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('price lists stay on record');

REVOKE UPDATE ON taximeter.price_lists FROM taximeter_app;
REVOKE INSERT, UPDATE ON taximeter.price_lists FROM taximeter_settler;
GRANT UPDATE (withdrawn_at, withdrawn_by) ON taximeter.price_lists TO taximeter_app;
GRANT SELECT ON taximeter.price_lists TO taximeter_sidecar;

-- migrate:down
DROP TABLE taximeter.price_lists;
DROP FUNCTION taximeter.keep_price_list();

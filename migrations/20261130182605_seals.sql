-- Why: `taximeter check` read every row each time, so it was run seldom. What can no longer change is sealed hour by hour: how many rows a
-- shard has of a day, their sum and the sum of a digest of each row, in a chain of seals. A look reads what is newer, a few sealed days
-- again, and compares the rest by its seals. See docs/decisions/ (a check that never stops).
-- Locks: SHARE ROW EXCLUSIVE on usage, charged requests, entries, dropped months and generations for a moment, to create triggers, and SHARE
-- on charged requests while a block index is built, which reads them once: charges are settled after it.
-- Older code beside it: yes; what it writes is noted by the triggers as well. Its `check` reads everything.

-- migrate:up
LOCK TABLE taximeter.charged_requests IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE credit_usage_attribution IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE taximeter.account_entries, taximeter.dropped_months, taximeter.charge_generations IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE taximeter.seals (
    n     bigint PRIMARY KEY,
    at    timestamptz NOT NULL DEFAULT now(),
    by    text NOT NULL DEFAULT session_user,
    until timestamptz NOT NULL,
    note  text,
    link  bytea NOT NULL,
    CONSTRAINT n_is_positive CHECK (n > 0),
    CONSTRAINT note_is_said CHECK (length(btrim(note)) BETWEEN 1 AND 1000)
);
COMMENT ON TABLE taximeter.seals IS 'Steps in which rows were sealed. Each is linked to the one before it.';
COMMENT ON COLUMN taximeter.seals.until IS 'Every row of before was sealed then: a whole hour in UTC.';
COMMENT ON COLUMN taximeter.seals.note IS 'Why somebody has accepted what was changed.';
COMMENT ON COLUMN taximeter.seals.link IS 'SHA-256 of the link before, of this row and of what it sealed.';

CREATE TABLE taximeter.sealed_rows (
    seal_n  bigint NOT NULL,
    place   integer NOT NULL,
    kind    text NOT NULL,
    what    text NOT NULL,
    day     date NOT NULL,
    shard   integer,
    epoch   bigint,
    rows    bigint NOT NULL,
    credits numeric NOT NULL,
    digest  numeric NOT NULL,
    PRIMARY KEY (seal_n, place),
    CONSTRAINT kind_is_known CHECK (kind IN ('sealed', 'late', 'deleted', 'archived', 'restored', 'forgotten', 'accepted')),
    CONSTRAINT what_is_known CHECK (what IN ('usage', 'charges', 'entries'))
);
COMMENT ON TABLE taximeter.sealed_rows IS 'What each seal adds to, or takes from, what a day has of a shard: rows, millicredits, sum of digests.';
COMMENT ON COLUMN taximeter.sealed_rows.shard IS 'Null: written by SQL. Below zero: of another cell.';
-- Serves "what must a day have", and "what was sealed of a shard and epoch".
CREATE INDEX sealed_rows_by_day ON taximeter.sealed_rows (day, what);

CREATE TABLE taximeter.seal_changes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind    text NOT NULL,
    what    text NOT NULL,
    hour    timestamptz,
    month   date,
    shard   integer,
    epoch   bigint,
    rows    bigint,
    credits numeric,
    digest  numeric,
    at      timestamptz NOT NULL DEFAULT now(),
    by      text NOT NULL DEFAULT session_user,
    CONSTRAINT kind_is_known CHECK (kind IN ('late', 'deleted', 'archived', 'restored', 'forgotten')),
    CONSTRAINT rows_have_an_hour CHECK ((kind IN ('late', 'deleted')) = (hour IS NOT NULL AND digest IS NOT NULL)),
    CONSTRAINT rows_of_an_hour_are_counted CHECK (hour IS NULL OR (rows IS NOT NULL AND credits IS NOT NULL)),
    CONSTRAINT what_is_known CHECK (what IN ('usage', 'charges', 'entries'))
);
COMMENT ON TABLE taximeter.seal_changes IS 'Changes behind the seals that were made by the ways that there are for them, until the next seal has them.';
COMMENT ON COLUMN taximeter.seal_changes.rows IS 'Null: of a table that came or went before all of it was sealed.';

CREATE TABLE taximeter.seal_state (
    one            boolean PRIMARY KEY DEFAULT true CONSTRAINT there_is_one CHECK (one),
    announced      timestamptz,
    announced_xid  xid8,
    sealed_until   timestamptz,
    n              bigint NOT NULL DEFAULT 0,
    link           bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    round_day      date,
    round_began_at timestamptz,
    round_ended_at timestamptz,
    CONSTRAINT nothing_is_sealed_unannounced CHECK (sealed_until <= announced)
);
COMMENT ON COLUMN taximeter.seal_state.announced IS 'Changes of before are noted in seal_changes, by every transaction from announced_xid on.';
COMMENT ON COLUMN taximeter.seal_state.round_day IS 'The last sealed day that was read again in this round.';
INSERT INTO taximeter.seal_state DEFAULT VALUES;

CREATE TABLE taximeter.sealed_usage (
    day          date NOT NULL,
    org_id       text NOT NULL,
    user_id      text NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    by_sql       boolean NOT NULL,
    requests     bigint NOT NULL,
    credits      numeric NOT NULL,
    PRIMARY KEY (day, org_id, user_id, service_type, service_name, by_sql)
);
COMMENT ON TABLE taximeter.sealed_usage IS 'What is sealed of the day that goes on, as the rollup needs it.';

CREATE TABLE taximeter.sealed_shards (
    org_id     text NOT NULL,
    shard      integer NOT NULL,
    epoch_last bigint NOT NULL,
    PRIMARY KEY (org_id, shard)
);
COMMENT ON TABLE taximeter.sealed_shards IS 'Through which shards sealed charges of an organisation came, and the last epoch of each.';

CREATE TABLE taximeter.altered_days (
    day      date PRIMARY KEY,
    found_at timestamptz NOT NULL DEFAULT now(),
    said     text[] NOT NULL
);
COMMENT ON TABLE taximeter.altered_days IS 'Sealed days that were read again and were not what was sealed.';

CREATE TABLE taximeter.check_results (
    invariant  text PRIMARY KEY,
    title      text NOT NULL,
    holds      boolean,
    figures    jsonb NOT NULL,
    violations jsonb NOT NULL,
    reasons    jsonb NOT NULL,
    unread     jsonb NOT NULL,
    unjudged   text,
    checked_at timestamptz NOT NULL,
    proved_at  timestamptz
);
COMMENT ON TABLE taximeter.check_results IS 'What the settler''s last look at the books has found of each invariant.';
COMMENT ON COLUMN taximeter.check_results.holds IS 'Null: a part could not be read, and what was read is right.';

CREATE TABLE taximeter.check_state (
    one            boolean PRIMARY KEY DEFAULT true CONSTRAINT there_is_one CHECK (one),
    tried_at       timestamptz,
    could_not_look text,
    checked_at     timestamptz,
    seconds        real,
    holds          boolean,
    proved_at      timestamptz,
    violations     bigint NOT NULL DEFAULT 0,
    rows_new       bigint NOT NULL DEFAULT 0,
    rows_sealed    bigint NOT NULL DEFAULT 0,
    sealed_until   timestamptz,
    seal_n         bigint NOT NULL DEFAULT 0,
    seal_head      text,
    round_day      date,
    round_began_at timestamptz,
    round_ended_at timestamptz,
    days           bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE taximeter.check_state IS 'The settler''s last look at the books, and how far they are sealed.';
INSERT INTO taximeter.check_state DEFAULT VALUES;

REVOKE ALL ON taximeter.seals, taximeter.sealed_rows, taximeter.seal_changes, taximeter.seal_state, taximeter.sealed_usage,
    taximeter.sealed_shards, taximeter.altered_days, taximeter.check_results, taximeter.check_state
    FROM taximeter_app, taximeter_settler, taximeter_sidecar;
REVOKE ALL ON SEQUENCE taximeter.seal_changes_id_seq FROM taximeter_app, taximeter_settler;
GRANT SELECT ON taximeter.seals, taximeter.sealed_rows, taximeter.seal_changes, taximeter.seal_state, taximeter.altered_days,
    taximeter.check_results, taximeter.check_state TO taximeter_app;
GRANT SELECT, INSERT ON taximeter.seals, taximeter.sealed_rows TO taximeter_settler;
GRANT SELECT, DELETE ON taximeter.seal_changes TO taximeter_settler;
GRANT SELECT, UPDATE ON taximeter.seal_state, taximeter.check_state TO taximeter_settler;
GRANT SELECT, INSERT, UPDATE, DELETE ON taximeter.sealed_usage, taximeter.sealed_shards, taximeter.altered_days, taximeter.check_results
    TO taximeter_settler;

CREATE TRIGGER seals_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.seals
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('seals are kept for ever');
CREATE TRIGGER seals_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.sealed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('seals are kept for ever');

-- What a row is, as archives have it: the first 8 bytes of a SHA-256, as a number. Sums of these do not depend on the order of rows.
-- Bodies are expressions, whose names are resolved here and now, and not by the search path of a caller.
CREATE FUNCTION taximeter.digest_of(text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ('x' || encode(substr(sha256(convert_to($1, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint;
CREATE FUNCTION taximeter.usage_digest(
    id bigint, org_id text, user_id text, service_type text, service_name text, credits_used bigint, request_id text,
    request_metadata jsonb, created_at timestamptz, shard integer, epoch bigint, seq bigint, late boolean, reserved bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
    RETURN taximeter.digest_of(concat_ws(E'\x1e',
        $1, $2, $3, $4, $5, $6, coalesce($7, E'\x1f'), $8::text, (extract(epoch FROM $9) * 1000000)::bigint,
        coalesce($10::text, E'\x1f'), coalesce($11::text, E'\x1f'), coalesce($12::text, E'\x1f'), $13::integer, $14));
CREATE FUNCTION taximeter.charge_digest(
    org_id text, request_id text, phase smallint, user_id text, shard integer, epoch bigint, seq bigint, amount bigint,
    created_at timestamptz, by_expiry boolean) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
    RETURN taximeter.digest_of(concat_ws(E'\x1e',
        $1, $2, $3, $4, coalesce($5::text, E'\x1f'), coalesce($6::text, E'\x1f'), coalesce($7::text, E'\x1f'), $8,
        (extract(epoch FROM $9) * 1000000)::bigint, $10::integer));
CREATE FUNCTION taximeter.entry_digest(
    org_id text, user_id text, entry_seq bigint, delta bigint, kind text, reference text, hold text, created_at timestamptz) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
    RETURN taximeter.digest_of(concat_ws(E'\x1e',
        $1, $2, $3, $4, $5, coalesce($6, E'\x1f'), coalesce($7, E'\x1f'), (extract(epoch FROM $8) * 1000000)::bigint));

-- The link of a seal, from the one before it.
CREATE FUNCTION taximeter.seal_link(link_before bytea, seal taximeter.seals) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(link_before || convert_to(concat_ws(E'\x1e',
        seal.n, extract(epoch FROM seal.at), seal.by, extract(epoch FROM seal.until), coalesce(seal.note, E'\x1f'),
        (SELECT string_agg(concat_ws(E'\x1f', place, kind, what, day - date '2000-01-01', coalesce(shard::text, '-'),
                                     coalesce(epoch::text, '-'), rows, credits, digest), E'\x1e' ORDER BY place)
           FROM taximeter.sealed_rows WHERE seal_n = seal.n)), 'UTF8'))
$$;

-- From which moment on changes need no note; a transaction whose view of that may be an old one notes everything.
CREATE FUNCTION taximeter.noted_until() RETURNS timestamptz
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN current_setting('transaction_isolation') <> 'read committed' THEN 'infinity'
                ELSE coalesce(announced, '-infinity') END
      FROM taximeter.seal_state
$$;

-- Rows that come to, or leave, what is sealed or about to be.
CREATE FUNCTION taximeter.note_usage_behind() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until CONSTANT timestamptz := taximeter.noted_until();
    times CONSTANT integer := CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END;
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, hour, shard, epoch, rows, credits, digest)
    SELECT CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'late' END, 'usage', date_trunc('hour', created_at, 'UTC'), shard, epoch,
           times * count(*), times * sum(credits_used),
           times * sum(taximeter.usage_digest(id, org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata,
                                              created_at, shard, epoch, seq, late, reserved))
      FROM changed WHERE created_at < until GROUP BY 3, 4, 5;
    RETURN NULL;
END;
$$;
CREATE FUNCTION taximeter.note_charges_behind() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until CONSTANT timestamptz := taximeter.noted_until();
    times CONSTANT integer := CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END;
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, hour, shard, epoch, rows, credits, digest)
    SELECT CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'late' END, 'charges', date_trunc('hour', created_at, 'UTC'), shard, epoch,
           times * count(*), times * sum(amount),
           times * sum(taximeter.charge_digest(org_id, request_id, phase, user_id, shard, epoch, seq, amount, created_at, by_expiry))
      FROM changed WHERE created_at < until GROUP BY 3, 4, 5;
    RETURN NULL;
END;
$$;
CREATE FUNCTION taximeter.note_entries_behind() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until CONSTANT timestamptz := taximeter.noted_until();
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, hour, rows, credits, digest)
    SELECT 'late', 'entries', date_trunc('hour', created_at, 'UTC'), count(*), sum(delta),
           sum(taximeter.entry_digest(org_id, user_id, entry_seq, delta, kind, reference, hold, created_at))
      FROM changed WHERE created_at < until GROUP BY 3;
    RETURN NULL;
END;
$$;

CREATE TRIGGER usage_is_noted_behind AFTER INSERT ON credit_usage_attribution
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_usage_behind();
CREATE TRIGGER usage_is_noted_gone AFTER DELETE ON credit_usage_attribution
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_usage_behind();
CREATE TRIGGER entries_are_noted_behind AFTER INSERT ON taximeter.account_entries
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_entries_behind();

-- Those of charged requests go with the table that is written to: a new generation gets its own.
CREATE OR REPLACE FUNCTION taximeter.guard_charges(frozen text, frozen_now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER request_is_charged_once AFTER INSERT ON taximeter.charged_requests REFERENCING NEW TABLE AS inserted'
        ' FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse_known_requests(%L, %L, %L, %L)',
        frozen, CASE WHEN frozen <> '' THEN pg_current_xact_id()::text ELSE '' END, coalesce(frozen_now::text, ''),
        coalesce((SELECT (max(known.frozen_at) + taximeter.clocks_apart())::text
                    FROM taximeter.charge_generations AS known WHERE known.forgotten_at IS NOT NULL), ''));
    CREATE OR REPLACE TRIGGER charges_are_noted_behind AFTER INSERT ON taximeter.charged_requests
        REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();
    CREATE OR REPLACE TRIGGER charges_are_noted_gone AFTER DELETE ON taximeter.charged_requests
        REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();
END;
$$;
CREATE TRIGGER charges_are_noted_behind AFTER INSERT ON taximeter.charged_requests
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();
CREATE TRIGGER charges_are_noted_gone AFTER DELETE ON taximeter.charged_requests
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();

-- A month leaves or comes back, a generation of charges is forgotten: whole tables do, which fires no trigger of theirs. What comes with an
-- organisation from another cell changes the record of a month and not its rows.
CREATE FUNCTION taximeter.note_month_behind() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- OLD and NEW are null where there is none.
    whose   CONSTANT date := coalesce(NEW.month, OLD.month);
    sealed  CONSTANT boolean := (SELECT sealed_until >= (whose + interval '1 month')::timestamp AT TIME ZONE 'UTC' FROM taximeter.seal_state);
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, month, rows, credits)
    SELECT CASE TG_OP WHEN 'DELETE' THEN 'restored' ELSE 'archived' END, 'usage', whose,
           CASE WHEN sealed THEN coalesce(OLD.requests, 0) - coalesce(NEW.requests, 0) END,
           CASE WHEN sealed THEN coalesce(OLD.credits_used, 0) - coalesce(NEW.credits_used, 0) END;
    RETURN NULL;
END;
$$;
CREATE TRIGGER months_are_noted AFTER INSERT OR UPDATE OR DELETE ON taximeter.dropped_months
    FOR EACH ROW WHEN (current_setting('taximeter.importing', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION taximeter.note_month_behind();
CREATE FUNCTION taximeter.note_forgotten_behind() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealed CONSTANT boolean := (SELECT sealed_until >= NEW.frozen_at + interval '1 day' FROM taximeter.seal_state);
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, rows, credits)
    SELECT 'forgotten', 'charges', CASE WHEN sealed THEN -NEW.requests END, CASE WHEN sealed THEN -NEW.credits_used END;
    RETURN NULL;
END;
$$;
CREATE TRIGGER forgotten_charges_are_noted AFTER UPDATE OF forgotten_at ON taximeter.charge_generations
    FOR EACH ROW WHEN (OLD.forgotten_at IS NULL AND NEW.forgotten_at IS NOT NULL)
    EXECUTE FUNCTION taximeter.note_forgotten_behind();

-- Serves "charges that no seal has": a block index, which costs next to nothing where rows come in the order of time.
CREATE INDEX charged_requests_by_time ON taximeter.charged_requests USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);

-- migrate:down
DROP INDEX taximeter.charged_requests_by_time;
DROP TRIGGER forgotten_charges_are_noted ON taximeter.charge_generations;
DROP TRIGGER months_are_noted ON taximeter.dropped_months;
DROP TRIGGER entries_are_noted_behind ON taximeter.account_entries;
DROP TRIGGER usage_is_noted_gone ON credit_usage_attribution;
DROP TRIGGER usage_is_noted_behind ON credit_usage_attribution;
CREATE OR REPLACE FUNCTION taximeter.guard_charges(frozen text, frozen_now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER request_is_charged_once AFTER INSERT ON taximeter.charged_requests REFERENCING NEW TABLE AS inserted'
        ' FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse_known_requests(%L, %L, %L, %L)',
        frozen, CASE WHEN frozen <> '' THEN pg_current_xact_id()::text ELSE '' END, coalesce(frozen_now::text, ''),
        coalesce((SELECT (max(known.frozen_at) + taximeter.clocks_apart())::text
                    FROM taximeter.charge_generations AS known WHERE known.forgotten_at IS NOT NULL), ''));
END;
$$;
-- Those of a frozen generation as well.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT tgrelid::regclass AS of_table, tgname FROM pg_trigger
                WHERE tgname IN ('charges_are_noted_behind', 'charges_are_noted_gone') LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', one.tgname, one.of_table);
    END LOOP;
    FOR one IN SELECT indexrelid::regclass AS name FROM pg_index JOIN pg_class ON oid = indexrelid
                WHERE relname ~ '^charged_requests_by_time_\d+$' LOOP
        EXECUTE format('DROP INDEX %s', one.name);
    END LOOP;
END;
$$;
DROP FUNCTION taximeter.note_forgotten_behind();
DROP FUNCTION taximeter.note_month_behind();
DROP FUNCTION taximeter.note_entries_behind();
DROP FUNCTION taximeter.note_charges_behind();
DROP FUNCTION taximeter.note_usage_behind();
DROP FUNCTION taximeter.noted_until();
DROP FUNCTION taximeter.seal_link(bytea, taximeter.seals);
DROP FUNCTION taximeter.entry_digest(text, text, bigint, bigint, text, text, text, timestamptz);
DROP FUNCTION taximeter.charge_digest(text, text, smallint, text, integer, bigint, bigint, bigint, timestamptz, boolean);
DROP FUNCTION taximeter.usage_digest(
    bigint, text, text, text, text, bigint, text, jsonb, timestamptz, integer, bigint, bigint, boolean, bigint);
DROP FUNCTION taximeter.digest_of(text);
DROP TABLE taximeter.check_state;
DROP TABLE taximeter.check_results;
DROP TABLE taximeter.altered_days;
DROP TABLE taximeter.sealed_shards;
DROP TABLE taximeter.sealed_usage;
DROP TABLE taximeter.seal_state;
DROP TABLE taximeter.seal_changes;
DROP TABLE taximeter.sealed_rows;
DROP TABLE taximeter.seals;

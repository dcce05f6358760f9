-- Why: old months of usage go to Parquet files before they are dropped, and can come back. This table says which files count, also when
-- writing them was cut off. See docs/decisions/0100-a-month-is-proved-in-its-archive-before-it-goes.md.
-- Locks: none that matter: a table that is new, and functions.
-- Older code beside it: yes.

-- migrate:up
CREATE TABLE taximeter.archived_months (
    month           date CONSTRAINT month_begins_on_its_first CHECK (extract(day FROM month) = 1),
    part            integer CONSTRAINT part_is_counted_from_one CHECK (part > 0),
    token           text NOT NULL CONSTRAINT token_is_hexadecimal CHECK (token ~ '^[0-9a-f]{8}$'),
    state           text NOT NULL DEFAULT 'writing' CONSTRAINT state_is_known CHECK (state IN ('writing', 'archived', 'restored')),
    requests        bigint NOT NULL DEFAULT 0,
    credits_used    bigint NOT NULL DEFAULT 0,
    manifest_sha256 text,
    begun_at        timestamptz NOT NULL DEFAULT now(),
    archived_at     timestamptz,
    PRIMARY KEY (month, part),
    CONSTRAINT what_is_archived_is_known CHECK (state <> 'archived' OR (manifest_sha256 IS NOT NULL AND archived_at IS NOT NULL))
);
COMMENT ON TABLE taximeter.archived_months IS
    'Parts of months whose rows lie in files: the first has what the month held, a later one what came after that was archived.';
COMMENT ON COLUMN taximeter.archived_months.token IS 'Part of the names of its files: what is written anew has another one, so that nothing is written over.';
COMMENT ON COLUMN taximeter.archived_months.state IS
    'writing: its rows are here, whatever the files hold. archived: they are in the files alone. restored: here again, the files stay.';
REVOKE INSERT, UPDATE ON taximeter.archived_months FROM taximeter_app, taximeter_settler;

-- Until the transaction ends nothing is added to the rows of a month, nor taken away. Others are written as always.
CREATE FUNCTION taximeter.lock_attribution_month(month date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    partition_name CONSTANT text := 'attribution_' || to_char(month, 'YYYY_MM');
BEGIN
    IF to_regclass('taximeter.' || partition_name) IS NOT NULL THEN
        EXECUTE format('LOCK TABLE taximeter.%I IN SHARE MODE', partition_name);
    ELSE
        LOCK TABLE taximeter.attribution_rest IN SHARE ROW EXCLUSIVE MODE;
    END IF;
END;
$$;

-- An empty table for the rows of a month that come back, beside the months until they are all there.
CREATE FUNCTION taximeter.begin_restoring_month(month date) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    table_name CONSTANT text := 'restoring_' || to_char(month, 'YYYY_MM');
BEGIN
    -- What a restore that was cut off has left.
    EXECUTE format('DROP TABLE IF EXISTS taximeter.%I', table_name);
    EXECUTE format('CREATE TABLE taximeter.%I (LIKE public.credit_usage_attribution INCLUDING ALL)', table_name);
    -- So that attaching it needs no look at its rows.
    EXECUTE format('ALTER TABLE taximeter.%I ADD CONSTRAINT is_of_its_month CHECK (created_at >= %L AND created_at < %L)', table_name,
                   month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month')::timestamp AT TIME ZONE 'UTC');
    EXECUTE format('REVOKE ALL ON taximeter.%I FROM taximeter_app, taximeter_settler', table_name);
    RETURN table_name;
END;
$$;

-- Makes that table the month, with rows that came late, and takes the record of its dropping back. Raises while a later month is dropped:
-- what is compared with rows begins where the rows do.
CREATE FUNCTION taximeter.end_restoring_month(month date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    since          CONSTANT timestamptz := month::timestamp AT TIME ZONE 'UTC';
    until          CONSTANT timestamptz := (month + interval '1 month')::timestamp AT TIME ZONE 'UTC';
    table_name     CONSTANT text := 'restoring_' || to_char(month, 'YYYY_MM');
    partition_name CONSTANT text := 'attribution_' || to_char(month, 'YYYY_MM');
BEGIN
    IF month IS DISTINCT FROM (SELECT max(gone.month) FROM taximeter.dropped_months AS gone) THEN
        RAISE EXCEPTION 'only the newest month that was dropped can come back' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    LOCK TABLE public.credit_usage_attribution IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE taximeter.attribution_rest IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE taximeter.%I RENAME TO %I', table_name, partition_name);
    PERFORM set_config('taximeter.moving_rows', 'on', true);
    EXECUTE format(
        'WITH moved AS (DELETE FROM taximeter.attribution_rest WHERE created_at >= %1$L AND created_at < %2$L RETURNING *)'
        ' INSERT INTO taximeter.%3$I SELECT * FROM moved', since, until, partition_name);
    PERFORM set_config('taximeter.moving_rows', '', true);
    EXECUTE format('ALTER TABLE public.credit_usage_attribution ATTACH PARTITION taximeter.%I FOR VALUES FROM (%L) TO (%L)',
                   partition_name, since, until);
    EXECUTE format('ALTER TABLE taximeter.%I DROP CONSTRAINT is_of_its_month', partition_name);
    PERFORM taximeter.guard_partition(partition_name);
    DELETE FROM taximeter.dropped_months AS gone WHERE gone.month = end_restoring_month.month;
    UPDATE taximeter.archived_months AS archived SET state = 'restored'
     WHERE archived.month = end_restoring_month.month AND archived.state = 'archived';
END;
$$;

-- The owner alone.
REVOKE EXECUTE ON FUNCTION
    taximeter.lock_attribution_month(date), taximeter.begin_restoring_month(date), taximeter.end_restoring_month(date) FROM PUBLIC;

-- migrate:down
DROP FUNCTION taximeter.end_restoring_month(date);
DROP FUNCTION taximeter.begin_restoring_month(date);
DROP FUNCTION taximeter.lock_attribution_month(date);
DROP TABLE taximeter.archived_months;

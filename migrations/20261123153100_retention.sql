-- Why: old months of usage go by one command, and the books stay provable: each month that went leaves a row that says how much
-- it held, and what is checked against a recount of rows begins where the rows do.
-- The rollups keep what the month held, and so do the charged requests: a request id of years ago is still refused a second
-- charge. `used` of allocations and pools is untouched.
-- Locks: none that matter, the table is new and the rest are functions. Dropping a month takes ACCESS EXCLUSIVE on the attribution for a
-- moment, and waits at most five seconds for it.
-- Older code beside it: yes.

-- migrate:up
CREATE TABLE taximeter.dropped_months (
    month        date PRIMARY KEY CONSTRAINT month_begins_on_its_first CHECK (extract(day FROM month) = 1),
    requests     bigint NOT NULL,
    credits_used bigint NOT NULL,
    dropped_at   timestamptz NOT NULL DEFAULT now(),
    dropped_by   text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE taximeter.dropped_months IS
    'Months whose rows of usage are gone, and what the rollup had of them at that time. It still has it.';
COMMENT ON COLUMN taximeter.dropped_months.dropped_by IS 'The role of the database that did it.';

-- Rows of usage are complete from this day on; -infinity while nothing was dropped.
CREATE FUNCTION taximeter.usage_floor() RETURNS date
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((max(month) + interval '1 month')::date, '-infinity'::date) FROM taximeter.dropped_months;
$$;

-- Makes the partition of one month (its first day, in UTC); false when it is there. Rows that waited in the default partition
-- move to it. Safe to call by several at once.
CREATE FUNCTION taximeter.make_attribution_month(month date) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    starts         CONSTANT timestamp := date_trunc('month', month::timestamp);
    ends           CONSTANT timestamp := starts + interval '1 month';
    partition_name CONSTANT text := 'attribution_' || to_char(starts, 'YYYY_MM');
BEGIN
    IF to_regclass('taximeter.' || partition_name) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE public.credit_usage_attribution IN SHARE UPDATE EXCLUSIVE MODE;
    -- Another session may have made it while this one waited.
    IF to_regclass('taximeter.' || partition_name) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE taximeter.attribution_rest IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE taximeter.%I (LIKE public.credit_usage_attribution INCLUDING ALL)', partition_name);
    PERFORM set_config('taximeter.moving_rows', 'on', true);
    EXECUTE format(
        'WITH moved AS (DELETE FROM taximeter.attribution_rest WHERE created_at >= %1$L AND created_at < %2$L RETURNING *)'
        ' INSERT INTO taximeter.%3$I SELECT * FROM moved',
        starts AT TIME ZONE 'UTC', ends AT TIME ZONE 'UTC', partition_name);
    PERFORM set_config('taximeter.moving_rows', '', true);
    EXECUTE format(
        'ALTER TABLE public.credit_usage_attribution ATTACH PARTITION taximeter.%I FOR VALUES FROM (%L) TO (%L)',
        partition_name, starts AT TIME ZONE 'UTC', ends AT TIME ZONE 'UTC');
    PERFORM taximeter.guard_partition(partition_name);
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION taximeter.ensure_attribution_partitions(months_ahead integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    this_month CONSTANT timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    made       integer := 0;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'months_ahead must be between 0 and 120, not %', months_ahead
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR month IN -1 .. months_ahead LOOP
        IF taximeter.make_attribution_month((this_month + make_interval(months => month))::date) THEN
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END;
$$;

-- The months that have a partition or usage, oldest first, with all the usage that they ever had and how much of it has no rows
-- any more. `partition` is null when rows wait in the default partition, or are gone.
CREATE FUNCTION taximeter.usage_months()
RETURNS TABLE (month date, partition text, requests bigint, credits_used bigint, dropped_requests bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH partitions AS (
        SELECT to_date(substr(child.relname, 13), 'YYYY_MM') AS month, child.relname::text AS partition
          FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
         WHERE inhparent = 'public.credit_usage_attribution'::regclass AND child.relname ~ '^attribution_\d{4,}_\d{2}$'
    ), totals AS (
        SELECT rollup.month, sum(rollup.requests)::bigint AS requests, sum(rollup.credits_used)::bigint AS credits_used
          FROM taximeter.usage_monthly_by_org AS rollup GROUP BY 1
    )
    SELECT month, partitions.partition, coalesce(totals.requests, 0), coalesce(totals.credits_used, 0),
           coalesce(gone.requests, 0)
      FROM partitions FULL JOIN totals USING (month) LEFT JOIN taximeter.dropped_months AS gone USING (month)
     ORDER BY month;
$$;

-- Drops the rows of one month and records what the rollup has of it. Returns how many rows went. A month that was dropped
-- before only loses what has come in since. Raises for this month and the last one, which settle still writes to; while an older
-- month is there, since the record is of everything up to a day; and when the rollup does not equal the rows that it
-- is about to be the only witness of.
CREATE FUNCTION taximeter.drop_attribution_month(month date) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    starts          CONSTANT timestamp := date_trunc('month', month::timestamp);
    since           CONSTANT timestamptz := starts AT TIME ZONE 'UTC';
    until           CONSTANT timestamptz := (starts + interval '1 month') AT TIME ZONE 'UTC';
    partition_name  CONSTANT text := 'attribution_' || to_char(starts, 'YYYY_MM');
    has_partition   CONSTANT boolean := to_regclass('taximeter.' || partition_name) IS NOT NULL;
    older           date;
    found_rows      bigint;
    found_credits   bigint;
    known_rows      bigint;
    known_credits   bigint;
    dropped_rows    bigint;
    dropped_credits bigint;
BEGIN
    IF month IS NULL OR starts >= date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month' THEN
        RAISE EXCEPTION 'only months before the last one can be dropped, not %',
            coalesce(to_char(starts, 'YYYY-MM'), 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT min(known.month) INTO older FROM taximeter.usage_months() AS known
     WHERE known.month < starts AND known.partition IS NOT NULL;
    IF older IS NOT NULL THEN
        RAISE EXCEPTION '% is still there: older months go first', to_char(older, 'YYYY-MM')
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF has_partition THEN
        -- Nothing is added to this month from here on; others are written as always.
        EXECUTE format('LOCK TABLE taximeter.%I IN SHARE MODE', partition_name);
    ELSE
        LOCK TABLE taximeter.attribution_rest IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    SELECT count(*), coalesce(sum(usage.credits_used), 0) INTO found_rows, found_credits
      FROM public.credit_usage_attribution AS usage WHERE usage.created_at >= since AND usage.created_at < until;
    SELECT coalesce(sum(rollup.requests), 0), coalesce(sum(rollup.credits_used), 0) INTO known_rows, known_credits
      FROM taximeter.usage_monthly_by_org AS rollup WHERE rollup.month = starts::date;
    SELECT coalesce(sum(gone.requests), 0), coalesce(sum(gone.credits_used), 0) INTO dropped_rows, dropped_credits
      FROM taximeter.dropped_months AS gone WHERE gone.month = starts::date;
    IF has_partition AND (found_rows + dropped_rows, found_credits + dropped_credits) <> (known_rows, known_credits) THEN
        RAISE EXCEPTION 'the rollup of % has % requests and % millicredits, its rows are % and %: see `taximeter check`',
            to_char(starts, 'YYYY-MM'), known_rows - dropped_rows, known_credits - dropped_credits, found_rows, found_credits
            USING ERRCODE = 'data_corrupted';
    END IF;
    INSERT INTO taximeter.dropped_months AS gone (month, requests, credits_used)
    VALUES (starts::date, known_rows, known_credits)
    ON CONFLICT ON CONSTRAINT dropped_months_pkey DO UPDATE
       SET requests = EXCLUDED.requests, credits_used = EXCLUDED.credits_used,
           dropped_at = EXCLUDED.dropped_at, dropped_by = EXCLUDED.dropped_by;
    IF has_partition THEN
        EXECUTE format('DROP TABLE taximeter.%I', partition_name);
    ELSE
        PERFORM set_config('taximeter.moving_rows', 'on', true);
        DELETE FROM taximeter.attribution_rest AS rest WHERE rest.created_at >= since AND rest.created_at < until;
        PERFORM set_config('taximeter.moving_rows', '', true);
    END IF;
    RETURN found_rows;
END;
$$;

-- migrate:down
DROP FUNCTION taximeter.drop_attribution_month(date);
DROP FUNCTION taximeter.usage_months();
CREATE OR REPLACE FUNCTION taximeter.ensure_attribution_partitions(months_ahead integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    this_month     timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    starts         timestamp;
    partition_name text;
    made           integer := 0;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'months_ahead must be between 0 and 120, not %', months_ahead
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR month IN -1 .. months_ahead LOOP
        starts := this_month + make_interval(months => month);
        partition_name := 'attribution_' || to_char(starts, 'YYYY_MM');
        CONTINUE WHEN to_regclass('taximeter.' || partition_name) IS NOT NULL;
        LOCK TABLE public.credit_usage_attribution IN SHARE UPDATE EXCLUSIVE MODE;
        -- Another session may have made it while this one waited.
        CONTINUE WHEN to_regclass('taximeter.' || partition_name) IS NOT NULL;
        LOCK TABLE taximeter.attribution_rest IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('CREATE TABLE taximeter.%I (LIKE public.credit_usage_attribution INCLUDING ALL)', partition_name);
        PERFORM set_config('taximeter.moving_rows', 'on', true);
        EXECUTE format(
            'WITH moved AS (DELETE FROM taximeter.attribution_rest WHERE created_at >= %1$L AND created_at < %2$L RETURNING *)'
            ' INSERT INTO taximeter.%3$I SELECT * FROM moved',
            starts AT TIME ZONE 'UTC', (starts + interval '1 month') AT TIME ZONE 'UTC', partition_name);
        PERFORM set_config('taximeter.moving_rows', '', true);
        EXECUTE format(
            'ALTER TABLE public.credit_usage_attribution ATTACH PARTITION taximeter.%I FOR VALUES FROM (%L) TO (%L)',
            partition_name, starts AT TIME ZONE 'UTC', (starts + interval '1 month') AT TIME ZONE 'UTC');
        PERFORM taximeter.guard_partition(partition_name);
        made := made + 1;
    END LOOP;
    RETURN made;
END;
$$;
DROP FUNCTION taximeter.make_attribution_month(date);
DROP FUNCTION taximeter.usage_floor();
DROP TABLE taximeter.dropped_months;

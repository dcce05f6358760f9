-- Why: a report of 30 days lists the users of an organisation, and the dashboard of the whole system its organisations. Added up from
-- days they cost as many rows as there are users, models and days. Kept as running totals of a month they cost a row a user (or an
-- organisation) and month: what was used from one day to another is one element less another.
-- `..._to_day[d]` is what was used from the first of the month to its d-th day in UTC. Every month has 31 elements; those after its
-- last day repeat it, so that element 31 is the month.
-- Locks: SHARE ROW EXCLUSIVE on the attribution while the months that are there are added up once, about 20 seconds a
-- million rows of the daily rollup: settling and deduct_credits wait as long, requests do not. An index is dropped.
-- Older code beside it: yes; what it reads of the monthly rollup is there under the same names, and its week of the whole system is
-- slower without the index.

-- migrate:up
-- Running totals of a month in which nothing was used but this, on this day.
CREATE FUNCTION taximeter.totals_from(day date, amount bigint) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_fill(0::bigint, ARRAY[extract(day FROM day)::integer - 1]) || array_fill(amount, ARRAY[32 - extract(day FROM day)::integer]);

-- Strict, so that the aggregate begins with the first month instead of adding it to nothing: most have one day.
CREATE FUNCTION taximeter.add_totals(totals bigint[], others bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ARRAY(SELECT one + other FROM unnest(totals, others) AS pair (one, other));

CREATE AGGREGATE taximeter.sum_totals(bigint[]) (
    SFUNC = taximeter.add_totals, STYPE = bigint[], PARALLEL = SAFE
);

-- What was used from `first` to `last` (both included) according to the totals of `month`; the days may lie outside it. Written to be
-- inlined: it stands in queries over thousands of rows.
CREATE FUNCTION taximeter.used_between(totals bigint[], month date, first date, last date) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN totals[least(last - month + 1, 31)] - coalesce(totals[first - month], 0);

CREATE TABLE taximeter.usage_monthly_by_user (
    org_id          text NOT NULL,
    month           date NOT NULL CONSTRAINT month_begins_on_its_first CHECK (extract(day FROM month) = 1),
    user_id         text NOT NULL,
    requests_to_day bigint[] NOT NULL CONSTRAINT requests_have_31_days CHECK (cardinality(requests_to_day) = 31),
    credits_to_day  bigint[] NOT NULL CONSTRAINT credits_have_31_days CHECK (cardinality(credits_to_day) = 31),
    PRIMARY KEY (org_id, month, user_id)
) WITH (fillfactor = 70); -- Room for heap-only updates: the rows of this month are rewritten by every settle.
COMMENT ON COLUMN taximeter.usage_monthly_by_user.credits_to_day IS 'Element d: from the first of the month to its d-th day, UTC.';
CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_monthly_by_user
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

-- The same of everybody. A row is shared by all who write into its lane, until they commit: each shard's settler has a lane of its own,
-- and deduct_credits and what is done by hand have 256 each, by organisation.
CREATE TABLE taximeter.usage_monthly (
    month           date NOT NULL CONSTRAINT month_begins_on_its_first CHECK (extract(day FROM month) = 1),
    lane            smallint NOT NULL,
    requests_to_day bigint[] NOT NULL CONSTRAINT requests_have_31_days CHECK (cardinality(requests_to_day) = 31),
    credits_to_day  bigint[] NOT NULL CONSTRAINT credits_have_31_days CHECK (cardinality(credits_to_day) = 31),
    PRIMARY KEY (month, lane)
) WITH (fillfactor = 50); -- As above.
COMMENT ON COLUMN taximeter.usage_monthly.lane IS 'From 0: settle. From -1 down: deduct_credits. From -257 down: by hand.';
CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_monthly
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

-- The months that are there already. Nobody may write usage meanwhile. Each day is added to the elements from it on, by one
-- sorted read of each rollup: the aggregate above would take ten times as long for millions of rows. OFFSET 0 keeps the
-- day's number from being worked out anew for each of its 62 uses.
LOCK TABLE credit_usage_attribution IN SHARE ROW EXCLUSIVE MODE;
SET LOCAL work_mem = '64MB';
SET LOCAL enable_hashagg = off;
DO $$
DECLARE
    to_day CONSTANT text := (
        SELECT format('ARRAY[%s]::bigint[] AS requests_to_day, ARRAY[%s]::bigint[] AS credits_to_day',
                      string_agg(format('coalesce(sum(requests) FILTER (WHERE nth <= %s), 0)', nth), ', '),
                      string_agg(format('coalesce(sum(credits_used) FILTER (WHERE nth <= %s), 0)', nth), ', '))
          FROM generate_series(1, 31) AS nth);
    days   CONSTANT text :=
        '(SELECT *, date_trunc(''month'', day::timestamp)::date AS month, extract(day FROM day)::integer AS nth FROM %s OFFSET 0) AS days';
BEGIN
    EXECUTE format(
        'INSERT INTO taximeter.usage_monthly_by_user (org_id, month, user_id, requests_to_day, credits_to_day)'
        ' SELECT org_id, month, user_id, %s FROM %s GROUP BY month, org_id, user_id ORDER BY month, org_id, user_id',
        to_day, format(days, 'taximeter.usage_daily'));
    EXECUTE format(
        'CREATE TEMP TABLE months_by_org ON COMMIT DROP AS'
        ' SELECT org_id, month, writer, %s FROM %s GROUP BY month, org_id, writer',
        to_day, format(days, 'taximeter.usage_daily_by_org'));
    EXECUTE format(
        'INSERT INTO taximeter.usage_monthly (month, lane, requests_to_day, credits_to_day)'
        ' SELECT month, 0, %s FROM %s GROUP BY month', to_day, format(days, 'taximeter.usage_daily_by_org'));
END;
$$;
-- From here on dashboards wait: a second or two a hundred thousand months of organisations. Whoever reads them now is waited for, or
-- all of the above would be for nothing.
SET LOCAL lock_timeout = '10s';
ALTER TABLE taximeter.usage_monthly_by_org
    ADD COLUMN requests_to_day bigint[], ADD COLUMN credits_to_day bigint[];
UPDATE taximeter.usage_monthly_by_org AS monthly
   SET requests_to_day = months.requests_to_day, credits_to_day = months.credits_to_day
  FROM months_by_org AS months
 WHERE (monthly.org_id, monthly.month, monthly.writer) = (months.org_id, months.month, months.writer);
ALTER TABLE taximeter.usage_monthly_by_org
    DROP COLUMN requests,
    DROP COLUMN credits_used,
    ALTER COLUMN requests_to_day SET NOT NULL,
    ALTER COLUMN credits_to_day SET NOT NULL,
    ADD CONSTRAINT requests_have_31_days CHECK (cardinality(requests_to_day) = 31),
    ADD CONSTRAINT credits_have_31_days CHECK (cardinality(credits_to_day) = 31),
    ADD COLUMN requests bigint GENERATED ALWAYS AS (requests_to_day[31]) STORED,
    ADD COLUMN credits_used bigint GENERATED ALWAYS AS (credits_to_day[31]) STORED;
COMMENT ON COLUMN taximeter.usage_monthly_by_org.credits_to_day IS 'As that of usage_monthly_by_user.';
-- It served the last days of the whole system, which are read from the months now.
DROP INDEX taximeter.usage_daily_by_org_by_day;

-- Adds to the months of everybody, after all other rollups. `shard`: of a settler, else null.
CREATE FUNCTION taximeter.add_usage_of_all(changes taximeter.usage_daily_by_org[], shard integer) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO taximeter.usage_monthly AS monthly (month, lane, requests_to_day, credits_to_day)
    SELECT date_trunc('month', day::timestamp)::date, lane,
           taximeter.sum_totals(taximeter.totals_from(day, requests)),
           taximeter.sum_totals(taximeter.totals_from(day, credits_used))
      FROM (SELECT day,
                   CASE WHEN shard IS NOT NULL THEN shard % 1000
                        ELSE -1 - abs(hashtext(org_id) % 256) - CASE writer WHEN 2 THEN 256 ELSE 0 END END AS lane,
                   sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
              FROM unnest(changes) GROUP BY 1, 2) AS by_day
     GROUP BY 1, 2
     ORDER BY 1, 2
    ON CONFLICT (month, lane) DO UPDATE
       SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
           credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day);
$$;

CREATE OR REPLACE FUNCTION taximeter.add_usage_by_org(changes taximeter.usage_daily_by_org[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH change AS MATERIALIZED (
        SELECT * FROM unnest(changes)
    ), months AS (
        INSERT INTO taximeter.usage_monthly_by_org AS monthly (org_id, month, writer, requests_to_day, credits_to_day)
        SELECT org_id, date_trunc('month', day::timestamp)::date, writer,
               taximeter.sum_totals(taximeter.totals_from(day, requests)),
               taximeter.sum_totals(taximeter.totals_from(day, credits_used))
          FROM (SELECT org_id, day, writer, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
                  FROM change GROUP BY 1, 2, 3) AS by_day
         GROUP BY 1, 2, 3
         ORDER BY 2, 1, 3
        ON CONFLICT (month, org_id, writer) DO UPDATE
           SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
               credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day)
    )
    INSERT INTO taximeter.usage_daily_by_org AS daily
           (org_id, day, service_type, service_name, writer, requests, credits_used)
    SELECT org_id, day, service_type, service_name, writer, requests, credits_used
      FROM change
     ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (org_id, day, service_type, service_name, writer) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
$$;

CREATE OR REPLACE FUNCTION taximeter.usage_inserted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    by_writer CONSTANT smallint := CASE
        WHEN current_setting('taximeter.settling', true) = 'on' THEN 0
        WHEN current_setting('taximeter.charging', true) = 'on' THEN 1
        ELSE 2 END;
    changes   taximeter.usage_daily_by_org[];
BEGIN
    IF by_writer = 2 THEN
        -- Usage without a charge was written by hand: the books say so instead of not adding up. Accounts come before rollups, as
        -- everywhere.
        PERFORM taximeter.note_used_by_hand(org_id, user_id, -credits_used)
           FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
                   FROM inserted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    END IF;
    -- Sorted, so that two statements at once meet on the rows of the rollups in the same order.
    WITH by_account AS MATERIALIZED (
        SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day,
               count(*) AS requests, sum(credits_used)::bigint AS credits_used
          FROM inserted
         GROUP BY 1, 2, 3, 4, 5
    ), days AS (
        INSERT INTO taximeter.usage_daily AS daily
               (org_id, user_id, service_type, service_name, day, requests, credits_used)
        SELECT * FROM by_account ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (org_id, user_id, service_type, service_name, day) DO UPDATE
           SET requests = daily.requests + EXCLUDED.requests,
               credits_used = daily.credits_used + EXCLUDED.credits_used
    ), months AS (
        INSERT INTO taximeter.usage_monthly_by_user AS monthly (org_id, month, user_id, requests_to_day, credits_to_day)
        SELECT org_id, date_trunc('month', day::timestamp)::date, user_id,
               taximeter.sum_totals(taximeter.totals_from(day, requests)),
               taximeter.sum_totals(taximeter.totals_from(day, credits_used))
          FROM (SELECT org_id, user_id, day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
                  FROM by_account GROUP BY 1, 2, 3) AS by_day
         GROUP BY 1, 2, 3
         ORDER BY 1, 2, 3
        ON CONFLICT (org_id, month, user_id) DO UPDATE
           SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
               credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day)
    )
    SELECT array_agg(ROW(org_id, day, service_type, service_name, by_writer, requests, credits_used)
                     ::taximeter.usage_daily_by_org)
      INTO changes
      FROM (SELECT org_id, day, service_type, service_name,
                   sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
              FROM by_account
             GROUP BY 1, 2, 3, 4) AS by_org;
    PERFORM taximeter.add_usage_by_org(changes);
    -- A settler books one shard at a time.
    PERFORM taximeter.add_usage_of_all(changes, CASE WHEN by_writer = 0 THEN (SELECT shard FROM inserted LIMIT 1) END);
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION taximeter.usage_deleted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changes taximeter.usage_daily_by_org[];
BEGIN
    PERFORM taximeter.note_used_by_hand(org_id, user_id, credits_used)
       FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
               FROM deleted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    WITH gone AS (
        SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day,
               count(*) AS requests, sum(credits_used)::bigint AS credits_used
          FROM deleted
         GROUP BY 1, 2, 3, 4, 5
    ), days AS (
        UPDATE taximeter.usage_daily AS daily
           SET requests = daily.requests - gone.requests, credits_used = daily.credits_used - gone.credits_used
          FROM gone
         WHERE (daily.org_id, daily.user_id, daily.service_type, daily.service_name, daily.day)
             = (gone.org_id, gone.user_id, gone.service_type, gone.service_name, gone.day)
    )
    UPDATE taximeter.usage_monthly_by_user AS monthly
       SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, less.requests_to_day),
           credits_to_day = taximeter.add_totals(monthly.credits_to_day, less.credits_to_day)
      FROM (SELECT org_id, date_trunc('month', day::timestamp)::date AS month, user_id,
                   taximeter.sum_totals(taximeter.totals_from(day, -requests)) AS requests_to_day,
                   taximeter.sum_totals(taximeter.totals_from(day, -credits_used)) AS credits_to_day
              FROM gone GROUP BY 1, 2, 3) AS less
     WHERE (monthly.org_id, monthly.month, monthly.user_id) = (less.org_id, less.month, less.user_id);
    DELETE FROM taximeter.usage_daily AS daily
     USING (SELECT DISTINCT org_id, user_id FROM deleted) AS gone
     WHERE daily.org_id = gone.org_id AND daily.user_id = gone.user_id AND daily.requests = 0;
    DELETE FROM taximeter.usage_monthly_by_user AS monthly
     USING (SELECT DISTINCT org_id, user_id FROM deleted) AS gone
     WHERE monthly.org_id = gone.org_id AND monthly.user_id = gone.user_id AND monthly.requests_to_day[31] = 0;
    SELECT array_agg(ROW(org_id, day, service_type, service_name, 2::smallint, -requests, -credits_used)
                     ::taximeter.usage_daily_by_org)
      INTO changes
      FROM (SELECT org_id, (created_at AT TIME ZONE 'UTC')::date AS day, service_type, service_name,
                   count(*) AS requests, sum(credits_used)::bigint AS credits_used
              FROM deleted GROUP BY 1, 2, 3, 4) AS by_org;
    PERFORM taximeter.add_usage_by_org(changes);
    PERFORM taximeter.add_usage_of_all(changes, NULL);
    DELETE FROM taximeter.charged_requests AS charged
     USING deleted
     WHERE charged.org_id = deleted.org_id AND charged.request_id = deleted.request_id;
    RETURN NULL;
END;
$$;

-- migrate:down
CREATE OR REPLACE FUNCTION taximeter.usage_inserted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    by_writer CONSTANT smallint := CASE
        WHEN current_setting('taximeter.settling', true) = 'on' THEN 0
        WHEN current_setting('taximeter.charging', true) = 'on' THEN 1
        ELSE 2 END;
    changes   taximeter.usage_daily_by_org[];
BEGIN
    -- Sorted, so that two statements at once meet on the rows of the rollup in the same order.
    WITH by_account AS MATERIALIZED (
        SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day,
               count(*) AS requests, sum(credits_used)::bigint AS credits_used
          FROM inserted
         GROUP BY 1, 2, 3, 4, 5
    ), added AS (
        INSERT INTO taximeter.usage_daily AS daily
               (org_id, user_id, service_type, service_name, day, requests, credits_used)
        SELECT * FROM by_account ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (org_id, user_id, service_type, service_name, day) DO UPDATE
           SET requests = daily.requests + EXCLUDED.requests,
               credits_used = daily.credits_used + EXCLUDED.credits_used
    )
    SELECT array_agg(ROW(org_id, day, service_type, service_name, by_writer, requests, credits_used)
                     ::taximeter.usage_daily_by_org)
      INTO changes
      FROM (SELECT org_id, day, service_type, service_name,
                   sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
              FROM by_account
             GROUP BY 1, 2, 3, 4) AS by_org;
    PERFORM taximeter.add_usage_by_org(changes);
    IF by_writer = 2 THEN
        -- Usage without a charge was written by hand: the books say so instead of not adding up.
        PERFORM taximeter.note_used_by_hand(org_id, user_id, -credits_used)
           FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
                   FROM inserted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    END IF;
    RETURN NULL;
END;
$$;
CREATE OR REPLACE FUNCTION taximeter.usage_deleted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM taximeter.note_used_by_hand(org_id, user_id, credits_used)
       FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
               FROM deleted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    WITH gone AS (
        SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day,
               count(*) AS requests, sum(credits_used)::bigint AS credits_used
          FROM deleted
         GROUP BY 1, 2, 3, 4, 5
    )
    UPDATE taximeter.usage_daily AS daily
       SET requests = daily.requests - gone.requests, credits_used = daily.credits_used - gone.credits_used
      FROM gone
     WHERE (daily.org_id, daily.user_id, daily.service_type, daily.service_name, daily.day)
         = (gone.org_id, gone.user_id, gone.service_type, gone.service_name, gone.day);
    DELETE FROM taximeter.usage_daily AS daily
     USING (SELECT DISTINCT org_id, user_id FROM deleted) AS gone
     WHERE daily.org_id = gone.org_id AND daily.user_id = gone.user_id AND daily.requests = 0;
    PERFORM taximeter.add_usage_by_org(array_agg(
               ROW(org_id, day, service_type, service_name, 2::smallint, -requests, -credits_used)
               ::taximeter.usage_daily_by_org))
       FROM (SELECT org_id, (created_at AT TIME ZONE 'UTC')::date AS day, service_type, service_name,
                    count(*) AS requests, sum(credits_used)::bigint AS credits_used
               FROM deleted GROUP BY 1, 2, 3, 4) AS by_org;
    DELETE FROM taximeter.charged_requests AS charged
     USING deleted
     WHERE charged.org_id = deleted.org_id AND charged.request_id = deleted.request_id;
    RETURN NULL;
END;
$$;
CREATE INDEX usage_daily_by_org_by_day ON taximeter.usage_daily_by_org (day);
ALTER TABLE taximeter.usage_monthly_by_org DROP COLUMN requests, DROP COLUMN credits_used;
ALTER TABLE taximeter.usage_monthly_by_org ADD COLUMN requests bigint, ADD COLUMN credits_used bigint;
UPDATE taximeter.usage_monthly_by_org SET requests = requests_to_day[31], credits_used = credits_to_day[31];
ALTER TABLE taximeter.usage_monthly_by_org
    DROP COLUMN requests_to_day,
    DROP COLUMN credits_to_day,
    ALTER COLUMN requests SET NOT NULL,
    ALTER COLUMN credits_used SET NOT NULL;
CREATE OR REPLACE FUNCTION taximeter.add_usage_by_org(changes taximeter.usage_daily_by_org[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH change AS MATERIALIZED (
        SELECT * FROM unnest(changes)
    ), months AS (
        INSERT INTO taximeter.usage_monthly_by_org AS monthly (org_id, month, writer, requests, credits_used)
        SELECT org_id, date_trunc('month', day::timestamp)::date, writer, sum(requests)::bigint, sum(credits_used)::bigint
          FROM change
         GROUP BY 1, 2, 3
         ORDER BY 2, 1, 3
        ON CONFLICT (month, org_id, writer) DO UPDATE
           SET requests = monthly.requests + EXCLUDED.requests,
               credits_used = monthly.credits_used + EXCLUDED.credits_used
    )
    INSERT INTO taximeter.usage_daily_by_org AS daily
           (org_id, day, service_type, service_name, writer, requests, credits_used)
    SELECT org_id, day, service_type, service_name, writer, requests, credits_used
      FROM change
     ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (org_id, day, service_type, service_name, writer) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
$$;
DROP FUNCTION taximeter.add_usage_of_all(taximeter.usage_daily_by_org[], integer);
DROP TABLE taximeter.usage_monthly;
DROP TABLE taximeter.usage_monthly_by_user;
DROP FUNCTION taximeter.used_between(bigint[], date, date, date);
DROP AGGREGATE taximeter.sum_totals(bigint[]);
DROP FUNCTION taximeter.add_totals(bigint[], bigint[]);
DROP FUNCTION taximeter.totals_from(date, bigint);

-- Why: reports of an organisation and of the whole system answer from rollups that are as small as the question: without users a
-- day of an organisation is one row a model, however many members it has.
-- These rows are shared by all users of an organisation, while settle and deduct_credits hold locks of some of its users only. So
-- each row has a writer: the settler (one a shard, under its watermark), deduct_credits (under the pool) and whatever was done by
-- hand never wait for each other here, and cannot deadlock. A figure is the sum over the writers; that of what was done by hand
-- may be negative, since it is where deleted usage is taken back.
-- Locks: SHARE ROW EXCLUSIVE on the attribution while its days are added up once; an index is dropped.
-- Older code beside it: yes; the functions that it calls keep the new tables.

-- migrate:up
-- Nobody may write usage meanwhile. Before everything else: who writes usage goes on to its days, so the other way round would be
-- a deadlock.
LOCK TABLE credit_usage_attribution IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE taximeter.usage_daily_by_org (
    org_id       text NOT NULL,
    day          date NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    writer       smallint NOT NULL CONSTRAINT writer_is_known CHECK (writer IN (0, 1, 2)),
    requests     bigint NOT NULL,
    credits_used bigint NOT NULL,
    PRIMARY KEY (org_id, day, service_type, service_name, writer)
) WITH (fillfactor = 70); -- Room for heap-only updates: the rows of today are rewritten by every settle.
COMMENT ON COLUMN taximeter.usage_daily_by_org.writer IS '0: settle. 1: deduct_credits. 2: by hand, deleted usage included.';
-- Serves the last days of the whole system.
CREATE INDEX usage_daily_by_org_by_day ON taximeter.usage_daily_by_org (day);
DROP INDEX taximeter.usage_daily_by_day;

-- Serves the largest organisations of the last days: a month bounds what a part of it can hold.
CREATE TABLE taximeter.usage_monthly_by_org (
    org_id       text NOT NULL,
    month        date NOT NULL CONSTRAINT month_begins_on_its_first CHECK (extract(day FROM month) = 1),
    writer       smallint NOT NULL CONSTRAINT writer_is_known CHECK (writer IN (0, 1, 2)),
    requests     bigint NOT NULL,
    credits_used bigint NOT NULL,
    PRIMARY KEY (month, org_id, writer)
) WITH (fillfactor = 70); -- As above.

-- Adds to the rollups of organisations. Sorted, so that two statements of one writer meet on the rows in the same order.
CREATE FUNCTION taximeter.add_usage_by_org(changes taximeter.usage_daily_by_org[]) RETURNS void
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
-- The days that are there already.
SELECT taximeter.add_usage_by_org(array_agg(
           ROW(org_id, day, service_type, service_name, 0::smallint, requests, credits_used)::taximeter.usage_daily_by_org))
  FROM (SELECT org_id, day, service_type, service_name,
               sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
          FROM taximeter.usage_daily GROUP BY 1, 2, 3, 4) AS by_org;

CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_daily_by_org
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');
CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_monthly_by_org
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

-- migrate:down
CREATE OR REPLACE FUNCTION taximeter.usage_inserted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Sorted, so that two statements at once meet on the rows of the rollup in the same order.
    INSERT INTO taximeter.usage_daily AS daily
           (org_id, user_id, service_type, service_name, day, requests, credits_used)
    SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date,
           count(*), sum(credits_used)::bigint
      FROM inserted
     GROUP BY 1, 2, 3, 4, 5
     ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (org_id, user_id, service_type, service_name, day) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
    IF coalesce(current_setting('taximeter.settling', true), '') <> 'on'
       AND coalesce(current_setting('taximeter.charging', true), '') <> 'on' THEN
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
    DELETE FROM taximeter.charged_requests AS charged
     USING deleted
     WHERE charged.org_id = deleted.org_id AND charged.request_id = deleted.request_id;
    RETURN NULL;
END;
$$;
DROP FUNCTION taximeter.add_usage_by_org(taximeter.usage_daily_by_org[]);
DROP TABLE taximeter.usage_monthly_by_org;
DROP TABLE taximeter.usage_daily_by_org;
CREATE INDEX usage_daily_by_day ON taximeter.usage_daily (day);

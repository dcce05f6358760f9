-- Why: what rolls usage up went over the rows of a statement twice, for the names of services and for the sums. Now they are summed up once
-- by user, service and day, and both are taken from that.
-- Locks: none; a function and a type.
-- Older code beside it: yes.

-- migrate:up
CREATE TYPE taximeter.usage_of_day AS (
    org_id text, user_id text, service_type text, service_name text, day date, by_sql boolean, requests bigint, credits_used bigint
);

CREATE OR REPLACE FUNCTION taximeter.usage_inserted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    by_writer CONSTANT smallint := CASE
        WHEN current_setting('taximeter.settling', true) = 'on' THEN 0
        WHEN current_setting('taximeter.charging', true) = 'on' THEN 1
        ELSE 2 END;
    raw       taximeter.usage_of_day[];
    changes   taximeter.usage_daily_by_org[];
BEGIN
    IF by_writer = 2 THEN
        -- Usage without a charge was written by hand: the books say so instead of not adding up. Accounts come before rollups, as
        -- everywhere.
        PERFORM taximeter.note_used_by_hand(org_id, user_id, -credits_used)
           FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
                   FROM inserted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    END IF;
    -- The rows are read once; from here on there is one for each user, service and day of them.
    SELECT array_agg(ROW(org_id, user_id, service_type, service_name, day, by_sql, requests, credits_used)::taximeter.usage_of_day) INTO raw
      FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day, seq IS NULL AS by_sql,
                   count(*) AS requests, sum(credits_used)::bigint AS credits_used
              FROM inserted
             GROUP BY 1, 2, 3, 4, 5, 6) AS found;
    PERFORM taximeter.note_usage_names(array_agg(ROW(org_id, month, by_sql, service_type, service_name)::taximeter.usage_names))
       FROM (SELECT DISTINCT org_id, date_trunc('month', day::timestamp)::date AS month, by_sql, service_type, service_name
               FROM unnest(raw)) AS found;
    -- Sorted, so that two statements at once meet on the rows of the rollups in the same order.
    WITH by_account AS MATERIALIZED (
        SELECT org_id, user_id,
               CASE WHEN name_is_known OR type_is_known THEN service_type ELSE 'other' END AS service_type,
               CASE WHEN name_is_known THEN service_name ELSE 'other' END AS service_name,
               day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
          FROM unnest(raw) AS raw
         CROSS JOIN LATERAL (
               SELECT coalesce((SELECT true FROM taximeter.usage_names AS known
                                 WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                   AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                   AND known.service_name = raw.service_name LIMIT 1), false) AS name_is_known OFFSET 0) AS names
         CROSS JOIN LATERAL (
               SELECT name_is_known
                      OR coalesce((SELECT true FROM taximeter.usage_names AS known
                                    WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                      AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                    LIMIT 1), false) AS type_is_known OFFSET 0) AS types
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
    IF by_writer = 2 THEN
        -- Usage without a charge was written by hand: the books say so instead of not adding up. Accounts come before rollups, as
        -- everywhere.
        PERFORM taximeter.note_used_by_hand(org_id, user_id, -credits_used)
           FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
                   FROM inserted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    END IF;
    PERFORM taximeter.note_usage_names(array_agg(ROW(org_id, month, by_sql, service_type, service_name)::taximeter.usage_names))
       FROM (SELECT DISTINCT org_id, date_trunc('month', created_at AT TIME ZONE 'UTC')::date AS month, seq IS NULL AS by_sql,
                    service_type, service_name
               FROM inserted) AS found;
    -- Sorted, so that two statements at once meet on the rows of the rollups in the same order.
    WITH by_account AS MATERIALIZED (
        SELECT org_id, user_id,
               CASE WHEN name_is_known OR type_is_known THEN service_type ELSE 'other' END AS service_type,
               CASE WHEN name_is_known THEN service_name ELSE 'other' END AS service_name,
               day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
          FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day, seq IS NULL AS by_sql,
                       count(*) AS requests, sum(credits_used) AS credits_used
                  FROM inserted
                 GROUP BY 1, 2, 3, 4, 5, 6) AS raw
         CROSS JOIN LATERAL (
               SELECT coalesce((SELECT true FROM taximeter.usage_names AS known
                                 WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                   AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                   AND known.service_name = raw.service_name LIMIT 1), false) AS name_is_known OFFSET 0) AS names
         CROSS JOIN LATERAL (
               SELECT name_is_known
                      OR coalesce((SELECT true FROM taximeter.usage_names AS known
                                    WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                      AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                    LIMIT 1), false) AS type_is_known OFFSET 0) AS types
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
DROP TYPE taximeter.usage_of_day;

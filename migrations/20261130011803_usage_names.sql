-- Why: the name of a service is what a caller says it is, and each new one was a row of every rollup: 4,000 charges of nothing with a name
-- each were 8,000 rows a day. An organisation has 1,000 names a month; what comes after that is counted as `other`. The charge itself
-- keeps its own name: it is a row of its own anyway.
-- Whether a name has its own rows is written down before it gets them, and never changes within its month, so that what is deleted later
-- is taken from where it was added.
-- Locks: SHARE ROW EXCLUSIVE on the attribution while the names that are there are written down, from the rollup of organisations.
-- Older code beside it: yes; the functions that it calls keep the new table.

-- migrate:up
-- Nobody may write usage meanwhile.
LOCK TABLE credit_usage_attribution IN SHARE ROW EXCLUSIVE MODE;

-- The names that have rows of their own in the rollups of a month. What is charged by SQL has 1,000 of its own: settling and
-- deduct_credits never wait for each other here.
CREATE TABLE taximeter.usage_names (
    org_id       text NOT NULL,
    month        date NOT NULL CONSTRAINT month_begins_on_its_first CHECK (extract(day FROM month) = 1),
    by_sql       boolean NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    PRIMARY KEY (org_id, month, by_sql, service_type, service_name)
);
COMMENT ON COLUMN taximeter.usage_names.by_sql IS 'Of usage without an event: deduct_credits, and by hand.';
CREATE TRIGGER usage_names_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.usage_names
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('usage is counted under them');
REVOKE UPDATE ON taximeter.usage_names FROM taximeter_app, taximeter_settler;

-- Those that are there already have their rows, however many they are, and whoever wrote them: what is older than the writers' rows was
-- added to those of writer 0.
INSERT INTO taximeter.usage_names (org_id, month, by_sql, service_type, service_name)
SELECT DISTINCT org_id, date_trunc('month', day::timestamp)::date, by_sql, service_type, service_name
  FROM taximeter.usage_daily_by_org CROSS JOIN (VALUES (false), (true)) AS both_ways (by_sql);

-- Gives names rows of their own as long as there is room. A name is refused only when there is none any more, and then for ever: so two
-- statements at once must not both believe to take the last place.
CREATE FUNCTION taximeter.note_usage_names(names taximeter.usage_names[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names_max CONSTANT integer := 1000;
    fresh taximeter.usage_names[];
BEGIN
    SELECT array_agg(one) INTO fresh
      FROM unnest(names) AS one
     WHERE (SELECT true FROM taximeter.usage_names AS known
             WHERE known.org_id = one.org_id AND known.month = one.month AND known.by_sql = one.by_sql
               AND known.service_type = one.service_type AND known.service_name = one.service_name LIMIT 1) IS NULL;
    IF fresh IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(place)
       FROM (SELECT DISTINCT hashtextextended(format('taximeter.usage_names/%s/%s', by_sql, org_id), 0) AS place
               FROM unnest(fresh) ORDER BY 1) AS places;
    INSERT INTO taximeter.usage_names (org_id, month, by_sql, service_type, service_name)
    SELECT org_id, month, by_sql, service_type, service_name
      FROM (SELECT one.org_id, one.month, one.by_sql, one.service_type, one.service_name, rooms.room,
                   row_number() OVER (PARTITION BY one.org_id, one.month, one.by_sql ORDER BY one.service_type, one.service_name) AS place
              FROM (SELECT org_id, month, by_sql,
                           names_max - (SELECT count(*) FROM taximeter.usage_names AS known
                                         WHERE known.org_id = part.org_id AND known.month = part.month AND known.by_sql = part.by_sql) AS room
                      FROM (SELECT DISTINCT org_id, month, by_sql FROM unnest(fresh)) AS part) AS rooms
              JOIN unnest(fresh) AS one USING (org_id, month, by_sql)
             WHERE rooms.room > 0
               -- Somebody else may have written it down while the lock was waited for.
               AND (SELECT true FROM taximeter.usage_names AS known
                     WHERE known.org_id = one.org_id AND known.month = one.month AND known.by_sql = one.by_sql
                       AND known.service_type = one.service_type AND known.service_name = one.service_name LIMIT 1) IS NULL
           ) AS numbered
     WHERE place <= room;
END;
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

CREATE OR REPLACE FUNCTION taximeter.usage_deleted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changes taximeter.usage_daily_by_org[];
BEGIN
    PERFORM taximeter.note_used_by_hand(org_id, user_id, credits_used)
       FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
               FROM deleted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    WITH gone AS MATERIALIZED (
        SELECT org_id, user_id,
               CASE WHEN name_is_known OR type_is_known THEN service_type ELSE 'other' END AS service_type,
               CASE WHEN name_is_known THEN service_name ELSE 'other' END AS service_name,
               day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
          FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day, seq IS NULL AS by_sql,
                       count(*) AS requests, sum(credits_used) AS credits_used
                  FROM deleted
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
    -- Writer 2: what was done by hand, with its sign.
    SELECT array_agg(ROW(org_id, day, service_type, service_name, 2::smallint, -requests, -credits_used)
                     ::taximeter.usage_daily_by_org)
      INTO changes
      FROM (SELECT org_id, day, service_type, service_name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
              FROM (
                SELECT org_id, user_id,
                       CASE WHEN name_is_known OR type_is_known THEN service_type ELSE 'other' END AS service_type,
                       CASE WHEN name_is_known THEN service_name ELSE 'other' END AS service_name,
                       day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
                  FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day, seq IS NULL AS by_sql,
                               count(*) AS requests, sum(credits_used) AS credits_used
                          FROM deleted
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
              ) AS by_account
             GROUP BY 1, 2, 3, 4) AS by_org;
    PERFORM taximeter.add_usage_by_org(changes);
    PERFORM taximeter.add_usage_of_all(changes, NULL);
    -- The charge of each row goes with it, and no other phase of its request; what went is on record.
    WITH uncharged AS (
        DELETE FROM taximeter.charged_requests AS charged
         USING deleted
         WHERE charged.org_id = deleted.org_id AND charged.request_id = deleted.request_id
           AND (charged.shard, charged.epoch, charged.seq) IS NOT DISTINCT FROM (deleted.shard, deleted.epoch, deleted.seq)
        RETURNING charged.org_id, charged.shard, charged.epoch, charged.seq
    )
    INSERT INTO taximeter.deletions (org_id, shard, epoch, events, requests, credits, reason)
    SELECT org_id, shard, epoch, sum(events)::bigint, sum(requests)::bigint, sum(credits)::bigint,
           nullif(current_setting('taximeter.deletion_reason', true), '')
      FROM (SELECT org_id, shard, epoch, 0 AS events, count(*) AS requests, sum(credits_used) AS credits
              FROM deleted GROUP BY 1, 2, 3
            UNION ALL
            SELECT org_id, shard, epoch, count(*) FILTER (WHERE seq IS NOT NULL), 0, 0 FROM uncharged GROUP BY 1, 2, 3) AS parts
     GROUP BY org_id, shard, epoch
     ORDER BY 1, 2, 3;
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
    -- Writer 2: what was done by hand, with its sign.
    SELECT array_agg(ROW(org_id, day, service_type, service_name, 2::smallint, -requests, -credits_used)
                     ::taximeter.usage_daily_by_org)
      INTO changes
      FROM (SELECT org_id, (created_at AT TIME ZONE 'UTC')::date AS day, service_type, service_name,
                   count(*) AS requests, sum(credits_used)::bigint AS credits_used
              FROM deleted GROUP BY 1, 2, 3, 4) AS by_org;
    PERFORM taximeter.add_usage_by_org(changes);
    PERFORM taximeter.add_usage_of_all(changes, NULL);
    -- The charge of each row goes with it, and no other phase of its request; what went is on record.
    WITH uncharged AS (
        DELETE FROM taximeter.charged_requests AS charged
         USING deleted
         WHERE charged.org_id = deleted.org_id AND charged.request_id = deleted.request_id
           AND (charged.shard, charged.epoch, charged.seq) IS NOT DISTINCT FROM (deleted.shard, deleted.epoch, deleted.seq)
        RETURNING charged.org_id, charged.shard, charged.epoch, charged.seq
    )
    INSERT INTO taximeter.deletions (org_id, shard, epoch, events, requests, credits, reason)
    SELECT org_id, shard, epoch, sum(events)::bigint, sum(requests)::bigint, sum(credits)::bigint,
           nullif(current_setting('taximeter.deletion_reason', true), '')
      FROM (SELECT org_id, shard, epoch, 0 AS events, count(*) AS requests, sum(credits_used) AS credits
              FROM deleted GROUP BY 1, 2, 3
            UNION ALL
            SELECT org_id, shard, epoch, count(*) FILTER (WHERE seq IS NOT NULL), 0, 0 FROM uncharged GROUP BY 1, 2, 3) AS parts
     GROUP BY org_id, shard, epoch
     ORDER BY 1, 2, 3;
    RETURN NULL;
END;
$$;

DROP FUNCTION taximeter.note_usage_names(taximeter.usage_names[]);
DROP TABLE taximeter.usage_names;

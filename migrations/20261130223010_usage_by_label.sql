-- Why: an admin asks which API key used what, and which of the tags that callers give their requests. A charge says both in its metadata
-- (`key_id`, `tag`), and ten million charges a month are too many to read for an answer; so a day of an organisation is one row a label,
-- moved by the statement that writes the usage. Who is charged without a label costs one look at the metadata and no row.
-- Callers choose tags: an organisation has 200 labels a day of each kind, what comes after that is counted as `other`. Two statements at
-- once may give a few more: that bounds the rows, and nothing is proved by it.
-- As in usage_daily_by_org each row has a writer, so that settling, deduct_credits and what is done by hand never wait for each other.
-- Locks: SHARE ROW EXCLUSIVE on the attribution while its rows with labels are added up once: settling waits, requests do not.
-- Older code beside it: yes; the triggers keep the new table.

-- migrate:up
LOCK TABLE credit_usage_attribution IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE taximeter.usage_daily_by_label (
    org_id       text NOT NULL,
    kind         text NOT NULL CONSTRAINT kind_is_known CHECK (kind IN ('key', 'tag')),
    day          date NOT NULL,
    label        text NOT NULL,
    writer       smallint NOT NULL CONSTRAINT writer_is_known CHECK (writer IN (0, 1, 2)),
    requests     bigint NOT NULL,
    credits_used bigint NOT NULL,
    PRIMARY KEY (org_id, kind, day, label, writer)
) WITH (fillfactor = 70); -- As usage_daily_by_org.
COMMENT ON TABLE taximeter.usage_daily_by_label IS 'Usage of charges that say an API key or a tag, by day. Charges without have no row.';
COMMENT ON COLUMN taximeter.usage_daily_by_label.writer IS '0: settle. 1: deduct_credits. 2: by hand, deleted usage included.';
CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_daily_by_label
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

-- The labels of a charge: at most one of each kind, at most 64 characters of it.
CREATE FUNCTION taximeter.labels_of(metadata jsonb) RETURNS TABLE (kind text, label text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT said.kind, left(said.value #>> '{}', 64)
      FROM (VALUES ('key'::text, labels_of.metadata -> 'key_id'), ('tag', labels_of.metadata -> 'tag')) AS said (kind, value)
     WHERE jsonb_typeof(said.value) = 'string' AND said.value <> '""'::jsonb;
END;

INSERT INTO taximeter.usage_daily_by_label (org_id, kind, day, label, writer, requests, credits_used)
SELECT org_id, kind, day, CASE WHEN place <= 200 THEN label ELSE 'other' END, 0, sum(requests)::bigint, sum(credits_used)::bigint
  FROM (SELECT org_id, kind, (created_at AT TIME ZONE 'UTC')::date AS day, label, count(*) AS requests, sum(credits_used) AS credits_used,
               row_number() OVER (PARTITION BY org_id, kind, (created_at AT TIME ZONE 'UTC')::date ORDER BY label) AS place
          FROM credit_usage_attribution CROSS JOIN LATERAL taximeter.labels_of(request_metadata) AS labels
         WHERE request_metadata ?| ARRAY['key_id', 'tag']
         GROUP BY 1, 2, 3, 4) AS found
 GROUP BY 1, 2, 3, 4;

CREATE FUNCTION taximeter.usage_labels_inserted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    labels_max CONSTANT integer := 200;
    by_writer  CONSTANT smallint := CASE
        WHEN current_setting('taximeter.settling', true) = 'on' THEN 0
        WHEN current_setting('taximeter.charging', true) = 'on' THEN 1
        ELSE 2 END;
BEGIN
    IF NOT EXISTS (SELECT FROM inserted WHERE request_metadata ?| ARRAY['key_id', 'tag']) THEN
        RETURN NULL;
    END IF;
    INSERT INTO taximeter.usage_daily_by_label AS daily (org_id, kind, day, label, writer, requests, credits_used)
    SELECT org_id, kind, day, CASE WHEN is_known OR place <= room THEN label ELSE 'other' END, by_writer,
           sum(requests)::bigint, sum(credits_used)::bigint
      FROM (SELECT found.*, names.is_known, rooms.room,
                   row_number() OVER (PARTITION BY found.org_id, found.kind, found.day, names.is_known ORDER BY found.label) AS place
              FROM (SELECT org_id, kind, (created_at AT TIME ZONE 'UTC')::date AS day, label,
                           count(*) AS requests, sum(credits_used) AS credits_used
                      FROM inserted CROSS JOIN LATERAL taximeter.labels_of(request_metadata) AS labels
                     GROUP BY 1, 2, 3, 4) AS found
             CROSS JOIN LATERAL (
                   SELECT coalesce((SELECT true FROM taximeter.usage_daily_by_label AS known
                                     WHERE known.org_id = found.org_id AND known.kind = found.kind AND known.day = found.day
                                       AND known.label = found.label LIMIT 1), false) AS is_known OFFSET 0) AS names
             CROSS JOIN LATERAL (
                   SELECT CASE WHEN names.is_known THEN 0 ELSE labels_max - (
                                SELECT count(DISTINCT known.label) FROM taximeter.usage_daily_by_label AS known
                                 WHERE known.org_id = found.org_id AND known.kind = found.kind AND known.day = found.day) END AS room
                   OFFSET 0) AS rooms) AS placed
     GROUP BY 1, 2, 3, 4
     -- Sorted, so that two statements of one writer meet on the rows in the same order.
     ORDER BY 1, 2, 3, 4
    ON CONFLICT (org_id, kind, day, label, writer) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
    RETURN NULL;
END;
$$;
CREATE TRIGGER usage_labels_are_rolled_up AFTER INSERT ON credit_usage_attribution
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT WHEN (coalesce(current_setting('taximeter.importing', true), '') <> 'on')
    EXECUTE FUNCTION taximeter.usage_labels_inserted();

CREATE FUNCTION taximeter.usage_labels_deleted() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO taximeter.usage_daily_by_label AS daily (org_id, kind, day, label, writer, requests, credits_used)
    SELECT org_id, kind, day,
           CASE WHEN EXISTS (SELECT FROM taximeter.usage_daily_by_label AS known
                              WHERE known.org_id = gone.org_id AND known.kind = gone.kind AND known.day = gone.day
                                AND known.label = gone.label) THEN label ELSE 'other' END,
           2, -sum(requests)::bigint, -sum(credits_used)::bigint
      FROM (SELECT org_id, kind, (created_at AT TIME ZONE 'UTC')::date AS day, label,
                   count(*) AS requests, sum(credits_used) AS credits_used
              FROM deleted CROSS JOIN LATERAL taximeter.labels_of(request_metadata) AS labels
             WHERE request_metadata ?| ARRAY['key_id', 'tag']
             GROUP BY 1, 2, 3, 4) AS gone
     GROUP BY 1, 2, 3, 4
     ORDER BY 1, 2, 3, 4
    ON CONFLICT (org_id, kind, day, label, writer) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
    RETURN NULL;
END;
$$;
CREATE TRIGGER usage_labels_are_taken_back AFTER DELETE ON credit_usage_attribution
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.usage_labels_deleted();

-- Settling copies into the month itself, which does what the whole does.
SELECT taximeter.guard_partition(partition.relname)
  FROM pg_inherits
  JOIN pg_class AS partition ON partition.oid = inhrelid
 WHERE inhparent = 'credit_usage_attribution'::regclass AND partition.relname <> 'attribution_rest';

-- migrate:down
DROP TRIGGER usage_labels_are_taken_back ON credit_usage_attribution;
DROP FUNCTION taximeter.usage_labels_deleted();
DROP TRIGGER usage_labels_are_rolled_up ON credit_usage_attribution;
DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN SELECT tgrelid FROM pg_trigger WHERE tgname = 'usage_labels_are_rolled_up' LOOP
        EXECUTE format('DROP TRIGGER usage_labels_are_rolled_up ON %s', partition);
    END LOOP;
END;
$$;
DROP FUNCTION taximeter.usage_labels_inserted();
DROP TABLE taximeter.usage_daily_by_label;
DROP FUNCTION taximeter.labels_of(jsonb);

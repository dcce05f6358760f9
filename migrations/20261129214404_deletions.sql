-- Why: deleting an organisation's usage is something that operators do, and a charge that is missing without anybody having deleted it
-- is an alarm. So a deletion leaves a record: whose, when, by whom, how much. And a loss that is known can be acknowledged, by
-- name, so that the next one is seen.
-- Locks: ACCESS EXCLUSIVE on nothing; two new tables and a function. The charges of this epoch are counted once.
-- Older code beside it: yes.

-- migrate:up
-- One row a statement, organisation, shard and epoch; shard and epoch are null for what SQL had deducted, or wrote by hand. No reference
-- to organizations: the record outlives them.
CREATE TABLE taximeter.deletions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id     text NOT NULL,
    shard      integer,
    epoch      bigint,
    events     bigint NOT NULL CONSTRAINT events_is_not_negative CHECK (events >= 0),
    requests   bigint NOT NULL CONSTRAINT requests_is_not_negative CHECK (requests >= 0),
    credits    bigint NOT NULL,
    deleted_by text NOT NULL DEFAULT session_user,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    reason     text
);
COMMENT ON COLUMN taximeter.deletions.events IS 'Events of the shard and epoch whose charge went with it.';
-- Serves check, which asks how many events of an epoch have no charge any more.
CREATE INDEX deletions_by_epoch ON taximeter.deletions (shard, epoch);
CREATE TRIGGER deletions_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.deletions
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('what was deleted stays on record');
-- It is written by a trigger of those who may delete usage: the owner.
REVOKE INSERT, UPDATE ON taximeter.deletions FROM taximeter_app, taximeter_settler;

-- Losses that somebody has looked at: `check` shows them and does not fail for them. `lost` names events that Redis lost, by their
-- first number; `uncharged` says how many events of an epoch have no charge and no record of a deletion.
CREATE TABLE taximeter.acknowledgements (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what            text NOT NULL CONSTRAINT what_is_known CHECK (what IN ('lost', 'uncharged')),
    shard           integer NOT NULL,
    epoch           bigint NOT NULL,
    seq_first       bigint,
    events          bigint NOT NULL CONSTRAINT events_is_positive CHECK (events > 0),
    note            text NOT NULL CONSTRAINT note_is_said CHECK (length(btrim(note)) BETWEEN 1 AND 1000),
    acknowledged_by text NOT NULL DEFAULT session_user,
    acknowledged_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT lost_names_its_events CHECK ((what = 'lost') = (seq_first IS NOT NULL))
);
-- Serves check, and states that a loss is acknowledged once.
CREATE UNIQUE INDEX one_acknowledgement_a_loss ON taximeter.acknowledgements (shard, epoch, seq_first) WHERE what = 'lost';
CREATE TRIGGER acknowledgements_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.acknowledgements
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('what was acknowledged stays so');
REVOKE INSERT, UPDATE ON taximeter.acknowledgements FROM taximeter_app;
REVOKE UPDATE ON taximeter.acknowledgements FROM taximeter_settler;

-- What was deleted before there were records. It was told from a loss by any change of `used` by hand, anywhere.
INSERT INTO taximeter.deletions (org_id, shard, epoch, events, requests, credits, deleted_by, reason)
SELECT '', mark.shard, mark.epoch, mark.settled_events - charged.rows, mark.settled_events - charged.rows, 0, session_user,
       'before deletions were recorded'
  FROM taximeter.watermarks AS mark
 CROSS JOIN LATERAL (SELECT count(*) AS rows FROM taximeter.charged_requests AS known
                      WHERE known.shard = mark.shard AND known.epoch = mark.epoch AND known.seq IS NOT NULL) AS charged
 WHERE mark.settled_events > charged.rows
   AND EXISTS (SELECT FROM taximeter.accounts AS account WHERE account.used_by_hand <> 0);

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

-- migrate:down
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
DROP TABLE taximeter.acknowledgements;
DROP TABLE taximeter.deletions;

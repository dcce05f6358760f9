-- Why: the daily rollup equals a recount of the attribution because the same statement moves both; and a month of usage is a
-- partition of its own, so that ten million rows a month stay quick to write, to read and to drop.
-- Dropping or detaching an old month is retention: the rollup and the charged requests keep what it held.
-- Locks: ACCESS EXCLUSIVE on the attribution for a moment, to create triggers and partitions.
-- Older code beside it: yes.

-- migrate:up
CREATE FUNCTION taximeter.usage_inserted() RETURNS trigger
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
CREATE TRIGGER usage_is_rolled_up AFTER INSERT ON credit_usage_attribution
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.usage_inserted();

-- Deleting usage forgets that its requests were charged, so that an organisation that is deleted and made again starts
-- afresh, request ids included. `used` of the allocations stays: it is moved by changing them. Both phases of a request are
-- forgotten together. The accounts come first, as everywhere.
CREATE FUNCTION taximeter.usage_deleted() RETURNS trigger
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
CREATE TRIGGER usage_is_taken_back AFTER DELETE ON credit_usage_attribution
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.usage_deleted();

CREATE TRIGGER usage_is_append_only BEFORE UPDATE OR TRUNCATE ON credit_usage_attribution
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('usage is append-only; DELETE is kept for cleaning up');
CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_daily
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

-- Statement triggers belong to the table that a statement names. A write that named a partition would not be rolled up. Whom the
-- defaults of the schema let in is shut out again: usage is read and written through its table.
CREATE FUNCTION taximeter.guard_partition(partition_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    guest regrole;
BEGIN
    FOR guest IN SELECT DISTINCT acl.grantee FROM pg_class AS partition, aclexplode(partition.relacl) AS acl
                  WHERE partition.oid = format('taximeter.%I', partition_name)::regclass
                    AND acl.grantee NOT IN (0, partition.relowner) LOOP
        EXECUTE format('REVOKE ALL ON taximeter.%I FROM %s', partition_name, guest);
    END LOOP;
    EXECUTE format(
        $sql$CREATE TRIGGER partition_is_not_written_directly BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON taximeter.%I
             FOR EACH STATEMENT WHEN (current_setting('taximeter.moving_rows', true) IS DISTINCT FROM 'on')
             EXECUTE FUNCTION taximeter.refuse('write to credit_usage_attribution')$sql$,
        partition_name);
END;
$$;

-- What fits no month lands here: nothing is ever refused for its date.
CREATE TABLE taximeter.attribution_rest PARTITION OF credit_usage_attribution DEFAULT;
SELECT taximeter.guard_partition('attribution_rest');

-- Makes the partitions of the last month, this one and the next `months_ahead` (0 to 120); returns how many were missing.
-- Rows that waited in the default partition move to their month. Safe to call at any time and by several at once: it
-- gives up after five seconds of waiting for the lock that a missing month needs, and takes none when nothing is missing.
CREATE FUNCTION taximeter.ensure_attribution_partitions(months_ahead integer) RETURNS integer
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
SELECT taximeter.ensure_attribution_partitions(3);

-- migrate:down
-- The partitions go with the usage that they hold: before this migration there was no place for a row to live.
DROP FUNCTION taximeter.ensure_attribution_partitions(integer);
DO $$
DECLARE
    partition_name regclass;
BEGIN
    FOR partition_name IN SELECT inhrelid::regclass FROM pg_inherits
                           WHERE inhparent = 'public.credit_usage_attribution'::regclass LOOP
        EXECUTE format('DROP TABLE %s', partition_name);
    END LOOP;
END;
$$;
DROP FUNCTION taximeter.guard_partition(text);
DROP TRIGGER rollup_is_not_truncated ON taximeter.usage_daily;
DROP TRIGGER usage_is_append_only ON credit_usage_attribution;
DROP TRIGGER usage_is_taken_back ON credit_usage_attribution;
DROP FUNCTION taximeter.usage_deleted();
DROP TRIGGER usage_is_rolled_up ON credit_usage_attribution;
DROP FUNCTION taximeter.usage_inserted();

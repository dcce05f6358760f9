-- Why: COPY writes row by row into a partitioned table that has statement triggers with a transition table, and by the page into one of its
-- partitions. Settling copies into the month itself, which therefore has the same insert triggers, and the right to insert, as the whole.
-- Locks: SHARE ROW EXCLUSIVE on the months of usage for a moment, one after the other: settling and deductions wait for it.
-- Older code beside it: yes, it writes into the whole table. Newer code on an older schema does so as well.

-- migrate:up
-- For everybody else a partition is written through its table, by its rights: what the defaults of the schema let in is shut out again.
CREATE OR REPLACE FUNCTION taximeter.guard_partition(partition_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition CONSTANT text := format('taximeter.%I', partition_name);
    whole     CONSTANT regclass := 'public.credit_usage_attribution';
    guest     regrole;
    of_all    text;
BEGIN
    FOR guest IN SELECT DISTINCT acl.grantee FROM pg_class AS known, aclexplode(known.relacl) AS acl
                  WHERE known.oid = partition::regclass AND acl.grantee NOT IN (0, known.relowner) LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', partition, guest);
    END LOOP;
    EXECUTE format(
        $sql$CREATE OR REPLACE TRIGGER partition_is_not_written_directly BEFORE UPDATE OR DELETE OR TRUNCATE ON %s
             FOR EACH STATEMENT WHEN (current_setting('taximeter.moving_rows', true) IS DISTINCT FROM 'on')
             EXECUTE FUNCTION taximeter.refuse('write to credit_usage_attribution')$sql$,
        partition);
    EXECUTE format(
        $sql$CREATE OR REPLACE TRIGGER partition_is_filled_by_settling BEFORE INSERT ON %s FOR EACH STATEMENT
             WHEN (current_setting('taximeter.moving_rows', true) IS DISTINCT FROM 'on'
                   AND current_setting('taximeter.settling', true) IS DISTINCT FROM 'on')
             EXECUTE FUNCTION taximeter.refuse('write to credit_usage_attribution')$sql$,
        partition);
    -- What an insert into the whole does, one into the partition does: triggers, and who may.
    FOR of_all IN SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = whole AND tgtype & 4 <> 0 ORDER BY tgname LOOP
        EXECUTE regexp_replace(replace(of_all, 'CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER'), ' ON ' || whole::text, ' ON ' || partition);
    END LOOP;
    FOR guest IN SELECT DISTINCT acl.grantee FROM pg_class AS known, aclexplode(known.relacl) AS acl
                  WHERE known.oid = whole AND acl.privilege_type = 'INSERT' AND acl.grantee NOT IN (0, known.relowner) LOOP
        EXECUTE format('GRANT INSERT ON %s TO %s', partition, guest);
    END LOOP;
END;
$$;

SELECT taximeter.guard_partition(partition.relname)
  FROM pg_inherits
  JOIN pg_class AS partition ON partition.oid = inhrelid
 WHERE inhparent = 'credit_usage_attribution'::regclass AND partition.relname <> 'attribution_rest';

-- migrate:down
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT tgrelid::regclass AS of_table, tgname
                 FROM pg_trigger
                 JOIN pg_inherits ON inhrelid = tgrelid AND inhparent = 'public.credit_usage_attribution'::regclass
                WHERE tgrelid <> 'taximeter.attribution_rest'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', one.tgname, one.of_table);
    END LOOP;
END;
$$;
CREATE OR REPLACE FUNCTION taximeter.guard_partition(partition_name text) RETURNS void
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
SELECT taximeter.guard_partition(partition.relname)
  FROM pg_inherits
  JOIN pg_class AS partition ON partition.oid = inhrelid
 WHERE inhparent = 'credit_usage_attribution'::regclass AND partition.relname <> 'attribution_rest';

-- Why: the ids of charged requests were kept for ever, which is a third of what an event takes. Now they are kept in two generations: the
-- one that is written to, and the one before it, whose ids are still refused. A generation is put away when it is old enough, and
-- forgotten when it has been away as long. See docs/decisions/0093-request-ids-are-remembered-in-two-generations.md.
-- The table that is there becomes the first generation as it is: no row is copied. The older one is a child of the newer one (by
-- inheritance), so that whoever reads or deletes charged requests finds both, and whoever adds to them adds to the newer one.
-- Locks: none that matter: tables that are new, and functions. Putting away and forgetting lock the charged requests for a moment, and wait
-- two seconds for it at most. The way back copies the older generation, if there is one, while others go on.
-- Older code beside it: yes. After the way back `check` misses, of the epoch that is open, charges that were forgotten: acknowledge them.

-- migrate:up
CREATE TABLE taximeter.charge_generations (
    generation   integer PRIMARY KEY,
    began_at     timestamptz NOT NULL DEFAULT now(),
    frozen_at    timestamptz,
    forgotten_at timestamptz CONSTRAINT only_frozen_ones_are_forgotten CHECK (forgotten_at IS NULL OR frozen_at IS NOT NULL),
    requests     bigint,
    credits_used bigint
);
COMMENT ON TABLE taximeter.charge_generations IS
    'Generations of charged requests: the one that is written to, the one before it (frozen), and those that were forgotten.';
COMMENT ON COLUMN taximeter.charge_generations.requests IS 'How many charges were forgotten, and their millicredits.';
INSERT INTO taximeter.charge_generations (generation) VALUES (1);

CREATE TABLE taximeter.forgotten_charges (
    generation integer NOT NULL,
    shard      integer NOT NULL,
    epoch      bigint NOT NULL,
    events     bigint NOT NULL,
    seq_last   bigint NOT NULL,
    PRIMARY KEY (generation, shard, epoch)
);
COMMENT ON TABLE taximeter.forgotten_charges IS 'How many events of a shard and epoch had their charge in a generation that is forgotten.';
REVOKE INSERT, UPDATE ON taximeter.charge_generations, taximeter.forgotten_charges FROM taximeter_app, taximeter_settler;

-- Refuses what is charged already in the generation before this one, as the primary key does in this one: nothing is added to a frozen
-- generation, so what is not there will not be. And an event from before what was forgotten: nobody knows whether it is charged.
-- Arguments: the frozen table; the transaction that froze it, and when; up to when ids are forgotten. Empty where there is none.
CREATE FUNCTION taximeter.refuse_known_requests() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    found record;
BEGIN
    IF TG_ARGV[0] <> '' THEN
        -- A snapshot from before the freeze may lack what was charged after it; that of a copy of the database knows other transactions.
        IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
           AND now() < TG_ARGV[2]::timestamptz + interval '1 day'
           AND NOT pg_visible_in_snapshot(TG_ARGV[1]::xid8, pg_current_snapshot()) THEN
            RAISE EXCEPTION 'request ids were put away after this transaction had begun: begin it again'
                USING ERRCODE = 'serialization_failure';
        END IF;
        EXECUTE format('SELECT new.org_id, new.request_id FROM inserted AS new JOIN taximeter.%I AS old'
                       ' ON old.org_id = new.org_id AND old.request_id = new.request_id AND old.phase = new.phase LIMIT 1',
                       TG_ARGV[0]) INTO found;
        IF found.request_id IS NOT NULL THEN
            RAISE EXCEPTION 'request_id % of organisation % is charged already', found.request_id, found.org_id
                USING ERRCODE = 'unique_violation', CONSTRAINT = 'charged_requests_pkey', SCHEMA = 'taximeter',
                      TABLE = 'charged_requests';
        END IF;
    END IF;
    IF TG_ARGV[3] <> '' AND current_setting('taximeter.moving_rows', true) IS DISTINCT FROM 'on' THEN
        SELECT org_id, request_id, created_at INTO found
          FROM inserted WHERE created_at <= TG_ARGV[3]::timestamptz LIMIT 1;
        IF found.request_id IS NOT NULL THEN
            RAISE EXCEPTION 'request_id % of organisation % is of %, and the ids of before % are forgotten: it may be charged already',
                found.request_id, found.org_id, found.created_at, TG_ARGV[3]
                USING ERRCODE = 'check_violation', CONSTRAINT = 'request_id_is_remembered', SCHEMA = 'taximeter',
                      TABLE = 'charged_requests';
        END IF;
    END IF;
    RETURN NULL;
END;
$$;

-- How much the clock of Redis, which dates events, may be ahead of this one.
CREATE FUNCTION taximeter.clocks_apart() RETURNS interval LANGUAGE sql IMMUTABLE RETURN interval '1 hour';

-- Whoever freezes or forgets.
CREATE FUNCTION taximeter.guard_charges(frozen text, frozen_now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER request_is_charged_once AFTER INSERT ON taximeter.charged_requests REFERENCING NEW TABLE AS inserted'
        ' FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse_known_requests(%L, %L, %L, %L)',
        frozen, CASE WHEN frozen <> '' THEN pg_current_xact_id()::text ELSE '' END, coalesce(frozen_now::text, ''),
        coalesce((SELECT (max(known.frozen_at) + taximeter.clocks_apart())::text
                    FROM taximeter.charge_generations AS known WHERE known.forgotten_at IS NOT NULL), ''));
END;
$$;

CREATE FUNCTION taximeter.check_request_ids_are_kept(kept interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF kept IS NULL OR kept < interval '30 days' THEN
        RAISE EXCEPTION 'request ids are kept for 30 days at least, not %', coalesce(kept::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END;
$$;

-- Puts the generation away that is written to, and begins the next one, when it has been written to for so long and none is away. True
-- when it did. Waits two seconds at most for those who are charging.
CREATE FUNCTION taximeter.freeze_charges(kept interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    open_one taximeter.charge_generations;
    frozen   text;
    indexes  text[];
    grants   aclitem[];
    one      record;
BEGIN
    PERFORM taximeter.check_request_ids_are_kept(kept);
    SELECT * INTO open_one FROM taximeter.charge_generations AS known WHERE known.frozen_at IS NULL FOR UPDATE;
    IF NOT FOUND OR open_one.began_at > now() - kept
       OR EXISTS (SELECT FROM taximeter.charge_generations AS known
                   WHERE known.frozen_at IS NOT NULL AND known.forgotten_at IS NULL) THEN
        RETURN false;
    END IF;
    -- From here on nobody is in the middle of a charge, and the next one finds the new table.
    LOCK TABLE taximeter.charged_requests IN ACCESS EXCLUSIVE MODE;
    frozen := 'charged_requests_' || open_one.generation;
    SELECT array_agg(pg_get_indexdef(index.indexrelid) ORDER BY index.indisprimary DESC, index.indexrelid) INTO indexes
      FROM pg_index AS index WHERE index.indrelid = 'taximeter.charged_requests'::regclass;
    SELECT relacl INTO grants FROM pg_class WHERE oid = 'taximeter.charged_requests'::regclass;
    FOR one IN SELECT relname FROM pg_index AS index JOIN pg_class ON oid = index.indexrelid
                WHERE index.indrelid = 'taximeter.charged_requests'::regclass LOOP
        EXECUTE format('ALTER INDEX taximeter.%I RENAME TO %I', one.relname, one.relname || '_' || open_one.generation);
    END LOOP;
    DROP TRIGGER IF EXISTS request_is_charged_once ON taximeter.charged_requests;
    EXECUTE format('ALTER TABLE taximeter.charged_requests RENAME TO %I', frozen);
    EXECUTE format('CREATE TABLE taximeter.charged_requests (LIKE taximeter.%I INCLUDING ALL EXCLUDING INDEXES)', frozen);
    FOR place IN 1 .. array_length(indexes, 1) LOOP
        EXECUTE indexes[place];
    END LOOP;
    ALTER TABLE taximeter.charged_requests ADD CONSTRAINT charged_requests_pkey PRIMARY KEY USING INDEX charged_requests_pkey;
    EXECUTE format('ALTER TABLE taximeter.%I INHERIT taximeter.charged_requests', frozen);
    -- The rights of the table that was there; the frozen one may be read.
    FOR one IN SELECT DISTINCT grantee::regrole::text AS grantee
                 FROM pg_class AS class, aclexplode(class.relacl) AS acl
                WHERE class.oid = 'taximeter.charged_requests'::regclass AND acl.grantee NOT IN (class.relowner, 0) LOOP
        EXECUTE format('REVOKE ALL ON taximeter.charged_requests FROM %s', one.grantee);
    END LOOP;
    FOR one IN SELECT acl.grantee::regrole::text AS grantee, acl.privilege_type
                 FROM pg_class AS class, aclexplode(grants) AS acl
                WHERE class.oid = 'taximeter.charged_requests'::regclass AND acl.grantee NOT IN (class.relowner, 0) LOOP
        EXECUTE format('GRANT %s ON taximeter.charged_requests TO %s', one.privilege_type, one.grantee);
        IF one.privilege_type <> 'SELECT' THEN
            EXECUTE format('REVOKE %s ON taximeter.%I FROM %s', one.privilege_type, frozen, one.grantee);
        END IF;
    END LOOP;
    UPDATE taximeter.charge_generations AS known SET frozen_at = clock_timestamp() WHERE known.generation = open_one.generation;
    INSERT INTO taximeter.charge_generations (generation) VALUES (open_one.generation + 1);
    PERFORM taximeter.guard_charges(frozen, clock_timestamp());
    RETURN true;
END;
$$;

-- Once the frozen generation has been away for so long: up to when every event must be settled before it is forgotten. Else null.
CREATE FUNCTION taximeter.charges_to_forget(kept interval) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT known.frozen_at + taximeter.clocks_apart() FROM taximeter.charge_generations AS known
     WHERE known.frozen_at <= now() - kept AND known.forgotten_at IS NULL;
$$;

-- Forgets the ids of the frozen generation, and writes down what `check` needs to know of them; how many there were, or null when none is
-- old enough. From then on events from before the freeze are refused.
CREATE FUNCTION taximeter.forget_charges(kept interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    old    taximeter.charge_generations;
    frozen text;
    gone   bigint;
BEGIN
    PERFORM taximeter.check_request_ids_are_kept(kept);
    SELECT * INTO old FROM taximeter.charge_generations AS known
     WHERE known.frozen_at <= now() - kept AND known.forgotten_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    frozen := 'charged_requests_' || old.generation;
    -- Usage that is deleted by hand takes its charge with it: not while these are counted.
    EXECUTE format('LOCK TABLE taximeter.%I IN SHARE MODE', frozen);
    EXECUTE format(
        'WITH counted AS MATERIALIZED ('
        '    SELECT shard, epoch, count(*) AS requests, count(seq) AS events, max(seq) AS seq_last, sum(amount) AS credits_used'
        '      FROM taximeter.%1$I GROUP BY shard, epoch'
        '), noted AS ('
        '    INSERT INTO taximeter.forgotten_charges (generation, shard, epoch, events, seq_last)'
        '    SELECT %2$s, shard, epoch, events, seq_last FROM counted WHERE events > 0)'
        ' UPDATE taximeter.charge_generations AS known SET forgotten_at = now(), (requests, credits_used) ='
        ' (SELECT coalesce(sum(counted.requests), 0)::bigint, coalesce(sum(counted.credits_used), 0)::bigint FROM counted)'
        ' WHERE known.generation = %2$s RETURNING requests', frozen, old.generation) INTO gone;
    PERFORM taximeter.guard_charges('', NULL);
    EXECUTE format('DROP TABLE taximeter.%I', frozen);
    RETURN gone;
END;
$$;

REVOKE EXECUTE ON FUNCTION taximeter.guard_charges(text, timestamptz), taximeter.freeze_charges(interval), taximeter.forget_charges(interval)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.freeze_charges(interval), taximeter.forget_charges(interval) TO taximeter_settler;

CREATE OR REPLACE FUNCTION deduct_credits(
    org_id text, user_id text, millicredits bigint, service_type text, service_name text, request_id text,
    request_metadata jsonb DEFAULT '{}')
RETURNS TABLE (success boolean, remaining_credits bigint)
LANGUAGE plpgsql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allocation_id uuid;
    remaining     bigint;
    request       CONSTANT text := request_id;
    opened        bigint; -- What requests have open.
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF service_type IS NULL OR length(service_type) NOT BETWEEN 1 AND 64 OR length(service_name) > 255 THEN
        RAISE EXCEPTION 'service_type must have 1 to 64 characters and service_name at most 255'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF request !~ '^[A-Za-z0-9._:-]{1,128}$' THEN
        RAISE EXCEPTION 'request_id must have 1 to 128 characters of A-Z a-z 0-9 . _ : -'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Twice: a row that is renewed while this waits for its lock is gone, and its successor only seen by the next statement.
    FOR attempt IN 1 .. 2 LOOP
        SELECT allocation.id, allocation.allocated_credits - allocation.used_credits INTO allocation_id, remaining
          FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
           AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
           FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    remaining := coalesce(remaining, 0);
    -- After the lock: what was settled meanwhile is in `remaining`, and may still count as open, never the other way round.
    opened := taximeter.open_credits($1, $2);

    IF remaining - opened < millicredits THEN
        -- It may still be a repetition of what took the credits.
        success := coalesce(taximeter.was_charged($1, $2, request, millicredits), false);
        remaining_credits := CASE WHEN success THEN remaining ELSE remaining - least(opened, greatest(remaining, 0)) END;
        IF NOT success THEN
            PERFORM taximeter.note_refused_deduction($1, $2, millicredits, remaining_credits, request);
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    IF request IS NOT NULL THEN
        -- The key knows the ids of this generation; those of the one before are asked for.
        INSERT INTO taximeter.charged_requests (org_id, request_id, user_id, amount)
        SELECT $1, request, $2, millicredits
         WHERE NOT EXISTS (SELECT FROM taximeter.charged_requests AS known
                            WHERE known.org_id = $1 AND known.request_id = request AND known.phase = 0)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN QUERY SELECT taximeter.was_charged($1, $2, request, millicredits), remaining;
            RETURN;
        END IF;
    END IF;
    PERFORM taximeter.check_exposure_is_known();

    PERFORM set_config('taximeter.charging', 'on', true),
            set_config('taximeter.entry_reference', coalesce(request, ''), true);
    UPDATE public.user_credit_allocations AS allocation
       SET used_credits = allocation.used_credits + millicredits, updated_at = now()
     WHERE allocation.id = allocation_id;
    INSERT INTO public.credit_usage_attribution
           (org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata)
    VALUES ($1, $2, $4, coalesce($5, ''), millicredits, request, coalesce($7, '{}'));
    PERFORM set_config('taximeter.charging', '', true), set_config('taximeter.entry_reference', '', true);

    success := true;
    remaining_credits := remaining - millicredits;
    RETURN NEXT;
END;
$$;

-- migrate:down
CREATE OR REPLACE FUNCTION deduct_credits(
    org_id text, user_id text, millicredits bigint, service_type text, service_name text, request_id text,
    request_metadata jsonb DEFAULT '{}')
RETURNS TABLE (success boolean, remaining_credits bigint)
LANGUAGE plpgsql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allocation_id uuid;
    remaining     bigint;
    request       CONSTANT text := request_id;
    opened        bigint; -- What requests have open.
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF service_type IS NULL OR length(service_type) NOT BETWEEN 1 AND 64 OR length(service_name) > 255 THEN
        RAISE EXCEPTION 'service_type must have 1 to 64 characters and service_name at most 255'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF request !~ '^[A-Za-z0-9._:-]{1,128}$' THEN
        RAISE EXCEPTION 'request_id must have 1 to 128 characters of A-Z a-z 0-9 . _ : -'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Twice: a row that is renewed while this waits for its lock is gone, and its successor only seen by the next statement.
    FOR attempt IN 1 .. 2 LOOP
        SELECT allocation.id, allocation.allocated_credits - allocation.used_credits INTO allocation_id, remaining
          FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
           AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
           FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    remaining := coalesce(remaining, 0);
    -- After the lock: what was settled meanwhile is in `remaining`, and may still count as open, never the other way round.
    opened := taximeter.open_credits($1, $2);

    IF remaining - opened < millicredits THEN
        -- It may still be a repetition of what took the credits.
        success := coalesce(taximeter.was_charged($1, $2, request, millicredits), false);
        remaining_credits := CASE WHEN success THEN remaining ELSE remaining - least(opened, greatest(remaining, 0)) END;
        IF NOT success THEN
            PERFORM taximeter.note_refused_deduction($1, $2, millicredits, remaining_credits, request);
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    IF request IS NOT NULL THEN
        INSERT INTO taximeter.charged_requests (org_id, request_id, user_id, amount)
        VALUES ($1, request, $2, millicredits)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN QUERY SELECT taximeter.was_charged($1, $2, request, millicredits), remaining;
            RETURN;
        END IF;
    END IF;
    PERFORM taximeter.check_exposure_is_known();

    PERFORM set_config('taximeter.charging', 'on', true),
            set_config('taximeter.entry_reference', coalesce(request, ''), true);
    UPDATE public.user_credit_allocations AS allocation
       SET used_credits = allocation.used_credits + millicredits, updated_at = now()
     WHERE allocation.id = allocation_id;
    INSERT INTO public.credit_usage_attribution
           (org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata)
    VALUES ($1, $2, $4, coalesce($5, ''), millicredits, request, coalesce($7, '{}'));
    PERFORM set_config('taximeter.charging', '', true), set_config('taximeter.entry_reference', '', true);

    success := true;
    remaining_credits := remaining - millicredits;
    RETURN NEXT;
END;
$$;

-- What was put away comes back. Each row leaves the one table as it enters the other, and others see it in one of them.
DO $$
DECLARE
    frozen text;
BEGIN
    SELECT 'charged_requests_' || generation INTO frozen
      FROM taximeter.charge_generations WHERE frozen_at IS NOT NULL AND forgotten_at IS NULL;
    IF frozen IS NOT NULL THEN
        EXECUTE format('WITH moved AS (DELETE FROM taximeter.%I RETURNING org_id, request_id, phase, user_id, shard, epoch, seq, amount,'
                       ' created_at, by_expiry)'
                       ' INSERT INTO taximeter.charged_requests (org_id, request_id, phase, user_id, shard, epoch, seq, amount,'
                       ' created_at, by_expiry) SELECT * FROM moved', frozen);
        EXECUTE format('DROP TABLE taximeter.%I', frozen);
    END IF;
END;
$$;
DROP TRIGGER IF EXISTS request_is_charged_once ON taximeter.charged_requests;
DROP FUNCTION taximeter.refuse_known_requests();
DROP FUNCTION taximeter.forget_charges(interval);
DROP FUNCTION taximeter.charges_to_forget(interval);
DROP FUNCTION taximeter.freeze_charges(interval);
DROP FUNCTION taximeter.check_request_ids_are_kept(interval);
DROP FUNCTION taximeter.guard_charges(text, timestamptz);
DROP FUNCTION taximeter.clocks_apart();
DROP TABLE taximeter.forgotten_charges;
DROP TABLE taximeter.charge_generations;

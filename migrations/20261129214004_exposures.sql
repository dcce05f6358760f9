-- Why: whoever takes credits by SQL sees what is allocated and what was settled, and is blind to what requests hold at that moment and to
-- charges that are not settled yet: it promised them twice. The settler writes down what it sees of both, account by account,
-- about every second, and SQL leaves that much alone. See docs/decisions/0056-what-sql-may-take.md.
-- Locks: ACCESS EXCLUSIVE on nothing; two new tables, the rest are functions.
-- Older code beside it: yes; while only older settlers run nothing is written down, and SQL sees what it always saw.

-- migrate:up
-- Only accounts with something open have a row. `open` is what holds and unsettled charges come to, in millicredits.
CREATE TABLE taximeter.exposures (
    org_id  text NOT NULL,
    user_id text NOT NULL,
    shard   integer NOT NULL,
    open    bigint NOT NULL CONSTRAINT open_is_positive CHECK (open > 0),
    PRIMARY KEY (org_id, user_id)
) WITH (fillfactor = 70); -- Room for heap-only updates: a busy account is written every second.
-- Serves the settler, which replaces the rows of its shard. `open` is not in it, so that changing it stays heap-only.
CREATE INDEX exposures_by_shard ON taximeter.exposures (shard);

CREATE TABLE taximeter.exposure_looks (
    shard     integer PRIMARY KEY,
    looked_at timestamptz NOT NULL,
    complete  boolean NOT NULL
);
COMMENT ON COLUMN taximeter.exposure_looks.looked_at IS 'Before Redis was read.';
COMMENT ON COLUMN taximeter.exposure_looks.complete IS 'False: more holds were open than are read, and what they come to is not known.';
-- A shard less: what it was last seen to have must not stand in the way for ever.
GRANT DELETE ON taximeter.exposures, taximeter.exposure_looks TO taximeter_settler;
REVOKE INSERT, UPDATE ON taximeter.exposures, taximeter.exposure_looks FROM taximeter_app;

-- Replaces what is known of a shard's open credits. An older look than the one that is there changes nothing.
CREATE FUNCTION taximeter.note_exposures(
    shard_seen integer, seen_at timestamptz, is_complete boolean, org_ids text[], user_ids text[], amounts bigint[]) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO taximeter.exposure_looks AS look (shard, looked_at, complete) VALUES (shard_seen, seen_at, is_complete)
    ON CONFLICT (shard) DO UPDATE SET looked_at = EXCLUDED.looked_at, complete = EXCLUDED.complete
     WHERE look.looked_at < EXCLUDED.looked_at;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM taximeter.exposure_looks AS look
     WHERE look.shard >= (SELECT count(*) FROM taximeter.watermarks);
    DELETE FROM taximeter.exposures AS known
     WHERE (known.shard = shard_seen OR known.shard >= (SELECT count(*) FROM taximeter.watermarks))
       AND NOT EXISTS (SELECT FROM unnest(org_ids, user_ids) AS seen (org_id, user_id)
                        WHERE seen.org_id = known.org_id AND seen.user_id = known.user_id);
    INSERT INTO taximeter.exposures AS known (org_id, user_id, shard, open)
    SELECT seen.org_id, seen.user_id, shard_seen, seen.amount
      FROM unnest(org_ids, user_ids, amounts) AS seen (org_id, user_id, amount)
     ORDER BY 1, 2
    ON CONFLICT (org_id, user_id) DO UPDATE SET shard = EXCLUDED.shard, open = EXCLUDED.open
     WHERE (known.shard, known.open) <> (EXCLUDED.shard, EXCLUDED.open);
    RETURN true;
END;
$$;

-- What requests of an account have open, as far as that is known; 0 in a system that no settler looks after.
CREATE FUNCTION taximeter.open_credits(org text, usr text) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT known.open FROM taximeter.exposures AS known WHERE known.org_id = org AND known.user_id = usr), 0);
$$;

-- Raises `exposure_is_known` when what requests have open is not known: no settler has looked for 10 seconds, or there are too many
-- holds to be read. Nothing was ever written down where no settler of this release has run.
CREATE FUNCTION taximeter.check_exposure_is_known() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    oldest   timestamptz;
    are_full boolean;
BEGIN
    SELECT min(look.looked_at), bool_and(look.complete) INTO oldest, are_full FROM taximeter.exposure_looks AS look;
    IF oldest < clock_timestamp() - interval '10 seconds' OR NOT are_full THEN
        RAISE EXCEPTION 'what requests hold is not known (%), so nothing can be taken by SQL now; nothing was changed',
            CASE WHEN are_full THEN format('no settler has looked since %s', oldest) ELSE 'too many holds are open' END
            USING ERRCODE = 'object_not_in_prerequisite_state', CONSTRAINT = 'exposure_is_known',
                  HINT = 'Look for the settler, then try again: `taximeter check` says what is wrong.';
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION has_sufficient_credits(org_id text, user_id text, millicredits bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    RETURN EXISTS (
        SELECT FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
           AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
           AND allocation.allocated_credits - allocation.used_credits - taximeter.open_credits($1, $2) >= $3);
END;
$$;

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

-- A statement that lowers what an active allocation has left stops at what its requests have open. Taking it all away with the row
-- (DELETE) is not stopped: that is how an organisation is cleaned up.
CREATE FUNCTION taximeter.keep_what_is_open() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    opened CONSTANT bigint := taximeter.open_credits(NEW.org_id, NEW.user_id);
BEGIN
    IF opened > 0 AND NEW.allocated_credits - NEW.used_credits < opened THEN
        RAISE EXCEPTION 'requests of %/% have % millicredits open, and % would be left for them', NEW.org_id, NEW.user_id, opened,
            NEW.allocated_credits - NEW.used_credits
            USING ERRCODE = 'check_violation', CONSTRAINT = 'open_credits_stay', SCHEMA = 'public',
                  TABLE = 'user_credit_allocations', HINT = 'Try again when they have ended, or leave that much.';
    END IF;
    RETURN NULL;
END;
$$;
-- Settling and deductions have looked themselves, and a move has held on the live balance what it takes.
CREATE TRIGGER allocation_keeps_what_is_open AFTER UPDATE ON user_credit_allocations
    FOR EACH ROW WHEN (
        NEW.is_active AND NEW.allocated_credits - NEW.used_credits < OLD.allocated_credits - OLD.used_credits
        AND coalesce(current_setting('taximeter.settling', true), '') <> 'on'
        AND coalesce(current_setting('taximeter.charging', true), '') <> 'on'
        AND coalesce(current_setting('taximeter.entry_hold', true), '') = '')
    EXECUTE FUNCTION taximeter.keep_what_is_open();

-- Closing, however it is done, keeps what was used and gives the rest back. What requests have open is left to them: then the row
-- stays active, marked as one that is being closed, and a settler closes it when nothing is left.
CREATE OR REPLACE FUNCTION taximeter.close_allocation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    left_over CONSTANT bigint := least(NEW.allocated_credits, OLD.allocated_credits) - NEW.used_credits;
    kept      bigint := 0;
BEGIN
    IF coalesce(current_setting('taximeter.renewing', true), '') <> 'on' THEN
        kept := greatest(0, least(left_over, taximeter.open_credits(NEW.org_id, NEW.user_id)));
    END IF;
    NEW.allocated_credits := NEW.used_credits + kept;
    IF kept > 0 THEN
        NEW.is_active := true;
        NEW.closing := coalesce(
            NEW.closing, CASE WHEN current_setting('taximeter.entry_kind', true) = 'expiry' THEN 'expiry' ELSE 'removal' END);
        NEW.auto_renew := false;
        RAISE NOTICE 'requests of %/% have % millicredits open: the allocation is closed when they end', NEW.org_id, NEW.user_id, kept;
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END;
$$;

CREATE OR REPLACE FUNCTION taximeter.expire_allocation(expired_id uuid, at_time timestamptz DEFAULT now()) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expired public.user_credit_allocations;
    closed  public.user_credit_allocations;
    period  interval; -- In seconds alone: a period does not change with the clocks of a time zone.
    starts  timestamptz;
    have    bigint := 0;
    renewed boolean := false;
BEGIN
    SELECT * INTO STRICT expired FROM public.user_credit_allocations AS allocation WHERE allocation.id = expired_id;
    IF expired.auto_renew THEN
        -- The account before the pool, as everywhere.
        PERFORM FROM taximeter.accounts AS account
          WHERE account.org_id = expired.org_id AND account.user_id = expired.user_id FOR NO KEY UPDATE;
        -- With what it gives back itself.
        SELECT pool.available_credits + expired.allocated_credits - expired.used_credits INTO have
          FROM public.organization_credit_pools AS pool WHERE pool.org_id = expired.org_id FOR NO KEY UPDATE;
        renewed := have >= expired.allocated_credits;
    END IF;
    -- A renewed one is replaced in this transaction, by one that pays for what requests have open.
    PERFORM set_config('taximeter.entry_kind', 'expiry', true),
            set_config('taximeter.renewing', CASE WHEN renewed THEN 'on' ELSE '' END, true);
    UPDATE public.user_credit_allocations AS allocation
       SET is_active = false
     WHERE allocation.id = expired_id
    RETURNING * INTO closed;
    IF renewed THEN
        period := make_interval(secs => greatest(1, extract(epoch FROM expired.expires_at - expired.created_at)));
        starts := CASE WHEN expired.expires_at + period > at_time THEN expired.expires_at ELSE at_time END;
        PERFORM set_config('taximeter.entry_kind', 'renewal', true);
        INSERT INTO public.user_credit_allocations
               (org_id, user_id, allocated_credits, allocated_by, auto_renew, created_at, expires_at)
        VALUES (expired.org_id, expired.user_id, expired.allocated_credits, expired.allocated_by, true,
                starts, starts + period);
    ELSIF expired.auto_renew THEN
        PERFORM taximeter.note_failed_renewal(expired, have);
    END IF;
    PERFORM set_config('taximeter.entry_kind', '', true), set_config('taximeter.renewing', '', true);
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES ('taximeter:expiry', CASE WHEN renewed THEN 'user.allocation.renewed' ELSE 'user.allocation.expired' END,
            expired.org_id, expired.user_id,
            jsonb_build_object('allocated_credits', expired.allocated_credits, 'used_credits', expired.used_credits),
            jsonb_build_object('returned_credits', expired.allocated_credits - closed.allocated_credits,
                               'renewed_credits', CASE WHEN renewed THEN expired.allocated_credits ELSE 0 END));
END;
$$;

-- migrate:down
DROP TRIGGER allocation_keeps_what_is_open ON user_credit_allocations;
DROP FUNCTION taximeter.keep_what_is_open();
CREATE OR REPLACE FUNCTION taximeter.close_allocation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.allocated_credits := NEW.used_credits;
    NEW.updated_at := now();
    RETURN NEW;
END;
$$;
CREATE OR REPLACE FUNCTION taximeter.expire_allocation(expired_id uuid, at_time timestamptz DEFAULT now()) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expired public.user_credit_allocations;
    period  interval; -- In seconds alone: a period does not change with the clocks of a time zone.
    starts  timestamptz;
    have    bigint;
    renewed boolean := false;
BEGIN
    SELECT * INTO STRICT expired FROM public.user_credit_allocations AS allocation WHERE allocation.id = expired_id;
    PERFORM set_config('taximeter.entry_kind', 'expiry', true);
    UPDATE public.user_credit_allocations AS allocation SET is_active = false WHERE allocation.id = expired_id;
    IF expired.auto_renew THEN
        SELECT pool.available_credits INTO have
          FROM public.organization_credit_pools AS pool WHERE pool.org_id = expired.org_id FOR NO KEY UPDATE;
        renewed := have >= expired.allocated_credits;
        IF renewed THEN
            period := make_interval(secs => greatest(1, extract(epoch FROM expired.expires_at - expired.created_at)));
            starts := CASE WHEN expired.expires_at + period > at_time THEN expired.expires_at ELSE at_time END;
            PERFORM set_config('taximeter.entry_kind', 'renewal', true);
            INSERT INTO public.user_credit_allocations
                   (org_id, user_id, allocated_credits, allocated_by, auto_renew, created_at, expires_at)
            VALUES (expired.org_id, expired.user_id, expired.allocated_credits, expired.allocated_by, true,
                    starts, starts + period);
        ELSE
            PERFORM taximeter.note_failed_renewal(expired, have);
        END IF;
    END IF;
    PERFORM set_config('taximeter.entry_kind', '', true);
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES ('taximeter:expiry', CASE WHEN renewed THEN 'user.allocation.renewed' ELSE 'user.allocation.expired' END,
            expired.org_id, expired.user_id,
            jsonb_build_object('allocated_credits', expired.allocated_credits, 'used_credits', expired.used_credits),
            jsonb_build_object('returned_credits', expired.allocated_credits - expired.used_credits,
                               'renewed_credits', CASE WHEN renewed THEN expired.allocated_credits ELSE 0 END));
END;
$$;
CREATE OR REPLACE FUNCTION deduct_credits(
    org_id text, user_id text, millicredits bigint, service_type text, service_name text, request_id text,
    request_metadata jsonb DEFAULT '{}')
RETURNS TABLE (success boolean, remaining_credits bigint)
LANGUAGE plpgsql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allocation_id uuid;
    remaining     bigint;
    request       CONSTANT text := request_id;
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

    IF remaining < millicredits THEN
        -- It may still be a repetition of what took the credits.
        success := coalesce(taximeter.was_charged($1, $2, request, millicredits), false);
        remaining_credits := remaining;
        IF NOT success THEN
            PERFORM taximeter.note_refused_deduction($1, $2, millicredits, remaining, request);
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
CREATE OR REPLACE FUNCTION has_sufficient_credits(org_id text, user_id text, millicredits bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    RETURN EXISTS (
        SELECT FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
           AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
           AND allocation.allocated_credits - allocation.used_credits >= $3);
END;
$$;
DROP FUNCTION taximeter.check_exposure_is_known();
DROP FUNCTION taximeter.open_credits(text, text);
DROP FUNCTION taximeter.note_exposures(integer, timestamptz, boolean, text[], text[], bigint[]);
DROP TABLE taximeter.exposure_looks;
DROP TABLE taximeter.exposures;

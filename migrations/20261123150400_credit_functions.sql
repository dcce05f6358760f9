-- Why: the SQL functions that existing users call, with the mistakes of their first version mended: remaining credits are
-- counted once, two allocations at once cannot share the same credits, and nothing leaks when an allocation is replaced or closed.
-- There is exactly one function a name, so that literals without types, bigint and VARCHAR arguments all find it.
-- Every amount is in millicredits, 1 to 10^12 (a billion credits); whatever is outside is refused with an error.
-- Locks: none, these are functions only.
-- Older code beside it: yes; the arguments and results are those that it knows.
--
-- An allocation whose expires_at has passed cannot be spent from SQL from that moment on, and counts as 0 in has_sufficient_credits,
-- though its row stays active until it is closed: by the settler, which takes back what is free and waits for open requests, or by
-- deactivate_expired_allocations(), which gives the rest back to the pool at once. Whoever allocates to such a user closes the
-- expired row on the way.

-- migrate:up
CREATE FUNCTION taximeter.check_millicredits(millicredits bigint) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF millicredits IS NULL OR millicredits NOT BETWEEN 1 AND 1000000000000 THEN
        RAISE EXCEPTION 'millicredits must be between 1 and 1000000000000, not %', coalesce(millicredits::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END;
$$;

-- Whether the active allocation holds at least this much. No allocation counts as 0.
CREATE FUNCTION has_sufficient_credits(org_id text, user_id text, millicredits bigint) RETURNS boolean
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

-- Whether a request was charged already. Raises `request_id_is_used_once` when it was, but to another user or with
-- another amount (the sum of its phases).
CREATE FUNCTION taximeter.was_charged(org text, usr text, request text, millicredits bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first_user text;
    charged    bigint;
BEGIN
    SELECT min(known.user_id), sum(known.amount) INTO first_user, charged
      FROM taximeter.charged_requests AS known
     WHERE known.org_id = org AND known.request_id = request;
    IF first_user IS NULL THEN
        RETURN false;
    END IF;
    IF first_user <> usr OR charged <> millicredits THEN
        RAISE EXCEPTION 'request_id % of organisation % was used with other parameters: % millicredits of user %, not % of user %',
            request, org, charged, first_user, millicredits, usr
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'request_id_is_used_once', SCHEMA = 'taximeter',
                  TABLE = 'charged_requests';
    END IF;
    RETURN true;
END;
$$;

-- Charges in one step, for back-office use: allocation and pool used, attribution, entry for the live balance.
-- Returns what remains after it; false, and nothing written, when it does not fit. The same request_id again is answered
-- (true, what remains now) without a second charge, also when two sessions send it at the same moment: the second waits for
-- the allocation. A null request_id is never a repetition. Raises when the id was used with other parameters.
-- Lock order: allocation, charged request, account, pool, rollup.
CREATE FUNCTION deduct_credits(
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
        RETURN QUERY SELECT request IS NOT NULL AND taximeter.was_charged($1, $2, request, millicredits), remaining;
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

-- Buys credits: makes the pool if it is missing, raises its total, writes the history row 'credits_purchased'.
-- purchase_amount is in dollars, 0 or more (credits that come with a plan cost nothing).
CREATE FUNCTION add_credits_to_pool(org_id text, millicredits bigint, purchase_amount numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF purchase_amount IS NULL OR purchase_amount = 'NaN' OR purchase_amount NOT BETWEEN 0 AND 99999999.99 THEN
        RAISE EXCEPTION 'purchase_amount must be between 0 and 99999999.99 dollars, not %',
            coalesce(purchase_amount::text, 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO public.organization_credit_pools AS pool (org_id, total_credits) VALUES ($1, millicredits)
    ON CONFLICT ON CONSTRAINT organization_credit_pools_pkey DO UPDATE
       SET total_credits = pool.total_credits + EXCLUDED.total_credits, updated_at = now();
    INSERT INTO public.org_billing_history (org_id, event_type, amount, metadata)
    VALUES ($1, 'credits_purchased', purchase_amount, jsonb_build_object('millicredits', millicredits));
END;
$$;

-- Says that an expired allocation could not be renewed: to whoever reads the history, and in the audit log.
CREATE FUNCTION taximeter.note_failed_renewal(expired public.user_credit_allocations, have bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO public.org_billing_history (org_id, event_type, status, metadata)
    VALUES (expired.org_id, 'allocation_renewal_failed', 'failed', jsonb_build_object(
            'user_id', expired.user_id, 'allocation_id', expired.id,
            'need_millicredits', expired.allocated_credits, 'have_millicredits', have));
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES ('taximeter:expiry', 'user.allocation.renewal_failed', expired.org_id, expired.user_id,
            jsonb_build_object('allocated_credits', expired.allocated_credits, 'used_credits', expired.used_credits),
            jsonb_build_object('pool_available_credits', have));
$$;

-- Closes one allocation that the caller has locked: its rest goes back to the pool. With auto_renew a new one of the same
-- size and the same length opens where the old one ended (or at `at_time`, when more than a period was missed), if the pool
-- can pay; if not, the history row 'allocation_renewal_failed' says what was needed and what was there.
CREATE FUNCTION taximeter.expire_allocation(expired_id uuid, at_time timestamptz DEFAULT now()) RETURNS void
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

-- Closes and renews what has expired; returns how many were closed. All allocations are locked, in order, before
-- the first is closed, since closing one locks its pool.
CREATE FUNCTION deactivate_expired_allocations() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expired_ids uuid[];
    expired_id  uuid;
BEGIN
    SELECT array_agg(locked.id) INTO expired_ids
      FROM (SELECT allocation.id FROM public.user_credit_allocations AS allocation
             WHERE allocation.is_active AND allocation.expires_at <= now()
             ORDER BY allocation.org_id, allocation.user_id
               FOR NO KEY UPDATE) AS locked;
    FOREACH expired_id IN ARRAY coalesce(expired_ids, '{}') LOOP
        PERFORM taximeter.expire_allocation(expired_id);
    END LOOP;
    RETURN coalesce(array_length(expired_ids, 1), 0);
END;
$$;

-- Gives a user credits of the pool: adds to the active allocation, or opens one. Returns its id. Raises `pool_can_pay` when the
-- pool's available does not cover it; two at once cannot over-allocate, since the pool's row decides.
-- An allocation that is being closed stays open then, without an end, and with what its open requests leave: their credits
-- cannot be told from the new ones, and giving them back would promise them twice.
CREATE FUNCTION allocate_credits_to_user(org_id text, user_id text, millicredits bigint, allocated_by text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    allocation_id uuid;
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF NOT EXISTS (SELECT FROM public.organization_credit_pools AS pool WHERE pool.org_id = $1) THEN
        RAISE EXCEPTION 'organisation % has no credit pool; call add_credits_to_pool first', coalesce($1, 'null')
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'allocation_has_a_pool', SCHEMA = 'public',
                  TABLE = 'user_credit_allocations';
    END IF;
    SELECT allocation.id INTO allocation_id FROM public.user_credit_allocations AS allocation
     WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
       AND allocation.expires_at <= now() AND allocation.closing IS NULL
       FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM taximeter.expire_allocation(allocation_id);
    END IF;
    INSERT INTO public.user_credit_allocations AS allocation (org_id, user_id, allocated_credits, allocated_by)
    VALUES ($1, $2, millicredits, $4)
    ON CONFLICT (org_id, user_id) WHERE is_active DO UPDATE
       SET allocated_credits = allocation.allocated_credits + EXCLUDED.allocated_credits,
           allocated_by = EXCLUDED.allocated_by, updated_at = now(), closing = NULL,
           expires_at = CASE WHEN allocation.closing IS NULL THEN allocation.expires_at END
    RETURNING allocation.id INTO allocation_id;
    RETURN allocation_id;
END;
$$;

-- migrate:down
DROP FUNCTION allocate_credits_to_user(text, text, bigint, text);
DROP FUNCTION deactivate_expired_allocations();
DROP FUNCTION taximeter.expire_allocation(uuid, timestamptz);
DROP FUNCTION taximeter.note_failed_renewal(user_credit_allocations, bigint);
DROP FUNCTION add_credits_to_pool(text, bigint, numeric);
DROP FUNCTION deduct_credits(text, text, bigint, text, text, text, jsonb);
DROP FUNCTION taximeter.was_charged(text, text, text, bigint);
DROP FUNCTION has_sufficient_credits(text, text, bigint);
DROP FUNCTION taximeter.check_millicredits(bigint);

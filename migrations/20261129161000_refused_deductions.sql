-- Why: a deduction that does not fit is to be on record (`credit.deduction.failed`), also one by SQL. At most once a minute for an
-- account, as the API does: somebody who tries again and again fills no table.
-- Locks: none that matter, a function is replaced.
-- Older code beside it: yes, it gets the same answers.

-- migrate:up
CREATE FUNCTION taximeter.note_refused_deduction(
    org_id text, user_id text, millicredits bigint, remaining bigint, request_id text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    SELECT session_user, 'credit.deduction.failed', $1, $2,
           jsonb_build_object('available_credits', remaining),
           jsonb_build_object('available_credits', remaining, 'needed_credits', millicredits),
           $5
     WHERE $1 IS NOT NULL AND $2 IS NOT NULL
       AND NOT EXISTS (
               SELECT FROM taximeter.audit_log AS seen
                WHERE seen.org_id = $1 AND seen.at > now() - interval '1 minute'
                  AND seen.action = 'credit.deduction.failed' AND seen.target = $2);
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
DROP FUNCTION taximeter.note_refused_deduction(text, text, bigint, bigint, text);

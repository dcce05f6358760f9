-- Why: what people do by SQL keeps to the rules of the API and leaves the same records. An allocation has one end, so credits with
-- another end are refused and never merged; renewing needs an end; half a cent is no amount; purchases and allocations by SQL, and
-- an allocation that a transfer opens, are in the audit log; ids that no path of the API could name are not made.
-- Locks: SHARE ROW EXCLUSIVE on organisations, members and allocations for a moment, to create triggers.
-- Older code beside it: yes; it goes on calling the functions that it knows.

-- migrate:up

-- For rows of before: renewing without an end has never done anything.
UPDATE user_credit_allocations SET auto_renew = false WHERE auto_renew AND expires_at IS NULL;
CREATE FUNCTION taximeter.refuse_renewal_without_end() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'auto_renew needs an end: allocation of %/% has no expires_at', NEW.org_id, NEW.user_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'renewal_needs_an_end', SCHEMA = 'public',
              TABLE = 'user_credit_allocations';
END;
$$;
-- Not a constraint: what settle does to such a row of before must not be refused for it.
CREATE TRIGGER renewal_needs_an_end BEFORE INSERT OR UPDATE OF auto_renew, expires_at ON user_credit_allocations
    FOR EACH ROW WHEN (NEW.auto_renew AND NEW.expires_at IS NULL AND NEW.is_active)
    EXECUTE FUNCTION taximeter.refuse_renewal_without_end();

-- The ids that name parts of paths (/billing/user, /subscriptions/{org}, /{org}/history), and users that a path or a header would name
-- without the blanks at their ends. Those that are there stay.
CREATE FUNCTION taximeter.refuse_id() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% %', TG_ARGV[0], TG_ARGV[1] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
END;
$$;
CREATE TRIGGER org_id_is_no_part_of_a_path BEFORE INSERT ON organizations
    FOR EACH ROW WHEN (NEW.id IN ('billing', 'credits', 'history', 'invitations', 'invoices', 'orgs', 'plans', 'subscriptions', 'system', 'user',
                                  'users'))
    EXECUTE FUNCTION taximeter.refuse_id('id: this word is part of a path of the API', 'and cannot name an organisation');
CREATE TRIGGER user_id_has_no_blank_ends BEFORE INSERT ON organization_members
    FOR EACH ROW WHEN (NEW.user_id <> btrim(NEW.user_id))
    EXECUTE FUNCTION taximeter.refuse_id('user_id:', 'must not begin or end with a blank');
CREATE TRIGGER user_id_has_no_blank_ends BEFORE INSERT ON user_credit_allocations
    FOR EACH ROW WHEN (NEW.is_active AND NEW.user_id <> btrim(NEW.user_id))
    EXECUTE FUNCTION taximeter.refuse_id('user_id:', 'must not begin or end with a blank');

-- Buys credits: makes the pool if it is missing, raises its total, and writes the line of the history, whole. Returns that line. Writes
-- nothing to the audit log: the caller knows who buys.
CREATE FUNCTION taximeter.buy_credits(
    org_id text, millicredits bigint, purchase_amount numeric, stripe_payment_id text DEFAULT NULL, metadata jsonb DEFAULT '{}')
RETURNS public.org_billing_history
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    line public.org_billing_history;
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF purchase_amount IS NULL OR purchase_amount = 'NaN' OR purchase_amount NOT BETWEEN 0 AND 99999999.99
       OR purchase_amount <> round(purchase_amount, 2) THEN
        RAISE EXCEPTION 'purchase_amount must be between 0 and 99999999.99 dollars, in whole cents, not %',
            coalesce(purchase_amount::text, 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO public.organization_credit_pools AS pool (org_id, total_credits) VALUES ($1, millicredits)
    ON CONFLICT ON CONSTRAINT organization_credit_pools_pkey DO UPDATE
       SET total_credits = pool.total_credits + EXCLUDED.total_credits, updated_at = now();
    INSERT INTO public.org_billing_history (org_id, event_type, amount, stripe_payment_id, metadata)
    VALUES ($1, 'credits_purchased', purchase_amount, $4, jsonb_build_object('millicredits', millicredits) || $5)
    RETURNING * INTO line;
    RETURN line;
END;
$$;

CREATE OR REPLACE FUNCTION add_credits_to_pool(org_id text, millicredits bigint, purchase_amount numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    line  public.org_billing_history;
    total bigint;
BEGIN
    line := taximeter.buy_credits($1, $2, $3);
    SELECT pool.total_credits INTO total FROM public.organization_credit_pools AS pool WHERE pool.org_id = $1;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES (session_user, 'org.credits.purchased', $1, line.id::text,
            jsonb_build_object('total_credits', total - millicredits),
            jsonb_build_object('total_credits', total, 'purchase_amount', purchase_amount::text, 'vouched_by', 'sql'));
END;
$$;

-- Gives a user credits of the pool, on terms: adds to the active allocation, or opens one. Returns its id. Writes nothing to the audit
-- log: the caller knows who allocates. With set_expiry the credits end at new_expiry, or never when that is null; without it
-- they end with the allocation that stands. An allocation has one end: raises `one_end_for_an_allocation` when one that
-- has anything left ends at another time than new_expiry. A null new_expiry takes the end away, and renewing with it.
-- An allocation that is being closed stays open then, without an end unless one is set, and with what its open requests leave: their
-- credits cannot be told from the new ones, and giving them back would promise them twice.
CREATE FUNCTION taximeter.allocate_credits(
    org_id text, user_id text, millicredits bigint, allocated_by text, set_expiry boolean DEFAULT false,
    new_expiry timestamptz DEFAULT NULL, new_renewal boolean DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    standing      public.user_credit_allocations;
    allocation_id uuid;
    takes_terms   boolean;
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
    SELECT * INTO standing FROM public.user_credit_allocations AS allocation
     WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
       FOR NO KEY UPDATE;
    -- What has nothing left, or is being closed, has no credits that an end could take away.
    takes_terms := standing.id IS NULL OR standing.closing IS NOT NULL OR standing.allocated_credits <= standing.used_credits;
    IF set_expiry AND new_expiry IS NOT NULL AND NOT takes_terms AND standing.expires_at IS DISTINCT FROM new_expiry THEN
        RAISE EXCEPTION 'the allocation of %/% ends %, and credits that end at % are not merged with it', $1, $2,
            coalesce('at ' || (standing.expires_at AT TIME ZONE 'UTC')::text || ' UTC', 'never'),
            (new_expiry AT TIME ZONE 'UTC')::text || ' UTC'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'one_end_for_an_allocation', SCHEMA = 'public',
                  TABLE = 'user_credit_allocations', DETAIL = coalesce(standing.expires_at::text, 'never'),
                  HINT = 'Leave the end out to add to the allocation as it stands, or take the end away with null.';
    END IF;
    INSERT INTO public.user_credit_allocations AS allocation
           (org_id, user_id, allocated_credits, allocated_by, expires_at, auto_renew)
    VALUES ($1, $2, millicredits, $4, CASE WHEN set_expiry THEN new_expiry END, coalesce(new_renewal, false))
    ON CONFLICT (org_id, user_id) WHERE is_active DO UPDATE
       SET allocated_credits = allocation.allocated_credits + EXCLUDED.allocated_credits,
           allocated_by = EXCLUDED.allocated_by, updated_at = now(), closing = NULL,
           expires_at = CASE WHEN set_expiry THEN new_expiry
                             WHEN allocation.closing IS NULL THEN allocation.expires_at END,
           auto_renew = CASE WHEN new_renewal IS NOT NULL THEN new_renewal
                             WHEN set_expiry AND new_expiry IS NULL THEN false
                             ELSE allocation.auto_renew END
    RETURNING allocation.id INTO allocation_id;
    RETURN allocation_id;
END;
$$;

CREATE OR REPLACE FUNCTION allocate_credits_to_user(org_id text, user_id text, millicredits bigint, allocated_by text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made_id CONSTANT uuid := taximeter.allocate_credits($1, $2, $3, $4);
    made    public.user_credit_allocations;
    have    bigint;
BEGIN
    SELECT * INTO STRICT made FROM public.user_credit_allocations AS allocation WHERE allocation.id = made_id;
    SELECT pool.available_credits INTO have FROM public.organization_credit_pools AS pool WHERE pool.org_id = $1;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    SELECT session_user, action, $1, $2,
           jsonb_build_object('allocated_credits', made.allocated_credits - millicredits, 'pool_available_credits', have + millicredits),
           jsonb_build_object('allocated_credits', made.allocated_credits, 'pool_available_credits', have, 'allocated_by', $4)
      FROM unnest(ARRAY['user.allocation.created', 'org.credits.allocated']) AS action
     WHERE action <> 'user.allocation.created' OR made.allocated_credits = millicredits AND made.used_credits = 0;
    RETURN made_id;
END;
$$;

CREATE OR REPLACE FUNCTION taximeter.carry_out_move(move_id uuid) RETURNS taximeter.moves
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    move      taximeter.moves;
    source    public.user_credit_allocations;
    target    public.user_credit_allocations;
    pool      public.organization_credit_pools;
    closes    boolean;
    remaining bigint := 0;
    moved     bigint;
BEGIN
    SELECT * INTO STRICT move FROM taximeter.moves AS found WHERE found.id = move_id FOR UPDATE;
    IF move.state <> 'pending' THEN
        RETURN move;
    END IF;
    closes := move.allocation_id IS NOT NULL;
    IF move.kind = 'transfer' AND 2 > (
        SELECT count(*) FROM (
            SELECT FROM public.organization_members AS member
             WHERE member.org_id = move.org_id AND member.user_id IN (move.from_user, move.to_user) AND member.status = 'active'
             ORDER BY member.user_id
               FOR SHARE) AS active) THEN
        RETURN taximeter.end_move(move_id, 'refused', 'not_a_member');
    END IF;

    PERFORM FROM public.user_credit_allocations AS allocation
      WHERE allocation.org_id = move.org_id AND allocation.user_id IN (move.from_user, move.to_user) AND allocation.is_active
      ORDER BY allocation.org_id, allocation.user_id
        FOR NO KEY UPDATE;
    SELECT * INTO source FROM public.user_credit_allocations AS allocation
     WHERE allocation.org_id = move.org_id AND allocation.user_id = move.from_user AND allocation.is_active;
    IF source.closing IS NULL AND NOT closes AND coalesce(source.expires_at > now(), true)
       OR source.closing IS NOT NULL AND source.id = move.allocation_id THEN
        remaining := coalesce(source.allocated_credits - source.used_credits, 0);
    END IF;
    moved := CASE WHEN closes THEN least(move.amount, remaining) ELSE move.amount END;
    IF moved <= 0 OR remaining < moved THEN
        RETURN taximeter.end_move(move_id, 'refused', 'insufficient', greatest(remaining, 0), 0);
    END IF;
    IF move.kind = 'transfer' THEN
        SELECT * INTO target FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = move.org_id AND allocation.user_id = move.to_user AND allocation.is_active;
        IF target.closing IS NULL AND target.expires_at <= now() THEN
            -- The settler begins to close it within a second; what is free in it is not to be revived.
            RETURN taximeter.end_move(move_id, 'refused', 'expiring');
        END IF;
        -- Here and not below, so that a new row is locked before the pool, like one that exists.
        INSERT INTO public.user_credit_allocations (org_id, user_id, allocated_by)
        VALUES (move.org_id, move.to_user, move.actor)
        ON CONFLICT (org_id, user_id) WHERE is_active DO NOTHING;
    END IF;

    -- The hold ends in the step that applies the first of the entries that follow.
    PERFORM set_config('taximeter.entry_kind', move.kind, true),
            set_config('taximeter.entry_reference', move_id::text, true),
            set_config('taximeter.entry_hold', move.org_id || '/move/' || move_id, true);
    UPDATE public.user_credit_allocations AS allocation
       SET allocated_credits = allocation.allocated_credits - moved, is_active = NOT closes OR moved < remaining, updated_at = now()
     WHERE allocation.id = source.id;
    PERFORM set_config('taximeter.entry_hold', '', true);
    UPDATE public.user_credit_allocations AS allocation
       SET allocated_credits = allocation.allocated_credits + moved, updated_at = now(), closing = NULL,
           expires_at = CASE WHEN allocation.closing IS NULL THEN allocation.expires_at END
     WHERE allocation.org_id = move.org_id AND allocation.user_id = move.to_user AND allocation.is_active;
    PERFORM set_config('taximeter.entry_kind', '', true), set_config('taximeter.entry_reference', '', true);

    SELECT * INTO STRICT pool FROM public.organization_credit_pools AS found WHERE found.org_id = move.org_id;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    SELECT move.actor, 'user.allocation.created', move.org_id, move.to_user,
           jsonb_build_object('allocated_credits', 0),
           jsonb_build_object('allocated_credits', moved, 'move_id', move_id), move.request_id
     WHERE move.kind = 'transfer' AND target.id IS NULL;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    VALUES (move.actor,
            CASE move.kind WHEN 'transfer' THEN 'org.credits.transferred'
                           WHEN 'deallocation' THEN 'org.credits.deallocated' ELSE 'org.credits.returned' END,
            move.org_id, move.from_user,
            jsonb_build_object('allocated_credits', source.allocated_credits),
            jsonb_strip_nulls(jsonb_build_object(
                'allocated_credits', source.allocated_credits - moved, 'moved_credits', moved, 'to_user_id', move.to_user,
                'move_id', move_id, 'kind', move.kind, 'pool_available_credits', pool.available_credits)),
            move.request_id);
    UPDATE taximeter.moves AS ended
       SET state = 'done', amount = moved, pool_allocated = pool.allocated_credits, pool_available = pool.available_credits,
           ended_at = now()
     WHERE ended.id = move_id
    RETURNING * INTO move;
    RETURN move;
END;
$$;

-- migrate:down
CREATE OR REPLACE FUNCTION taximeter.carry_out_move(move_id uuid) RETURNS taximeter.moves
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    move      taximeter.moves;
    source    public.user_credit_allocations;
    target    public.user_credit_allocations;
    pool      public.organization_credit_pools;
    closes    boolean;
    remaining bigint := 0;
    moved     bigint;
BEGIN
    SELECT * INTO STRICT move FROM taximeter.moves AS found WHERE found.id = move_id FOR UPDATE;
    IF move.state <> 'pending' THEN
        RETURN move;
    END IF;
    closes := move.allocation_id IS NOT NULL;
    IF move.kind = 'transfer' AND 2 > (
        SELECT count(*) FROM (
            SELECT FROM public.organization_members AS member
             WHERE member.org_id = move.org_id AND member.user_id IN (move.from_user, move.to_user) AND member.status = 'active'
             ORDER BY member.user_id
               FOR SHARE) AS active) THEN
        RETURN taximeter.end_move(move_id, 'refused', 'not_a_member');
    END IF;

    PERFORM FROM public.user_credit_allocations AS allocation
      WHERE allocation.org_id = move.org_id AND allocation.user_id IN (move.from_user, move.to_user) AND allocation.is_active
      ORDER BY allocation.org_id, allocation.user_id
        FOR NO KEY UPDATE;
    SELECT * INTO source FROM public.user_credit_allocations AS allocation
     WHERE allocation.org_id = move.org_id AND allocation.user_id = move.from_user AND allocation.is_active;
    IF source.closing IS NULL AND NOT closes AND coalesce(source.expires_at > now(), true)
       OR source.closing IS NOT NULL AND source.id = move.allocation_id THEN
        remaining := coalesce(source.allocated_credits - source.used_credits, 0);
    END IF;
    moved := CASE WHEN closes THEN least(move.amount, remaining) ELSE move.amount END;
    IF moved <= 0 OR remaining < moved THEN
        RETURN taximeter.end_move(move_id, 'refused', 'insufficient', greatest(remaining, 0), 0);
    END IF;
    IF move.kind = 'transfer' THEN
        SELECT * INTO target FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = move.org_id AND allocation.user_id = move.to_user AND allocation.is_active;
        IF target.closing IS NULL AND target.expires_at <= now() THEN
            -- The settler begins to close it within a second; what is free in it is not to be revived.
            RETURN taximeter.end_move(move_id, 'refused', 'expiring');
        END IF;
        -- Here and not below, so that a new row is locked before the pool, like one that exists.
        INSERT INTO public.user_credit_allocations (org_id, user_id, allocated_by)
        VALUES (move.org_id, move.to_user, move.actor)
        ON CONFLICT (org_id, user_id) WHERE is_active DO NOTHING;
    END IF;

    PERFORM set_config('taximeter.entry_kind', move.kind, true),
            set_config('taximeter.entry_reference', move_id::text, true),
            set_config('taximeter.entry_hold', move.org_id || '/move/' || move_id, true);
    UPDATE public.user_credit_allocations AS allocation
       SET allocated_credits = allocation.allocated_credits - moved, is_active = NOT closes OR moved < remaining, updated_at = now()
     WHERE allocation.id = source.id;
    PERFORM set_config('taximeter.entry_hold', '', true);
    UPDATE public.user_credit_allocations AS allocation
       SET allocated_credits = allocation.allocated_credits + moved, updated_at = now(), closing = NULL,
           expires_at = CASE WHEN allocation.closing IS NULL THEN allocation.expires_at END
     WHERE allocation.org_id = move.org_id AND allocation.user_id = move.to_user AND allocation.is_active;
    PERFORM set_config('taximeter.entry_kind', '', true), set_config('taximeter.entry_reference', '', true);

    SELECT * INTO STRICT pool FROM public.organization_credit_pools AS found WHERE found.org_id = move.org_id;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    VALUES (move.actor,
            CASE move.kind WHEN 'transfer' THEN 'org.credits.transferred'
                           WHEN 'deallocation' THEN 'org.credits.deallocated' ELSE 'org.credits.returned' END,
            move.org_id, move.from_user,
            jsonb_build_object('allocated_credits', source.allocated_credits),
            jsonb_strip_nulls(jsonb_build_object(
                'allocated_credits', source.allocated_credits - moved, 'moved_credits', moved, 'to_user_id', move.to_user,
                'move_id', move_id, 'kind', move.kind, 'pool_available_credits', pool.available_credits)),
            move.request_id);
    UPDATE taximeter.moves AS ended
       SET state = 'done', amount = moved, pool_allocated = pool.allocated_credits, pool_available = pool.available_credits,
           ended_at = now()
     WHERE ended.id = move_id
    RETURNING * INTO move;
    RETURN move;
END;
$$;
CREATE OR REPLACE FUNCTION allocate_credits_to_user(org_id text, user_id text, millicredits bigint, allocated_by text) RETURNS uuid
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
DROP FUNCTION taximeter.allocate_credits(text, text, bigint, text, boolean, timestamptz, boolean);
CREATE OR REPLACE FUNCTION add_credits_to_pool(org_id text, millicredits bigint, purchase_amount numeric) RETURNS void
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
DROP FUNCTION taximeter.buy_credits(text, bigint, numeric, text, jsonb);
DROP TRIGGER user_id_has_no_blank_ends ON user_credit_allocations;
DROP TRIGGER user_id_has_no_blank_ends ON organization_members;
DROP TRIGGER org_id_is_no_part_of_a_path ON organizations;
DROP FUNCTION taximeter.refuse_id();
DROP TRIGGER renewal_needs_an_end ON user_credit_allocations;
DROP FUNCTION taximeter.refuse_renewal_without_end();

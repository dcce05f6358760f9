-- Why: credits that leave an account are decided on the live balance, while its user spends. A move is written here first, then
-- held on the live account under an id that follows from the move's own, then booked in one transaction whose entry names the hold. A
-- process that dies in between leaves a pending move, which another one undoes: the books never see half of it.
-- Locks: none that matter, everything here is new.
-- Older code beside it: yes, nothing reads this table yet.

-- migrate:up

-- No reference to organizations: what was moved stays on record. reason, have and held say why a move was refused;
-- pool_allocated and pool_available are the pool's figures after a move, so that a repeated request gets the same answer.
CREATE TABLE taximeter.moves (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id          text NOT NULL,
    kind            text NOT NULL CONSTRAINT kind_is_known CHECK (kind IN ('transfer', 'deallocation', 'removal', 'expiry')),
    from_user       text NOT NULL,
    to_user         text,
    amount          bigint NOT NULL CONSTRAINT amount_is_in_range CHECK (amount BETWEEN 1 AND 1000000000000),
    allocation_id   uuid,
    state           text NOT NULL DEFAULT 'pending'
                    CONSTRAINT state_is_known CHECK (state IN ('pending', 'done', 'refused', 'undone')),
    reason          text,
    have            bigint,
    held            bigint,
    pool_allocated  bigint,
    pool_available  bigint,
    actor           text NOT NULL,
    idempotency_key text,
    request_id      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    CONSTRAINT transfer_has_a_receiver CHECK ((kind = 'transfer') = (to_user IS NOT NULL)),
    CONSTRAINT transfer_has_two_users CHECK (to_user <> from_user),
    CONSTRAINT closing_names_its_allocation CHECK ((kind IN ('removal', 'expiry')) = (allocation_id IS NOT NULL)),
    CONSTRAINT ended_has_a_time CHECK ((state = 'pending') = (ended_at IS NULL))
);
COMMENT ON COLUMN taximeter.moves.to_user IS 'Null: back to the pool.';
-- What was refused or undone has moved nothing, and its key may be tried again.
-- Serves "what became of this key", and states that a key moves credits once.
CREATE UNIQUE INDEX one_move_per_key ON taximeter.moves (org_id, kind, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND state IN ('pending', 'done');
-- Serves the job that undoes what was left half done. Almost always empty.
CREATE INDEX moves_pending ON taximeter.moves (created_at) WHERE state = 'pending';
-- Serves the moves of an organisation, newest first.
CREATE INDEX moves_by_org ON taximeter.moves (org_id, created_at DESC, id);
CREATE TRIGGER moves_are_kept BEFORE DELETE OR TRUNCATE ON taximeter.moves
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('moves are kept for ever');
CREATE TRIGGER ended_moves_stay_ended BEFORE UPDATE ON taximeter.moves
    FOR EACH ROW WHEN (OLD.state <> 'pending')
    EXECUTE FUNCTION taximeter.refuse('a move ends once');

-- Ends a pending move without moving anything.
CREATE FUNCTION taximeter.end_move(move_id uuid, state text, reason text, have bigint DEFAULT NULL, held bigint DEFAULT NULL)
RETURNS taximeter.moves
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE taximeter.moves AS move
       SET state = end_move.state, reason = end_move.reason, have = end_move.have, held = end_move.held, ended_at = now()
     WHERE move.id = move_id
    RETURNING move.*;
$$;

-- Carries out a move whose amount is held on the live account: lowers one allocation and raises the other (or the pool), appends
-- the entry that ends the hold, writes the audit row. Returns the move as it has ended: done, or refused when the books
-- do not have what the live side promised (the caller then releases the hold). A closing takes at most what is left, and closes
-- the allocation with the last of it. A receiver whose allocation is being closed keeps it, as with allocate_credits_to_user.
-- Lock order: the move, allocations sorted, accounts, pool.
CREATE FUNCTION taximeter.carry_out_move(move_id uuid) RETURNS taximeter.moves
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

-- Begins to close what has expired at `at_time`, at most `most` allocations: those that renew, and whose pool can pay, are renewed at
-- once (the live balance only grows by that); the others are marked, and the settler takes back what is free until
-- nothing is left. `became` is renewed, closing or closed; `not_renewed` says that a renewal failed.
CREATE FUNCTION taximeter.begin_expiry(at_time timestamptz, most integer)
RETURNS TABLE (org_id text, user_id text, became text, not_renewed boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expired_ids uuid[];
    expired     public.user_credit_allocations;
    have        bigint;
BEGIN
    -- All are locked, in order, before the first one is changed, since that locks its pool.
    SELECT array_agg(locked.id) INTO expired_ids
      FROM (SELECT allocation.id FROM public.user_credit_allocations AS allocation
             WHERE allocation.is_active AND allocation.closing IS NULL AND allocation.expires_at <= at_time
             ORDER BY allocation.org_id, allocation.user_id
             LIMIT most
               FOR NO KEY UPDATE SKIP LOCKED) AS locked;
    FOR position IN 1 .. coalesce(array_length(expired_ids, 1), 0) LOOP
        SELECT * INTO STRICT expired
          FROM public.user_credit_allocations AS allocation WHERE allocation.id = expired_ids[position];
        org_id := expired.org_id;
        user_id := expired.user_id;
        not_renewed := false;
        IF expired.auto_renew THEN
            SELECT pool.available_credits + expired.allocated_credits - expired.used_credits INTO have
              FROM public.organization_credit_pools AS pool WHERE pool.org_id = expired.org_id FOR NO KEY UPDATE;
            not_renewed := have < expired.allocated_credits;
        END IF;
        IF expired.auto_renew AND NOT not_renewed THEN
            PERFORM taximeter.expire_allocation(expired.id, at_time);
            became := 'renewed';
        ELSE
            IF not_renewed THEN
                PERFORM taximeter.note_failed_renewal(expired, have);
            END IF;
            INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
            VALUES ('taximeter:expiry', 'user.allocation.expired', expired.org_id, expired.user_id,
                    jsonb_build_object('allocated_credits', expired.allocated_credits, 'used_credits', expired.used_credits),
                    jsonb_build_object('closing_credits', expired.allocated_credits - expired.used_credits));
            became := taximeter.begin_closing(expired.id, 'expiry');
        END IF;
        RETURN NEXT;
    END LOOP;
END;
$$;

-- Marks an allocation that the caller has locked: from now on what becomes free goes back to the pool. With nothing left it is
-- closed at once. Returns closing or closed.
CREATE FUNCTION taximeter.begin_closing(allocation_id uuid, why text) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT set_config('taximeter.entry_kind', why, true);
    UPDATE public.user_credit_allocations AS allocation
       SET closing = why, auto_renew = false, is_active = allocation.allocated_credits > allocation.used_credits,
           updated_at = now()
     WHERE allocation.id = allocation_id;
    SELECT set_config('taximeter.entry_kind', '', true);
    SELECT CASE WHEN allocation.is_active THEN 'closing' ELSE 'closed' END
      FROM public.user_credit_allocations AS allocation WHERE allocation.id = allocation_id;
$$;

-- migrate:down
DROP FUNCTION taximeter.begin_expiry(timestamptz, integer);
DROP FUNCTION taximeter.begin_closing(uuid, text);
DROP FUNCTION taximeter.carry_out_move(uuid);
DROP FUNCTION taximeter.end_move(uuid, text, text, bigint, bigint);
DROP TABLE taximeter.moves;

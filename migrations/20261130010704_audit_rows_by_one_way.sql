-- Why: the API's role of the database could write audit rows of anybody's doing and of any kind, by plain INSERT. It adds them through
-- one function now, which takes the actor from the session of the transaction, refuses one that is missing or of our own programs, and
-- writes down the rest by itself. See docs/decisions/0064-rights-are-rows-and-rows-have-one-way.md.
-- Locks: none that matter: rights and the properties of functions.
-- Older code beside it: no: an API of before writes audit rows itself, and its changes are refused with an error (nothing is lost, and
-- requests to models are served). Replace it at once after this.

-- migrate:up
-- Who did it is `taximeter.actor`, which the API sets for its transaction: a user, or a key of the installation.
CREATE FUNCTION taximeter.write_audit(action text, org_id text, target text, before jsonb, after jsonb, request_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor text := current_setting('taximeter.actor', true);
BEGIN
    IF actor IS NULL OR actor !~ '^[^[:cntrl:]]{1,255}$' THEN
        RAISE EXCEPTION 'taximeter.actor must say who does it, in 1 to 255 characters' USING ERRCODE = 'check_violation';
    END IF;
    IF actor ~ '^(taximeter|operator):' AND actor !~ '^taximeter:key:[0-9A-Za-z]{12}$' THEN
        RAISE EXCEPTION 'taximeter.actor is a user or a key of the installation, and not one of our own programs'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    VALUES (actor, action, org_id, target, before, after, request_id);
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.write_audit(text, text, text, jsonb, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.write_audit(text, text, text, jsonb, jsonb, text) TO taximeter_app;
REVOKE INSERT ON taximeter.audit_log FROM taximeter_app;

-- What writes a row for something that it sees itself does so with its owner's rights.
ALTER FUNCTION taximeter.note_exhausted() SECURITY DEFINER;
ALTER FUNCTION taximeter.note_refused_deduction(text, text, bigint, bigint, text) SECURITY DEFINER;
ALTER FUNCTION taximeter.carry_out_move(uuid) SECURITY DEFINER;
REVOKE EXECUTE ON FUNCTION taximeter.note_refused_deduction(text, text, bigint, bigint, text), taximeter.carry_out_move(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.note_refused_deduction(text, text, bigint, bigint, text), taximeter.carry_out_move(uuid)
    TO taximeter_app, taximeter_settler;

-- migrate:down
GRANT EXECUTE ON FUNCTION taximeter.note_refused_deduction(text, text, bigint, bigint, text), taximeter.carry_out_move(uuid) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION taximeter.note_refused_deduction(text, text, bigint, bigint, text), taximeter.carry_out_move(uuid)
    FROM taximeter_app, taximeter_settler;
ALTER FUNCTION taximeter.carry_out_move(uuid) SECURITY INVOKER;
ALTER FUNCTION taximeter.note_refused_deduction(text, text, bigint, bigint, text) SECURITY INVOKER;
ALTER FUNCTION taximeter.note_exhausted() SECURITY INVOKER;
GRANT INSERT ON taximeter.audit_log TO taximeter_app;
DROP FUNCTION taximeter.write_audit(text, text, text, jsonb, jsonb, text);

-- Why: ending an organisation closed all of its allocations in one transaction: with a million of them settling and its requests waited
-- for minutes. It is ended at once, and its people and allocations follow in batches that any process goes on with.
-- Locks: none that matter: a table that is new, and a function.
-- Older code beside it: yes; what it ends is ended in one transaction, as before.

-- migrate:up
CREATE TABLE taximeter.endings (
    org_id   text PRIMARY KEY,
    after    text NOT NULL DEFAULT '',
    begun_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE taximeter.endings IS 'Organisations that were deleted, and whose members or allocations are not ended yet.';
COMMENT ON COLUMN taximeter.endings.after IS 'The last user whose allocation was begun to be closed.';
REVOKE ALL ON taximeter.endings FROM taximeter_app, taximeter_settler, taximeter_sidecar;
GRANT SELECT, INSERT ON taximeter.endings TO taximeter_app;
GRANT SELECT ON taximeter.endings TO taximeter_settler;

-- Ends at most so many members and allocations of an organisation that was deleted; whether there may be more. Members come before
-- allocations, and allocations before the pool, as everywhere. Somebody else who is at it is left to it.
CREATE FUNCTION taximeter.end_accounts(org text, most integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ending  taximeter.endings;
    members integer;
    ids     uuid[];
    users   text[];
    one     uuid;
BEGIN
    SELECT * INTO ending FROM taximeter.endings AS known WHERE known.org_id = org FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE public.organization_members AS member SET status = 'removed'
      FROM (SELECT user_id FROM public.organization_members WHERE org_id = org AND status IN ('active', 'invited')
             ORDER BY status, created_at, user_id LIMIT most FOR NO KEY UPDATE) AS leaving
     WHERE member.org_id = org AND member.user_id = leaving.user_id;
    GET DIAGNOSTICS members = ROW_COUNT;
    SELECT array_agg(id), array_agg(user_id) INTO ids, users
      FROM (SELECT id, user_id FROM public.user_credit_allocations
             WHERE org_id = org AND is_active AND closing IS NULL AND user_id > ending.after
             ORDER BY org_id, user_id LIMIT most FOR NO KEY UPDATE) AS locked;
    FOREACH one IN ARRAY coalesce(ids, '{}') LOOP
        PERFORM taximeter.begin_closing(one, 'removal');
    END LOOP;
    IF members < most AND coalesce(cardinality(ids), 0) < most THEN
        DELETE FROM taximeter.endings AS known WHERE known.org_id = org;
        RETURN false;
    END IF;
    UPDATE taximeter.endings AS known SET after = coalesce(users[cardinality(users)], known.after) WHERE known.org_id = org;
    RETURN true;
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.end_accounts(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.end_accounts(text, integer) TO taximeter_app, taximeter_settler;

-- migrate:down
DO $$
BEGIN
    WHILE EXISTS (SELECT FROM taximeter.endings) LOOP
        PERFORM taximeter.end_accounts(org_id, 1000) FROM taximeter.endings;
    END LOOP;
END;
$$;
DROP FUNCTION taximeter.end_accounts(text, integer);
DROP TABLE taximeter.endings;

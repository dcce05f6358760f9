-- Why: opening a restarted server waited for a look at every account, since an entry that it has lost may be known as applied. Now it opens
-- at once: each approval has a number, no answer from before it moves a hint any more, and what was applied lately is sent again.
-- See docs/decisions/0085-a-server-is-opened-before-its-accounts-are-compared.md.
-- Locks: SHARE on the entries for as long as reading them once takes: changes of allocations wait, settling and requests do not.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE taximeter.watermarks
    ADD COLUMN starts bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT starts_is_not_negative CHECK (starts >= 0);
COMMENT ON COLUMN taximeter.watermarks.starts IS 'The highest number that was given to a start of a server of this shard.';

-- Serves "the entries of the last minute", which the approval of a restarted server sends again.
CREATE INDEX account_entries_by_time ON taximeter.account_entries (created_at);

-- What Redis said is applied. Only while the shard is at the same epoch, on the same start of the same server as when Redis was asked: an
-- answer from before a restart must not hide an entry that the restart lost. The lock before the look: whoever approves a server waits, after
-- its commit, for those that have looked before it. Rows that others hold are left for the next time.
CREATE FUNCTION taximeter.move_hints(
    org_ids text[], user_ids text[], numbers bigint[], of_shard integer, at_epoch bigint, on_server text, at_start bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(74099, of_shard);
    UPDATE taximeter.accounts AS account
       SET applied_seq = least(said.applied, account.entry_seq)
      FROM (SELECT a.org_id, a.user_id, wanted.applied
              FROM taximeter.accounts AS a
              JOIN unnest(org_ids, user_ids, numbers) AS wanted (org_id, user_id, applied)
                ON a.org_id = wanted.org_id AND a.user_id = wanted.user_id
             WHERE a.applied_seq <> wanted.applied
             ORDER BY a.org_id, a.user_id
               FOR NO KEY UPDATE OF a SKIP LOCKED) AS said
     WHERE account.org_id = said.org_id AND account.user_id = said.user_id
       AND EXISTS (SELECT FROM taximeter.watermarks AS mark
                    WHERE mark.shard = of_shard AND mark.epoch = at_epoch AND mark.run_id IS NOT DISTINCT FROM on_server
                      AND mark.starts = at_start);
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.move_hints FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.move_hints TO taximeter_app, taximeter_settler;

-- migrate:down
DROP FUNCTION taximeter.move_hints;
DROP INDEX taximeter.account_entries_by_time;
ALTER TABLE taximeter.watermarks DROP CONSTRAINT starts_is_not_negative, DROP COLUMN starts;

-- Why: only the settler's role could note that a loss is known, so a system admin needed a shell. The API notes it through this
-- function, which knows holes that were found and nothing else: what is settled and has no charge is no matter of a browser.
-- Locks: none that matter: a function.
-- Older code beside it: yes; it does not call it.

-- migrate:up
-- Notes once that a hole which was found is known. False: there is no such hole, or it was noted before.
CREATE FUNCTION taximeter.acknowledge_lost(of_shard integer, of_epoch bigint, first bigint, said text, by_whom text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO taximeter.acknowledgements (what, shard, epoch, seq_first, events, note, acknowledged_by)
    SELECT 'lost', lost.shard, lost.epoch, lost.seq_first, lost.seq_last - lost.seq_first + 1, said, by_whom
      FROM taximeter.lost_events AS lost
     WHERE (lost.shard, lost.epoch, lost.seq_first) = (of_shard, of_epoch, first)
    ON CONFLICT (shard, epoch, seq_first) WHERE what = 'lost' DO NOTHING;
    RETURN FOUND;
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.acknowledge_lost(integer, bigint, bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.acknowledge_lost(integer, bigint, bigint, text, text) TO taximeter_app;

-- migrate:down
DROP FUNCTION taximeter.acknowledge_lost(integer, bigint, bigint, text, text);

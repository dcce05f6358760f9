-- Why: a settler that has stopped, froze or lost one of its loops must be seen within seconds, also when nothing is to be settled, by
-- status pages and by the other settlers, who end what it holds locked.
-- Unlogged: a crash of Postgres empties it, and every settler that lives fills it again at once; a beat waits for no disk.
-- Locks: none, the table is new.
-- Older code beside it: yes, it writes no heartbeats and is not seen.

-- migrate:up
CREATE UNLOGGED TABLE taximeter.heartbeats (
    settler     text        NOT NULL,
    loop        text        NOT NULL,
    beats       bigint      NOT NULL,
    beat_at     timestamptz NOT NULL,
    worked_at   timestamptz NOT NULL,
    every_s     real        NOT NULL,
    trouble     text,
    clock_off_s real        NOT NULL,
    PRIMARY KEY (settler, loop)
) WITH (fillfactor = 50);
COMMENT ON TABLE taximeter.heartbeats IS 'Which settlers are alive and what each of their loops has last done.';
COMMENT ON COLUMN taximeter.heartbeats.beats IS 'Grows with every beat of the process; whoever watches needs no clock.';
COMMENT ON COLUMN taximeter.heartbeats.worked_at IS 'When this loop last began, went on or ended a round, by the clock of Postgres.';
COMMENT ON COLUMN taximeter.heartbeats.trouble IS 'What its last round failed with, in a word; null when it did not.';
COMMENT ON COLUMN taximeter.heartbeats.clock_off_s IS 'How far the wall clock of its machine is ahead of that of the stores, the one that is further off.';
GRANT SELECT, INSERT, UPDATE, DELETE ON taximeter.heartbeats TO taximeter_settler;
REVOKE INSERT, UPDATE ON taximeter.heartbeats FROM taximeter_app;
GRANT SELECT ON taximeter.heartbeats TO taximeter_app;
GRANT SELECT ON taximeter.heartbeats, taximeter.watermarks TO taximeter_sidecar;

-- migrate:down
REVOKE SELECT ON taximeter.watermarks FROM taximeter_sidecar;
DROP TABLE taximeter.heartbeats;

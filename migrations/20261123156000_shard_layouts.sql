-- Why: `taximeter reshard` changes how many shards there are; which events came under which number must stay known, so that
-- an organisation whose events come through two shards of one layout is still found.
-- Locks: none that matter, the table is new.
-- Older code beside it: yes, it does not read this table.

-- migrate:up
-- A row for each change: from since_epoch on there are so many shards. Before the first row, as many as the system began with.
CREATE TABLE taximeter.shard_layouts (
    since_epoch bigint PRIMARY KEY CONSTRAINT since_epoch_is_positive CHECK (since_epoch > 0),
    shards      integer NOT NULL CONSTRAINT shards_is_positive CHECK (shards > 0),
    made_at     timestamptz NOT NULL DEFAULT now()
);
REVOKE INSERT, UPDATE ON taximeter.shard_layouts FROM taximeter_app;
REVOKE UPDATE ON taximeter.shard_layouts FROM taximeter_settler;

-- migrate:down
DROP TABLE taximeter.shard_layouts;

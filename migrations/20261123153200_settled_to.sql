-- Why: an answer that cannot wait for everything to be settled says as of when it is complete. Events of a shard are in the order
-- of their time, so the time of the last one that is settled is that moment.
-- Locks: ACCESS EXCLUSIVE on the watermarks for a moment.
-- Older code beside it: yes; the column stays empty, and answers that would need it say that they do not know.

-- migrate:up
ALTER TABLE taximeter.watermarks ADD COLUMN settled_to timestamptz;
COMMENT ON COLUMN taximeter.watermarks.settled_to IS
    'Time of the last settled event, by Redis: every charge before it is in the books.';

-- migrate:down
ALTER TABLE taximeter.watermarks DROP COLUMN settled_to;

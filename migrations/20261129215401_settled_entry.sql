-- Why: a server that loses what is settled, goes on, and reaches the same numbers again, looked whole. The watermark says now which entry
-- it stands at: a stream that has another one under that id is found out before more of it is booked.
-- Locks: watermarks, for a moment; nothing is rewritten.
-- Older code beside it: yes, it leaves the column as it is, and what names another id than the watermark's says nothing.

-- migrate:up
ALTER TABLE taximeter.watermarks ADD COLUMN settled_entry text;

COMMENT ON COLUMN taximeter.watermarks.settled_entry IS
    'id of the last settled entry, and a digest of what it holds';

-- migrate:down
ALTER TABLE taximeter.watermarks DROP COLUMN settled_entry;

-- Why: a copy that was restored elsewhere told nobody anything, and let gateways call providers with production's keys all the same. Where
-- Redis does not know this database and its history is another one than before, or its name is not in the settings, no shard is opened and
-- no credits are taken until an operator has said what it is. See docs/backups.md.
-- Locks: installation, for a moment; a default that is constant writes no row.
-- Older code beside it: yes; a settler of before leaves the column as it is, and opens shards as ever.

-- migrate:up
ALTER TABLE taximeter.installation ADD COLUMN is_stopped boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN taximeter.installation.is_stopped IS 'Silent, and credits are not taken either: this is very likely a copy.';
GRANT SELECT ON taximeter.installation TO taximeter_sidecar;

-- migrate:down
REVOKE SELECT ON taximeter.installation FROM taximeter_sidecar;
ALTER TABLE taximeter.installation DROP COLUMN is_stopped;

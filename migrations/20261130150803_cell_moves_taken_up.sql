-- Why: a move to another cell whose process was killed or froze is taken up by the settlers of both cells: undone, or its organisation let
-- in where it has arrived. How long it may be closed is written down with it, so that one that is frozen is not waited for.
-- Locks: ACCESS EXCLUSIVE on the moves between cells, for the time of an added column.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE taximeter.cell_moves
    ADD COLUMN pause_max_s double precision NOT NULL DEFAULT 60 CONSTRAINT pause_is_bounded CHECK (pause_max_s BETWEEN 0 AND 3600);
COMMENT ON COLUMN taximeter.cell_moves.pause_max_s IS 'How long its process may keep it closed; after that a settler undoes it, whoever has its lock.';
GRANT DELETE ON taximeter.cell_move_holds TO taximeter_settler;

-- migrate:down
REVOKE DELETE ON taximeter.cell_move_holds FROM taximeter_settler;
ALTER TABLE taximeter.cell_moves DROP CONSTRAINT pause_is_bounded, DROP COLUMN pause_max_s;

-- Why: an event that could not be booked stays in dead_letters for ever, and nobody could say that it was looked at, or charge it after all.
-- Locks: ROW SHARE on dead_letters for a moment, for the foreign key; what settles does not wait.
-- Older code beside it: yes; it writes and reads neither.

-- migrate:up
CREATE TABLE taximeter.dead_letter_answers (
    letter_id   bigint PRIMARY KEY CONSTRAINT letter_is_there REFERENCES taximeter.dead_letters (id),
    what        text NOT NULL,
    note        text NOT NULL,
    answered_by text NOT NULL,
    answered_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT what_is_known CHECK (what IN ('acknowledged', 'charged')),
    CONSTRAINT note_is_said CHECK (length(btrim(note)) BETWEEN 1 AND 1000)
);
COMMENT ON TABLE taximeter.dead_letter_answers IS 'What somebody did about an event that was set aside: once for each.';
COMMENT ON COLUMN taximeter.dead_letter_answers.what IS 'acknowledged: it is known, and nothing more. charged: it was charged after all, in this transaction.';
REVOKE ALL ON taximeter.dead_letter_answers FROM taximeter_app, taximeter_settler, taximeter_sidecar;
GRANT SELECT, INSERT ON taximeter.dead_letter_answers TO taximeter_app;
GRANT SELECT ON taximeter.dead_letter_answers TO taximeter_settler;

GRANT SELECT ON taximeter.conditions TO taximeter_app;

-- migrate:down
REVOKE SELECT ON taximeter.conditions FROM taximeter_app;
DROP TABLE taximeter.dead_letter_answers;

-- Why: a shard remembers how far Postgres was, to find out when it was put back to an older copy. By position alone it does not, once
-- the restored server has written more than was lost. A random number that each settling and each relaying transaction adds
-- is a history: a copy that goes on has other ones.
-- Locks: none, the table is new.
-- Older code beside it: yes, it adds no numbers, and finds out what it has always found out.

-- migrate:up
CREATE TABLE taximeter.ledger_steps (
    shard  integer   NOT NULL PRIMARY KEY,
    step   bigint    NOT NULL,
    tokens integer[] NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE taximeter.ledger_steps IS 'The history that a shard knows this Postgres by.';
COMMENT ON COLUMN taximeter.ledger_steps.step IS 'How many transactions have settled or relayed something of the shard.';
COMMENT ON COLUMN taximeter.ledger_steps.tokens IS 'A random number for each of the last ones, the youngest first.';

-- migrate:down
DROP TABLE taximeter.ledger_steps;

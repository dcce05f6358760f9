-- Why: what the live side needs to be provable: numbered entries, watermarks, what was charged, what was set aside.
-- Locks: none that matter, everything here is new.
-- Older code beside it: yes, nothing reads these tables yet.

-- migrate:up
CREATE SCHEMA IF NOT EXISTS taximeter;

-- One row per (org, user) that ever had an entry. Rows are never deleted and refer to nothing: the numbers must go on when
-- an organisation is deleted and made again, or the live side would take a new entry for one that it has applied.
-- used_by_hand is what plain SQL added to `used` without a charge, or took from the attribution without a refund, so that
-- SUM(allocations.used) = SUM(attribution) + used_by_hand stays provable.
CREATE TABLE taximeter.accounts (
    org_id       text NOT NULL,
    user_id      text NOT NULL,
    entry_seq    bigint NOT NULL DEFAULT 0 CONSTRAINT entry_seq_is_not_negative CHECK (entry_seq >= 0),
    applied_seq  bigint NOT NULL DEFAULT 0,
    used_by_hand bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, user_id),
    CONSTRAINT applied_is_an_entry CHECK (applied_seq BETWEEN 0 AND entry_seq)
);
COMMENT ON COLUMN taximeter.accounts.applied_seq IS 'A hint for the relay, never trusted: the live account knows better.';
-- Serves the relay: which accounts have entries that are not known to be applied. Almost always nearly empty.
CREATE INDEX accounts_behind ON taximeter.accounts (org_id, user_id) WHERE entry_seq > applied_seq;

CREATE TABLE taximeter.account_entries (
    org_id     text NOT NULL,
    user_id    text NOT NULL,
    entry_seq  bigint NOT NULL CONSTRAINT entry_seq_is_positive CHECK (entry_seq > 0),
    delta      bigint NOT NULL CONSTRAINT delta_is_in_range
               CHECK (delta <> 0 AND delta BETWEEN -900000000000000 AND 900000000000000),
    kind       text NOT NULL CONSTRAINT kind_is_a_word CHECK (kind ~ '^[a-z_]{1,32}$'),
    reference  text,
    hold       text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id, entry_seq)
);
COMMENT ON COLUMN taximeter.account_entries.hold IS 'The open hold of the account that ends in the step that applies it.';

-- Every event of an epoch is settled, set aside or known to be lost; nothing else may happen to one.
CREATE TABLE taximeter.watermarks (
    shard          integer PRIMARY KEY CONSTRAINT shard_is_not_negative CHECK (shard >= 0),
    epoch          bigint NOT NULL CONSTRAINT epoch_is_positive CHECK (epoch > 0),
    seq            bigint NOT NULL DEFAULT 0 CONSTRAINT seq_is_not_negative CHECK (seq >= 0),
    run_id         text,
    settled_events bigint NOT NULL DEFAULT 0 CONSTRAINT settled_is_not_negative CHECK (settled_events >= 0),
    dead_events    bigint NOT NULL DEFAULT 0 CONSTRAINT dead_is_not_negative CHECK (dead_events >= 0),
    lost_events    bigint NOT NULL DEFAULT 0 CONSTRAINT lost_is_not_negative CHECK (lost_events >= 0),
    opened_at      timestamptz NOT NULL DEFAULT now(),
    settled_at     timestamptz,
    CONSTRAINT every_event_is_accounted_for CHECK (settled_events + dead_events + lost_events = seq)
);

CREATE TABLE taximeter.settled_batches (
    shard      integer NOT NULL,
    epoch      bigint NOT NULL,
    seq_first  bigint NOT NULL CONSTRAINT seq_first_is_positive CHECK (seq_first > 0),
    seq_last   bigint NOT NULL,
    settled    bigint NOT NULL DEFAULT 0 CONSTRAINT settled_is_not_negative CHECK (settled >= 0),
    dead       bigint NOT NULL DEFAULT 0 CONSTRAINT dead_is_not_negative CHECK (dead >= 0),
    lost       bigint NOT NULL DEFAULT 0 CONSTRAINT lost_is_not_negative CHECK (lost >= 0),
    settled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, epoch, seq_last),
    CONSTRAINT every_event_is_accounted_for CHECK (settled + dead + lost = seq_last - seq_first + 1)
);
-- Serves the pruning of batches that are older than the retention.
CREATE INDEX settled_batches_by_time ON taximeter.settled_batches (settled_at);

-- That a request is charged once: a unique index of the partitioned attribution would have to hold its partition key, so
-- the rule lives here. user_id tells a replay from an id that another user has used.
CREATE TABLE taximeter.charged_requests (
    org_id     text NOT NULL,
    request_id text NOT NULL CONSTRAINT request_id_is_short CHECK (length(request_id) BETWEEN 1 AND 128),
    phase      smallint NOT NULL DEFAULT 0 CONSTRAINT phase_is_known CHECK (phase IN (0, 1)),
    user_id    text NOT NULL,
    shard      integer,
    epoch      bigint,
    seq        bigint,
    amount     bigint NOT NULL CONSTRAINT amount_is_in_range CHECK (amount BETWEEN 0 AND 1000000000000),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, request_id, phase)
);
COMMENT ON COLUMN taximeter.charged_requests.phase IS '0: the charge. 1: the rest, after a hold that expired with progress.';

-- No limits on what is set aside: this table must take whatever no other one does.
CREATE TABLE taximeter.dead_letters (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard      integer NOT NULL,
    epoch      bigint NOT NULL,
    seq        bigint,
    stream_id  text,
    reason     text NOT NULL,
    detail     text,
    org_id     text,
    user_id    text,
    request_id text,
    amount     bigint,
    raw        bytea,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Serves check: is an event of a shard set aside, and how many of an epoch are.
CREATE INDEX dead_letters_by_event ON taximeter.dead_letters (shard, epoch, seq);

CREATE TABLE taximeter.lost_events (
    shard     integer NOT NULL,
    epoch     bigint NOT NULL,
    seq_first bigint NOT NULL CONSTRAINT seq_first_is_positive CHECK (seq_first > 0),
    seq_last  bigint NOT NULL,
    found_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, epoch, seq_first),
    CONSTRAINT hole_is_not_empty CHECK (seq_last >= seq_first)
);

CREATE TABLE taximeter.usage_daily (
    org_id       text NOT NULL,
    user_id      text NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    day          date NOT NULL,
    requests     bigint NOT NULL CONSTRAINT requests_is_not_negative CHECK (requests >= 0),
    credits_used bigint NOT NULL CONSTRAINT credits_used_is_not_negative CHECK (credits_used >= 0),
    PRIMARY KEY (org_id, user_id, service_type, service_name, day)
) WITH (fillfactor = 70); -- Room for heap-only updates: the rows of today are rewritten by every settle.
COMMENT ON COLUMN taximeter.usage_daily.day IS 'The day in UTC.';
-- Serves usage reports of an organisation over a range of days.
CREATE INDEX usage_daily_by_org_day ON taximeter.usage_daily (org_id, day);
-- Serves the last days of the whole system.
CREATE INDEX usage_daily_by_day ON taximeter.usage_daily (day);

CREATE TABLE taximeter.audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    action     text NOT NULL CONSTRAINT action_is_dotted CHECK (action ~ '^[a-z_]+(\.[a-z_]+)*$'),
    org_id     text,
    target     text,
    before     jsonb,
    after      jsonb,
    request_id text
);
-- Serves "what happened in this organisation", newest first.
CREATE INDEX audit_log_by_org ON taximeter.audit_log (org_id, at DESC);

-- migrate:down
DROP TABLE taximeter.audit_log;
DROP TABLE taximeter.usage_daily;
DROP TABLE taximeter.lost_events;
DROP TABLE taximeter.dead_letters;
DROP TABLE taximeter.charged_requests;
DROP TABLE taximeter.settled_batches;
DROP TABLE taximeter.watermarks;
DROP TABLE taximeter.account_entries;
DROP TABLE taximeter.accounts;
-- The schema itself stays when something else lives in it, such as the list of applied migrations.
DO $$
BEGIN
    DROP SCHEMA taximeter RESTRICT;
EXCEPTION WHEN dependent_objects_still_exist THEN
    NULL;
END;
$$;

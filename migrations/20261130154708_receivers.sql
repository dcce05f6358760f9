-- Why: notices are sent to receivers: webhooks of an organisation, or of the installation. What is sent, when it is tried again and what
-- became of it stands in rows, so that no process that is killed takes a notice with it. See docs/webhooks.md.
-- Locks: none, the tables are new; SHARE ROW EXCLUSIVE on the organisations for a moment, since receivers refer to them.
-- Older code beside it: yes; it sends nothing.

-- migrate:up
CREATE TABLE taximeter.receivers (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id           text CONSTRAINT receiver_has_an_organization REFERENCES public.organizations (id) ON DELETE CASCADE,
    kind             text NOT NULL,
    name             text NOT NULL,
    address          bytea NOT NULL,
    secret           bytea,
    old_secret       bytea,
    old_secret_until timestamptz,
    key_mark         text NOT NULL,
    types            text[] NOT NULL,
    percents         integer[] NOT NULL,
    state            text NOT NULL DEFAULT 'active',
    reason           text,
    failures         integer NOT NULL DEFAULT 0,
    rests_until      timestamptz NOT NULL DEFAULT '-infinity',
    tried_at         timestamptz NOT NULL DEFAULT '-infinity',
    succeeded_at     timestamptz,
    failed_at        timestamptz,
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT kind_is_known CHECK (kind IN ('webhook', 'slack', 'email')),
    CONSTRAINT state_is_known CHECK (state IN ('active', 'paused', 'disabled')),
    CONSTRAINT name_is_short CHECK (length(name) BETWEEN 1 AND 255),
    CONSTRAINT webhooks_are_signed CHECK ((kind = 'webhook') = (secret IS NOT NULL)),
    CONSTRAINT types_are_few CHECK (cardinality(types) BETWEEN 1 AND 100),
    CONSTRAINT address_is_bounded CHECK (length(address) <= 16384)
);
COMMENT ON TABLE taximeter.receivers IS 'Where notices are sent to.';
COMMENT ON COLUMN taximeter.receivers.org_id IS 'Whose notices; null: of the installation, which hears of all organisations.';
COMMENT ON COLUMN taximeter.receivers.address IS 'Where to. Like the secrets, encrypted with a key that is in the settings alone (TAXIMETER_NOTICE_KEYS).';
COMMENT ON COLUMN taximeter.receivers.key_mark IS 'Which key that is: whoever has another one, such as a copy of this database elsewhere, sends nothing.';
COMMENT ON COLUMN taximeter.receivers.failures IS 'Tries that have failed since the last that did not.';
-- Serves "the receivers of an organisation", in a list and when a notice is given to them.
CREATE INDEX receivers_by_org ON taximeter.receivers (org_id, created_at, id);

CREATE TABLE taximeter.deliveries (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    receiver_id  uuid NOT NULL CONSTRAINT delivery_has_a_receiver REFERENCES taximeter.receivers (id) ON DELETE CASCADE,
    notice_n     bigint NOT NULL CONSTRAINT delivery_has_a_notice REFERENCES taximeter.notices (n) ON DELETE CASCADE,
    subject      text NOT NULL,
    state        text NOT NULL DEFAULT 'waiting',
    tries        integer NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz,
    made_at      timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz,
    log          jsonb NOT NULL DEFAULT '[]',
    CONSTRAINT a_notice_is_delivered_once_a_receiver UNIQUE (receiver_id, notice_n),
    CONSTRAINT state_is_known CHECK (state IN ('waiting', 'delivered', 'failed')),
    CONSTRAINT ended_has_a_time CHECK ((state = 'waiting') = (ended_at IS NULL)),
    CONSTRAINT tries_are_not_negative CHECK (tries >= 0)
) WITH (fillfactor = 80);
COMMENT ON TABLE taximeter.deliveries IS 'What is sent, or was, to a receiver, and what became of each try.';
COMMENT ON COLUMN taximeter.deliveries.due_at IS 'When it is tried next; infinity while an earlier one of its subject waits.';
COMMENT ON COLUMN taximeter.deliveries.leased_until IS 'Until when a settler has it in hand; after that it is tried again.';
COMMENT ON COLUMN taximeter.deliveries.log IS 'The last 20 tries: at, status, error, seconds.';
-- Serves "which receivers have something due", and what that is.
CREATE INDEX deliveries_due ON taximeter.deliveries (receiver_id, due_at) WHERE state = 'waiting';
-- Serves "what of this subject comes first".
CREATE INDEX deliveries_in_order ON taximeter.deliveries (receiver_id, subject, notice_n) WHERE state = 'waiting';
-- Serves "the log of a receiver, newest first".
CREATE INDEX deliveries_by_receiver ON taximeter.deliveries (receiver_id, id);
-- Serves the end of a notice.
CREATE INDEX deliveries_by_notice ON taximeter.deliveries (notice_n);

GRANT SELECT, INSERT, UPDATE, DELETE ON taximeter.receivers TO taximeter_app;
REVOKE ALL ON taximeter.receivers, taximeter.deliveries FROM taximeter_settler;
GRANT SELECT, UPDATE ON taximeter.receivers TO taximeter_settler;
GRANT SELECT, INSERT, UPDATE, DELETE ON taximeter.deliveries TO taximeter_settler;

-- Lets the next of a subject go, once none before it waits.
CREATE FUNCTION taximeter.let_next_go(to_receiver uuid, about text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE taximeter.deliveries AS delivery SET due_at = now()
     WHERE delivery.id = (SELECT first.id FROM taximeter.deliveries AS first
                           WHERE first.receiver_id = to_receiver AND first.subject = about AND first.state = 'waiting'
                           ORDER BY first.notice_n LIMIT 1)
       AND delivery.due_at = 'infinity';
$$;
REVOKE EXECUTE ON FUNCTION taximeter.let_next_go FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.let_next_go TO taximeter_app, taximeter_settler;

-- What became of a try. Counts only for whoever has the delivery in hand: `try_number` is what it was given with. `retry_s`: when it is
-- tried again; null when it is not. `reason`: why the receiver is disabled, whatever it was. After its last try a receiver that has not
-- taken anything since the first one is disabled: what waits for it fails with it, and may be sent again once it is enabled.
-- The receiver is locked first, as everywhere. Returns the state of the delivery, or null when somebody else has it.
CREATE FUNCTION taximeter.end_try(
    delivery_id bigint, try_number integer, succeeded boolean, retry_s double precision, rest_s double precision, entry jsonb, reason text
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one      taximeter.deliveries;
    receiver taximeter.receivers;
    became   text;
    why      text := reason;
BEGIN
    SELECT known.* INTO receiver FROM taximeter.receivers AS known
      JOIN taximeter.deliveries AS delivery ON delivery.receiver_id = known.id
     WHERE delivery.id = delivery_id FOR NO KEY UPDATE OF known;
    SELECT * INTO one FROM taximeter.deliveries AS delivery
     WHERE delivery.id = delivery_id AND delivery.tries = try_number AND delivery.state = 'waiting' AND delivery.leased_until IS NOT NULL
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    became := CASE WHEN succeeded THEN 'delivered' WHEN retry_s IS NULL OR reason IS NOT NULL THEN 'failed' ELSE 'waiting' END;
    UPDATE taximeter.deliveries AS delivery
       SET state = became, leased_until = NULL, ended_at = CASE WHEN became <> 'waiting' THEN now() END,
           due_at = CASE WHEN became = 'waiting' THEN now() + make_interval(secs => retry_s) ELSE delivery.due_at END,
           log = (CASE WHEN jsonb_array_length(delivery.log) >= 20 THEN delivery.log - 0 ELSE delivery.log END) || entry
     WHERE delivery.id = delivery_id;
    IF became = 'failed' AND why IS NULL AND coalesce(receiver.succeeded_at, '-infinity') < one.made_at THEN
        why := 'failing';
    END IF;
    UPDATE taximeter.receivers AS known
       SET failures = CASE WHEN succeeded THEN 0 ELSE known.failures + 1 END,
           rests_until = CASE WHEN succeeded THEN '-infinity' ELSE now() + make_interval(secs => rest_s) END,
           succeeded_at = CASE WHEN succeeded THEN now() ELSE known.succeeded_at END,
           failed_at = CASE WHEN succeeded THEN known.failed_at ELSE now() END,
           state = CASE WHEN why IS NULL OR succeeded THEN known.state ELSE 'disabled' END,
           reason = CASE WHEN why IS NULL OR succeeded THEN known.reason ELSE why END
     WHERE known.id = receiver.id;
    IF why IS NOT NULL AND NOT succeeded AND receiver.state <> 'disabled' THEN
        UPDATE taximeter.deliveries AS delivery
           SET state = 'failed', ended_at = now(), leased_until = NULL,
               log = delivery.log || jsonb_build_object('at', now(), 'error', 'the receiver was disabled')
         WHERE delivery.receiver_id = receiver.id AND delivery.state = 'waiting';
        PERFORM taximeter.write_notice(
            'receiver.disabled', receiver.org_id, 'receiver/' || receiver.id,
            jsonb_build_object('receiver_id', receiver.id, 'name', receiver.name, 'kind', receiver.kind, 'reason', why));
    ELSIF became <> 'waiting' THEN
        PERFORM taximeter.let_next_go(one.receiver_id, one.subject);
    END IF;
    RETURN became;
END;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.end_try FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.end_try TO taximeter_settler;

-- A notice that says nothing, for one receiver alone.
CREATE FUNCTION taximeter.write_test_notice(to_receiver uuid) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO taximeter.notices (type, org_id, subject, data, receiver_id)
    SELECT 'receiver.test', receiver.org_id, 'receiver/' || receiver.id,
           jsonb_build_object('receiver_id', receiver.id, 'name', receiver.name), receiver.id
      FROM taximeter.receivers AS receiver WHERE receiver.id = to_receiver
    RETURNING id;
$$;
REVOKE EXECUTE ON FUNCTION taximeter.write_test_notice FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.write_test_notice TO taximeter_app;

-- migrate:down
DROP FUNCTION taximeter.write_test_notice;
DROP FUNCTION taximeter.end_try;
DROP FUNCTION taximeter.let_next_go;
DROP TABLE taximeter.deliveries, taximeter.receivers;

-- Why: a client that lost our answer sends its request again with the same Idempotency-Key. The first answer is written in the
-- transaction of its effect, so there is never one without the other, and the repetition is answered with it.
-- A payment buys credits once, whoever presents it: the rule was one per organisation.
-- Locks: SHARE on the billing history while its index is built anew.
-- Older code beside it: yes; it looks for payments in its own organisation first, as before.

-- migrate:up
CREATE TABLE taximeter.idempotent_answers (
    endpoint   text NOT NULL CONSTRAINT endpoint_is_dotted CHECK (endpoint ~ '^[a-z_]+(\.[a-z_]+)*$'),
    scope      text NOT NULL,
    key        text NOT NULL CONSTRAINT key_is_short CHECK (length(key) BETWEEN 1 AND 255),
    body_hash  bytea NOT NULL,
    answer     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (endpoint, scope, key)
);
COMMENT ON COLUMN taximeter.idempotent_answers.scope IS 'The organisation; for endpoints above organisations, the caller.';
COMMENT ON COLUMN taximeter.idempotent_answers.answer IS 'The body of the first answer, JSON to the letter.';
-- Serves the pruning of answers that are older than the retention.
CREATE INDEX idempotent_answers_by_time ON taximeter.idempotent_answers (created_at);

DROP INDEX one_purchase_per_payment;
-- Serves "was this payment booked already", and states that a payment buys credits once.
CREATE UNIQUE INDEX one_purchase_per_payment ON org_billing_history (stripe_payment_id)
    WHERE stripe_payment_id IS NOT NULL AND event_type = 'credits_purchased';

-- migrate:down
DROP INDEX one_purchase_per_payment;
CREATE UNIQUE INDEX one_purchase_per_payment ON org_billing_history (org_id, stripe_payment_id)
    WHERE stripe_payment_id IS NOT NULL AND event_type = 'credits_purchased';
DROP TABLE taximeter.idempotent_answers;

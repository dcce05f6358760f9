-- Why: the seven tables that existing users and their scripts rely on, with the columns that they know.
-- Money is integer millicredits (1 credit = 1000). The names of constraints are statements, so that a refusal reads as one.
-- Locks: none that matter, everything here is new.
-- Older code beside it: yes, nothing existed before.

-- migrate:up
DO $$
BEGIN
    IF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION 'Postgres % is too old: 15 or newer is needed', current_setting('server_version');
    END IF;
END;
$$;

CREATE TABLE organizations (
    id         text PRIMARY KEY
               CONSTRAINT org_id_is_well_formed CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$'),
    org_name   text NOT NULL CONSTRAINT org_name_is_short CHECK (length(org_name) BETWEEN 1 AND 255),
    slug       text NOT NULL CONSTRAINT slug_is_used_once UNIQUE
               CONSTRAINT slug_is_short CHECK (length(slug) BETWEEN 1 AND 255),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE organization_members (
    org_id     text NOT NULL CONSTRAINT member_has_an_organization REFERENCES organizations (id) ON DELETE RESTRICT,
    user_id    text NOT NULL
               CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$'),
    role       text NOT NULL DEFAULT 'member' CONSTRAINT role_is_known CHECK (role IN ('admin', 'member')),
    status     text NOT NULL DEFAULT 'active' CONSTRAINT status_is_a_word CHECK (status ~ '^[a-z_]{1,32}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id)
);
-- Serves "the organisations of this user" (GET /billing/user, and which organisation pays for a request).
CREATE INDEX idx_members_user ON organization_members (user_id, created_at);

CREATE TABLE organization_subscriptions (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id               text NOT NULL CONSTRAINT one_subscription_per_organization UNIQUE
                         CONSTRAINT subscription_has_an_organization REFERENCES organizations (id) ON DELETE RESTRICT,
    plan_code            text NOT NULL,
    plan_name            text NOT NULL,
    monthly_price        decimal(10, 2) NOT NULL
                         CONSTRAINT monthly_price_is_not_negative CHECK (monthly_price >= 0),
    lago_subscription_id text,
    lago_customer_id     text,
    status               text NOT NULL DEFAULT 'active'
                         CONSTRAINT status_is_known CHECK (status IN ('active', 'canceled', 'past_due')),
    billing_cycle_start  date NOT NULL DEFAULT CURRENT_DATE,
    billing_cycle_end    date NOT NULL DEFAULT (CURRENT_DATE + interval '1 month')::date,
    metadata             jsonb NOT NULL DEFAULT '{}',
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT billing_cycle_ends_after_it_starts CHECK (billing_cycle_end >= billing_cycle_start)
);

-- available may be negative: a charge that was earned is booked even when nothing is left to pay it.
CREATE TABLE organization_credit_pools (
    org_id                 text PRIMARY KEY
                           CONSTRAINT pool_has_an_organization REFERENCES organizations (id) ON DELETE RESTRICT,
    total_credits          bigint NOT NULL DEFAULT 0
                           CONSTRAINT total_is_in_range CHECK (total_credits BETWEEN 0 AND 900000000000000),
    allocated_credits      bigint NOT NULL DEFAULT 0
                           CONSTRAINT allocated_is_in_range CHECK (allocated_credits BETWEEN 0 AND 900000000000000),
    used_credits           bigint NOT NULL DEFAULT 0
                           CONSTRAINT used_is_in_range CHECK (used_credits BETWEEN 0 AND 900000000000000),
    available_credits      bigint GENERATED ALWAYS AS (total_credits - allocated_credits) STORED,
    monthly_refresh_amount bigint NOT NULL DEFAULT 0
                           CONSTRAINT refresh_is_in_range CHECK (monthly_refresh_amount BETWEEN 0 AND 1000000000000),
    last_refresh_date      date,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50); -- Room for heap-only updates: a pool is rewritten by every settle of its organisation.

-- The reference to the pool stops that a pool goes away below its allocations. The one to the organisation would follow from
-- it, and is kept so that the refusal names what the operator tried to delete.
CREATE TABLE user_credit_allocations (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id            text NOT NULL
                      CONSTRAINT allocation_has_an_organization REFERENCES organizations (id) ON DELETE RESTRICT
                      CONSTRAINT allocation_has_a_pool REFERENCES organization_credit_pools (org_id) ON DELETE RESTRICT,
    user_id           text NOT NULL
                      CONSTRAINT user_id_is_well_formed CHECK (user_id ~ '^[^[:cntrl:]]{1,255}$'),
    allocated_credits bigint NOT NULL DEFAULT 0
                      CONSTRAINT allocated_is_in_range CHECK (allocated_credits BETWEEN 0 AND 900000000000000),
    used_credits      bigint NOT NULL DEFAULT 0
                      CONSTRAINT used_is_in_range CHECK (used_credits BETWEEN 0 AND 900000000000000),
    remaining_credits bigint GENERATED ALWAYS AS (allocated_credits - used_credits) STORED,
    allocated_by      text,
    is_active         boolean NOT NULL DEFAULT true,
    expires_at        timestamptz,
    auto_renew        boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    closing           text CONSTRAINT closing_is_known CHECK (closing IN ('removal', 'expiry')),
    CONSTRAINT closed_allocation_has_nothing_left CHECK (is_active OR allocated_credits = used_credits)
) WITH (fillfactor = 80); -- Room for heap-only updates of used_credits.
COMMENT ON COLUMN user_credit_allocations.closing IS
    'Why a job closes it: while it is active, what becomes free goes back to the pool.';

-- Serves deduct_credits, has_sufficient_credits, settle and every "this user's balance"; and states the rule.
CREATE UNIQUE INDEX one_active_allocation_per_user ON user_credit_allocations (org_id, user_id) WHERE is_active;
-- Serves the lists of allocations, and "the newest closed row" that a charge without an active allocation goes to.
CREATE INDEX idx_allocations_org_user_created ON user_credit_allocations (org_id, user_id, created_at DESC);
-- Serves deactivate_expired_allocations() and taximeter.begin_expiry(), which asks every second.
CREATE INDEX idx_user_allocations_expires ON user_credit_allocations (expires_at)
    WHERE is_active AND expires_at IS NOT NULL;
-- Serves the job that closes allocations, which asks every second. Almost always empty.
CREATE INDEX allocations_closing ON user_credit_allocations (org_id, user_id) WHERE is_active AND closing IS NOT NULL;

-- Append-only, partitioned by month. It has no reference to organizations: usage outlives an organisation, and a check a row
-- is not paid for in the path of settle. The id is a plain sequence and not an identity column, because Postgres
-- before 17 has no identity columns in partitioned tables. The limits of the service names keep a row of the daily rollup
-- within what an index entry can hold.
CREATE SEQUENCE credit_usage_attribution_id_seq AS bigint CACHE 32;
CREATE TABLE credit_usage_attribution (
    id               bigint NOT NULL DEFAULT nextval('credit_usage_attribution_id_seq'),
    org_id           text NOT NULL,
    user_id          text NOT NULL,
    service_type     text NOT NULL CONSTRAINT service_type_is_short CHECK (length(service_type) <= 64),
    service_name     text NOT NULL DEFAULT '' CONSTRAINT service_name_is_short CHECK (length(service_name) <= 255),
    credits_used     bigint NOT NULL
                     CONSTRAINT credits_used_is_in_range CHECK (credits_used BETWEEN 0 AND 1000000000000),
    request_id       text CONSTRAINT request_id_is_short CHECK (length(request_id) BETWEEN 1 AND 128),
    request_metadata jsonb NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    shard            integer,
    epoch            bigint,
    seq              bigint,
    late             boolean NOT NULL DEFAULT false,
    reserved         bigint NOT NULL DEFAULT 0
                     CONSTRAINT reserved_is_in_range CHECK (reserved BETWEEN 0 AND 1000000000000),
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
ALTER SEQUENCE credit_usage_attribution_id_seq OWNED BY credit_usage_attribution.id;
-- Serves the last requests of a user, and the guide's join of allocations with 30 days of usage.
CREATE INDEX idx_usage_attribution_org_user_created ON credit_usage_attribution (org_id, user_id, created_at DESC);
-- Serves the usage of an organisation over a period. The guide adds it by hand under this name.
CREATE INDEX idx_usage_attribution_org_created ON credit_usage_attribution (org_id, created_at DESC);

-- No reference to organizations: what was paid stays on record when an organisation is deleted.
CREATE TABLE org_billing_history (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id            text NOT NULL,
    event_type        text NOT NULL CONSTRAINT event_type_is_a_word CHECK (event_type ~ '^[a-z_]{1,64}$'),
    amount            decimal(10, 2),
    currency          text NOT NULL DEFAULT 'USD' CONSTRAINT currency_has_three_letters CHECK (currency ~ '^[A-Z]{3}$'),
    lago_invoice_id   text,
    stripe_payment_id text,
    status            text NOT NULL DEFAULT 'completed',
    metadata          jsonb NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now()
);
-- Serves the history of an organisation, newest first.
CREATE INDEX idx_history_org_created ON org_billing_history (org_id, created_at DESC);
-- Serves "was this payment booked already", and states that a payment buys credits once.
CREATE UNIQUE INDEX one_purchase_per_payment ON org_billing_history (org_id, stripe_payment_id)
    WHERE stripe_payment_id IS NOT NULL AND event_type = 'credits_purchased';

-- migrate:down
DROP TABLE org_billing_history;
DROP TABLE credit_usage_attribution;
DROP TABLE user_credit_allocations;
DROP TABLE organization_credit_pools;
DROP TABLE organization_subscriptions;
DROP TABLE organization_members;
DROP TABLE organizations;

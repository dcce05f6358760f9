-- The schema as all migrations together make it, for reading. `make schema` writes this file, and
-- tests/sql/test_migrations.py compares it with the migrations. It is no migration, and does not
-- stand in the order in which things can be made: `taximeter migrate` makes a database.
-- What each table is for, and who writes it: docs/architecture.md. The months of usage (partitions
-- of credit_usage_attribution) and all grants are left out.

CREATE SCHEMA taximeter;

CREATE TYPE taximeter.usage_of_day AS (
	org_id text,
	user_id text,
	service_type text,
	service_name text,
	day date,
	by_sql boolean,
	requests bigint,
	credits_used bigint
);

-- ====================
-- Organisations, their credits and what is bought: one row is one pool, allocation or payment
-- ====================

CREATE TABLE public.organizations (
    id text NOT NULL,
    org_name text NOT NULL,
    slug text NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    personal_of text,
    suspended_at timestamp with time zone,
    deleted_at timestamp with time zone,
    CONSTRAINT deleted_is_suspended CHECK (((deleted_at IS NULL) OR (suspended_at IS NOT NULL))),
    CONSTRAINT org_id_is_well_formed CHECK ((id ~ '^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$'::text)),
    CONSTRAINT org_name_is_short CHECK (((length(org_name) >= 1) AND (length(org_name) <= 255))),
    CONSTRAINT slug_is_short CHECK (((length(slug) >= 1) AND (length(slug) <= 255)))
);

COMMENT ON COLUMN public.organizations.personal_of IS 'The user whose individual credits this organisation of one holds; else null.';

COMMENT ON COLUMN public.organizations.suspended_at IS 'Since when nothing is spent or changed in its name; who and why is in the audit log.';

COMMENT ON COLUMN public.organizations.deleted_at IS 'Since when it has ended for ever. Its id is not used again.';

ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT one_personal_organization_per_user UNIQUE (personal_of);

ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT organizations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT slug_is_used_once UNIQUE (slug);

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE ON public.organizations FOR EACH ROW WHEN ((current_setting('taximeter.importing'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER ended_keys_are_told AFTER UPDATE OF suspended_at ON public.organizations FOR EACH ROW WHEN (((old.suspended_at IS NULL) AND (new.suspended_at IS NOT NULL))) EXECUTE FUNCTION taximeter.tell_of_ended_keys();

CREATE TRIGGER org_id_is_no_part_of_a_path BEFORE INSERT ON public.organizations FOR EACH ROW WHEN ((new.id = ANY (ARRAY['billing'::text, 'credits'::text, 'history'::text, 'invitations'::text, 'invoices'::text, 'orgs'::text, 'plans'::text, 'subscriptions'::text, 'system'::text, 'user'::text, 'users'::text]))) EXECUTE FUNCTION taximeter.refuse_id('id: this word is part of a path of the API', 'and cannot name an organisation');

CREATE TABLE public.organization_members (
    org_id text NOT NULL,
    user_id text NOT NULL,
    role text DEFAULT 'member'::text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    invited_by text,
    CONSTRAINT role_is_known CHECK ((role = ANY (ARRAY['admin'::text, 'member'::text]))),
    CONSTRAINT status_is_a_word CHECK ((status ~ '^[a-z_]{1,32}$'::text)),
    CONSTRAINT user_id_is_well_formed CHECK ((user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$'::text))
);

COMMENT ON COLUMN public.organization_members.invited_by IS 'Who made the invitation; null for members that were added directly, and before this was noted.';

ALTER TABLE ONLY public.organization_members
    ADD CONSTRAINT organization_members_pkey PRIMARY KEY (org_id, user_id);

CREATE INDEX idx_members_user ON public.organization_members USING btree (user_id, created_at);

CREATE INDEX members_in_order ON public.organization_members USING btree (org_id, status, created_at, user_id);

CREATE INDEX members_who_administer ON public.organization_members USING btree (org_id) WHERE ((role = 'admin'::text) AND (status = 'active'::text));

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE ON public.organization_members FOR EACH ROW WHEN ((current_setting('taximeter.importing'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER ended_keys_are_told AFTER UPDATE OF status ON public.organization_members FOR EACH ROW WHEN (((old.status = 'active'::text) AND (new.status <> 'active'::text))) EXECUTE FUNCTION taximeter.tell_of_ended_keys();

CREATE TRIGGER member_is_told AFTER INSERT OR DELETE OR UPDATE OF status, role ON public.organization_members FOR EACH ROW EXECUTE FUNCTION taximeter.note_member();

CREATE TRIGGER user_id_has_no_blank_ends BEFORE INSERT ON public.organization_members FOR EACH ROW WHEN ((new.user_id <> btrim(new.user_id))) EXECUTE FUNCTION taximeter.refuse_id('user_id:', 'must not begin or end with a blank');

ALTER TABLE ONLY public.organization_members
    ADD CONSTRAINT member_has_an_organization FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE RESTRICT;

CREATE TABLE taximeter.users (
    user_id text NOT NULL,
    email text,
    default_org_id text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT email_is_short CHECK (((length(email) >= 1) AND (length(email) <= 255))),
    CONSTRAINT user_id_is_well_formed CHECK ((user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$'::text))
);

COMMENT ON COLUMN taximeter.users.default_org_id IS 'Counts only while the user is an active member of it.';

ALTER TABLE ONLY taximeter.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (user_id);

CREATE TABLE public.organization_credit_pools (
    org_id text NOT NULL,
    total_credits bigint DEFAULT 0 NOT NULL,
    allocated_credits bigint DEFAULT 0 NOT NULL,
    used_credits bigint DEFAULT 0 NOT NULL,
    available_credits bigint GENERATED ALWAYS AS (((total_credits - allocated_credits) - closed_credits)) STORED,
    monthly_refresh_amount bigint DEFAULT 0 NOT NULL,
    last_refresh_date date,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    refreshed_through date DEFAULT '-infinity'::date NOT NULL,
    closed_credits bigint DEFAULT 0 NOT NULL,
    topped_up_credits bigint,
    CONSTRAINT allocated_is_in_range CHECK (((allocated_credits >= 0) AND (allocated_credits <= '900000000000000'::bigint))),
    CONSTRAINT closed_is_in_range CHECK (((closed_credits >= 0) AND (closed_credits <= '900000000000000'::bigint))),
    CONSTRAINT refresh_is_in_range CHECK (((monthly_refresh_amount >= 0) AND (monthly_refresh_amount <= '1000000000000'::bigint))),
    CONSTRAINT total_is_in_range CHECK (((total_credits >= 0) AND (total_credits <= '900000000000000'::bigint))),
    CONSTRAINT used_is_in_range CHECK (((used_credits >= 0) AND (used_credits <= '900000000000000'::bigint)))
)
WITH (fillfactor='50');

COMMENT ON COLUMN public.organization_credit_pools.refreshed_through IS 'The last month (its first day, UTC) that needs no refresh any more. Derived: see taximeter.refresh_starts().';

COMMENT ON COLUMN public.organization_credit_pools.closed_credits IS 'What closed allocations have used.';

COMMENT ON COLUMN public.organization_credit_pools.topped_up_credits IS 'What was not used when credits were last added: 100 % for notices. Derived.';

ALTER TABLE ONLY public.organization_credit_pools
    ADD CONSTRAINT organization_credit_pools_pkey PRIMARY KEY (org_id);

CREATE INDEX pools_to_refresh ON public.organization_credit_pools USING btree (refreshed_through) WHERE (monthly_refresh_amount > 0);

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE ON public.organization_credit_pools FOR EACH ROW WHEN (((COALESCE(current_setting('taximeter.settling'::text, true), ''::text) <> 'on'::text) AND (COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text))) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER pool_covers_its_allocations BEFORE UPDATE OF total_credits ON public.organization_credit_pools FOR EACH ROW WHEN (((new.total_credits < old.total_credits) AND (new.total_credits < (new.allocated_credits + new.closed_credits)))) EXECUTE FUNCTION taximeter.refuse('total_credits would fall below what is allocated or was used; take back allocations first');

CREATE TRIGGER pool_is_topped_up BEFORE INSERT OR UPDATE OF total_credits ON public.organization_credit_pools FOR EACH ROW WHEN ((COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text)) EXECUTE FUNCTION taximeter.top_up_pool();

CREATE TRIGGER pool_refresh_starts BEFORE INSERT OR UPDATE OF monthly_refresh_amount, last_refresh_date ON public.organization_credit_pools FOR EACH ROW EXECUTE FUNCTION taximeter.refresh_starts();

CREATE TRIGGER pool_runs_low AFTER UPDATE OF total_credits, used_credits ON public.organization_credit_pools FOR EACH ROW WHEN (((((new.total_credits - new.used_credits) * 2) <= COALESCE(new.topped_up_credits, new.total_credits)) AND ((new.total_credits - new.used_credits) < (old.total_credits - old.used_credits)) AND ((((new.total_credits - new.used_credits) <= 0) AND ((old.total_credits - old.used_credits) > 0)) OR ((((new.total_credits - new.used_credits) * 100) / GREATEST(COALESCE(new.topped_up_credits, new.total_credits), (1)::bigint)) < (((old.total_credits - old.used_credits) * 100) / GREATEST(COALESCE(new.topped_up_credits, new.total_credits), (1)::bigint))) OR ((((new.total_credits - new.used_credits) * 100) % GREATEST(COALESCE(new.topped_up_credits, new.total_credits), (1)::bigint)) = 0)))) EXECUTE FUNCTION taximeter.note_low_pool();

CREATE TRIGGER pool_starts_empty BEFORE INSERT ON public.organization_credit_pools FOR EACH ROW WHEN (((new.allocated_credits <> 0) OR (new.used_credits <> 0) OR (new.closed_credits <> 0))) EXECUTE FUNCTION taximeter.refuse('allocated_credits, closed_credits and used_credits are sums of allocations and start at 0');

CREATE TRIGGER pool_sums_are_derived BEFORE UPDATE OF allocated_credits, used_credits, closed_credits ON public.organization_credit_pools FOR EACH ROW WHEN ((((old.allocated_credits <> new.allocated_credits) OR (old.used_credits <> new.used_credits) OR (old.closed_credits <> new.closed_credits)) AND (pg_trigger_depth() = 0) AND (current_setting('taximeter.settling'::text, true) IS DISTINCT FROM 'on'::text))) EXECUTE FUNCTION taximeter.refuse('allocated_credits, closed_credits and used_credits are sums of allocations; change those');

ALTER TABLE ONLY public.organization_credit_pools
    ADD CONSTRAINT pool_has_an_organization FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE RESTRICT;

CREATE TABLE public.user_credit_allocations (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    org_id text NOT NULL,
    user_id text NOT NULL,
    allocated_credits bigint DEFAULT 0 NOT NULL,
    used_credits bigint DEFAULT 0 NOT NULL,
    remaining_credits bigint GENERATED ALWAYS AS ((allocated_credits - used_credits)) STORED,
    allocated_by text,
    is_active boolean DEFAULT true NOT NULL,
    expires_at timestamp with time zone,
    auto_renew boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    closing text,
    topped_up_credits bigint,
    CONSTRAINT allocated_is_in_range CHECK (((allocated_credits >= 0) AND (allocated_credits <= '900000000000000'::bigint))),
    CONSTRAINT closed_allocation_has_nothing_left CHECK ((is_active OR (allocated_credits = used_credits))),
    CONSTRAINT closing_is_known CHECK ((closing = ANY (ARRAY['removal'::text, 'expiry'::text]))),
    CONSTRAINT used_is_in_range CHECK (((used_credits >= 0) AND (used_credits <= '900000000000000'::bigint))),
    CONSTRAINT user_id_is_well_formed CHECK ((((length(user_id) >= 1) AND (length(user_id) <= 255)) AND (user_id !~ '[\u0001-\u001f\u007f]'::text)))
)
WITH (fillfactor='80');

COMMENT ON COLUMN public.user_credit_allocations.closing IS 'Why a job closes it: while it is active, what becomes free goes back to the pool.';

COMMENT ON COLUMN public.user_credit_allocations.topped_up_credits IS 'What remained when credits were last added: 100 % for notices. Derived.';

ALTER TABLE ONLY public.user_credit_allocations
    ADD CONSTRAINT user_credit_allocations_pkey PRIMARY KEY (id);

CREATE INDEX allocations_by_end ON public.user_credit_allocations USING btree (org_id, expires_at, id) WHERE (is_active AND (expires_at IS NOT NULL));

CREATE INDEX allocations_by_expiry ON public.user_credit_allocations USING btree (expires_at) WHERE (is_active AND (expires_at IS NOT NULL));

COMMENT ON INDEX public.allocations_by_expiry IS 'The guide makes idx_user_allocations_expires: that name is left to operators.';

CREATE INDEX allocations_closing ON public.user_credit_allocations USING btree (org_id, user_id) WHERE (is_active AND (closing IS NOT NULL));

CREATE INDEX allocations_in_order ON public.user_credit_allocations USING btree (org_id, is_active, created_at, id);

CREATE INDEX idx_allocations_org_user_created ON public.user_credit_allocations USING btree (org_id, user_id, created_at DESC);

CREATE UNIQUE INDEX one_active_allocation_per_user ON public.user_credit_allocations USING btree (org_id, user_id) WHERE is_active;

CREATE TRIGGER allocation_closes BEFORE UPDATE OF is_active ON public.user_credit_allocations FOR EACH ROW WHEN ((old.is_active AND (NOT new.is_active))) EXECUTE FUNCTION taximeter.close_allocation();

CREATE TRIGGER allocation_deleted AFTER DELETE ON public.user_credit_allocations FOR EACH ROW WHEN ((((old.allocated_credits <> 0) OR (old.used_credits <> 0)) AND (COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text))) EXECUTE FUNCTION taximeter.allocation_changed();

CREATE TRIGGER allocation_exhausted AFTER UPDATE OF allocated_credits, used_credits ON public.user_credit_allocations FOR EACH ROW WHEN ((((new.used_credits * 10) > (new.allocated_credits * 9)) AND ((old.used_credits * 10) <= (old.allocated_credits * 9)) AND new.is_active AND (new.closing IS NULL))) EXECUTE FUNCTION taximeter.note_exhausted();

CREATE TRIGGER allocation_has_expired AFTER UPDATE OF is_active, closing ON public.user_credit_allocations FOR EACH ROW WHEN ((old.is_active AND (old.closing IS NULL) AND ((NOT new.is_active) OR (new.closing IS NOT NULL)) AND (current_setting('taximeter.entry_kind'::text, true) = 'expiry'::text))) EXECUTE FUNCTION taximeter.note_expired();

CREATE TRIGGER allocation_inserted AFTER INSERT ON public.user_credit_allocations FOR EACH ROW WHEN ((((new.allocated_credits <> 0) OR (new.used_credits <> 0)) AND (COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text))) EXECUTE FUNCTION taximeter.allocation_changed();

CREATE TRIGGER allocation_is_topped_up BEFORE INSERT OR UPDATE OF allocated_credits ON public.user_credit_allocations FOR EACH ROW WHEN ((COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text)) EXECUTE FUNCTION taximeter.top_up_allocation();

CREATE TRIGGER allocation_keeps_its_owner BEFORE UPDATE OF id, org_id, user_id ON public.user_credit_allocations FOR EACH ROW WHEN (((old.id <> new.id) OR (old.org_id <> new.org_id) OR (old.user_id <> new.user_id))) EXECUTE FUNCTION taximeter.refuse('an allocation keeps its id, organisation and user; close it and open another');

CREATE TRIGGER allocation_keeps_what_is_open AFTER UPDATE ON public.user_credit_allocations FOR EACH ROW WHEN ((new.is_active AND ((new.allocated_credits - new.used_credits) < (old.allocated_credits - old.used_credits)) AND (COALESCE(current_setting('taximeter.settling'::text, true), ''::text) <> 'on'::text) AND (COALESCE(current_setting('taximeter.charging'::text, true), ''::text) <> 'on'::text) AND (COALESCE(current_setting('taximeter.entry_hold'::text, true), ''::text) = ''::text))) EXECUTE FUNCTION taximeter.keep_what_is_open();

CREATE TRIGGER allocation_runs_low AFTER UPDATE OF allocated_credits, used_credits ON public.user_credit_allocations FOR EACH ROW WHEN ((((new.remaining_credits * 2) <= COALESCE(new.topped_up_credits, new.allocated_credits)) AND (new.remaining_credits < old.remaining_credits) AND new.is_active AND (new.closing IS NULL) AND (((new.remaining_credits <= 0) AND (old.remaining_credits > 0)) OR ((old.remaining_credits * 2) > COALESCE(new.topped_up_credits, new.allocated_credits)) OR (((new.remaining_credits * 4) <= COALESCE(new.topped_up_credits, new.allocated_credits)) AND ((old.remaining_credits * 4) > COALESCE(new.topped_up_credits, new.allocated_credits))) OR (((new.remaining_credits * 5) <= COALESCE(new.topped_up_credits, new.allocated_credits)) AND ((old.remaining_credits * 5) > COALESCE(new.topped_up_credits, new.allocated_credits))) OR (((new.remaining_credits * 10) <= COALESCE(new.topped_up_credits, new.allocated_credits)) AND ((old.remaining_credits * 10) > COALESCE(new.topped_up_credits, new.allocated_credits))) OR (((new.remaining_credits * 20) <= COALESCE(new.topped_up_credits, new.allocated_credits)) AND ((old.remaining_credits * 20) > COALESCE(new.topped_up_credits, new.allocated_credits))) OR (((new.remaining_credits * 100) <= COALESCE(new.topped_up_credits, new.allocated_credits)) AND ((old.remaining_credits * 100) > COALESCE(new.topped_up_credits, new.allocated_credits)))))) EXECUTE FUNCTION taximeter.note_low_allocation();

CREATE TRIGGER allocation_updated AFTER UPDATE ON public.user_credit_allocations FOR EACH ROW WHEN (((old.allocated_credits <> new.allocated_credits) OR (old.is_active <> new.is_active) OR ((old.used_credits <> new.used_credits) AND (current_setting('taximeter.settling'::text, true) IS DISTINCT FROM 'on'::text)))) EXECUTE FUNCTION taximeter.allocation_changed();

CREATE TRIGGER allocations_are_not_truncated BEFORE TRUNCATE ON public.user_credit_allocations FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('the live balances would not hear of it; use DELETE');

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE ON public.user_credit_allocations FOR EACH ROW WHEN (((COALESCE(current_setting('taximeter.settling'::text, true), ''::text) <> 'on'::text) AND (COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text))) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER closed_allocation_has_a_pool BEFORE INSERT ON public.user_credit_allocations FOR EACH ROW WHEN ((NOT new.is_active)) EXECUTE FUNCTION taximeter.ensure_pool();

CREATE TRIGGER renewal_needs_an_end BEFORE INSERT OR UPDATE OF auto_renew, expires_at ON public.user_credit_allocations FOR EACH ROW WHEN ((new.auto_renew AND (new.expires_at IS NULL) AND new.is_active)) EXECUTE FUNCTION taximeter.refuse_renewal_without_end();

CREATE TRIGGER user_id_has_no_blank_ends BEFORE INSERT ON public.user_credit_allocations FOR EACH ROW WHEN ((new.is_active AND (new.user_id <> btrim(new.user_id)))) EXECUTE FUNCTION taximeter.refuse_id('user_id:', 'must not begin or end with a blank');

ALTER TABLE ONLY public.user_credit_allocations
    ADD CONSTRAINT allocation_has_a_pool FOREIGN KEY (org_id) REFERENCES public.organization_credit_pools(org_id) ON DELETE RESTRICT;

ALTER TABLE ONLY public.user_credit_allocations
    ADD CONSTRAINT allocation_has_an_organization FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE RESTRICT;

CREATE TABLE taximeter.pool_refreshes (
    org_id text NOT NULL,
    period date NOT NULL,
    amount bigint NOT NULL,
    refreshed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT amount_is_in_range CHECK (((amount >= 0) AND (amount <= '1000000000000'::bigint))),
    CONSTRAINT period_is_a_month CHECK ((EXTRACT(day FROM period) = (1)::numeric))
);

ALTER TABLE ONLY taximeter.pool_refreshes
    ADD CONSTRAINT pool_refreshes_pkey PRIMARY KEY (org_id, period);

CREATE TRIGGER refreshes_are_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.pool_refreshes FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('what a month gave stays on record');

CREATE TABLE public.organization_subscriptions (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    org_id text NOT NULL,
    plan_code text NOT NULL,
    plan_name text NOT NULL,
    monthly_price numeric(10,2) NOT NULL,
    lago_subscription_id text,
    lago_customer_id text,
    status text DEFAULT 'active'::text NOT NULL,
    billing_cycle_start date DEFAULT CURRENT_DATE NOT NULL,
    billing_cycle_end date DEFAULT ((CURRENT_DATE + '1 mon'::interval))::date NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    cancel_at_period_end boolean DEFAULT false NOT NULL,
    pending_plan jsonb,
    billing_anchor_day smallint,
    CONSTRAINT anchor_is_a_day_of_a_month CHECK (((billing_anchor_day >= 1) AND (billing_anchor_day <= 31))),
    CONSTRAINT billing_cycle_ends_after_it_starts CHECK ((billing_cycle_end >= billing_cycle_start)),
    CONSTRAINT monthly_price_is_not_negative CHECK ((monthly_price >= (0)::numeric)),
    CONSTRAINT status_is_known CHECK ((status = ANY (ARRAY['active'::text, 'canceled'::text, 'past_due'::text])))
);

COMMENT ON COLUMN public.organization_subscriptions.pending_plan IS 'The plan from the end of the period on: plan_code, plan_name, monthly_price, requested_by.';

COMMENT ON COLUMN public.organization_subscriptions.billing_anchor_day IS 'The day of the month that periods begin on; the last one of a shorter month.';

ALTER TABLE ONLY public.organization_subscriptions
    ADD CONSTRAINT one_subscription_per_organization UNIQUE (org_id);

ALTER TABLE ONLY public.organization_subscriptions
    ADD CONSTRAINT organization_subscriptions_pkey PRIMARY KEY (id);

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE ON public.organization_subscriptions FOR EACH ROW WHEN ((current_setting('taximeter.importing'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER status_is_told AFTER UPDATE OF status ON public.organization_subscriptions FOR EACH ROW WHEN ((old.status <> new.status)) EXECUTE FUNCTION taximeter.note_subscription();

ALTER TABLE ONLY public.organization_subscriptions
    ADD CONSTRAINT subscription_has_an_organization FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE RESTRICT;

CREATE TABLE public.org_billing_history (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    org_id text NOT NULL,
    event_type text NOT NULL,
    amount numeric(10,2),
    currency text DEFAULT 'USD'::text NOT NULL,
    lago_invoice_id text,
    stripe_payment_id text,
    status text DEFAULT 'completed'::text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT currency_has_three_letters CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT event_type_is_a_word CHECK ((event_type ~ '^[a-z_]{1,64}$'::text))
);

ALTER TABLE ONLY public.org_billing_history
    ADD CONSTRAINT org_billing_history_pkey PRIMARY KEY (id);

CREATE INDEX idx_history_org_created ON public.org_billing_history USING btree (org_id, created_at DESC);

CREATE UNIQUE INDEX one_purchase_per_payment ON public.org_billing_history USING btree (stripe_payment_id) WHERE ((stripe_payment_id IS NOT NULL) AND (event_type = 'credits_purchased'::text));

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE ON public.org_billing_history FOR EACH ROW WHEN ((current_setting('taximeter.importing'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER history_is_told AFTER INSERT ON public.org_billing_history FOR EACH ROW WHEN ((new.event_type = ANY (ARRAY['credits_purchased'::text, 'credits_refunded'::text, 'credits_adjusted'::text, 'invoice_paid'::text, 'invoice_failed'::text, 'allocation_renewal_failed'::text, 'subscription_created'::text, 'subscription_upgraded'::text, 'subscription_canceled'::text, 'subscription_resumed'::text]))) EXECUTE FUNCTION taximeter.note_history();

CREATE TABLE taximeter.endings (
    org_id text NOT NULL,
    after text DEFAULT ''::text NOT NULL,
    begun_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE taximeter.endings IS 'Organisations that were deleted, and whose members or allocations are not ended yet.';

COMMENT ON COLUMN taximeter.endings.after IS 'The last user whose allocation was begun to be closed.';

ALTER TABLE ONLY taximeter.endings
    ADD CONSTRAINT endings_pkey PRIMARY KEY (org_id);

-- ====================
-- Accounts and the numbered entries that the relay sends to Redis; moves between accounts
-- ====================

CREATE TABLE taximeter.accounts (
    org_id text NOT NULL,
    user_id text NOT NULL,
    entry_seq bigint DEFAULT 0 NOT NULL,
    applied_seq bigint DEFAULT 0 NOT NULL,
    used_by_hand bigint DEFAULT 0 NOT NULL,
    CONSTRAINT applied_is_an_entry CHECK (((applied_seq >= 0) AND (applied_seq <= entry_seq))),
    CONSTRAINT entry_seq_is_not_negative CHECK ((entry_seq >= 0))
);

COMMENT ON COLUMN taximeter.accounts.applied_seq IS 'A hint for the relay, never trusted: the live account knows better.';

ALTER TABLE ONLY taximeter.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (org_id, user_id);

CREATE INDEX accounts_behind ON taximeter.accounts USING btree (org_id, user_id) WHERE (entry_seq > applied_seq);

CREATE TRIGGER accounts_are_kept BEFORE DELETE OR TRUNCATE ON taximeter.accounts FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('entry numbers must go on; accounts are kept for ever');

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR UPDATE OF used_by_hand ON taximeter.accounts FOR EACH ROW WHEN (((COALESCE(current_setting('taximeter.settling'::text, true), ''::text) <> 'on'::text) AND (COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text))) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TABLE taximeter.account_entries (
    org_id text NOT NULL,
    user_id text NOT NULL,
    entry_seq bigint NOT NULL,
    delta bigint NOT NULL,
    kind text NOT NULL,
    reference text,
    hold text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT delta_is_in_range CHECK (((delta <> 0) AND ((delta >= '-900000000000000'::bigint) AND (delta <= '900000000000000'::bigint)))),
    CONSTRAINT entry_seq_is_positive CHECK ((entry_seq > 0)),
    CONSTRAINT kind_is_a_word CHECK ((kind ~ '^[a-z_]{1,32}$'::text))
);

COMMENT ON COLUMN taximeter.account_entries.hold IS 'The open hold of the account that ends in the step that applies it.';

ALTER TABLE ONLY taximeter.account_entries
    ADD CONSTRAINT account_entries_pkey PRIMARY KEY (org_id, user_id, entry_seq);

CREATE INDEX account_entries_by_time ON taximeter.account_entries USING btree (created_at);

CREATE TRIGGER entries_are_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.account_entries FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('entries are append-only; append another entry');

CREATE TRIGGER entries_are_noted_behind AFTER INSERT ON taximeter.account_entries REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_entries_behind();

CREATE TABLE taximeter.moves (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    org_id text NOT NULL,
    kind text NOT NULL,
    from_user text NOT NULL,
    to_user text,
    amount bigint NOT NULL,
    allocation_id uuid,
    state text DEFAULT 'pending'::text NOT NULL,
    reason text,
    have bigint,
    held bigint,
    pool_allocated bigint,
    pool_available bigint,
    actor text NOT NULL,
    idempotency_key text,
    request_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT amount_is_in_range CHECK (((amount >= 1) AND (amount <= '1000000000000'::bigint))),
    CONSTRAINT closing_names_its_allocation CHECK (((kind = ANY (ARRAY['removal'::text, 'expiry'::text])) = (allocation_id IS NOT NULL))),
    CONSTRAINT ended_has_a_time CHECK (((state = 'pending'::text) = (ended_at IS NULL))),
    CONSTRAINT kind_is_known CHECK ((kind = ANY (ARRAY['transfer'::text, 'deallocation'::text, 'removal'::text, 'expiry'::text]))),
    CONSTRAINT state_is_known CHECK ((state = ANY (ARRAY['pending'::text, 'done'::text, 'refused'::text, 'undone'::text]))),
    CONSTRAINT transfer_has_a_receiver CHECK (((kind = 'transfer'::text) = (to_user IS NOT NULL))),
    CONSTRAINT transfer_has_two_users CHECK ((to_user <> from_user))
);

COMMENT ON COLUMN taximeter.moves.to_user IS 'Null: back to the pool.';

ALTER TABLE ONLY taximeter.moves
    ADD CONSTRAINT moves_pkey PRIMARY KEY (id);

CREATE INDEX moves_by_org ON taximeter.moves USING btree (org_id, created_at DESC, id);

CREATE INDEX moves_from ON taximeter.moves USING btree (org_id, from_user, created_at DESC);

CREATE INDEX moves_pending ON taximeter.moves USING btree (created_at) WHERE (state = 'pending'::text);

CREATE INDEX moves_to ON taximeter.moves USING btree (org_id, to_user, created_at DESC);

CREATE UNIQUE INDEX one_move_per_key ON taximeter.moves USING btree (org_id, kind, idempotency_key) WHERE ((idempotency_key IS NOT NULL) AND (state = ANY (ARRAY['pending'::text, 'done'::text])));

CREATE TRIGGER away_is_left_alone BEFORE INSERT ON taximeter.moves FOR EACH ROW WHEN ((current_setting('taximeter.importing'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER ended_moves_stay_ended BEFORE UPDATE ON taximeter.moves FOR EACH ROW WHEN ((old.state <> 'pending'::text)) EXECUTE FUNCTION taximeter.refuse('a move ends once');

CREATE TRIGGER moves_are_kept BEFORE DELETE OR TRUNCATE ON taximeter.moves FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('moves are kept for ever');

-- ====================
-- Settlement: where each shard is, what was charged, and what could not be
-- ====================

CREATE TABLE taximeter.watermarks (
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    run_id text,
    settled_events bigint DEFAULT 0 NOT NULL,
    dead_events bigint DEFAULT 0 NOT NULL,
    lost_events bigint DEFAULT 0 NOT NULL,
    opened_at timestamp with time zone DEFAULT now() NOT NULL,
    settled_at timestamp with time zone,
    settled_to timestamp with time zone,
    settled_entry text,
    starts bigint DEFAULT 0 NOT NULL,
    departures bigint DEFAULT 0 NOT NULL,
    CONSTRAINT dead_is_not_negative CHECK ((dead_events >= 0)),
    CONSTRAINT departures_is_not_negative CHECK ((departures >= 0)),
    CONSTRAINT epoch_is_positive CHECK ((epoch > 0)),
    CONSTRAINT every_event_is_accounted_for CHECK ((((settled_events + dead_events) + lost_events) = seq)),
    CONSTRAINT lost_is_not_negative CHECK ((lost_events >= 0)),
    CONSTRAINT seq_is_not_negative CHECK ((seq >= 0)),
    CONSTRAINT settled_is_not_negative CHECK ((settled_events >= 0)),
    CONSTRAINT shard_is_not_negative CHECK ((shard >= 0)),
    CONSTRAINT starts_is_not_negative CHECK ((starts >= 0))
);

COMMENT ON COLUMN taximeter.watermarks.settled_to IS 'Time of the last settled event, by Redis: every charge before it is in the books.';

COMMENT ON COLUMN taximeter.watermarks.settled_entry IS 'id of the last settled entry, and a digest of what it holds';

COMMENT ON COLUMN taximeter.watermarks.starts IS 'The highest number that was given to a start of a server of this shard.';

COMMENT ON COLUMN taximeter.watermarks.departures IS 'How often an organisation of this shard was closed for a move: a Redis that knows of fewer has gone back in time.';

ALTER TABLE ONLY taximeter.watermarks
    ADD CONSTRAINT watermarks_pkey PRIMARY KEY (shard);

CREATE TABLE taximeter.ledger_steps (
    shard integer NOT NULL,
    step bigint NOT NULL,
    tokens integer[] NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE taximeter.ledger_steps IS 'The history that a shard knows this Postgres by.';

COMMENT ON COLUMN taximeter.ledger_steps.step IS 'How many transactions have settled or relayed something of the shard.';

COMMENT ON COLUMN taximeter.ledger_steps.tokens IS 'A random number for each of the last ones, the youngest first.';

ALTER TABLE ONLY taximeter.ledger_steps
    ADD CONSTRAINT ledger_steps_pkey PRIMARY KEY (shard);

CREATE TABLE taximeter.shard_layouts (
    since_epoch bigint NOT NULL,
    shards integer NOT NULL,
    made_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT shards_is_positive CHECK ((shards > 0)),
    CONSTRAINT since_epoch_is_positive CHECK ((since_epoch > 0))
);

ALTER TABLE ONLY taximeter.shard_layouts
    ADD CONSTRAINT shard_layouts_pkey PRIMARY KEY (since_epoch);

CREATE TABLE taximeter.settled_batches (
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    seq_first bigint NOT NULL,
    seq_last bigint NOT NULL,
    settled bigint DEFAULT 0 NOT NULL,
    dead bigint DEFAULT 0 NOT NULL,
    lost bigint DEFAULT 0 NOT NULL,
    settled_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT dead_is_not_negative CHECK ((dead >= 0)),
    CONSTRAINT every_event_is_accounted_for CHECK ((((settled + dead) + lost) = ((seq_last - seq_first) + 1))),
    CONSTRAINT lost_is_not_negative CHECK ((lost >= 0)),
    CONSTRAINT seq_first_is_positive CHECK ((seq_first > 0)),
    CONSTRAINT settled_is_not_negative CHECK ((settled >= 0))
);

ALTER TABLE ONLY taximeter.settled_batches
    ADD CONSTRAINT settled_batches_pkey PRIMARY KEY (shard, epoch, seq_last);

CREATE INDEX settled_batches_by_time ON taximeter.settled_batches USING btree (settled_at);

CREATE TABLE taximeter.charged_requests (
    org_id text NOT NULL,
    request_id text NOT NULL,
    phase smallint DEFAULT 0 NOT NULL,
    user_id text NOT NULL,
    shard integer,
    epoch bigint,
    seq bigint,
    amount bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    by_expiry boolean DEFAULT false NOT NULL,
    CONSTRAINT amount_is_in_range CHECK (((amount >= 0) AND (amount <= '1000000000000'::bigint))),
    CONSTRAINT phase_is_known CHECK ((phase = ANY (ARRAY[0, 1]))),
    CONSTRAINT request_id_is_short CHECK (((length(request_id) >= 1) AND (length(request_id) <= 128)))
);

COMMENT ON COLUMN taximeter.charged_requests.phase IS '0: the charge. 1: the rest, after a hold that expired with progress.';

COMMENT ON COLUMN taximeter.charged_requests.by_expiry IS 'The hold ended by its deadline: what was reported until then.';

ALTER TABLE ONLY taximeter.charged_requests
    ADD CONSTRAINT charged_requests_pkey PRIMARY KEY (org_id, request_id, phase);

CREATE INDEX charged_requests_by_expiry ON taximeter.charged_requests USING btree (created_at) WHERE by_expiry;

CREATE INDEX charged_requests_by_time ON taximeter.charged_requests USING brin (created_at) WITH (pages_per_range='32', autosummarize='on');

CREATE TRIGGER charges_are_noted_behind AFTER INSERT ON taximeter.charged_requests REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();

CREATE TRIGGER charges_are_noted_gone AFTER DELETE ON taximeter.charged_requests REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();

CREATE TABLE taximeter.charge_generations (
    generation integer NOT NULL,
    began_at timestamp with time zone DEFAULT now() NOT NULL,
    frozen_at timestamp with time zone,
    forgotten_at timestamp with time zone,
    requests bigint,
    credits_used bigint,
    CONSTRAINT only_frozen_ones_are_forgotten CHECK (((forgotten_at IS NULL) OR (frozen_at IS NOT NULL)))
);

COMMENT ON TABLE taximeter.charge_generations IS 'Generations of charged requests: the one that is written to, the one before it (frozen), and those that were forgotten.';

COMMENT ON COLUMN taximeter.charge_generations.requests IS 'How many charges were forgotten, and their millicredits.';

ALTER TABLE ONLY taximeter.charge_generations
    ADD CONSTRAINT charge_generations_pkey PRIMARY KEY (generation);

CREATE TRIGGER forgotten_charges_are_noted AFTER UPDATE OF forgotten_at ON taximeter.charge_generations FOR EACH ROW WHEN (((old.forgotten_at IS NULL) AND (new.forgotten_at IS NOT NULL))) EXECUTE FUNCTION taximeter.note_forgotten_behind();

CREATE TABLE taximeter.forgotten_charges (
    generation integer NOT NULL,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    events bigint NOT NULL,
    seq_last bigint NOT NULL
);

COMMENT ON TABLE taximeter.forgotten_charges IS 'How many events of a shard and epoch had their charge in a generation that is forgotten.';

ALTER TABLE ONLY taximeter.forgotten_charges
    ADD CONSTRAINT forgotten_charges_pkey PRIMARY KEY (generation, shard, epoch);

CREATE TABLE taximeter.dead_letters (
    id bigint NOT NULL,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint,
    stream_id text,
    reason text NOT NULL,
    detail text,
    org_id text,
    user_id text,
    request_id text,
    amount bigint,
    raw bytea,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE taximeter.dead_letters ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.dead_letters_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

CREATE INDEX dead_letters_by_event ON taximeter.dead_letters USING btree (shard, epoch, seq);

CREATE TRIGGER letters_are_told AFTER INSERT ON taximeter.dead_letters REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_set_aside();

CREATE TABLE taximeter.dead_letter_answers (
    letter_id bigint NOT NULL,
    what text NOT NULL,
    note text NOT NULL,
    answered_by text NOT NULL,
    answered_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT note_is_said CHECK (((length(btrim(note)) >= 1) AND (length(btrim(note)) <= 1000))),
    CONSTRAINT what_is_known CHECK ((what = ANY (ARRAY['acknowledged'::text, 'charged'::text])))
);

COMMENT ON TABLE taximeter.dead_letter_answers IS 'What somebody did about an event that was set aside: once for each.';

COMMENT ON COLUMN taximeter.dead_letter_answers.what IS 'acknowledged: it is known, and nothing more. charged: it was charged after all, in this transaction.';

ALTER TABLE ONLY taximeter.dead_letter_answers
    ADD CONSTRAINT dead_letter_answers_pkey PRIMARY KEY (letter_id);

ALTER TABLE ONLY taximeter.dead_letter_answers
    ADD CONSTRAINT letter_is_there FOREIGN KEY (letter_id) REFERENCES taximeter.dead_letters(id);

CREATE TABLE taximeter.lost_events (
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    seq_first bigint NOT NULL,
    seq_last bigint NOT NULL,
    found_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT hole_is_not_empty CHECK ((seq_last >= seq_first)),
    CONSTRAINT seq_first_is_positive CHECK ((seq_first > 0))
);

ALTER TABLE ONLY taximeter.lost_events
    ADD CONSTRAINT lost_events_pkey PRIMARY KEY (shard, epoch, seq_first);

CREATE TRIGGER losses_are_told AFTER INSERT ON taximeter.lost_events REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_lost();

CREATE TABLE taximeter.acknowledgements (
    id bigint NOT NULL,
    what text NOT NULL,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    seq_first bigint,
    events bigint NOT NULL,
    note text NOT NULL,
    acknowledged_by text DEFAULT SESSION_USER NOT NULL,
    acknowledged_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT events_is_positive CHECK ((events > 0)),
    CONSTRAINT lost_names_its_events CHECK (((what = 'lost'::text) = (seq_first IS NOT NULL))),
    CONSTRAINT note_is_said CHECK (((length(btrim(note)) >= 1) AND (length(btrim(note)) <= 1000))),
    CONSTRAINT what_is_known CHECK ((what = ANY (ARRAY['lost'::text, 'uncharged'::text])))
);

ALTER TABLE taximeter.acknowledgements ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.acknowledgements_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.acknowledgements
    ADD CONSTRAINT acknowledgements_pkey PRIMARY KEY (id);

CREATE UNIQUE INDEX one_acknowledgement_a_loss ON taximeter.acknowledgements USING btree (shard, epoch, seq_first) WHERE (what = 'lost'::text);

CREATE TRIGGER acknowledgements_are_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.acknowledgements FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('what was acknowledged stays so');

CREATE TABLE taximeter.exposures (
    org_id text NOT NULL,
    user_id text NOT NULL,
    shard integer NOT NULL,
    open bigint NOT NULL,
    CONSTRAINT open_is_positive CHECK ((open > 0))
)
WITH (fillfactor='70');

ALTER TABLE ONLY taximeter.exposures
    ADD CONSTRAINT exposures_pkey PRIMARY KEY (org_id, user_id);

CREATE INDEX exposures_by_shard ON taximeter.exposures USING btree (shard);

CREATE TABLE taximeter.exposure_looks (
    shard integer NOT NULL,
    looked_at timestamp with time zone NOT NULL,
    complete boolean NOT NULL
);

COMMENT ON COLUMN taximeter.exposure_looks.looked_at IS 'Before Redis was read.';

COMMENT ON COLUMN taximeter.exposure_looks.complete IS 'False: more holds were open than are read, and what they come to is not known.';

ALTER TABLE ONLY taximeter.exposure_looks
    ADD CONSTRAINT exposure_looks_pkey PRIMARY KEY (shard);

CREATE UNLOGGED TABLE taximeter.heartbeats (
    settler text NOT NULL,
    loop text NOT NULL,
    beats bigint NOT NULL,
    beat_at timestamp with time zone NOT NULL,
    worked_at timestamp with time zone NOT NULL,
    every_s real NOT NULL,
    trouble text,
    clock_off_s real NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE taximeter.heartbeats IS 'Which settlers are alive and what each of their loops has last done.';

COMMENT ON COLUMN taximeter.heartbeats.beats IS 'Grows with every beat of the process; whoever watches needs no clock.';

COMMENT ON COLUMN taximeter.heartbeats.worked_at IS 'When this loop last began, went on or ended a round, by the clock of Postgres.';

COMMENT ON COLUMN taximeter.heartbeats.trouble IS 'What its last round failed with, in a word; null when it did not.';

COMMENT ON COLUMN taximeter.heartbeats.clock_off_s IS 'How far the wall clock of its machine is ahead of that of the stores, the one that is further off.';

ALTER TABLE ONLY taximeter.heartbeats
    ADD CONSTRAINT heartbeats_pkey PRIMARY KEY (settler, loop);

-- ====================
-- Usage, a row for each charge, and its running totals
-- ====================

CREATE TABLE public.credit_usage_attribution (
    id bigint NOT NULL,
    org_id text NOT NULL,
    user_id text NOT NULL,
    service_type text NOT NULL,
    service_name text DEFAULT ''::text NOT NULL,
    credits_used bigint NOT NULL,
    request_id text,
    request_metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    shard integer,
    epoch bigint,
    seq bigint,
    late boolean DEFAULT false NOT NULL,
    reserved bigint DEFAULT 0 NOT NULL,
    CONSTRAINT credits_used_is_in_range CHECK (((credits_used >= 0) AND (credits_used <= '1000000000000'::bigint))),
    CONSTRAINT request_id_is_short CHECK (((length(request_id) >= 1) AND (length(request_id) <= 128))),
    CONSTRAINT reserved_is_in_range CHECK (((reserved >= 0) AND (reserved <= '1000000000000'::bigint))),
    CONSTRAINT service_name_is_short CHECK ((length(service_name) <= 255)),
    CONSTRAINT service_type_is_short CHECK ((length(service_type) <= 64))
)
PARTITION BY RANGE (created_at);

CREATE SEQUENCE public.credit_usage_attribution_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 32;

ALTER SEQUENCE public.credit_usage_attribution_id_seq OWNED BY public.credit_usage_attribution.id;

ALTER TABLE ONLY public.credit_usage_attribution ATTACH PARTITION taximeter.attribution_rest DEFAULT;

ALTER TABLE ONLY public.credit_usage_attribution ALTER COLUMN id SET DEFAULT nextval('public.credit_usage_attribution_id_seq'::regclass);

ALTER TABLE ONLY public.credit_usage_attribution
    ADD CONSTRAINT credit_usage_attribution_pkey PRIMARY KEY (created_at, id);

CREATE INDEX idx_usage_attribution_org_created ON ONLY public.credit_usage_attribution USING btree (org_id, created_at DESC);

CREATE INDEX idx_usage_attribution_org_user_created ON ONLY public.credit_usage_attribution USING btree (org_id, user_id, created_at DESC);

ALTER INDEX public.idx_usage_attribution_org_created ATTACH PARTITION taximeter.attribution_rest_org_id_created_at_idx;

ALTER INDEX public.idx_usage_attribution_org_user_created ATTACH PARTITION taximeter.attribution_rest_org_id_user_id_created_at_idx;

ALTER INDEX public.credit_usage_attribution_pkey ATTACH PARTITION taximeter.attribution_rest_pkey;

CREATE TRIGGER usage_is_append_only BEFORE UPDATE OR TRUNCATE ON public.credit_usage_attribution FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('usage is append-only; DELETE is kept for cleaning up');

CREATE TRIGGER usage_is_noted_behind AFTER INSERT ON public.credit_usage_attribution REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_usage_behind();

CREATE TRIGGER usage_is_noted_gone AFTER DELETE ON public.credit_usage_attribution REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_usage_behind();

CREATE TRIGGER usage_is_rolled_up AFTER INSERT ON public.credit_usage_attribution REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT WHEN ((COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text)) EXECUTE FUNCTION taximeter.usage_inserted();

CREATE TRIGGER usage_is_taken_back AFTER DELETE ON public.credit_usage_attribution REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION taximeter.usage_deleted();

CREATE TRIGGER usage_labels_are_rolled_up AFTER INSERT ON public.credit_usage_attribution REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT WHEN ((COALESCE(current_setting('taximeter.importing'::text, true), ''::text) <> 'on'::text)) EXECUTE FUNCTION taximeter.usage_labels_inserted();

CREATE TRIGGER usage_labels_are_taken_back AFTER DELETE ON public.credit_usage_attribution REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION taximeter.usage_labels_deleted();

CREATE TABLE taximeter.attribution_rest (
    id bigint DEFAULT nextval('public.credit_usage_attribution_id_seq'::regclass) CONSTRAINT credit_usage_attribution_id_not_null NOT NULL,
    org_id text CONSTRAINT credit_usage_attribution_org_id_not_null NOT NULL,
    user_id text CONSTRAINT credit_usage_attribution_user_id_not_null NOT NULL,
    service_type text CONSTRAINT credit_usage_attribution_service_type_not_null NOT NULL,
    service_name text DEFAULT ''::text CONSTRAINT credit_usage_attribution_service_name_not_null NOT NULL,
    credits_used bigint CONSTRAINT credit_usage_attribution_credits_used_not_null NOT NULL,
    request_id text,
    request_metadata jsonb DEFAULT '{}'::jsonb CONSTRAINT credit_usage_attribution_request_metadata_not_null NOT NULL,
    created_at timestamp with time zone DEFAULT now() CONSTRAINT credit_usage_attribution_created_at_not_null NOT NULL,
    shard integer,
    epoch bigint,
    seq bigint,
    late boolean DEFAULT false CONSTRAINT credit_usage_attribution_late_not_null NOT NULL,
    reserved bigint DEFAULT 0 CONSTRAINT credit_usage_attribution_reserved_not_null NOT NULL,
    CONSTRAINT credits_used_is_in_range CHECK (((credits_used >= 0) AND (credits_used <= '1000000000000'::bigint))),
    CONSTRAINT request_id_is_short CHECK (((length(request_id) >= 1) AND (length(request_id) <= 128))),
    CONSTRAINT reserved_is_in_range CHECK (((reserved >= 0) AND (reserved <= '1000000000000'::bigint))),
    CONSTRAINT service_name_is_short CHECK ((length(service_name) <= 255)),
    CONSTRAINT service_type_is_short CHECK ((length(service_type) <= 64))
);

ALTER TABLE ONLY taximeter.attribution_rest
    ADD CONSTRAINT attribution_rest_pkey PRIMARY KEY (created_at, id);

CREATE INDEX attribution_rest_org_id_created_at_idx ON taximeter.attribution_rest USING btree (org_id, created_at DESC);

CREATE INDEX attribution_rest_org_id_user_id_created_at_idx ON taximeter.attribution_rest USING btree (org_id, user_id, created_at DESC);

CREATE TRIGGER partition_is_not_written_directly BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON taximeter.attribution_rest FOR EACH STATEMENT WHEN ((current_setting('taximeter.moving_rows'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.refuse('write to credit_usage_attribution');

CREATE TABLE taximeter.usage_names (
    org_id text NOT NULL,
    month date NOT NULL,
    by_sql boolean NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    CONSTRAINT month_begins_on_its_first CHECK ((EXTRACT(day FROM month) = (1)::numeric))
);

COMMENT ON COLUMN taximeter.usage_names.by_sql IS 'Of usage without an event: deduct_credits, and by hand.';

ALTER TABLE ONLY taximeter.usage_names
    ADD CONSTRAINT usage_names_pkey PRIMARY KEY (org_id, month, by_sql, service_type, service_name);

CREATE TRIGGER usage_names_are_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.usage_names FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('usage is counted under them');

CREATE TABLE taximeter.usage_daily (
    org_id text NOT NULL,
    user_id text NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    day date NOT NULL,
    requests bigint NOT NULL,
    credits_used bigint NOT NULL,
    CONSTRAINT credits_used_is_not_negative CHECK ((credits_used >= 0)),
    CONSTRAINT requests_is_not_negative CHECK ((requests >= 0))
)
WITH (fillfactor='70');

COMMENT ON COLUMN taximeter.usage_daily.day IS 'The day in UTC.';

ALTER TABLE ONLY taximeter.usage_daily
    ADD CONSTRAINT usage_daily_pkey PRIMARY KEY (org_id, user_id, service_type, service_name, day);

CREATE INDEX usage_daily_by_day ON taximeter.usage_daily USING brin (day) WITH (pages_per_range='32', autosummarize='on');

CREATE INDEX usage_daily_by_org_day ON taximeter.usage_daily USING btree (org_id, day);

CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_daily FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

CREATE TABLE taximeter.usage_daily_by_org (
    org_id text NOT NULL,
    day date NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    writer smallint NOT NULL,
    requests bigint NOT NULL,
    credits_used bigint NOT NULL,
    CONSTRAINT writer_is_known CHECK ((writer = ANY (ARRAY[0, 1, 2])))
)
WITH (fillfactor='70');

COMMENT ON COLUMN taximeter.usage_daily_by_org.writer IS '0: settle. 1: deduct_credits. 2: by hand, deleted usage included.';

ALTER TABLE ONLY taximeter.usage_daily_by_org
    ADD CONSTRAINT usage_daily_by_org_pkey PRIMARY KEY (org_id, day, service_type, service_name, writer);

CREATE INDEX usage_daily_by_org_by_day ON taximeter.usage_daily_by_org USING brin (day) WITH (pages_per_range='32', autosummarize='on');

CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_daily_by_org FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

CREATE TABLE taximeter.usage_daily_by_label (
    org_id text NOT NULL,
    kind text NOT NULL,
    day date NOT NULL,
    label text NOT NULL,
    writer smallint NOT NULL,
    requests bigint NOT NULL,
    credits_used bigint NOT NULL,
    CONSTRAINT kind_is_known CHECK ((kind = ANY (ARRAY['key'::text, 'tag'::text]))),
    CONSTRAINT writer_is_known CHECK ((writer = ANY (ARRAY[0, 1, 2])))
)
WITH (fillfactor='70');

COMMENT ON TABLE taximeter.usage_daily_by_label IS 'Usage of charges that say an API key or a tag, by day. Charges without have no row.';

COMMENT ON COLUMN taximeter.usage_daily_by_label.writer IS '0: settle. 1: deduct_credits. 2: by hand, deleted usage included.';

ALTER TABLE ONLY taximeter.usage_daily_by_label
    ADD CONSTRAINT usage_daily_by_label_pkey PRIMARY KEY (org_id, kind, day, label, writer);

CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_daily_by_label FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

CREATE TABLE taximeter.usage_monthly (
    month date NOT NULL,
    lane smallint NOT NULL,
    requests_to_day bigint[] NOT NULL,
    credits_to_day bigint[] NOT NULL,
    CONSTRAINT credits_have_31_days CHECK ((cardinality(credits_to_day) = 31)),
    CONSTRAINT month_begins_on_its_first CHECK ((EXTRACT(day FROM month) = (1)::numeric)),
    CONSTRAINT requests_have_31_days CHECK ((cardinality(requests_to_day) = 31))
)
WITH (fillfactor='50');

COMMENT ON COLUMN taximeter.usage_monthly.lane IS 'From 0: settle. From -1 down: deduct_credits. From -257 down: by hand.';

ALTER TABLE ONLY taximeter.usage_monthly
    ADD CONSTRAINT usage_monthly_pkey PRIMARY KEY (month, lane);

CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_monthly FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

CREATE TABLE taximeter.usage_monthly_by_org (
    org_id text NOT NULL,
    month date NOT NULL,
    writer smallint NOT NULL,
    requests_to_day bigint[] NOT NULL,
    credits_to_day bigint[] NOT NULL,
    requests bigint GENERATED ALWAYS AS (requests_to_day[31]) STORED,
    credits_used bigint GENERATED ALWAYS AS (credits_to_day[31]) STORED,
    CONSTRAINT credits_have_31_days CHECK ((cardinality(credits_to_day) = 31)),
    CONSTRAINT month_begins_on_its_first CHECK ((EXTRACT(day FROM month) = (1)::numeric)),
    CONSTRAINT requests_have_31_days CHECK ((cardinality(requests_to_day) = 31)),
    CONSTRAINT writer_is_known CHECK ((writer = ANY (ARRAY[0, 1, 2])))
)
WITH (fillfactor='70');

COMMENT ON COLUMN taximeter.usage_monthly_by_org.credits_to_day IS 'As that of usage_monthly_by_user.';

ALTER TABLE ONLY taximeter.usage_monthly_by_org
    ADD CONSTRAINT usage_monthly_by_org_pkey PRIMARY KEY (month, org_id, writer);

CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_monthly_by_org FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

CREATE TABLE taximeter.usage_monthly_by_user (
    org_id text NOT NULL,
    month date NOT NULL,
    user_id text NOT NULL,
    requests_to_day bigint[] NOT NULL,
    credits_to_day bigint[] NOT NULL,
    CONSTRAINT credits_have_31_days CHECK ((cardinality(credits_to_day) = 31)),
    CONSTRAINT month_begins_on_its_first CHECK ((EXTRACT(day FROM month) = (1)::numeric)),
    CONSTRAINT requests_have_31_days CHECK ((cardinality(requests_to_day) = 31))
)
WITH (fillfactor='70');

COMMENT ON COLUMN taximeter.usage_monthly_by_user.credits_to_day IS 'Element d: from the first of the month to its d-th day, UTC.';

ALTER TABLE ONLY taximeter.usage_monthly_by_user
    ADD CONSTRAINT usage_monthly_by_user_pkey PRIMARY KEY (org_id, month, user_id);

CREATE INDEX usage_monthly_by_user_by_month ON taximeter.usage_monthly_by_user USING brin (month) WITH (pages_per_range='32', autosummarize='on');

CREATE TRIGGER rollup_is_not_truncated BEFORE TRUNCATE ON taximeter.usage_monthly_by_user FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('it mirrors the attribution; delete there');

CREATE TABLE taximeter.dropped_months (
    month date NOT NULL,
    requests bigint NOT NULL,
    credits_used bigint NOT NULL,
    dropped_at timestamp with time zone DEFAULT now() NOT NULL,
    dropped_by text DEFAULT SESSION_USER NOT NULL,
    CONSTRAINT month_begins_on_its_first CHECK ((EXTRACT(day FROM month) = (1)::numeric))
);

COMMENT ON TABLE taximeter.dropped_months IS 'Months whose rows of usage are gone, and what the rollup had of them at that time. It still has it.';

COMMENT ON COLUMN taximeter.dropped_months.dropped_by IS 'The role of the database that did it.';

ALTER TABLE ONLY taximeter.dropped_months
    ADD CONSTRAINT dropped_months_pkey PRIMARY KEY (month);

CREATE TRIGGER months_are_noted AFTER INSERT OR DELETE OR UPDATE ON taximeter.dropped_months FOR EACH ROW WHEN ((current_setting('taximeter.importing'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.note_month_behind();

CREATE TABLE taximeter.archived_months (
    month date NOT NULL,
    part integer NOT NULL,
    token text NOT NULL,
    state text DEFAULT 'writing'::text NOT NULL,
    requests bigint DEFAULT 0 NOT NULL,
    credits_used bigint DEFAULT 0 NOT NULL,
    manifest_sha256 text,
    begun_at timestamp with time zone DEFAULT now() NOT NULL,
    archived_at timestamp with time zone,
    CONSTRAINT month_begins_on_its_first CHECK ((EXTRACT(day FROM month) = (1)::numeric)),
    CONSTRAINT part_is_counted_from_one CHECK ((part > 0)),
    CONSTRAINT state_is_known CHECK ((state = ANY (ARRAY['writing'::text, 'archived'::text, 'restored'::text]))),
    CONSTRAINT token_is_hexadecimal CHECK ((token ~ '^[0-9a-f]{8}$'::text)),
    CONSTRAINT what_is_archived_is_known CHECK (((state <> 'archived'::text) OR ((manifest_sha256 IS NOT NULL) AND (archived_at IS NOT NULL))))
);

COMMENT ON TABLE taximeter.archived_months IS 'Parts of months whose rows lie in files: the first has what the month held, a later one what came after that was archived.';

COMMENT ON COLUMN taximeter.archived_months.token IS 'Part of the names of its files: what is written anew has another one, so that nothing is written over.';

COMMENT ON COLUMN taximeter.archived_months.state IS 'writing: its rows are here, whatever the files hold. archived: they are in the files alone. restored: here again, the files stay.';

ALTER TABLE ONLY taximeter.archived_months
    ADD CONSTRAINT archived_months_pkey PRIMARY KEY (month, part);

CREATE TABLE taximeter.deletions (
    id bigint NOT NULL,
    org_id text NOT NULL,
    shard integer,
    epoch bigint,
    events bigint NOT NULL,
    requests bigint NOT NULL,
    credits bigint NOT NULL,
    deleted_by text DEFAULT SESSION_USER NOT NULL,
    deleted_at timestamp with time zone DEFAULT now() NOT NULL,
    reason text,
    CONSTRAINT events_is_not_negative CHECK ((events >= 0)),
    CONSTRAINT requests_is_not_negative CHECK ((requests >= 0))
);

COMMENT ON COLUMN taximeter.deletions.events IS 'Events of the shard and epoch whose charge went with it.';

ALTER TABLE taximeter.deletions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.deletions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.deletions
    ADD CONSTRAINT deletions_pkey PRIMARY KEY (id);

CREATE INDEX deletions_by_epoch ON taximeter.deletions USING btree (shard, epoch);

CREATE TRIGGER deletions_are_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.deletions FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('what was deleted stays on record');

-- ====================
-- Who may do what, and what was done: keys, administrators, the audit log
-- ====================

CREATE TABLE taximeter.api_keys (
    key_id text NOT NULL,
    org_id text NOT NULL,
    user_id text,
    name text NOT NULL,
    operations text[] NOT NULL,
    digest bytea NOT NULL,
    last_four text NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    revoked_by text,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    sealed boolean DEFAULT false NOT NULL,
    CONSTRAINT digest_is_sha256 CHECK ((length(digest) = 32)),
    CONSTRAINT key_expires_after_it_was_made CHECK ((expires_at > created_at)),
    CONSTRAINT key_id_is_well_formed CHECK ((key_id ~ '^[0-9A-Za-z]{12}$'::text)),
    CONSTRAINT lookup_is_for_the_whole_organization CHECK (((user_id IS NULL) OR (NOT ('lookup'::text = ANY (operations))))),
    CONSTRAINT name_is_short CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT operations_are_known CHECK (((cardinality(operations) > 0) AND (operations <@ ARRAY['reserve'::text, 'commit'::text, 'release'::text, 'charge'::text, 'touch'::text, 'balance'::text, 'lookup'::text, 'any_hold'::text, 'llm'::text]))),
    CONSTRAINT user_id_is_well_formed CHECK ((user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$'::text))
);

COMMENT ON COLUMN taximeter.api_keys.user_id IS 'The only user that the key acts for; NULL: any user of the organisation.';

COMMENT ON COLUMN taximeter.api_keys.sealed IS 'Whether its check digits are made with taximeter.key_seal; those before it have a plain checksum.';

ALTER TABLE ONLY taximeter.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (key_id);

CREATE INDEX api_keys_by_end ON taximeter.api_keys USING btree (expires_at, key_id) WHERE (revoked_at IS NULL);

CREATE INDEX api_keys_by_maker ON taximeter.api_keys USING btree (org_id, created_by) WHERE (revoked_at IS NULL);

CREATE INDEX api_keys_by_org ON taximeter.api_keys USING btree (org_id, created_at DESC);

CREATE INDEX api_keys_of_old ON taximeter.api_keys USING btree (expires_at) WHERE ((NOT sealed) AND (revoked_at IS NULL));

CREATE TRIGGER a_key_is_revoked_once BEFORE UPDATE OF revoked_at, revoked_by ON taximeter.api_keys FOR EACH ROW EXECUTE FUNCTION taximeter.revoke_once();

CREATE TRIGGER away_is_left_alone BEFORE INSERT OR DELETE OR UPDATE OF revoked_at, operations ON taximeter.api_keys FOR EACH ROW WHEN ((current_setting('taximeter.importing'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION taximeter.refuse_away();

CREATE TRIGGER ended_keys_are_told AFTER UPDATE OF revoked_at ON taximeter.api_keys FOR EACH ROW WHEN (((old.revoked_at IS NULL) AND (new.revoked_at IS NOT NULL))) EXECUTE FUNCTION taximeter.tell_of_ended_keys();

CREATE TRIGGER key_is_told AFTER INSERT ON taximeter.api_keys FOR EACH ROW EXECUTE FUNCTION taximeter.note_key();

CREATE TRIGGER revoked_key_is_told AFTER UPDATE OF revoked_at ON taximeter.api_keys FOR EACH ROW WHEN (((old.revoked_at IS NULL) AND (new.revoked_at IS NOT NULL))) EXECUTE FUNCTION taximeter.note_key();

ALTER TABLE ONLY taximeter.api_keys
    ADD CONSTRAINT key_has_an_organization FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE CASCADE;

CREATE TABLE taximeter.key_seal (
    is_only boolean DEFAULT true NOT NULL,
    secret bytea NOT NULL,
    CONSTRAINT secret_is_long CHECK ((length(secret) = 32)),
    CONSTRAINT there_is_one CHECK (is_only)
);

COMMENT ON TABLE taximeter.key_seal IS 'What the check digits of API keys are made with. Who knows it can cause look-ups, and nothing else.';

ALTER TABLE ONLY taximeter.key_seal
    ADD CONSTRAINT key_seal_pkey PRIMARY KEY (is_only);

CREATE TABLE taximeter.system_keys (
    key_id text NOT NULL,
    name text NOT NULL,
    rights text[] NOT NULL,
    digest bytea NOT NULL,
    last_four text NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    revoked_by text,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT digest_is_sha256 CHECK ((length(digest) = 32)),
    CONSTRAINT key_expires_after_it_was_made CHECK ((expires_at > created_at)),
    CONSTRAINT key_id_is_well_formed CHECK ((key_id ~ '^[0-9A-Za-z]{12}$'::text)),
    CONSTRAINT name_is_short CHECK ((name ~ '^[^\u0001-\u001f\u007f]{1,255}$'::text)),
    CONSTRAINT rights_are_words CHECK (((cardinality(rights) > 0) AND (array_to_string(rights, ','::text, ''::text) ~ '^[a-z_]+(,[a-z_]+)*$'::text)))
);

COMMENT ON TABLE taximeter.system_keys IS 'Keys of the installation, for the admin API; the keys themselves are nowhere.';

ALTER TABLE ONLY taximeter.system_keys
    ADD CONSTRAINT system_keys_pkey PRIMARY KEY (key_id);

CREATE TRIGGER a_key_is_revoked_once BEFORE UPDATE OF revoked_at, revoked_by ON taximeter.system_keys FOR EACH ROW EXECUTE FUNCTION taximeter.revoke_once();

CREATE TABLE taximeter.system_admins (
    id bigint NOT NULL,
    issuer text NOT NULL,
    user_id text,
    email text,
    reason text,
    added_by text NOT NULL,
    added_at timestamp with time zone DEFAULT now() NOT NULL,
    removed_by text,
    removed_at timestamp with time zone,
    CONSTRAINT email_is_in_lower_case CHECK (((email = lower(email)) AND (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'::text))),
    CONSTRAINT issuer_is_short CHECK (((length(issuer) >= 1) AND (length(issuer) <= 2048))),
    CONSTRAINT removed_by_somebody CHECK (((removed_by IS NULL) = (removed_at IS NULL))),
    CONSTRAINT somebody_is_named CHECK (((user_id IS NOT NULL) OR (email IS NOT NULL))),
    CONSTRAINT user_id_is_well_formed CHECK ((user_id ~ '^[^\u0001-\u001f\u007f]{1,255}$'::text))
);

COMMENT ON TABLE taximeter.system_admins IS 'System admins besides those whose token has the role; rows stay when they end.';

COMMENT ON COLUMN taximeter.system_admins.user_id IS 'What the issuer calls them; null until the first session with the address.';

ALTER TABLE taximeter.system_admins ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.system_admins_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.system_admins
    ADD CONSTRAINT system_admins_pkey PRIMARY KEY (id);

CREATE UNIQUE INDEX system_admins_by_email ON taximeter.system_admins USING btree (issuer, email) WHERE (removed_at IS NULL);

CREATE UNIQUE INDEX system_admins_by_user ON taximeter.system_admins USING btree (issuer, user_id) WHERE (removed_at IS NULL);

CREATE TABLE taximeter.browser_sessions (
    digest bytea NOT NULL,
    sealed bytea NOT NULL,
    generation integer DEFAULT 0 NOT NULL,
    renewing_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    user_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    CONSTRAINT digest_is_one CHECK ((length(digest) = 32)),
    CONSTRAINT sealed_is_bounded CHECK ((length(sealed) <= 65536))
);

COMMENT ON TABLE taximeter.browser_sessions IS 'People who are signed in with a browser. A row that is deleted signs its browser out.';

COMMENT ON COLUMN taximeter.browser_sessions.digest IS 'Of the cookie, which is kept nowhere.';

COMMENT ON COLUMN taximeter.browser_sessions.sealed IS 'The tokens of the identity provider, encrypted with a key made of the cookie.';

COMMENT ON COLUMN taximeter.browser_sessions.generation IS 'How often the tokens were renewed.';

COMMENT ON COLUMN taximeter.browser_sessions.renewing_until IS 'Until then one process asks for new tokens, and no other.';

ALTER TABLE ONLY taximeter.browser_sessions
    ADD CONSTRAINT browser_sessions_pkey PRIMARY KEY (digest);

CREATE INDEX browser_sessions_by_end ON taximeter.browser_sessions USING btree (ends_at);

CREATE TABLE taximeter.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    org_id text,
    target text,
    before jsonb,
    after jsonb,
    request_id text,
    written_by text,
    CONSTRAINT action_is_dotted CHECK ((action ~ '^[a-z_]+(\.[a-z_]+)*$'::text))
);

COMMENT ON COLUMN taximeter.audit_log.actor IS 'Who did it, as the process in written_by says.';

COMMENT ON COLUMN taximeter.audit_log.written_by IS 'The role of the database that wrote the row; null before this was noted.';

ALTER TABLE taximeter.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

CREATE INDEX audit_log_by_action ON taximeter.audit_log USING btree (org_id, action, at DESC);

CREATE INDEX audit_log_by_actor ON taximeter.audit_log USING btree (org_id, actor, at DESC);

CREATE INDEX audit_log_by_org ON taximeter.audit_log USING btree (org_id, at DESC);

CREATE INDEX audit_log_by_time ON taximeter.audit_log USING btree (at);

CREATE TRIGGER audit_is_stamped BEFORE INSERT ON taximeter.audit_log FOR EACH ROW EXECUTE FUNCTION taximeter.stamp_audit();

CREATE TRIGGER audit_log_is_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.audit_log FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('the audit log is append-only');

CREATE TABLE taximeter.audit_chain (
    n bigint NOT NULL,
    audit_id bigint NOT NULL,
    digest bytea NOT NULL,
    linked_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT digest_is_sha256 CHECK ((length(digest) = 32)),
    CONSTRAINT n_is_positive CHECK ((n > 0))
);

ALTER TABLE ONLY taximeter.audit_chain
    ADD CONSTRAINT a_row_is_linked_once UNIQUE (audit_id);

ALTER TABLE ONLY taximeter.audit_chain
    ADD CONSTRAINT audit_chain_pkey PRIMARY KEY (n);

CREATE TRIGGER links_are_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.audit_chain FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('links are kept for ever');

CREATE TRIGGER the_end_is_noted AFTER INSERT ON taximeter.audit_chain FOR EACH ROW EXECUTE FUNCTION taximeter.note_audit_end();

CREATE TABLE taximeter.audit_end (
    is_only boolean DEFAULT true NOT NULL,
    n bigint NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT there_is_one CHECK (is_only)
);

COMMENT ON TABLE taximeter.audit_end IS 'The last link of taximeter.audit_chain. One that the chain does not have says that the chain was put back.';

ALTER TABLE ONLY taximeter.audit_end
    ADD CONSTRAINT audit_end_pkey PRIMARY KEY (is_only);

CREATE TABLE taximeter.idempotent_answers (
    endpoint text NOT NULL,
    scope text NOT NULL,
    key text NOT NULL,
    body_hash bytea NOT NULL,
    answer text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT endpoint_is_dotted CHECK ((endpoint ~ '^[a-z_]+(\.[a-z_]+)*$'::text)),
    CONSTRAINT key_is_short CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);

COMMENT ON COLUMN taximeter.idempotent_answers.scope IS 'The organisation; for endpoints above organisations, the caller.';

COMMENT ON COLUMN taximeter.idempotent_answers.answer IS 'The body of the first answer, JSON to the letter.';

ALTER TABLE ONLY taximeter.idempotent_answers
    ADD CONSTRAINT idempotent_answers_pkey PRIMARY KEY (endpoint, scope, key);

CREATE INDEX idempotent_answers_by_time ON taximeter.idempotent_answers USING btree (created_at);

-- ====================
-- Seals of what is in the books, and what the last look found
-- ====================

CREATE TABLE taximeter.seals (
    n bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    by text DEFAULT SESSION_USER NOT NULL,
    until timestamp with time zone NOT NULL,
    note text,
    link bytea NOT NULL,
    CONSTRAINT n_is_positive CHECK ((n > 0)),
    CONSTRAINT note_is_said CHECK (((length(btrim(note)) >= 1) AND (length(btrim(note)) <= 1000)))
);

COMMENT ON TABLE taximeter.seals IS 'Steps in which rows were sealed. Each is linked to the one before it.';

COMMENT ON COLUMN taximeter.seals.until IS 'Every row of before was sealed then: a whole hour in UTC.';

COMMENT ON COLUMN taximeter.seals.note IS 'Why somebody has accepted what was changed.';

COMMENT ON COLUMN taximeter.seals.link IS 'SHA-256 of the link before, of this row and of what it sealed.';

ALTER TABLE ONLY taximeter.seals
    ADD CONSTRAINT seals_pkey PRIMARY KEY (n);

CREATE TRIGGER seals_are_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.seals FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('seals are kept for ever');

CREATE TABLE taximeter.sealed_rows (
    seal_n bigint NOT NULL,
    place integer NOT NULL,
    kind text NOT NULL,
    what text NOT NULL,
    day date NOT NULL,
    shard integer,
    epoch bigint,
    rows bigint NOT NULL,
    credits numeric NOT NULL,
    digest numeric NOT NULL,
    CONSTRAINT kind_is_known CHECK ((kind = ANY (ARRAY['sealed'::text, 'late'::text, 'deleted'::text, 'archived'::text, 'restored'::text, 'forgotten'::text, 'accepted'::text]))),
    CONSTRAINT what_is_known CHECK ((what = ANY (ARRAY['usage'::text, 'charges'::text, 'entries'::text])))
);

COMMENT ON TABLE taximeter.sealed_rows IS 'What each seal adds to, or takes from, what a day has of a shard: rows, millicredits, sum of digests.';

COMMENT ON COLUMN taximeter.sealed_rows.shard IS 'Null: written by SQL. Below zero: of another cell.';

ALTER TABLE ONLY taximeter.sealed_rows
    ADD CONSTRAINT sealed_rows_pkey PRIMARY KEY (seal_n, place);

CREATE INDEX sealed_rows_by_day ON taximeter.sealed_rows USING btree (day, what);

CREATE TRIGGER seals_are_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON taximeter.sealed_rows FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('seals are kept for ever');

CREATE TABLE taximeter.seal_changes (
    id bigint NOT NULL,
    kind text NOT NULL,
    what text NOT NULL,
    hour timestamp with time zone,
    month date,
    shard integer,
    epoch bigint,
    rows bigint,
    credits numeric,
    digest numeric,
    at timestamp with time zone DEFAULT now() NOT NULL,
    by text DEFAULT SESSION_USER NOT NULL,
    CONSTRAINT kind_is_known CHECK ((kind = ANY (ARRAY['late'::text, 'deleted'::text, 'archived'::text, 'restored'::text, 'forgotten'::text]))),
    CONSTRAINT rows_have_an_hour CHECK (((kind = ANY (ARRAY['late'::text, 'deleted'::text])) = ((hour IS NOT NULL) AND (digest IS NOT NULL)))),
    CONSTRAINT rows_of_an_hour_are_counted CHECK (((hour IS NULL) OR ((rows IS NOT NULL) AND (credits IS NOT NULL)))),
    CONSTRAINT what_is_known CHECK ((what = ANY (ARRAY['usage'::text, 'charges'::text, 'entries'::text])))
);

COMMENT ON TABLE taximeter.seal_changes IS 'Changes behind the seals that were made by the ways that there are for them, until the next seal has them.';

COMMENT ON COLUMN taximeter.seal_changes.rows IS 'Null: of a table that came or went before all of it was sealed.';

ALTER TABLE taximeter.seal_changes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.seal_changes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.seal_changes
    ADD CONSTRAINT seal_changes_pkey PRIMARY KEY (id);

CREATE TABLE taximeter.seal_state (
    one boolean DEFAULT true NOT NULL,
    announced timestamp with time zone,
    announced_xid xid8,
    sealed_until timestamp with time zone,
    n bigint DEFAULT 0 NOT NULL,
    link bytea DEFAULT decode(repeat('00'::text, 32), 'hex'::text) NOT NULL,
    round_day date,
    round_began_at timestamp with time zone,
    round_ended_at timestamp with time zone,
    CONSTRAINT nothing_is_sealed_unannounced CHECK ((sealed_until <= announced)),
    CONSTRAINT there_is_one CHECK (one)
);

COMMENT ON COLUMN taximeter.seal_state.announced IS 'Changes of before are noted in seal_changes, by every transaction from announced_xid on.';

COMMENT ON COLUMN taximeter.seal_state.round_day IS 'The last sealed day that was read again in this round.';

ALTER TABLE ONLY taximeter.seal_state
    ADD CONSTRAINT seal_state_pkey PRIMARY KEY (one);

CREATE TABLE taximeter.sealed_usage (
    day date NOT NULL,
    org_id text NOT NULL,
    user_id text NOT NULL,
    service_type text NOT NULL,
    service_name text NOT NULL,
    by_sql boolean NOT NULL,
    requests bigint NOT NULL,
    credits numeric NOT NULL
);

COMMENT ON TABLE taximeter.sealed_usage IS 'What is sealed of the day that goes on, as the rollup needs it.';

ALTER TABLE ONLY taximeter.sealed_usage
    ADD CONSTRAINT sealed_usage_pkey PRIMARY KEY (day, org_id, user_id, service_type, service_name, by_sql);

CREATE TABLE taximeter.sealed_shards (
    org_id text NOT NULL,
    shard integer NOT NULL,
    epoch_last bigint NOT NULL
);

COMMENT ON TABLE taximeter.sealed_shards IS 'Through which shards sealed charges of an organisation came, and the last epoch of each.';

ALTER TABLE ONLY taximeter.sealed_shards
    ADD CONSTRAINT sealed_shards_pkey PRIMARY KEY (org_id, shard);

CREATE TABLE taximeter.altered_days (
    day date NOT NULL,
    found_at timestamp with time zone DEFAULT now() NOT NULL,
    said text[] NOT NULL
);

COMMENT ON TABLE taximeter.altered_days IS 'Sealed days that were read again and were not what was sealed.';

ALTER TABLE ONLY taximeter.altered_days
    ADD CONSTRAINT altered_days_pkey PRIMARY KEY (day);

CREATE TABLE taximeter.check_results (
    invariant text NOT NULL,
    title text NOT NULL,
    holds boolean,
    figures jsonb NOT NULL,
    violations jsonb NOT NULL,
    reasons jsonb NOT NULL,
    unread jsonb NOT NULL,
    unjudged text,
    checked_at timestamp with time zone NOT NULL,
    proved_at timestamp with time zone
);

COMMENT ON TABLE taximeter.check_results IS 'What the settler''s last look at the books has found of each invariant.';

COMMENT ON COLUMN taximeter.check_results.holds IS 'Null: a part could not be read, and what was read is right.';

ALTER TABLE ONLY taximeter.check_results
    ADD CONSTRAINT check_results_pkey PRIMARY KEY (invariant);

CREATE TABLE taximeter.check_state (
    one boolean DEFAULT true NOT NULL,
    tried_at timestamp with time zone,
    could_not_look text,
    checked_at timestamp with time zone,
    seconds real,
    holds boolean,
    proved_at timestamp with time zone,
    violations bigint DEFAULT 0 NOT NULL,
    rows_new bigint DEFAULT 0 NOT NULL,
    rows_sealed bigint DEFAULT 0 NOT NULL,
    sealed_until timestamp with time zone,
    seal_n bigint DEFAULT 0 NOT NULL,
    seal_head text,
    round_day date,
    round_began_at timestamp with time zone,
    round_ended_at timestamp with time zone,
    days bigint DEFAULT 0 NOT NULL,
    CONSTRAINT there_is_one CHECK (one)
);

COMMENT ON TABLE taximeter.check_state IS 'The settler''s last look at the books, and how far they are sealed.';

ALTER TABLE ONLY taximeter.check_state
    ADD CONSTRAINT check_state_pkey PRIMARY KEY (one);

-- ====================
-- Prices
-- ====================

CREATE TABLE taximeter.price_lists (
    id bigint NOT NULL,
    kind text NOT NULL,
    version text NOT NULL,
    source text NOT NULL,
    digest text NOT NULL,
    content bytea NOT NULL,
    models integer NOT NULL,
    dated date NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    back_to bigint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    written_by text DEFAULT SESSION_USER NOT NULL,
    withdrawn_at timestamp with time zone,
    withdrawn_by text,
    CONSTRAINT begins_when_it_is_known CHECK ((starts_at >= created_at)),
    CONSTRAINT created_by_is_said CHECK (((length(created_by) >= 1) AND (length(created_by) <= 255))),
    CONSTRAINT dated_is_a_day CHECK (isfinite(dated)),
    CONSTRAINT digest_is_sha256 CHECK ((digest ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT kind_is_known CHECK ((kind = ANY (ARRAY['package'::text, 'file'::text]))),
    CONSTRAINT models_is_positive CHECK ((models > 0)),
    CONSTRAINT source_is_said CHECK (((length(source) >= 1) AND (length(source) <= 256))),
    CONSTRAINT starts_at_is_a_moment CHECK (isfinite(starts_at)),
    CONSTRAINT version_is_said CHECK (((length(version) >= 1) AND (length(version) <= 128))),
    CONSTRAINT withdrawn_before_it_begins CHECK (((withdrawn_at IS NULL) OR (withdrawn_at < starts_at))),
    CONSTRAINT withdrawn_by_somebody CHECK (((withdrawn_at IS NULL) = (withdrawn_by IS NULL)))
);

COMMENT ON COLUMN taximeter.price_lists.content IS 'The list, compressed by zlib; its SHA-256 before that is digest.';

COMMENT ON COLUMN taximeter.price_lists.dated IS 'The day of which its prices are: their age is counted from it.';

ALTER TABLE taximeter.price_lists ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.price_lists_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.price_lists
    ADD CONSTRAINT price_lists_pkey PRIMARY KEY (id);

CREATE INDEX price_lists_by_start ON taximeter.price_lists USING btree (starts_at) WHERE (withdrawn_at IS NULL);

CREATE TRIGGER price_lists_are_kept BEFORE DELETE OR UPDATE ON taximeter.price_lists FOR EACH ROW EXECUTE FUNCTION taximeter.keep_price_list();

CREATE TRIGGER price_lists_are_not_emptied BEFORE TRUNCATE ON taximeter.price_lists FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('price lists stay on record');

ALTER TABLE ONLY taximeter.price_lists
    ADD CONSTRAINT back_to_is_a_list FOREIGN KEY (back_to) REFERENCES taximeter.price_lists(id);

-- ====================
-- Notices: what somebody may be told, and where to
-- ====================

CREATE TABLE taximeter.notices (
    n bigint NOT NULL,
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    type text NOT NULL,
    org_id text,
    subject text NOT NULL,
    data jsonb NOT NULL,
    receiver_id uuid,
    spread_at timestamp with time zone,
    CONSTRAINT subject_is_short CHECK (((length(subject) >= 1) AND (length(subject) <= 512))),
    CONSTRAINT type_is_dotted CHECK ((type ~ '^[a-z_]+(\.[a-z_]+)*$'::text))
);

COMMENT ON TABLE taximeter.notices IS 'Facts that somebody may be told of, each written in the transaction that made it.';

COMMENT ON COLUMN taximeter.notices.org_id IS 'Whose it is; null for what is of the installation.';

COMMENT ON COLUMN taximeter.notices.subject IS 'What it is about: notices of one subject reach a receiver in the order of n.';

COMMENT ON COLUMN taximeter.notices.data IS 'What is named credits, or ..._credits, is millicredits here.';

COMMENT ON COLUMN taximeter.notices.receiver_id IS 'The only one that it is for: a test; null for all that ask for its type.';

COMMENT ON COLUMN taximeter.notices.spread_at IS 'When deliveries of it were made; null before.';

ALTER TABLE taximeter.notices ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.notices_n_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.notices
    ADD CONSTRAINT notice_has_one_id UNIQUE (id);

ALTER TABLE ONLY taximeter.notices
    ADD CONSTRAINT notices_pkey PRIMARY KEY (n);

CREATE INDEX notices_by_org ON taximeter.notices USING btree (org_id, at);

CREATE INDEX notices_by_time ON taximeter.notices USING btree (at);

CREATE INDEX notices_to_spread ON taximeter.notices USING btree (n) WHERE (spread_at IS NULL);

CREATE TABLE taximeter.conditions (
    subject text NOT NULL,
    is_wrong boolean NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE taximeter.conditions IS 'What is wrong now, or was: a change either way is a notice, its repetition none.';

ALTER TABLE ONLY taximeter.conditions
    ADD CONSTRAINT conditions_pkey PRIMARY KEY (subject);

CREATE TABLE taximeter.notice_marks (
    what text NOT NULL,
    days integer NOT NULL,
    through timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    last_id text,
    CONSTRAINT what_is_known CHECK ((what = ANY (ARRAY['allocation'::text, 'key'::text])))
);

COMMENT ON TABLE taximeter.notice_marks IS 'Up to which end it was said so many days before that it comes.';

COMMENT ON COLUMN taximeter.notice_marks.last_id IS 'Up to which of those that end at that moment; null for all.';

ALTER TABLE ONLY taximeter.notice_marks
    ADD CONSTRAINT notice_marks_pkey PRIMARY KEY (what, days);

CREATE TABLE taximeter.receivers (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    org_id text,
    kind text NOT NULL,
    name text NOT NULL,
    address bytea NOT NULL,
    secret bytea,
    old_secret bytea,
    old_secret_until timestamp with time zone,
    key_mark text NOT NULL,
    types text[] NOT NULL,
    percents integer[] NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    reason text,
    failures integer DEFAULT 0 NOT NULL,
    rests_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    tried_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    succeeded_at timestamp with time zone,
    failed_at timestamp with time zone,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT address_is_bounded CHECK ((length(address) <= 16384)),
    CONSTRAINT kind_is_known CHECK ((kind = ANY (ARRAY['webhook'::text, 'slack'::text, 'email'::text]))),
    CONSTRAINT name_is_short CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT state_is_known CHECK ((state = ANY (ARRAY['active'::text, 'paused'::text, 'disabled'::text]))),
    CONSTRAINT types_are_few CHECK (((cardinality(types) >= 1) AND (cardinality(types) <= 100))),
    CONSTRAINT webhooks_are_signed CHECK (((kind = 'webhook'::text) = (secret IS NOT NULL)))
);

COMMENT ON TABLE taximeter.receivers IS 'Where notices are sent to.';

COMMENT ON COLUMN taximeter.receivers.org_id IS 'Whose notices; null: of the installation, which hears of all organisations.';

COMMENT ON COLUMN taximeter.receivers.address IS 'Where to. Like the secrets, encrypted with a key that is in the settings alone (TAXIMETER_NOTICE_KEYS).';

COMMENT ON COLUMN taximeter.receivers.key_mark IS 'Which key that is: whoever has another one, such as a copy of this database elsewhere, sends nothing.';

COMMENT ON COLUMN taximeter.receivers.failures IS 'Tries that have failed since the last that did not.';

ALTER TABLE ONLY taximeter.receivers
    ADD CONSTRAINT receivers_pkey PRIMARY KEY (id);

CREATE INDEX receivers_by_org ON taximeter.receivers USING btree (org_id, created_at, id);

ALTER TABLE ONLY taximeter.receivers
    ADD CONSTRAINT receiver_has_an_organization FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE CASCADE;

CREATE TABLE taximeter.deliveries (
    id bigint NOT NULL,
    receiver_id uuid NOT NULL,
    notice_n bigint NOT NULL,
    subject text NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    leased_until timestamp with time zone,
    made_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    log jsonb DEFAULT '[]'::jsonb NOT NULL,
    CONSTRAINT ended_has_a_time CHECK (((state = 'waiting'::text) = (ended_at IS NULL))),
    CONSTRAINT state_is_known CHECK ((state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'failed'::text]))),
    CONSTRAINT tries_are_not_negative CHECK ((tries >= 0))
)
WITH (fillfactor='80');

COMMENT ON TABLE taximeter.deliveries IS 'What is sent, or was, to a receiver, and what became of each try.';

COMMENT ON COLUMN taximeter.deliveries.due_at IS 'When it is tried next; infinity while an earlier one of its subject waits.';

COMMENT ON COLUMN taximeter.deliveries.leased_until IS 'Until when a settler has it in hand; after that it is tried again.';

COMMENT ON COLUMN taximeter.deliveries.log IS 'The last 20 tries: at, status, error, seconds.';

ALTER TABLE taximeter.deliveries ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME taximeter.deliveries_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY taximeter.deliveries
    ADD CONSTRAINT a_notice_is_delivered_once_a_receiver UNIQUE (receiver_id, notice_n);

ALTER TABLE ONLY taximeter.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);

CREATE INDEX deliveries_by_notice ON taximeter.deliveries USING btree (notice_n);

CREATE INDEX deliveries_by_receiver ON taximeter.deliveries USING btree (receiver_id, id);

CREATE INDEX deliveries_due ON taximeter.deliveries USING btree (receiver_id, due_at) WHERE (state = 'waiting'::text);

CREATE INDEX deliveries_in_order ON taximeter.deliveries USING btree (receiver_id, subject, notice_n) WHERE (state = 'waiting'::text);

ALTER TABLE ONLY taximeter.deliveries
    ADD CONSTRAINT delivery_has_a_notice FOREIGN KEY (notice_n) REFERENCES taximeter.notices(n) ON DELETE CASCADE;

ALTER TABLE ONLY taximeter.deliveries
    ADD CONSTRAINT delivery_has_a_receiver FOREIGN KEY (receiver_id) REFERENCES taximeter.receivers(id) ON DELETE CASCADE;

CREATE TABLE taximeter.installation (
    is_this boolean DEFAULT true NOT NULL,
    name text,
    history text,
    silent_since timestamp with time zone,
    silent_because text,
    answered_at timestamp with time zone,
    answer text,
    is_stopped boolean DEFAULT false NOT NULL,
    CONSTRAINT installation_is_one CHECK (is_this),
    CONSTRAINT name_is_plain CHECK ((name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'::text)),
    CONSTRAINT silence_has_a_reason CHECK (((silent_since IS NULL) = (silent_because IS NULL)))
);

COMMENT ON TABLE taximeter.installation IS 'Which installation this database is of, and whether it may tell anybody anything.';

COMMENT ON COLUMN taximeter.installation.name IS 'As TAXIMETER_INSTALLATION had it first: a settler with another name does not start.';

COMMENT ON COLUMN taximeter.installation.history IS 'System identifier and timeline of this Postgres when a Redis last knew it.';

COMMENT ON COLUMN taximeter.installation.silent_since IS 'Since when nothing is sent or archived: this may be a copy.';

COMMENT ON COLUMN taximeter.installation.answer IS 'What an operator has said to that, by `taximeter restored`.';

COMMENT ON COLUMN taximeter.installation.is_stopped IS 'Silent, and credits are not taken either: this is very likely a copy.';

ALTER TABLE ONLY taximeter.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (is_this);

-- ====================
-- Cells: the directory, and moves between them
-- ====================

CREATE TABLE taximeter.cells (
    name text NOT NULL,
    api_url text NOT NULL,
    sidecar_url text NOT NULL,
    added_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT addresses_are_urls CHECK (((api_url ~ '^https?://[!-~]+$'::text) AND (sidecar_url ~ '^https?://[!-~]+$'::text) AND (length(api_url) <= 500) AND (length(sidecar_url) <= 500))),
    CONSTRAINT name_is_well_formed CHECK ((name ~ '^[a-z0-9][a-z0-9-]{0,31}$'::text))
);

COMMENT ON TABLE taximeter.cells IS 'The directory, in the one database that TAXIMETER_DIRECTORY_URL names: which cells there are.';

ALTER TABLE ONLY taximeter.cells
    ADD CONSTRAINT cells_pkey PRIMARY KEY (name);

CREATE TABLE taximeter.cell_organizations (
    org_id text NOT NULL,
    slug text NOT NULL,
    cell text NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE taximeter.cell_organizations IS 'The directory: in which cell each organisation lives.';

ALTER TABLE ONLY taximeter.cell_organizations
    ADD CONSTRAINT cell_organizations_pkey PRIMARY KEY (org_id);

ALTER TABLE ONLY taximeter.cell_organizations
    ADD CONSTRAINT slug_is_used_in_one_cell UNIQUE (slug);

CREATE INDEX cell_organizations_by_cell ON taximeter.cell_organizations USING btree (cell);

ALTER TABLE ONLY taximeter.cell_organizations
    ADD CONSTRAINT cell_is_known FOREIGN KEY (cell) REFERENCES taximeter.cells(name);

CREATE TABLE taximeter.organizations_away (
    org_id text NOT NULL,
    said text NOT NULL,
    CONSTRAINT said_is_known CHECK ((said ~ '^(moving [0-9a-f-]{36}|gone [!-~]+ [!-~]+ [!-~]+)$'::text))
);

COMMENT ON TABLE taximeter.organizations_away IS 'Organisations that nobody may use or change here: they are being moved, or live in another cell.';

COMMENT ON COLUMN taximeter.organizations_away.said IS 'moving, and which move; or gone, with cell and addresses.';

ALTER TABLE ONLY taximeter.organizations_away
    ADD CONSTRAINT organizations_away_pkey PRIMARY KEY (org_id);

CREATE TABLE taximeter.cell_moves (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    org_id text NOT NULL,
    role text NOT NULL,
    cell text NOT NULL,
    api_url text NOT NULL,
    sidecar_url text NOT NULL,
    state text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    closed_at timestamp with time zone,
    ended_at timestamp with time zone,
    proof jsonb,
    pause_max_s double precision DEFAULT 60 NOT NULL,
    CONSTRAINT ended_has_a_time CHECK (((state = ANY (ARRAY['done'::text, 'undone'::text])) = (ended_at IS NOT NULL))),
    CONSTRAINT pause_is_bounded CHECK (((pause_max_s >= (0)::double precision) AND (pause_max_s <= (3600)::double precision))),
    CONSTRAINT role_is_known CHECK ((role = ANY (ARRAY['source'::text, 'target'::text]))),
    CONSTRAINT state_is_known CHECK ((state = ANY (ARRAY['copying'::text, 'closed'::text, 'gone'::text, 'arrived'::text, 'done'::text, 'undone'::text])))
);

COMMENT ON COLUMN taximeter.cell_moves.cell IS 'The other cell.';

COMMENT ON COLUMN taximeter.cell_moves.proof IS 'Rows and digests of what was copied, the same on both sides.';

COMMENT ON COLUMN taximeter.cell_moves.pause_max_s IS 'How long its process may keep it closed; after that a settler undoes it, whoever has its lock.';

ALTER TABLE ONLY taximeter.cell_moves
    ADD CONSTRAINT cell_moves_pkey PRIMARY KEY (id);

CREATE UNIQUE INDEX one_cell_move_at_a_time ON taximeter.cell_moves USING btree (org_id) WHERE (state <> ALL (ARRAY['done'::text, 'undone'::text]));

CREATE TABLE taximeter.cell_move_holds (
    org_id text NOT NULL,
    key text NOT NULL,
    kind text NOT NULL,
    account text NOT NULL,
    record text NOT NULL,
    left_ms bigint NOT NULL,
    counts boolean NOT NULL,
    CONSTRAINT kind_is_known CHECK ((kind = ANY (ARRAY['hold'::text, 'outcome'::text])))
);

COMMENT ON TABLE taximeter.cell_move_holds IS 'Open holds that came with an organisation, until they are open here.';

ALTER TABLE ONLY taximeter.cell_move_holds
    ADD CONSTRAINT cell_move_holds_pkey PRIMARY KEY (org_id, key);

CREATE TABLE taximeter.cell_late_charges (
    org_id text NOT NULL,
    request_id text NOT NULL,
    user_id text NOT NULL,
    amount bigint NOT NULL,
    payload text NOT NULL,
    from_cell text NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT amount_is_in_range CHECK (((amount >= 0) AND (amount <= '1000000000000'::bigint)))
);

COMMENT ON TABLE taximeter.cell_late_charges IS 'The directory: charges of requests that ended in a cell which their organisation has left; its cell takes them.';

ALTER TABLE ONLY taximeter.cell_late_charges
    ADD CONSTRAINT cell_late_charges_pkey PRIMARY KEY (org_id, request_id);

CREATE TABLE taximeter.key_seals_taken (
    secret bytea NOT NULL,
    taken_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT secret_is_long CHECK ((length(secret) = 32))
);

ALTER TABLE ONLY taximeter.key_seals_taken
    ADD CONSTRAINT key_seals_taken_pkey PRIMARY KEY (secret);

-- ====================
-- Functions, by their names
-- ====================

CREATE FUNCTION taximeter.acknowledge_lost(of_shard integer, of_epoch bigint, first bigint, said text, by_whom text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO taximeter.acknowledgements (what, shard, epoch, seq_first, events, note, acknowledged_by)
    SELECT 'lost', lost.shard, lost.epoch, lost.seq_first, lost.seq_last - lost.seq_first + 1, said, by_whom
      FROM taximeter.lost_events AS lost
     WHERE (lost.shard, lost.epoch, lost.seq_first) = (of_shard, of_epoch, first)
    ON CONFLICT (shard, epoch, seq_first) WHERE what = 'lost' DO NOTHING;
    RETURN FOUND;
END;
$$;

CREATE FUNCTION public.add_credits_to_pool(org_id text, millicredits bigint, purchase_amount numeric) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    line  public.org_billing_history;
    total bigint;
BEGIN
    line := taximeter.buy_credits($1, $2, $3);
    SELECT pool.total_credits INTO total FROM public.organization_credit_pools AS pool WHERE pool.org_id = $1;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES (session_user, 'org.credits.purchased', $1, line.id::text,
            jsonb_build_object('total_credits', total - millicredits),
            jsonb_build_object('total_credits', total, 'purchase_amount', purchase_amount::text, 'vouched_by', 'sql'));
END;
$_$;

CREATE FUNCTION taximeter.add_next_totals(totals bigint[], others bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN taximeter.add_totals(totals, others);

CREATE FUNCTION taximeter.add_totals(totals bigint[], others bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY[((totals)[1] + (others)[1]), ((totals)[2] + (others)[2]), ((totals)[3] + (others)[3]), ((totals)[4] + (others)[4]), ((totals)[5] + (others)[5]), ((totals)[6] + (others)[6]), ((totals)[7] + (others)[7]), ((totals)[8] + (others)[8]), ((totals)[9] + (others)[9]), ((totals)[10] + (others)[10]), ((totals)[11] + (others)[11]), ((totals)[12] + (others)[12]), ((totals)[13] + (others)[13]), ((totals)[14] + (others)[14]), ((totals)[15] + (others)[15]), ((totals)[16] + (others)[16]), ((totals)[17] + (others)[17]), ((totals)[18] + (others)[18]), ((totals)[19] + (others)[19]), ((totals)[20] + (others)[20]), ((totals)[21] + (others)[21]), ((totals)[22] + (others)[22]), ((totals)[23] + (others)[23]), ((totals)[24] + (others)[24]), ((totals)[25] + (others)[25]), ((totals)[26] + (others)[26]), ((totals)[27] + (others)[27]), ((totals)[28] + (others)[28]), ((totals)[29] + (others)[29]), ((totals)[30] + (others)[30]), ((totals)[31] + (others)[31])];

CREATE FUNCTION taximeter.add_usage_by_org(changes taximeter.usage_daily_by_org[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH change AS MATERIALIZED (
        SELECT * FROM unnest(changes)
    ), months AS (
        INSERT INTO taximeter.usage_monthly_by_org AS monthly (org_id, month, writer, requests_to_day, credits_to_day)
        SELECT org_id, date_trunc('month', day::timestamp)::date, writer,
               taximeter.sum_totals(taximeter.totals_from(day, requests)),
               taximeter.sum_totals(taximeter.totals_from(day, credits_used))
          FROM (SELECT org_id, day, writer, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
                  FROM change GROUP BY 1, 2, 3) AS by_day
         GROUP BY 1, 2, 3
         ORDER BY 2, 1, 3
        ON CONFLICT (month, org_id, writer) DO UPDATE
           SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
               credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day)
    )
    INSERT INTO taximeter.usage_daily_by_org AS daily
           (org_id, day, service_type, service_name, writer, requests, credits_used)
    SELECT org_id, day, service_type, service_name, writer, requests, credits_used
      FROM change
     ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (org_id, day, service_type, service_name, writer) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
$$;

CREATE FUNCTION taximeter.add_usage_of_all(changes taximeter.usage_daily_by_org[], shard integer) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO taximeter.usage_monthly AS monthly (month, lane, requests_to_day, credits_to_day)
    SELECT date_trunc('month', day::timestamp)::date, lane,
           taximeter.sum_totals(taximeter.totals_from(day, requests)),
           taximeter.sum_totals(taximeter.totals_from(day, credits_used))
      FROM (SELECT day,
                   CASE WHEN shard IS NOT NULL THEN shard % 1000
                        ELSE -1 - abs(hashtext(org_id) % 256) - CASE writer WHEN 2 THEN 256 ELSE 0 END END AS lane,
                   sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
              FROM unnest(changes) GROUP BY 1, 2) AS by_day
     GROUP BY 1, 2
     ORDER BY 1, 2
    ON CONFLICT (month, lane) DO UPDATE
       SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
           credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day);
$$;

CREATE FUNCTION taximeter.allocate_credits(org_id text, user_id text, millicredits bigint, allocated_by text, set_expiry boolean DEFAULT false, new_expiry timestamp with time zone DEFAULT NULL::timestamp with time zone, new_renewal boolean DEFAULT NULL::boolean) RETURNS uuid
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
#variable_conflict use_column
DECLARE
    standing      public.user_credit_allocations;
    allocation_id uuid;
    takes_terms   boolean;
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF NOT EXISTS (SELECT FROM public.organization_credit_pools AS pool WHERE pool.org_id = $1) THEN
        RAISE EXCEPTION 'organisation % has no credit pool; call add_credits_to_pool first', coalesce($1, 'null')
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'allocation_has_a_pool', SCHEMA = 'public',
                  TABLE = 'user_credit_allocations';
    END IF;
    SELECT allocation.id INTO allocation_id FROM public.user_credit_allocations AS allocation
     WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
       AND allocation.expires_at <= now() AND allocation.closing IS NULL
       FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM taximeter.expire_allocation(allocation_id);
    END IF;
    SELECT * INTO standing FROM public.user_credit_allocations AS allocation
     WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
       FOR NO KEY UPDATE;
    -- What has nothing left, or is being closed, has no credits that an end could take away.
    takes_terms := standing.id IS NULL OR standing.closing IS NOT NULL OR standing.allocated_credits <= standing.used_credits;
    IF set_expiry AND new_expiry IS NOT NULL AND NOT takes_terms AND standing.expires_at IS DISTINCT FROM new_expiry THEN
        RAISE EXCEPTION 'the allocation of %/% ends %, and credits that end at % are not merged with it', $1, $2,
            coalesce('at ' || (standing.expires_at AT TIME ZONE 'UTC')::text || ' UTC', 'never'),
            (new_expiry AT TIME ZONE 'UTC')::text || ' UTC'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'one_end_for_an_allocation', SCHEMA = 'public',
                  TABLE = 'user_credit_allocations', DETAIL = coalesce(standing.expires_at::text, 'never'),
                  HINT = 'Leave the end out to add to the allocation as it stands, or take the end away with null.';
    END IF;
    INSERT INTO public.user_credit_allocations AS allocation
           (org_id, user_id, allocated_credits, allocated_by, expires_at, auto_renew)
    VALUES ($1, $2, millicredits, $4, CASE WHEN set_expiry THEN new_expiry END, coalesce(new_renewal, false))
    ON CONFLICT (org_id, user_id) WHERE is_active DO UPDATE
       SET allocated_credits = allocation.allocated_credits + EXCLUDED.allocated_credits,
           allocated_by = EXCLUDED.allocated_by, updated_at = now(), closing = NULL,
           expires_at = CASE WHEN set_expiry THEN new_expiry
                             WHEN allocation.closing IS NULL THEN allocation.expires_at END,
           auto_renew = CASE WHEN new_renewal IS NOT NULL THEN new_renewal
                             WHEN set_expiry AND new_expiry IS NULL THEN false
                             ELSE allocation.auto_renew END
    RETURNING allocation.id INTO allocation_id;
    RETURN allocation_id;
END;
$_$;

CREATE FUNCTION public.allocate_credits_to_user(org_id text, user_id text, millicredits bigint, allocated_by text) RETURNS uuid
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    made_id CONSTANT uuid := taximeter.allocate_credits($1, $2, $3, $4);
    made    public.user_credit_allocations;
    have    bigint;
BEGIN
    SELECT * INTO STRICT made FROM public.user_credit_allocations AS allocation WHERE allocation.id = made_id;
    SELECT pool.available_credits INTO have FROM public.organization_credit_pools AS pool WHERE pool.org_id = $1;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    SELECT session_user, action, $1, $2,
           jsonb_build_object('allocated_credits', made.allocated_credits - millicredits, 'pool_available_credits', have + millicredits),
           jsonb_build_object('allocated_credits', made.allocated_credits, 'pool_available_credits', have, 'allocated_by', $4)
      FROM unnest(ARRAY['user.allocation.created', 'org.credits.allocated']) AS action
     WHERE action <> 'user.allocation.created' OR made.allocated_credits = millicredits AND made.used_credits = 0;
    RETURN made_id;
END;
$_$;

CREATE FUNCTION taximeter.allocation_changed() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    settling      boolean := coalesce(current_setting('taximeter.settling', true), '') = 'on';
    charging      boolean := coalesce(current_setting('taximeter.charging', true), '') = 'on';
    kind          text := nullif(current_setting('taximeter.entry_kind', true), '');
    org           text;
    usr           text;
    active_change bigint := 0; -- Of what active rows have allocated,
    closed_change bigint := 0; -- and of what closed ones have.
    used_change   bigint := 0;
    stays_open    boolean := false;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        org := NEW.org_id;
        usr := NEW.user_id;
        stays_open := NEW.is_active;
        used_change := NEW.used_credits;
        active_change := CASE WHEN NEW.is_active THEN NEW.allocated_credits ELSE 0 END;
        closed_change := CASE WHEN NEW.is_active THEN 0 ELSE NEW.allocated_credits END;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        org := OLD.org_id;
        usr := OLD.user_id;
        used_change := used_change - OLD.used_credits;
        active_change := active_change - CASE WHEN OLD.is_active THEN OLD.allocated_credits ELSE 0 END;
        closed_change := closed_change - CASE WHEN OLD.is_active THEN 0 ELSE OLD.allocated_credits END;
    END IF;
    IF TG_OP = 'INSERT' THEN
        kind := coalesce(kind, CASE WHEN settling THEN 'give_back' ELSE 'allocation' END);
    ELSIF TG_OP = 'DELETE' THEN
        kind := coalesce(kind, 'deletion');
    ELSE
        kind := coalesce(kind, CASE
            WHEN settling THEN 'give_back'
            WHEN OLD.is_active AND NOT NEW.is_active THEN 'closing'
            WHEN active_change + closed_change <> 0 THEN 'allocation'
            WHEN charging THEN 'deduction'
            ELSE 'correction' END);
    END IF;

    PERFORM taximeter.append_entry(
        org, usr, active_change + closed_change - CASE WHEN settling THEN 0 ELSE used_change END, kind,
        nullif(current_setting('taximeter.entry_reference', true), ''),
        nullif(current_setting('taximeter.entry_hold', true), ''));
    IF used_change <> 0 AND NOT settling AND NOT charging THEN
        PERFORM taximeter.note_used_by_hand(org, usr, used_change);
    END IF;
    -- A transfer has lowered one allocation before it raises the other: it asks nothing of the pool, overdrawn or not.
    PERFORM taximeter.move_pool(
        org, active_change, closed_change, CASE WHEN settling THEN 0 ELSE used_change END,
        stays_open AND NOT settling AND kind <> 'transfer');
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.append_entry(org text, usr text, delta bigint, kind text, reference text DEFAULT NULL::text, hold text DEFAULT NULL::text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    number bigint;
BEGIN
    IF org IS NULL OR usr IS NULL OR delta IS NULL OR kind IS NULL THEN
        RAISE EXCEPTION 'an entry needs an organisation, a user, a delta and a kind'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF delta = 0 THEN
        RETURN NULL;
    END IF;
    INSERT INTO taximeter.accounts AS account (org_id, user_id, entry_seq) VALUES (org, usr, 1)
    ON CONFLICT (org_id, user_id) DO UPDATE SET entry_seq = account.entry_seq + 1
    RETURNING account.entry_seq INTO number;
    INSERT INTO taximeter.account_entries (org_id, user_id, entry_seq, delta, kind, reference, hold)
    VALUES (org, usr, number, delta, kind, reference, hold);
    RETURN number;
END;
$$;

CREATE FUNCTION taximeter.audit_link(link_before bytea, audit taximeter.audit_log) RETURNS bytea
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT sha256(link_before || convert_to(jsonb_build_array(
               audit.id, extract(epoch FROM audit.at), audit.actor, audit.action, audit.org_id, audit.target, audit.before,
               audit.after, audit.request_id, audit.written_by)::text, 'UTF8'));
$$;

CREATE FUNCTION taximeter.begin_closing(allocation_id uuid, why text) RETURNS text
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT set_config('taximeter.entry_kind', why, true);
    UPDATE public.user_credit_allocations AS allocation
       SET closing = why, auto_renew = false, is_active = allocation.allocated_credits > allocation.used_credits,
           updated_at = now()
     WHERE allocation.id = allocation_id;
    SELECT set_config('taximeter.entry_kind', '', true);
    SELECT CASE WHEN allocation.is_active THEN 'closing' ELSE 'closed' END
      FROM public.user_credit_allocations AS allocation WHERE allocation.id = allocation_id;
$$;

CREATE FUNCTION taximeter.begin_expiry(at_time timestamp with time zone, most integer) RETURNS TABLE(org_id text, user_id text, became text, not_renewed boolean)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    expired_ids uuid[];
    expired     public.user_credit_allocations;
    have        bigint;
BEGIN
    -- All are locked, in order, before the first one is changed, since that locks its pool.
    SELECT array_agg(locked.id) INTO expired_ids
      FROM (SELECT allocation.id FROM public.user_credit_allocations AS allocation
             WHERE NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = allocation.org_id) AND allocation.is_active AND allocation.closing IS NULL AND allocation.expires_at <= at_time
             ORDER BY allocation.org_id, allocation.user_id
             LIMIT most
               FOR NO KEY UPDATE SKIP LOCKED) AS locked;
    FOR position IN 1 .. coalesce(array_length(expired_ids, 1), 0) LOOP
        SELECT * INTO STRICT expired
          FROM public.user_credit_allocations AS allocation WHERE allocation.id = expired_ids[position];
        org_id := expired.org_id;
        user_id := expired.user_id;
        not_renewed := false;
        IF expired.auto_renew THEN
            SELECT pool.available_credits + expired.allocated_credits - expired.used_credits INTO have
              FROM public.organization_credit_pools AS pool WHERE pool.org_id = expired.org_id FOR NO KEY UPDATE;
            not_renewed := have < expired.allocated_credits;
        END IF;
        IF expired.auto_renew AND NOT not_renewed THEN
            PERFORM taximeter.expire_allocation(expired.id, at_time);
            became := 'renewed';
        ELSE
            IF not_renewed THEN
                PERFORM taximeter.note_failed_renewal(expired, have);
            END IF;
            INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
            VALUES ('taximeter:expiry', 'user.allocation.expired', expired.org_id, expired.user_id,
                    jsonb_build_object('allocated_credits', expired.allocated_credits, 'used_credits', expired.used_credits),
                    jsonb_build_object('closing_credits', expired.allocated_credits - expired.used_credits));
            became := taximeter.begin_closing(expired.id, 'expiry');
        END IF;
        RETURN NEXT;
    END LOOP;
END;
$$;

CREATE FUNCTION taximeter.begin_restoring_month(month date) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    table_name CONSTANT text := 'restoring_' || to_char(month, 'YYYY_MM');
BEGIN
    -- What a restore that was cut off has left.
    EXECUTE format('DROP TABLE IF EXISTS taximeter.%I', table_name);
    EXECUTE format('CREATE TABLE taximeter.%I (LIKE public.credit_usage_attribution INCLUDING ALL)', table_name);
    -- So that attaching it needs no look at its rows.
    EXECUTE format('ALTER TABLE taximeter.%I ADD CONSTRAINT is_of_its_month CHECK (created_at >= %L AND created_at < %L)', table_name,
                   month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month')::timestamp AT TIME ZONE 'UTC');
    EXECUTE format('REVOKE ALL ON taximeter.%I FROM taximeter_app, taximeter_settler', table_name);
    RETURN table_name;
END;
$$;

CREATE FUNCTION taximeter.buy_credits(org_id text, millicredits bigint, purchase_amount numeric, stripe_payment_id text DEFAULT NULL::text, metadata jsonb DEFAULT '{}'::jsonb) RETURNS public.org_billing_history
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    line public.org_billing_history;
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF purchase_amount IS NULL OR purchase_amount = 'NaN' OR purchase_amount NOT BETWEEN 0 AND 99999999.99
       OR purchase_amount <> round(purchase_amount, 2) THEN
        RAISE EXCEPTION 'purchase_amount must be between 0 and 99999999.99 dollars, in whole cents, not %',
            coalesce(purchase_amount::text, 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO public.organization_credit_pools AS pool (org_id, total_credits) VALUES ($1, millicredits)
    ON CONFLICT ON CONSTRAINT organization_credit_pools_pkey DO UPDATE
       SET total_credits = pool.total_credits + EXCLUDED.total_credits, updated_at = now();
    INSERT INTO public.org_billing_history (org_id, event_type, amount, stripe_payment_id, metadata)
    VALUES ($1, 'credits_purchased', purchase_amount, $4, jsonb_build_object('millicredits', millicredits) || $5)
    RETURNING * INTO line;
    RETURN line;
END;
$_$;

CREATE FUNCTION taximeter.carry_out_move(move_id uuid) RETURNS taximeter.moves
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    move      taximeter.moves;
    source    public.user_credit_allocations;
    target    public.user_credit_allocations;
    pool      public.organization_credit_pools;
    closes    boolean;
    remaining bigint := 0;
    moved     bigint;
BEGIN
    SELECT * INTO STRICT move FROM taximeter.moves AS found WHERE found.id = move_id FOR UPDATE;
    IF move.state <> 'pending' THEN
        RETURN move;
    END IF;
    closes := move.allocation_id IS NOT NULL;
    IF move.kind = 'transfer' AND 2 > (
        SELECT count(*) FROM (
            SELECT FROM public.organization_members AS member
             WHERE member.org_id = move.org_id AND member.user_id IN (move.from_user, move.to_user) AND member.status = 'active'
             ORDER BY member.user_id
               FOR SHARE) AS active) THEN
        RETURN taximeter.end_move(move_id, 'refused', 'not_a_member');
    END IF;

    PERFORM FROM public.user_credit_allocations AS allocation
      WHERE allocation.org_id = move.org_id AND allocation.user_id IN (move.from_user, move.to_user) AND allocation.is_active
      ORDER BY allocation.org_id, allocation.user_id
        FOR NO KEY UPDATE;
    SELECT * INTO source FROM public.user_credit_allocations AS allocation
     WHERE allocation.org_id = move.org_id AND allocation.user_id = move.from_user AND allocation.is_active;
    IF source.closing IS NULL AND NOT closes AND coalesce(source.expires_at > now(), true)
       OR source.closing IS NOT NULL AND source.id = move.allocation_id THEN
        remaining := coalesce(source.allocated_credits - source.used_credits, 0);
    END IF;
    moved := CASE WHEN closes THEN least(move.amount, remaining) ELSE move.amount END;
    IF moved <= 0 OR remaining < moved THEN
        RETURN taximeter.end_move(move_id, 'refused', 'insufficient', greatest(remaining, 0), 0);
    END IF;
    IF move.kind = 'transfer' THEN
        SELECT * INTO target FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = move.org_id AND allocation.user_id = move.to_user AND allocation.is_active;
        IF target.closing IS NULL AND target.expires_at <= now() THEN
            -- The settler begins to close it within a second; what is free in it is not to be revived.
            RETURN taximeter.end_move(move_id, 'refused', 'expiring');
        END IF;
        -- Here and not below, so that a new row is locked before the pool, like one that exists.
        INSERT INTO public.user_credit_allocations (org_id, user_id, allocated_by)
        VALUES (move.org_id, move.to_user, move.actor)
        ON CONFLICT (org_id, user_id) WHERE is_active DO NOTHING;
    END IF;

    -- The hold ends in the step that applies the first of the entries that follow.
    PERFORM set_config('taximeter.entry_kind', move.kind, true),
            set_config('taximeter.entry_reference', move_id::text, true),
            set_config('taximeter.entry_hold', move.org_id || '/move/' || move_id, true);
    UPDATE public.user_credit_allocations AS allocation
       SET allocated_credits = allocation.allocated_credits - moved, is_active = NOT closes OR moved < remaining, updated_at = now()
     WHERE allocation.id = source.id;
    PERFORM set_config('taximeter.entry_hold', '', true);
    UPDATE public.user_credit_allocations AS allocation
       SET allocated_credits = allocation.allocated_credits + moved, updated_at = now(), closing = NULL,
           expires_at = CASE WHEN allocation.closing IS NULL THEN allocation.expires_at END
     WHERE allocation.org_id = move.org_id AND allocation.user_id = move.to_user AND allocation.is_active;
    PERFORM set_config('taximeter.entry_kind', '', true), set_config('taximeter.entry_reference', '', true);

    SELECT * INTO STRICT pool FROM public.organization_credit_pools AS found WHERE found.org_id = move.org_id;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    SELECT move.actor, 'user.allocation.created', move.org_id, move.to_user,
           jsonb_build_object('allocated_credits', 0),
           jsonb_build_object('allocated_credits', moved, 'move_id', move_id), move.request_id
     WHERE move.kind = 'transfer' AND target.id IS NULL;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    VALUES (move.actor,
            CASE move.kind WHEN 'transfer' THEN 'org.credits.transferred'
                           WHEN 'deallocation' THEN 'org.credits.deallocated' ELSE 'org.credits.returned' END,
            move.org_id, move.from_user,
            jsonb_build_object('allocated_credits', source.allocated_credits),
            jsonb_strip_nulls(jsonb_build_object(
                'allocated_credits', source.allocated_credits - moved, 'moved_credits', moved, 'to_user_id', move.to_user,
                'move_id', move_id, 'kind', move.kind, 'pool_available_credits', pool.available_credits)),
            move.request_id);
    UPDATE taximeter.moves AS ended
       SET state = 'done', amount = moved, pool_allocated = pool.allocated_credits, pool_available = pool.available_credits,
           ended_at = now()
     WHERE ended.id = move_id
    RETURNING * INTO move;
    RETURN move;
END;
$$;

CREATE FUNCTION taximeter.charge_digest(org_id text, request_id text, phase smallint, user_id text, shard integer, epoch bigint, seq bigint, amount bigint, created_at timestamp with time zone, by_expiry boolean) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN taximeter.digest_of(concat_ws('
'::text, org_id, request_id, phase, user_id, COALESCE((shard)::text, ''::text), COALESCE((epoch)::text, ''::text), COALESCE((seq)::text, ''::text), amount, ((EXTRACT(epoch FROM created_at) * (1000000)::numeric))::bigint, (by_expiry)::integer));

CREATE FUNCTION taximeter.charges_to_forget(kept interval) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT known.frozen_at + taximeter.clocks_apart() FROM taximeter.charge_generations AS known
     WHERE known.frozen_at <= now() - kept AND known.forgotten_at IS NULL;
$$;

CREATE FUNCTION taximeter.check_exposure_is_known() RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    oldest   timestamptz;
    are_full boolean;
BEGIN
    SELECT min(look.looked_at), bool_and(look.complete) INTO oldest, are_full FROM taximeter.exposure_looks AS look;
    IF oldest < clock_timestamp() - interval '10 seconds' OR NOT are_full THEN
        RAISE EXCEPTION 'what requests hold is not known (%), so nothing can be taken by SQL now; nothing was changed',
            CASE WHEN are_full THEN format('no settler has looked since %s', oldest) ELSE 'too many holds are open' END
            USING ERRCODE = 'object_not_in_prerequisite_state', CONSTRAINT = 'exposure_is_known',
                  HINT = 'Look for the settler, then try again: `taximeter check` says what is wrong.';
    END IF;
END;
$$;

CREATE FUNCTION taximeter.check_millicredits(millicredits bigint) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF millicredits IS NULL OR millicredits NOT BETWEEN 1 AND 1000000000000 THEN
        RAISE EXCEPTION 'millicredits must be between 1 and 1000000000000, not %', coalesce(millicredits::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END;
$$;

CREATE FUNCTION taximeter.check_request_ids_are_kept(kept interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF kept IS NULL OR kept < interval '30 days' THEN
        RAISE EXCEPTION 'request ids are kept for 30 days at least, not %', coalesce(kept::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END;
$$;

CREATE FUNCTION taximeter.claim_system_admin(issuer text, user_id text, email text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
BEGIN
    UPDATE taximeter.system_admins AS listed SET user_id = $2
     WHERE listed.issuer = $1 AND listed.email = lower($3) AND listed.user_id IS NULL AND listed.removed_at IS NULL
       AND NOT EXISTS (SELECT FROM taximeter.system_admins AS other
                        WHERE other.issuer = $1 AND other.user_id = $2 AND other.removed_at IS NULL);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO taximeter.audit_log (actor, action, target, after)
    VALUES ($2, 'system.admin.claimed', $2, jsonb_build_object('issuer', $1, 'user_id', $2, 'email', lower($3)));
    RETURN true;
END;
$_$;

CREATE FUNCTION taximeter.clocks_apart() RETURNS interval
    LANGUAGE sql IMMUTABLE
    RETURN '01:00:00'::interval;

CREATE FUNCTION taximeter.close_allocation() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    left_over CONSTANT bigint := least(NEW.allocated_credits, OLD.allocated_credits) - NEW.used_credits;
    kept      bigint := 0;
BEGIN
    IF coalesce(current_setting('taximeter.renewing', true), '') <> 'on' THEN
        kept := greatest(0, least(left_over, taximeter.open_credits(NEW.org_id, NEW.user_id)));
    END IF;
    NEW.allocated_credits := NEW.used_credits + kept;
    IF kept > 0 THEN
        NEW.is_active := true;
        NEW.closing := coalesce(
            NEW.closing, CASE WHEN current_setting('taximeter.entry_kind', true) = 'expiry' THEN 'expiry' ELSE 'removal' END);
        NEW.auto_renew := false;
        RAISE NOTICE 'requests of %/% have % millicredits open: the allocation is closed when they end', NEW.org_id, NEW.user_id, kept;
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END;
$$;

CREATE FUNCTION taximeter.close_expired() RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    expired_ids uuid[];
    expired_id  uuid;
BEGIN
    SELECT array_agg(locked.id) INTO expired_ids
      FROM (SELECT allocation.id FROM public.user_credit_allocations AS allocation
             WHERE allocation.is_active AND allocation.expires_at <= now()
             ORDER BY allocation.org_id, allocation.user_id
               FOR NO KEY UPDATE) AS locked;
    FOREACH expired_id IN ARRAY coalesce(expired_ids, '{}') LOOP
        PERFORM taximeter.expire_allocation(expired_id);
    END LOOP;
    RETURN coalesce(array_length(expired_ids, 1), 0);
END;
$$;

CREATE FUNCTION public.deactivate_expired_allocations() RETURNS integer
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT taximeter.close_expired();
$$;

CREATE FUNCTION public.deduct_credits(org_id text, user_id text, millicredits bigint, service_type text, service_name text, request_id text, request_metadata jsonb DEFAULT '{}'::jsonb) RETURNS TABLE(success boolean, remaining_credits bigint)
    LANGUAGE plpgsql ROWS 1
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    allocation_id uuid;
    remaining     bigint;
    request       CONSTANT text := request_id;
    opened        bigint; -- What requests have open.
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    IF service_type IS NULL OR length(service_type) NOT BETWEEN 1 AND 64 OR length(service_name) > 255 THEN
        RAISE EXCEPTION 'service_type must have 1 to 64 characters and service_name at most 255'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF request !~ '^[A-Za-z0-9._:-]{1,128}$' THEN
        RAISE EXCEPTION 'request_id must have 1 to 128 characters of A-Z a-z 0-9 . _ : -'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Twice: a row that is renewed while this waits for its lock is gone, and its successor only seen by the next statement.
    FOR attempt IN 1 .. 2 LOOP
        SELECT allocation.id, allocation.allocated_credits - allocation.used_credits INTO allocation_id, remaining
          FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
           AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
           FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    remaining := coalesce(remaining, 0);
    -- After the lock: what was settled meanwhile is in `remaining`, and may still count as open, never the other way round.
    opened := taximeter.open_credits($1, $2);

    IF remaining - opened < millicredits THEN
        -- It may still be a repetition of what took the credits.
        success := coalesce(taximeter.was_charged($1, $2, request, millicredits), false);
        remaining_credits := CASE WHEN success THEN remaining ELSE remaining - least(opened, greatest(remaining, 0)) END;
        IF NOT success THEN
            PERFORM taximeter.note_refused_deduction($1, $2, millicredits, remaining_credits, request);
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    IF request IS NOT NULL THEN
        -- The key knows the ids of this generation; those of the one before are asked for.
        INSERT INTO taximeter.charged_requests (org_id, request_id, user_id, amount)
        SELECT $1, request, $2, millicredits
         WHERE NOT EXISTS (SELECT FROM taximeter.charged_requests AS known
                            WHERE known.org_id = $1 AND known.request_id = request AND known.phase = 0)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN QUERY SELECT taximeter.was_charged($1, $2, request, millicredits), remaining;
            RETURN;
        END IF;
    END IF;
    PERFORM taximeter.check_exposure_is_known();

    PERFORM set_config('taximeter.charging', 'on', true),
            set_config('taximeter.entry_reference', coalesce(request, ''), true);
    UPDATE public.user_credit_allocations AS allocation
       SET used_credits = allocation.used_credits + millicredits, updated_at = now()
     WHERE allocation.id = allocation_id;
    INSERT INTO public.credit_usage_attribution
           (org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata)
    VALUES ($1, $2, $4, coalesce($5, ''), millicredits, request, coalesce($7, '{}'));
    PERFORM set_config('taximeter.charging', '', true), set_config('taximeter.entry_reference', '', true);

    success := true;
    remaining_credits := remaining - millicredits;
    RETURN NEXT;
END;
$_$;

CREATE FUNCTION taximeter.digest_of(text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((('x'::text || encode(substr(sha256(convert_to($1, 'UTF8'::name)), 1, 8), 'hex'::text)))::bit(64))::bigint;

CREATE FUNCTION taximeter.drop_attribution_month(month date) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $$
DECLARE
    starts          CONSTANT timestamp := date_trunc('month', month::timestamp);
    since           CONSTANT timestamptz := starts AT TIME ZONE 'UTC';
    until           CONSTANT timestamptz := (starts + interval '1 month') AT TIME ZONE 'UTC';
    partition_name  CONSTANT text := 'attribution_' || to_char(starts, 'YYYY_MM');
    has_partition   CONSTANT boolean := to_regclass('taximeter.' || partition_name) IS NOT NULL;
    older           date;
    found_rows      bigint;
    found_credits   bigint;
    known_rows      bigint;
    known_credits   bigint;
    dropped_rows    bigint;
    dropped_credits bigint;
BEGIN
    IF month IS NULL OR starts >= date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month' THEN
        RAISE EXCEPTION 'only months before the last one can be dropped, not %',
            coalesce(to_char(starts, 'YYYY-MM'), 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT min(known.month) INTO older FROM taximeter.usage_months() AS known
     WHERE known.month < starts AND known.partition IS NOT NULL;
    IF older IS NOT NULL THEN
        RAISE EXCEPTION '% is still there: older months go first', to_char(older, 'YYYY-MM')
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF has_partition THEN
        -- Nothing is added to this month from here on; others are written as always.
        EXECUTE format('LOCK TABLE taximeter.%I IN SHARE MODE', partition_name);
    ELSE
        LOCK TABLE taximeter.attribution_rest IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    SELECT count(*), coalesce(sum(usage.credits_used), 0) INTO found_rows, found_credits
      FROM public.credit_usage_attribution AS usage WHERE usage.created_at >= since AND usage.created_at < until;
    SELECT coalesce(sum(rollup.requests), 0), coalesce(sum(rollup.credits_used), 0) INTO known_rows, known_credits
      FROM taximeter.usage_monthly_by_org AS rollup WHERE rollup.month = starts::date;
    SELECT coalesce(sum(gone.requests), 0), coalesce(sum(gone.credits_used), 0) INTO dropped_rows, dropped_credits
      FROM taximeter.dropped_months AS gone WHERE gone.month = starts::date;
    IF has_partition AND (found_rows + dropped_rows, found_credits + dropped_credits) <> (known_rows, known_credits) THEN
        RAISE EXCEPTION 'the rollup of % has % requests and % millicredits, its rows are % and %: see `taximeter check`',
            to_char(starts, 'YYYY-MM'), known_rows - dropped_rows, known_credits - dropped_credits, found_rows, found_credits
            USING ERRCODE = 'data_corrupted';
    END IF;
    INSERT INTO taximeter.dropped_months AS gone (month, requests, credits_used)
    VALUES (starts::date, known_rows, known_credits)
    ON CONFLICT ON CONSTRAINT dropped_months_pkey DO UPDATE
       SET requests = EXCLUDED.requests, credits_used = EXCLUDED.credits_used,
           dropped_at = EXCLUDED.dropped_at, dropped_by = EXCLUDED.dropped_by;
    IF has_partition THEN
        EXECUTE format('DROP TABLE taximeter.%I', partition_name);
    ELSE
        PERFORM set_config('taximeter.moving_rows', 'on', true);
        DELETE FROM taximeter.attribution_rest AS rest WHERE rest.created_at >= since AND rest.created_at < until;
        PERFORM set_config('taximeter.moving_rows', '', true);
    END IF;
    RETURN found_rows;
END;
$$;

CREATE FUNCTION taximeter.end_accounts(org text, most integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    ending  taximeter.endings;
    members integer;
    ids     uuid[];
    users   text[];
    one     uuid;
BEGIN
    SELECT * INTO ending FROM taximeter.endings AS known WHERE known.org_id = org FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE public.organization_members AS member SET status = 'removed'
      FROM (SELECT user_id FROM public.organization_members WHERE org_id = org AND status IN ('active', 'invited')
             ORDER BY status, created_at, user_id LIMIT most FOR NO KEY UPDATE) AS leaving
     WHERE member.org_id = org AND member.user_id = leaving.user_id;
    GET DIAGNOSTICS members = ROW_COUNT;
    SELECT array_agg(id), array_agg(user_id) INTO ids, users
      FROM (SELECT id, user_id FROM public.user_credit_allocations
             WHERE org_id = org AND is_active AND closing IS NULL AND user_id > ending.after
             ORDER BY org_id, user_id LIMIT most FOR NO KEY UPDATE) AS locked;
    FOREACH one IN ARRAY coalesce(ids, '{}') LOOP
        PERFORM taximeter.begin_closing(one, 'removal');
    END LOOP;
    IF members < most AND coalesce(cardinality(ids), 0) < most THEN
        DELETE FROM taximeter.endings AS known WHERE known.org_id = org;
        RETURN false;
    END IF;
    UPDATE taximeter.endings AS known SET after = coalesce(users[cardinality(users)], known.after) WHERE known.org_id = org;
    RETURN true;
END;
$$;

CREATE FUNCTION taximeter.end_billing_periods(today date) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    one        public.organization_subscriptions;
    new_plan   jsonb;
    cycle_from date;
    cycle_to   date;
    ended      integer := 0;
BEGIN
    IF today IS NULL THEN
        RAISE EXCEPTION 'today must be a date, not null' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR one IN SELECT * FROM public.organization_subscriptions AS subscription
                WHERE NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = subscription.org_id) AND subscription.status <> 'canceled' AND subscription.billing_cycle_end <= today
                ORDER BY subscription.org_id
                  FOR UPDATE SKIP LOCKED LOOP
        ended := ended + 1;
        IF one.cancel_at_period_end THEN
            UPDATE public.organization_subscriptions AS subscription
               SET status = 'canceled', pending_plan = NULL, updated_at = now()
             WHERE subscription.id = one.id;
            INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
            VALUES ('settler', 'org.subscription.ended', one.org_id, one.id::text,
                    jsonb_build_object('status', one.status), jsonb_build_object('status', 'canceled'));
            CONTINUE;
        END IF;
        cycle_from := one.billing_cycle_start;
        cycle_to := one.billing_cycle_end;
        WHILE cycle_to <= today LOOP
            cycle_from := cycle_to;
            cycle_to := taximeter.next_billing_date(
                cycle_to, coalesce(one.billing_anchor_day, extract(day FROM one.billing_cycle_end))::integer);
        END LOOP;
        new_plan := coalesce(one.pending_plan, jsonb_build_object(
            'plan_code', one.plan_code, 'plan_name', one.plan_name, 'monthly_price', one.monthly_price));
        UPDATE public.organization_subscriptions AS subscription
           SET plan_code = new_plan ->> 'plan_code', plan_name = new_plan ->> 'plan_name',
               monthly_price = (new_plan ->> 'monthly_price')::numeric, pending_plan = NULL,
               billing_cycle_start = cycle_from, billing_cycle_end = cycle_to, updated_at = now()
         WHERE subscription.id = one.id;
        IF one.pending_plan IS NOT NULL THEN
            INSERT INTO public.org_billing_history (org_id, event_type, amount, metadata)
            VALUES (one.org_id, 'subscription_upgraded', 0, jsonb_build_object(
                'from_plan', one.plan_code, 'to_plan', new_plan ->> 'plan_code', 'effective_immediately', false));
            INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
            VALUES (coalesce(new_plan ->> 'requested_by', 'settler'), 'org.subscription.upgraded', one.org_id, one.id::text,
                    jsonb_build_object('plan_code', one.plan_code, 'monthly_price', one.monthly_price::text),
                    jsonb_build_object('plan_code', new_plan ->> 'plan_code', 'monthly_price', new_plan ->> 'monthly_price',
                                       'applied_by', 'settler'));
        END IF;
    END LOOP;
    RETURN ended;
END;
$$;

CREATE FUNCTION taximeter.end_move(move_id uuid, state text, reason text, have bigint DEFAULT NULL::bigint, held bigint DEFAULT NULL::bigint) RETURNS taximeter.moves
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    UPDATE taximeter.moves AS move
       SET state = end_move.state, reason = end_move.reason, have = end_move.have, held = end_move.held, ended_at = now()
     WHERE move.id = move_id
    RETURNING move.*;
$$;

CREATE FUNCTION taximeter.end_restoring_month(month date) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $_$
DECLARE
    since          CONSTANT timestamptz := month::timestamp AT TIME ZONE 'UTC';
    until          CONSTANT timestamptz := (month + interval '1 month')::timestamp AT TIME ZONE 'UTC';
    table_name     CONSTANT text := 'restoring_' || to_char(month, 'YYYY_MM');
    partition_name CONSTANT text := 'attribution_' || to_char(month, 'YYYY_MM');
BEGIN
    IF month IS DISTINCT FROM (SELECT max(gone.month) FROM taximeter.dropped_months AS gone) THEN
        RAISE EXCEPTION 'only the newest month that was dropped can come back' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    LOCK TABLE public.credit_usage_attribution IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE taximeter.attribution_rest IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE taximeter.%I RENAME TO %I', table_name, partition_name);
    PERFORM set_config('taximeter.moving_rows', 'on', true);
    EXECUTE format(
        'WITH moved AS (DELETE FROM taximeter.attribution_rest WHERE created_at >= %1$L AND created_at < %2$L RETURNING *)'
        ' INSERT INTO taximeter.%3$I SELECT * FROM moved', since, until, partition_name);
    PERFORM set_config('taximeter.moving_rows', '', true);
    EXECUTE format('ALTER TABLE public.credit_usage_attribution ATTACH PARTITION taximeter.%I FOR VALUES FROM (%L) TO (%L)',
                   partition_name, since, until);
    EXECUTE format('ALTER TABLE taximeter.%I DROP CONSTRAINT is_of_its_month', partition_name);
    PERFORM taximeter.guard_partition(partition_name);
    DELETE FROM taximeter.dropped_months AS gone WHERE gone.month = end_restoring_month.month;
    UPDATE taximeter.archived_months AS archived SET state = 'restored'
     WHERE archived.month = end_restoring_month.month AND archived.state = 'archived';
END;
$_$;

CREATE FUNCTION taximeter.end_try(delivery_id bigint, try_number integer, succeeded boolean, retry_s double precision, rest_s double precision, entry jsonb, reason text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION taximeter.ensure_attribution_partitions(months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $$
DECLARE
    this_month CONSTANT timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    made       integer := 0;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'months_ahead must be between 0 and 120, not %', months_ahead
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR month IN -1 .. months_ahead LOOP
        IF taximeter.make_attribution_month((this_month + make_interval(months => month))::date) THEN
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END;
$$;

CREATE FUNCTION taximeter.ensure_pool() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO public.organization_credit_pools (org_id) VALUES (NEW.org_id) ON CONFLICT (org_id) DO NOTHING;
    RETURN NEW;
END;
$$;

CREATE FUNCTION taximeter.entry_digest(org_id text, user_id text, entry_seq bigint, delta bigint, kind text, reference text, hold text, created_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN taximeter.digest_of(concat_ws('
'::text, org_id, user_id, entry_seq, delta, kind, COALESCE(reference, ''::text), COALESCE(hold, ''::text), ((EXTRACT(epoch FROM created_at) * (1000000)::numeric))::bigint));

CREATE FUNCTION taximeter.expire_allocation(expired_id uuid, at_time timestamp with time zone DEFAULT now()) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    expired public.user_credit_allocations;
    closed  public.user_credit_allocations;
    period  interval; -- In seconds alone: a period does not change with the clocks of a time zone.
    starts  timestamptz;
    have    bigint := 0;
    renewed boolean := false;
BEGIN
    SELECT * INTO STRICT expired FROM public.user_credit_allocations AS allocation WHERE allocation.id = expired_id;
    IF expired.auto_renew THEN
        -- The account before the pool, as everywhere.
        PERFORM FROM taximeter.accounts AS account
          WHERE account.org_id = expired.org_id AND account.user_id = expired.user_id FOR NO KEY UPDATE;
        -- With what it gives back itself.
        SELECT pool.available_credits + expired.allocated_credits - expired.used_credits INTO have
          FROM public.organization_credit_pools AS pool WHERE pool.org_id = expired.org_id FOR NO KEY UPDATE;
        renewed := have >= expired.allocated_credits;
    END IF;
    -- A renewed one is replaced in this transaction, by one that pays for what requests have open.
    PERFORM set_config('taximeter.entry_kind', 'expiry', true),
            set_config('taximeter.renewing', CASE WHEN renewed THEN 'on' ELSE '' END, true);
    UPDATE public.user_credit_allocations AS allocation
       SET is_active = false
     WHERE allocation.id = expired_id
    RETURNING * INTO closed;
    IF renewed THEN
        period := make_interval(secs => greatest(1, extract(epoch FROM expired.expires_at - expired.created_at)));
        starts := CASE WHEN expired.expires_at + period > at_time THEN expired.expires_at ELSE at_time END;
        PERFORM set_config('taximeter.entry_kind', 'renewal', true);
        INSERT INTO public.user_credit_allocations
               (org_id, user_id, allocated_credits, allocated_by, auto_renew, created_at, expires_at)
        VALUES (expired.org_id, expired.user_id, expired.allocated_credits, expired.allocated_by, true,
                starts, starts + period);
    ELSIF expired.auto_renew THEN
        PERFORM taximeter.note_failed_renewal(expired, have);
    END IF;
    PERFORM set_config('taximeter.entry_kind', '', true), set_config('taximeter.renewing', '', true);
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES ('taximeter:expiry', CASE WHEN renewed THEN 'user.allocation.renewed' ELSE 'user.allocation.expired' END,
            expired.org_id, expired.user_id,
            jsonb_build_object('allocated_credits', expired.allocated_credits, 'used_credits', expired.used_credits),
            jsonb_build_object('returned_credits', expired.allocated_credits - closed.allocated_credits,
                               'renewed_credits', CASE WHEN renewed THEN expired.allocated_credits ELSE 0 END));
END;
$$;

CREATE FUNCTION taximeter.forget_charges(kept interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $_$
DECLARE
    old    taximeter.charge_generations;
    frozen text;
    gone   bigint;
BEGIN
    PERFORM taximeter.check_request_ids_are_kept(kept);
    SELECT * INTO old FROM taximeter.charge_generations AS known
     WHERE known.frozen_at <= now() - kept AND known.forgotten_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    frozen := 'charged_requests_' || old.generation;
    -- Usage that is deleted by hand takes its charge with it: not while these are counted.
    EXECUTE format('LOCK TABLE taximeter.%I IN SHARE MODE', frozen);
    EXECUTE format(
        'WITH counted AS MATERIALIZED ('
        '    SELECT shard, epoch, count(*) AS requests, count(seq) AS events, max(seq) AS seq_last, sum(amount) AS credits_used'
        '      FROM taximeter.%1$I GROUP BY shard, epoch'
        '), noted AS ('
        '    INSERT INTO taximeter.forgotten_charges (generation, shard, epoch, events, seq_last)'
        '    SELECT %2$s, shard, epoch, events, seq_last FROM counted WHERE events > 0)'
        ' UPDATE taximeter.charge_generations AS known SET forgotten_at = now(), (requests, credits_used) ='
        ' (SELECT coalesce(sum(counted.requests), 0)::bigint, coalesce(sum(counted.credits_used), 0)::bigint FROM counted)'
        ' WHERE known.generation = %2$s RETURNING requests', frozen, old.generation) INTO gone;
    PERFORM taximeter.guard_charges('', NULL);
    EXECUTE format('DROP TABLE taximeter.%I', frozen);
    RETURN gone;
END;
$_$;

CREATE FUNCTION taximeter.freeze_charges(kept interval) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
DECLARE
    open_one taximeter.charge_generations;
    frozen   text;
    indexes  text[];
    grants   aclitem[];
    one      record;
BEGIN
    PERFORM taximeter.check_request_ids_are_kept(kept);
    SELECT * INTO open_one FROM taximeter.charge_generations AS known WHERE known.frozen_at IS NULL FOR UPDATE;
    IF NOT FOUND OR open_one.began_at > now() - kept
       OR EXISTS (SELECT FROM taximeter.charge_generations AS known
                   WHERE known.frozen_at IS NOT NULL AND known.forgotten_at IS NULL) THEN
        RETURN false;
    END IF;
    -- From here on nobody is in the middle of a charge, and the next one finds the new table.
    LOCK TABLE taximeter.charged_requests IN ACCESS EXCLUSIVE MODE;
    frozen := 'charged_requests_' || open_one.generation;
    SELECT array_agg(pg_get_indexdef(index.indexrelid) ORDER BY index.indisprimary DESC, index.indexrelid) INTO indexes
      FROM pg_index AS index WHERE index.indrelid = 'taximeter.charged_requests'::regclass;
    SELECT relacl INTO grants FROM pg_class WHERE oid = 'taximeter.charged_requests'::regclass;
    FOR one IN SELECT relname FROM pg_index AS index JOIN pg_class ON oid = index.indexrelid
                WHERE index.indrelid = 'taximeter.charged_requests'::regclass LOOP
        EXECUTE format('ALTER INDEX taximeter.%I RENAME TO %I', one.relname, one.relname || '_' || open_one.generation);
    END LOOP;
    DROP TRIGGER IF EXISTS request_is_charged_once ON taximeter.charged_requests;
    EXECUTE format('ALTER TABLE taximeter.charged_requests RENAME TO %I', frozen);
    EXECUTE format('CREATE TABLE taximeter.charged_requests (LIKE taximeter.%I INCLUDING ALL EXCLUDING INDEXES)', frozen);
    FOR place IN 1 .. array_length(indexes, 1) LOOP
        EXECUTE indexes[place];
    END LOOP;
    ALTER TABLE taximeter.charged_requests ADD CONSTRAINT charged_requests_pkey PRIMARY KEY USING INDEX charged_requests_pkey;
    EXECUTE format('ALTER TABLE taximeter.%I INHERIT taximeter.charged_requests', frozen);
    -- The rights of the table that was there; the frozen one may be read.
    FOR one IN SELECT DISTINCT grantee::regrole::text AS grantee
                 FROM pg_class AS class, aclexplode(class.relacl) AS acl
                WHERE class.oid = 'taximeter.charged_requests'::regclass AND acl.grantee NOT IN (class.relowner, 0) LOOP
        EXECUTE format('REVOKE ALL ON taximeter.charged_requests FROM %s', one.grantee);
    END LOOP;
    FOR one IN SELECT acl.grantee::regrole::text AS grantee, acl.privilege_type
                 FROM pg_class AS class, aclexplode(grants) AS acl
                WHERE class.oid = 'taximeter.charged_requests'::regclass AND acl.grantee NOT IN (class.relowner, 0) LOOP
        EXECUTE format('GRANT %s ON taximeter.charged_requests TO %s', one.privilege_type, one.grantee);
        IF one.privilege_type <> 'SELECT' THEN
            EXECUTE format('REVOKE %s ON taximeter.%I FROM %s', one.privilege_type, frozen, one.grantee);
        END IF;
    END LOOP;
    UPDATE taximeter.charge_generations AS known SET frozen_at = clock_timestamp() WHERE known.generation = open_one.generation;
    INSERT INTO taximeter.charge_generations (generation) VALUES (open_one.generation + 1);
    PERFORM taximeter.guard_charges(frozen, clock_timestamp());
    RETURN true;
END;
$$;

CREATE FUNCTION taximeter.guard_charges(frozen text, frozen_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER request_is_charged_once AFTER INSERT ON taximeter.charged_requests REFERENCING NEW TABLE AS inserted'
        ' FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse_known_requests(%L, %L, %L, %L)',
        frozen, CASE WHEN frozen <> '' THEN pg_current_xact_id()::text ELSE '' END, coalesce(frozen_now::text, ''),
        coalesce((SELECT (max(known.frozen_at) + taximeter.clocks_apart())::text
                    FROM taximeter.charge_generations AS known WHERE known.forgotten_at IS NOT NULL), ''));
    CREATE OR REPLACE TRIGGER charges_are_noted_behind AFTER INSERT ON taximeter.charged_requests
        REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();
    CREATE OR REPLACE TRIGGER charges_are_noted_gone AFTER DELETE ON taximeter.charged_requests
        REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_charges_behind();
END;
$$;

CREATE FUNCTION taximeter.guard_partition(partition_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    partition CONSTANT text := format('taximeter.%I', partition_name);
    whole     CONSTANT regclass := 'public.credit_usage_attribution';
    guest     regrole;
    of_all    text;
BEGIN
    FOR guest IN SELECT DISTINCT acl.grantee FROM pg_class AS known, aclexplode(known.relacl) AS acl
                  WHERE known.oid = partition::regclass AND acl.grantee NOT IN (0, known.relowner) LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', partition, guest);
    END LOOP;
    EXECUTE format(
        $sql$CREATE OR REPLACE TRIGGER partition_is_not_written_directly BEFORE UPDATE OR DELETE OR TRUNCATE ON %s
             FOR EACH STATEMENT WHEN (current_setting('taximeter.moving_rows', true) IS DISTINCT FROM 'on')
             EXECUTE FUNCTION taximeter.refuse('write to credit_usage_attribution')$sql$,
        partition);
    EXECUTE format(
        $sql$CREATE OR REPLACE TRIGGER partition_is_filled_by_settling BEFORE INSERT ON %s FOR EACH STATEMENT
             WHEN (current_setting('taximeter.moving_rows', true) IS DISTINCT FROM 'on'
                   AND current_setting('taximeter.settling', true) IS DISTINCT FROM 'on')
             EXECUTE FUNCTION taximeter.refuse('write to credit_usage_attribution')$sql$,
        partition);
    -- What an insert into the whole does, one into the partition does: triggers, and who may.
    FOR of_all IN SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = whole AND tgtype & 4 <> 0 ORDER BY tgname LOOP
        EXECUTE regexp_replace(replace(of_all, 'CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER'), ' ON ' || whole::text, ' ON ' || partition);
    END LOOP;
    FOR guest IN SELECT DISTINCT acl.grantee FROM pg_class AS known, aclexplode(known.relacl) AS acl
                  WHERE known.oid = whole AND acl.privilege_type = 'INSERT' AND acl.grantee NOT IN (0, known.relowner) LOOP
        EXECUTE format('GRANT INSERT ON %s TO %s', partition, guest);
    END LOOP;
END;
$_$;

CREATE FUNCTION public.has_sufficient_credits(org_id text, user_id text, millicredits bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
BEGIN
    PERFORM taximeter.check_millicredits(millicredits);
    RETURN EXISTS (
        SELECT FROM public.user_credit_allocations AS allocation
         WHERE allocation.org_id = $1 AND allocation.user_id = $2 AND allocation.is_active
           AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
           AND allocation.allocated_credits - allocation.used_credits - taximeter.open_credits($1, $2) >= $3);
END;
$_$;

CREATE FUNCTION taximeter.keep_price_list() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.withdrawn_at IS NULL
       AND to_jsonb(NEW) - 'withdrawn_at' - 'withdrawn_by' - 'content' = to_jsonb(OLD) - 'withdrawn_at' - 'withdrawn_by' - 'content'
       AND NEW.content = OLD.content THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'price lists stay as they are; one that has not begun can be withdrawn, once' USING ERRCODE = 'restrict_violation';
END;
$$;

CREATE FUNCTION taximeter.keep_what_is_open() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    opened CONSTANT bigint := taximeter.open_credits(NEW.org_id, NEW.user_id);
BEGIN
    IF opened > 0 AND NEW.allocated_credits - NEW.used_credits < opened THEN
        RAISE EXCEPTION 'requests of %/% have % millicredits open, and % would be left for them', NEW.org_id, NEW.user_id, opened,
            NEW.allocated_credits - NEW.used_credits
            USING ERRCODE = 'check_violation', CONSTRAINT = 'open_credits_stay', SCHEMA = 'public',
                  TABLE = 'user_credit_allocations', HINT = 'Try again when they have ended, or leave that much.';
    END IF;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.labels_of(metadata jsonb) RETURNS TABLE(kind text, label text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC
 SELECT said.kind,
     "left"((said.value #>> '{}'::text[]), 64) AS "left"
    FROM ( VALUES ('key'::text,(labels_of.metadata -> 'key_id'::text)), ('tag'::text,(labels_of.metadata -> 'tag'::text))) said(kind, value)
   WHERE ((jsonb_typeof(said.value) = 'string'::text) AND (said.value <> '""'::jsonb));
END;

CREATE FUNCTION taximeter.ledger_position(OUT history text, OUT "position" bigint) RETURNS record
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT (pg_control_system()).system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
           pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint
$$;

CREATE FUNCTION taximeter.let_next_go(to_receiver uuid, about text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    UPDATE taximeter.deliveries AS delivery SET due_at = now()
     WHERE delivery.id = (SELECT first.id FROM taximeter.deliveries AS first
                           WHERE first.receiver_id = to_receiver AND first.subject = about AND first.state = 'waiting'
                           ORDER BY first.notice_n LIMIT 1)
       AND delivery.due_at = 'infinity';
$$;

CREATE FUNCTION taximeter.lock_attribution_month(month date) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $$
DECLARE
    partition_name CONSTANT text := 'attribution_' || to_char(month, 'YYYY_MM');
BEGIN
    IF to_regclass('taximeter.' || partition_name) IS NOT NULL THEN
        EXECUTE format('LOCK TABLE taximeter.%I IN SHARE MODE', partition_name);
    ELSE
        LOCK TABLE taximeter.attribution_rest IN SHARE ROW EXCLUSIVE MODE;
    END IF;
END;
$$;

CREATE FUNCTION taximeter.make_attribution_month(month date) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    starts         CONSTANT timestamp := date_trunc('month', month::timestamp);
    ends           CONSTANT timestamp := starts + interval '1 month';
    partition_name CONSTANT text := 'attribution_' || to_char(starts, 'YYYY_MM');
BEGIN
    IF to_regclass('taximeter.' || partition_name) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE public.credit_usage_attribution IN SHARE UPDATE EXCLUSIVE MODE;
    -- Another session may have made it while this one waited.
    IF to_regclass('taximeter.' || partition_name) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE taximeter.attribution_rest IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE taximeter.%I (LIKE public.credit_usage_attribution INCLUDING ALL)', partition_name);
    PERFORM set_config('taximeter.moving_rows', 'on', true);
    EXECUTE format(
        'WITH moved AS (DELETE FROM taximeter.attribution_rest WHERE created_at >= %1$L AND created_at < %2$L RETURNING *)'
        ' INSERT INTO taximeter.%3$I SELECT * FROM moved',
        starts AT TIME ZONE 'UTC', ends AT TIME ZONE 'UTC', partition_name);
    PERFORM set_config('taximeter.moving_rows', '', true);
    EXECUTE format(
        'ALTER TABLE public.credit_usage_attribution ATTACH PARTITION taximeter.%I FOR VALUES FROM (%L) TO (%L)',
        partition_name, starts AT TIME ZONE 'UTC', ends AT TIME ZONE 'UTC');
    PERFORM taximeter.guard_partition(partition_name);
    RETURN true;
END;
$_$;

CREATE FUNCTION taximeter.move_hints(org_ids text[], user_ids text[], numbers bigint[], of_shard integer, at_epoch bigint, on_server text, at_start bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(74099, of_shard);
    UPDATE taximeter.accounts AS account
       SET applied_seq = least(said.applied, account.entry_seq)
      FROM (SELECT a.org_id, a.user_id, wanted.applied
              FROM taximeter.accounts AS a
              JOIN unnest(org_ids, user_ids, numbers) AS wanted (org_id, user_id, applied)
                ON a.org_id = wanted.org_id AND a.user_id = wanted.user_id
             WHERE a.applied_seq <> wanted.applied
             ORDER BY a.org_id, a.user_id
               FOR NO KEY UPDATE OF a SKIP LOCKED) AS said
     WHERE account.org_id = said.org_id AND account.user_id = said.user_id
       AND EXISTS (SELECT FROM taximeter.watermarks AS mark
                    WHERE mark.shard = of_shard AND mark.epoch = at_epoch AND mark.run_id IS NOT DISTINCT FROM on_server
                      AND mark.starts = at_start);
END;
$$;

CREATE FUNCTION taximeter.move_pool(org text, allocated_change bigint, closed_change bigint, used_change bigint, enforce boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    need CONSTANT bigint := allocated_change + closed_change;
    have bigint;
BEGIN
    UPDATE public.organization_credit_pools AS pool
       SET allocated_credits = pool.allocated_credits + allocated_change,
           closed_credits = pool.closed_credits + closed_change,
           used_credits = pool.used_credits + used_change,
           updated_at = now()
     WHERE pool.org_id = org
       AND (NOT enforce OR need <= 0 OR pool.total_credits - pool.allocated_credits - pool.closed_credits >= need);
    IF NOT FOUND THEN
        SELECT pool.available_credits INTO have FROM public.organization_credit_pools AS pool WHERE pool.org_id = org;
        RAISE EXCEPTION 'Insufficient credits in the pool of organisation %: need % millicredits, have %',
            org, need, coalesce(have, 0)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'pool_can_pay', SCHEMA = 'public',
                  TABLE = 'organization_credit_pools';
    END IF;
END;
$$;

CREATE FUNCTION taximeter.next_billing_date(ended date, anchor_day integer) RETURNS date
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT next_month.first_day + least(
               anchor_day, extract(day FROM next_month.first_day + interval '1 month' - interval '1 day')::integer) - 1
      FROM (SELECT (date_trunc('month', ended::timestamp) + interval '1 month')::date AS first_day) AS next_month
$$;

CREATE FUNCTION taximeter.note_audit_end() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO taximeter.audit_end AS known (n, digest) VALUES (NEW.n, NEW.digest)
        ON CONFLICT (is_only) DO UPDATE SET n = NEW.n, digest = NEW.digest
     WHERE EXISTS (SELECT FROM taximeter.audit_chain AS chain WHERE chain.n = known.n AND chain.digest = known.digest);
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_charges_behind() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    until CONSTANT timestamptz := taximeter.noted_until();
    times CONSTANT integer := CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END;
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, hour, shard, epoch, rows, credits, digest)
    SELECT CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'late' END, 'charges', date_trunc('hour', created_at, 'UTC'), shard, epoch,
           times * count(*), times * sum(amount),
           times * sum(taximeter.charge_digest(org_id, request_id, phase, user_id, shard, epoch, seq, amount, created_at, by_expiry))
      FROM changed WHERE created_at < until GROUP BY 3, 4, 5;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_condition(subject text, is_wrong boolean, type_wrong text, type_right text, data jsonb) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    was_wrong boolean;
BEGIN
    SELECT known.is_wrong INTO was_wrong FROM taximeter.conditions AS known WHERE known.subject = $1;
    IF coalesce(was_wrong, false) = $2 THEN
        RETURN false;
    END IF;
    INSERT INTO taximeter.conditions AS known (subject, is_wrong) VALUES ($1, $2)
    ON CONFLICT ON CONSTRAINT conditions_pkey DO UPDATE SET is_wrong = EXCLUDED.is_wrong, since = now()
     WHERE known.is_wrong <> EXCLUDED.is_wrong;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM taximeter.write_notice(CASE WHEN $2 THEN type_wrong ELSE type_right END, NULL, $1, data);
    RETURN true;
END;
$_$;

CREATE FUNCTION taximeter.note_entries_behind() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    until CONSTANT timestamptz := taximeter.noted_until();
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, hour, rows, credits, digest)
    SELECT 'late', 'entries', date_trunc('hour', created_at, 'UTC'), count(*), sum(delta),
           sum(taximeter.entry_digest(org_id, user_id, entry_seq, delta, kind, reference, hold, created_at))
      FROM changed WHERE created_at < until GROUP BY 3;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_exhausted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES (CASE WHEN current_setting('taximeter.settling', true) = 'on' THEN 'taximeter:settle' ELSE 'taximeter:sql' END,
            'user.allocation.exhausted', NEW.org_id, NEW.user_id,
            jsonb_build_object('allocated_credits', OLD.allocated_credits, 'used_credits', OLD.used_credits),
            jsonb_build_object('allocated_credits', NEW.allocated_credits, 'used_credits', NEW.used_credits));
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_expired() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM taximeter.write_notice(
        CASE current_setting('taximeter.renewing', true) WHEN 'on' THEN 'allocation.renewed' ELSE 'allocation.expired' END,
        NEW.org_id, 'allocation/' || NEW.org_id || '/' || NEW.user_id,
        jsonb_build_object(
            'user_id', NEW.user_id, 'allocated_credits', OLD.allocated_credits, 'used_credits', OLD.used_credits,
            'remaining_credits', OLD.remaining_credits, 'expires_at', NEW.expires_at));
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_expiring(at_time timestamp with time zone, most integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    mark  taximeter.notice_marks;
    one   record;
    upto  timestamptz;
    after timestamptz;
    ended timestamptz; -- Of the last that was noted,
    id    text;        -- and which it was.
    seen  integer;
    noted integer := 0;
BEGIN
    IF at_time IS NULL OR most IS NULL THEN
        RAISE EXCEPTION 'note_expiring needs a time and a number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR mark IN SELECT * FROM taximeter.notice_marks AS known ORDER BY known.what, known.days FOR UPDATE SKIP LOCKED LOOP
        upto := at_time + make_interval(days => mark.days);
        after := at_time + CASE mark.days WHEN 1 THEN interval '0' ELSE interval '1 day' END; -- Later ones are the last day's to say.
        seen := 0;
        FOR one IN
            SELECT * FROM (
                SELECT allocation.expires_at, allocation.id::text AS last_id, allocation.org_id,
                       'allocation/' || allocation.org_id || '/' || allocation.user_id AS subject,
                       jsonb_build_object(
                           'user_id', allocation.user_id, 'days', mark.days, 'expires_at', allocation.expires_at,
                           'remaining_credits', allocation.remaining_credits, 'auto_renew', allocation.auto_renew) AS data
                  FROM public.user_credit_allocations AS allocation
                 WHERE mark.what = 'allocation' AND allocation.is_active AND allocation.closing IS NULL
                   AND allocation.expires_at >= mark.through AND allocation.expires_at > after AND allocation.expires_at <= upto
                UNION ALL
                SELECT key.expires_at, key.key_id, key.org_id, 'key/' || key.org_id || '/' || key.key_id,
                       jsonb_build_object(
                           'key_id', key.key_id, 'name', key.name, 'last_four', key.last_four, 'days', mark.days,
                           'expires_at', key.expires_at)
                  FROM taximeter.api_keys AS key
                 WHERE mark.what = 'key' AND key.revoked_at IS NULL
                   AND key.expires_at >= mark.through AND key.expires_at > after AND key.expires_at <= upto
            ) AS ending
             WHERE ending.expires_at > mark.through OR ending.last_id > mark.last_id -- Null, then: none of the same moment.
             ORDER BY ending.expires_at, ending.last_id
             LIMIT most LOOP
            PERFORM taximeter.write_notice(mark.what || '.expires_soon', one.org_id, one.subject, one.data);
            seen := seen + 1;
            ended := one.expires_at;
            id := one.last_id;
        END LOOP;
        UPDATE taximeter.notice_marks AS known
           SET through = CASE WHEN seen < most THEN greatest(upto, mark.through) ELSE ended END,
               last_id = CASE WHEN seen < most THEN NULL ELSE id END
         WHERE known.what = mark.what AND known.days = mark.days;
        noted := noted + seen;
    END LOOP;
    RETURN noted;
END;
$$;

CREATE FUNCTION taximeter.note_exposures(shard_seen integer, seen_at timestamp with time zone, is_complete boolean, org_ids text[], user_ids text[], amounts bigint[]) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO taximeter.exposure_looks AS look (shard, looked_at, complete) VALUES (shard_seen, seen_at, is_complete)
    ON CONFLICT (shard) DO UPDATE SET looked_at = EXCLUDED.looked_at, complete = EXCLUDED.complete
     WHERE look.looked_at < EXCLUDED.looked_at;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM taximeter.exposure_looks AS look
     WHERE look.shard >= (SELECT count(*) FROM taximeter.watermarks);
    DELETE FROM taximeter.exposures AS known
     WHERE (known.shard = shard_seen OR known.shard >= (SELECT count(*) FROM taximeter.watermarks))
       AND NOT EXISTS (SELECT FROM unnest(org_ids, user_ids) AS seen (org_id, user_id)
                        WHERE seen.org_id = known.org_id AND seen.user_id = known.user_id);
    INSERT INTO taximeter.exposures AS known (org_id, user_id, shard, open)
    SELECT seen.org_id, seen.user_id, shard_seen, seen.amount
      FROM unnest(org_ids, user_ids, amounts) AS seen (org_id, user_id, amount)
     ORDER BY 1, 2
    ON CONFLICT (org_id, user_id) DO UPDATE SET shard = EXCLUDED.shard, open = EXCLUDED.open
     WHERE (known.shard, known.open) <> (EXCLUDED.shard, EXCLUDED.open);
    RETURN true;
END;
$$;

CREATE FUNCTION taximeter.note_failed_renewal(expired public.user_credit_allocations, have bigint) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO public.org_billing_history (org_id, event_type, status, metadata)
    VALUES (expired.org_id, 'allocation_renewal_failed', 'failed', jsonb_build_object(
            'user_id', expired.user_id, 'allocation_id', expired.id,
            'need_millicredits', expired.allocated_credits, 'have_millicredits', have));
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after)
    VALUES ('taximeter:expiry', 'user.allocation.renewal_failed', expired.org_id, expired.user_id,
            jsonb_build_object('allocated_credits', expired.allocated_credits, 'used_credits', expired.used_credits),
            jsonb_build_object('pool_available_credits', have));
$$;

CREATE FUNCTION taximeter.note_forgotten_behind() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    sealed CONSTANT boolean := (SELECT sealed_until >= NEW.frozen_at + interval '1 day' FROM taximeter.seal_state);
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, rows, credits)
    SELECT 'forgotten', 'charges', CASE WHEN sealed THEN -NEW.requests END, CASE WHEN sealed THEN -NEW.credits_used END;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_history() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    data jsonb := jsonb_build_object('history_id', NEW.id);
    plan public.organization_subscriptions;
BEGIN
    IF NEW.event_type IN ('credits_purchased', 'credits_refunded', 'credits_adjusted') THEN
        data := data || jsonb_build_object(
            'credits', (NEW.metadata ->> 'millicredits')::bigint, 'amount', NEW.amount, 'currency', NEW.currency,
            'payment_id', NEW.stripe_payment_id, 'user_id', NEW.metadata ->> 'user_id');
    ELSIF NEW.event_type IN ('invoice_paid', 'invoice_failed') THEN
        data := data || jsonb_build_object('invoice_id', NEW.lago_invoice_id, 'amount', NEW.amount, 'currency', NEW.currency);
    ELSIF NEW.event_type = 'allocation_renewal_failed' THEN
        data := data || jsonb_build_object(
            'user_id', NEW.metadata ->> 'user_id', 'allocated_credits', (NEW.metadata ->> 'need_millicredits')::bigint,
            'available_credits', (NEW.metadata ->> 'have_millicredits')::bigint);
    ELSE
        SELECT * INTO plan FROM public.organization_subscriptions AS known WHERE known.org_id = NEW.org_id;
        data := data || jsonb_build_object(
            'plan_code', plan.plan_code, 'plan_name', plan.plan_name, 'status', plan.status,
            'billing_cycle_end', plan.billing_cycle_end, 'cancel_at_period_end', plan.cancel_at_period_end);
    END IF;
    PERFORM taximeter.write_notice(
        CASE NEW.event_type WHEN 'allocation_renewal_failed' THEN 'allocation.renewal_failed'
                            ELSE replace(NEW.event_type, '_', '.') END,
        NEW.org_id, CASE NEW.event_type WHEN 'allocation_renewal_failed'
                                        THEN 'allocation/' || NEW.org_id || '/' || (NEW.metadata ->> 'user_id')
                                        ELSE 'billing/' || NEW.org_id END, data);
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM taximeter.write_notice(
        CASE TG_OP WHEN 'INSERT' THEN 'key.created' ELSE 'key.revoked' END, NEW.org_id, 'key/' || NEW.org_id || '/' || NEW.key_id,
        jsonb_build_object(
            'key_id', NEW.key_id, 'name', NEW.name, 'last_four', NEW.last_four, 'operations', NEW.operations,
            'user_id', NEW.user_id, 'expires_at', NEW.expires_at,
            'by_user_id', CASE TG_OP WHEN 'INSERT' THEN NEW.created_by ELSE NEW.revoked_by END));
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_lost() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM taximeter.write_notice(
        'system.events_lost', NULL, 'shard/' || hole.shard,
        jsonb_build_object('shard', hole.shard, 'events', sum(hole.seq_last - hole.seq_first + 1)))
       FROM inserted AS hole GROUP BY hole.shard;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_low_allocation() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    full_  CONSTANT bigint := coalesce(NEW.topped_up_credits, NEW.allocated_credits);
    passed integer[];
    data   CONSTANT jsonb := jsonb_build_object(
        'user_id', NEW.user_id, 'allocated_credits', NEW.allocated_credits, 'used_credits', NEW.used_credits,
        'remaining_credits', NEW.remaining_credits, 'expires_at', NEW.expires_at);
    about  CONSTANT text := 'allocation/' || NEW.org_id || '/' || NEW.user_id;
BEGIN
    SELECT array_agg(percent ORDER BY percent) INTO passed FROM unnest(ARRAY[50, 75, 80, 90, 95, 99]) AS percent
     WHERE NEW.remaining_credits * 100 <= (100 - percent) * full_ AND OLD.remaining_credits * 100 > (100 - percent) * full_;
    IF passed IS NOT NULL THEN
        PERFORM taximeter.write_notice('allocation.low', NEW.org_id, about, data || jsonb_build_object('percents', passed));
    END IF;
    IF NEW.remaining_credits <= 0 AND OLD.remaining_credits > 0 THEN
        PERFORM taximeter.write_notice('allocation.exhausted', NEW.org_id, about, data);
    END IF;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_low_pool() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    full_  CONSTANT bigint := coalesce(NEW.topped_up_credits, NEW.total_credits);
    rest   CONSTANT bigint := NEW.total_credits - NEW.used_credits;
    before CONSTANT bigint := OLD.total_credits - OLD.used_credits;
    passed integer[];
    data   CONSTANT jsonb := jsonb_build_object(
        'total_credits', NEW.total_credits, 'allocated_credits', NEW.allocated_credits, 'used_credits', NEW.used_credits,
        'available_credits', NEW.available_credits, 'remaining_credits', rest);
BEGIN
    SELECT array_agg(percent ORDER BY percent) INTO passed FROM unnest(ARRAY[50, 75, 80, 90, 95, 99]) AS percent
     WHERE rest * 100 <= (100 - percent) * full_ AND before * 100 > (100 - percent) * full_;
    IF passed IS NOT NULL THEN
        PERFORM taximeter.write_notice('pool.low', NEW.org_id, 'pool/' || NEW.org_id, data || jsonb_build_object('percents', passed));
    END IF;
    IF rest <= 0 AND before > 0 THEN
        PERFORM taximeter.write_notice('pool.exhausted', NEW.org_id, 'pool/' || NEW.org_id, data);
    END IF;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_member() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    was  text := CASE WHEN TG_OP = 'INSERT' THEN '' ELSE OLD.status END;
    now_ text := CASE WHEN TG_OP = 'DELETE' THEN '' ELSE NEW.status END;
    type text;
    one  public.organization_members;
BEGIN
    IF TG_OP = 'DELETE' THEN
        one := OLD;
    ELSE
        one := NEW;
    END IF;
    type := CASE
        WHEN now_ = 'active' AND was <> 'active' THEN 'member.joined'
        WHEN was = 'active' AND now_ <> 'active' THEN 'member.left'
        WHEN now_ = 'invited' AND was <> 'invited' THEN 'member.invited'
        WHEN was = 'invited' AND now_ = 'declined' THEN 'member.declined'
        WHEN now_ = 'active' AND TG_OP = 'UPDATE' AND OLD.role <> NEW.role THEN 'member.role_changed' END;
    IF type IS NOT NULL THEN
        PERFORM taximeter.write_notice(
            type, one.org_id, 'member/' || one.org_id || '/' || one.user_id,
            jsonb_build_object('user_id', one.user_id, 'role', one.role));
    END IF;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_month_behind() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    -- OLD and NEW are null where there is none.
    whose   CONSTANT date := coalesce(NEW.month, OLD.month);
    sealed  CONSTANT boolean := (SELECT sealed_until >= (whose + interval '1 month')::timestamp AT TIME ZONE 'UTC' FROM taximeter.seal_state);
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, month, rows, credits)
    SELECT CASE TG_OP WHEN 'DELETE' THEN 'restored' ELSE 'archived' END, 'usage', whose,
           CASE WHEN sealed THEN coalesce(OLD.requests, 0) - coalesce(NEW.requests, 0) END,
           CASE WHEN sealed THEN coalesce(OLD.credits_used, 0) - coalesce(NEW.credits_used, 0) END;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_refused_deduction(org_id text, user_id text, millicredits bigint, remaining bigint, request_id text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    SELECT session_user, 'credit.deduction.failed', $1, $2,
           jsonb_build_object('available_credits', remaining),
           jsonb_build_object('available_credits', remaining, 'needed_credits', millicredits),
           $5
     WHERE $1 IS NOT NULL AND $2 IS NOT NULL
       AND NOT EXISTS (
               SELECT FROM taximeter.audit_log AS seen
                WHERE seen.org_id = $1 AND seen.at > now() - interval '1 minute'
                  AND seen.action = 'credit.deduction.failed' AND seen.target = $2);
$_$;

CREATE FUNCTION taximeter.note_set_aside() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM taximeter.write_notice(
        'system.events_set_aside', NULL, 'shard/' || letter.shard,
        jsonb_build_object('shard', letter.shard, 'events', count(*), 'reason', min(letter.reason)))
       FROM inserted AS letter GROUP BY letter.shard;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_subscription() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM taximeter.write_notice(
        CASE NEW.status WHEN 'canceled' THEN 'subscription.ended' WHEN 'past_due' THEN 'subscription.past_due'
                        ELSE 'subscription.active' END,
        NEW.org_id, 'billing/' || NEW.org_id,
        jsonb_build_object('plan_code', NEW.plan_code, 'plan_name', NEW.plan_name, 'status', NEW.status,
                           'billing_cycle_end', NEW.billing_cycle_end, 'cancel_at_period_end', NEW.cancel_at_period_end));
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_usage_behind() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    until CONSTANT timestamptz := taximeter.noted_until();
    times CONSTANT integer := CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END;
BEGIN
    INSERT INTO taximeter.seal_changes (kind, what, hour, shard, epoch, rows, credits, digest)
    SELECT CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'late' END, 'usage', date_trunc('hour', created_at, 'UTC'), shard, epoch,
           times * count(*), times * sum(credits_used),
           times * sum(taximeter.usage_digest(id, org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata,
                                              created_at, shard, epoch, seq, late, reserved))
      FROM changed WHERE created_at < until GROUP BY 3, 4, 5;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.note_usage_names(names taximeter.usage_names[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    names_max CONSTANT integer := 1000;
    fresh taximeter.usage_names[];
BEGIN
    SELECT array_agg(one) INTO fresh
      FROM unnest(names) AS one
     WHERE (SELECT true FROM taximeter.usage_names AS known
             WHERE known.org_id = one.org_id AND known.month = one.month AND known.by_sql = one.by_sql
               AND known.service_type = one.service_type AND known.service_name = one.service_name LIMIT 1) IS NULL;
    IF fresh IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(place)
       FROM (SELECT DISTINCT hashtextextended(format('taximeter.usage_names/%s/%s', by_sql, org_id), 0) AS place
               FROM unnest(fresh) ORDER BY 1) AS places;
    INSERT INTO taximeter.usage_names (org_id, month, by_sql, service_type, service_name)
    SELECT org_id, month, by_sql, service_type, service_name
      FROM (SELECT one.org_id, one.month, one.by_sql, one.service_type, one.service_name, rooms.room,
                   row_number() OVER (PARTITION BY one.org_id, one.month, one.by_sql ORDER BY one.service_type, one.service_name) AS place
              FROM (SELECT org_id, month, by_sql,
                           names_max - (SELECT count(*) FROM taximeter.usage_names AS known
                                         WHERE known.org_id = part.org_id AND known.month = part.month AND known.by_sql = part.by_sql) AS room
                      FROM (SELECT DISTINCT org_id, month, by_sql FROM unnest(fresh)) AS part) AS rooms
              JOIN unnest(fresh) AS one USING (org_id, month, by_sql)
             WHERE rooms.room > 0
               -- Somebody else may have written it down while the lock was waited for.
               AND (SELECT true FROM taximeter.usage_names AS known
                     WHERE known.org_id = one.org_id AND known.month = one.month AND known.by_sql = one.by_sql
                       AND known.service_type = one.service_type AND known.service_name = one.service_name LIMIT 1) IS NULL
           ) AS numbered
     WHERE place <= room;
END;
$$;

CREATE FUNCTION taximeter.note_used_by_hand(org text, usr text, millicredits bigint) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO taximeter.accounts AS account (org_id, user_id, used_by_hand) VALUES (org, usr, millicredits)
    ON CONFLICT (org_id, user_id) DO UPDATE SET used_by_hand = account.used_by_hand + EXCLUDED.used_by_hand;
$$;

CREATE FUNCTION taximeter.noted_until() RETURNS timestamp with time zone
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT CASE WHEN current_setting('transaction_isolation') <> 'read committed' THEN 'infinity'
                ELSE coalesce(announced, '-infinity') END
      FROM taximeter.seal_state
$$;

CREATE FUNCTION taximeter.open_credits(org text, usr text) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce((SELECT known.open FROM taximeter.exposures AS known WHERE known.org_id = org AND known.user_id = usr), 0);
$$;

CREATE FUNCTION taximeter.refresh_pools(at_time timestamp with time zone, most integer) RETURNS TABLE(org_id text, period date, amount bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    this_month CONSTANT timestamp := date_trunc('month', at_time AT TIME ZONE 'UTC');
    pool       public.organization_credit_pools;
    canceled   boolean;
    total      bigint;
BEGIN
    -- In the order in which pools are locked everywhere; who is at work on one is not waited for.
    FOR pool IN
        SELECT due.* FROM public.organization_credit_pools AS due
         WHERE NOT EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = due.org_id) AND due.monthly_refresh_amount > 0 AND due.refreshed_through < this_month
           AND NOT EXISTS (SELECT FROM public.organization_subscriptions AS subscription
                            WHERE subscription.org_id = due.org_id AND subscription.status = 'past_due')
         ORDER BY due.org_id
         LIMIT most
           FOR NO KEY UPDATE OF due SKIP LOCKED
    LOOP
        org_id := pool.org_id;
        total := pool.total_credits;
        canceled := EXISTS (SELECT FROM public.organization_subscriptions AS subscription
                             WHERE subscription.org_id = pool.org_id AND subscription.status = 'canceled');
        FOR period IN
            SELECT month::date
              FROM generate_series(greatest(pool.refreshed_through + interval '1 month', this_month - interval '11 months'),
                                   this_month, interval '1 month') AS month
        LOOP
            -- No more than the cap of a pool has room for: one pool at its cap must not stop the others.
            amount := CASE WHEN canceled THEN 0 ELSE least(pool.monthly_refresh_amount, 900000000000000 - total) END;
            INSERT INTO taximeter.pool_refreshes AS refresh (org_id, period, amount, refreshed_at)
            VALUES (pool.org_id, refresh_pools.period, refresh_pools.amount, at_time)
            ON CONFLICT DO NOTHING;
            CONTINUE WHEN NOT FOUND;
            IF amount > 0 THEN
                total := total + amount;
                INSERT INTO public.org_billing_history (org_id, event_type, amount, metadata)
                VALUES (pool.org_id, 'credits_refreshed', 0, jsonb_build_object('period', period, 'millicredits', amount));
                INSERT INTO taximeter.audit_log (actor, action, org_id, before, after)
                VALUES ('taximeter:refresh', 'org.credits.refreshed', pool.org_id,
                        jsonb_build_object('total_credits', total - amount),
                        jsonb_build_object('total_credits', total, 'period', period));
            END IF;
            RETURN NEXT;
        END LOOP;
        UPDATE public.organization_credit_pools AS refreshed
           SET total_credits = total,
               last_refresh_date = CASE WHEN total > pool.total_credits THEN (at_time AT TIME ZONE 'UTC')::date
                                        ELSE refreshed.last_refresh_date END,
               refreshed_through = this_month, updated_at = now()
         WHERE refreshed.org_id = pool.org_id;
    END LOOP;
END;
$$;

CREATE FUNCTION taximeter.refresh_starts() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    this_month CONSTANT date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.refreshed_through := coalesce(date_trunc('month', NEW.last_refresh_date::timestamp)::date, this_month);
    ELSIF NEW.last_refresh_date IS DISTINCT FROM OLD.last_refresh_date AND NEW.last_refresh_date IS NOT NULL THEN
        NEW.refreshed_through := date_trunc('month', NEW.last_refresh_date::timestamp)::date;
    ELSIF OLD.monthly_refresh_amount = 0 AND NEW.monthly_refresh_amount > 0 THEN
        NEW.refreshed_through := greatest(NEW.refreshed_through, this_month);
    END IF;
    RETURN NEW;
END;
$$;

CREATE FUNCTION taximeter.refuse() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION '% of %.% is refused: %', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'restrict_violation', TABLE = TG_TABLE_NAME;
END;
$$;

CREATE FUNCTION taximeter.refuse_away() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    org  text;
BEGIN
    IF TG_TABLE_NAME = 'organizations' THEN
        org := CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END;
    ELSE
        org := CASE WHEN TG_OP = 'DELETE' THEN OLD.org_id ELSE NEW.org_id END;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(74100, hashtext(org));
    IF EXISTS (SELECT FROM taximeter.organizations_away AS away WHERE away.org_id = org) THEN
        RAISE EXCEPTION 'organisation % is being moved to another cell, or lives there', org
            USING ERRCODE = 'object_not_in_prerequisite_state', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END;
$$;

CREATE FUNCTION taximeter.refuse_id() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION '% %', TG_ARGV[0], TG_ARGV[1] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
END;
$$;

CREATE FUNCTION taximeter.refuse_known_requests() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
DECLARE
    found record;
BEGIN
    IF TG_ARGV[0] <> '' THEN
        -- A snapshot from before the freeze may lack what was charged after it; that of a copy of the database knows other transactions.
        IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
           AND now() < TG_ARGV[2]::timestamptz + interval '1 day'
           AND NOT pg_visible_in_snapshot(TG_ARGV[1]::xid8, pg_current_snapshot()) THEN
            RAISE EXCEPTION 'request ids were put away after this transaction had begun: begin it again'
                USING ERRCODE = 'serialization_failure';
        END IF;
        EXECUTE format('SELECT new.org_id, new.request_id FROM inserted AS new JOIN taximeter.%I AS old'
                       ' ON old.org_id = new.org_id AND old.request_id = new.request_id AND old.phase = new.phase LIMIT 1',
                       TG_ARGV[0]) INTO found;
        IF found.request_id IS NOT NULL THEN
            RAISE EXCEPTION 'request_id % of organisation % is charged already', found.request_id, found.org_id
                USING ERRCODE = 'unique_violation', CONSTRAINT = 'charged_requests_pkey', SCHEMA = 'taximeter',
                      TABLE = 'charged_requests';
        END IF;
    END IF;
    IF TG_ARGV[3] <> '' AND current_setting('taximeter.moving_rows', true) IS DISTINCT FROM 'on' THEN
        SELECT org_id, request_id, created_at INTO found
          FROM inserted WHERE created_at <= TG_ARGV[3]::timestamptz LIMIT 1;
        IF found.request_id IS NOT NULL THEN
            RAISE EXCEPTION 'request_id % of organisation % is of %, and the ids of before % are forgotten: it may be charged already',
                found.request_id, found.org_id, found.created_at, TG_ARGV[3]
                USING ERRCODE = 'check_violation', CONSTRAINT = 'request_id_is_remembered', SCHEMA = 'taximeter',
                      TABLE = 'charged_requests';
        END IF;
    END IF;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.refuse_renewal_without_end() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION 'auto_renew needs an end: allocation of %/% has no expires_at', NEW.org_id, NEW.user_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'renewal_needs_an_end', SCHEMA = 'public',
              TABLE = 'user_credit_allocations';
END;
$$;

CREATE FUNCTION taximeter.revoke_once() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL AND (NEW.revoked_at, NEW.revoked_by) IS DISTINCT FROM (OLD.revoked_at, OLD.revoked_by) THEN
        RAISE EXCEPTION 'key % was revoked at %, and stays so', OLD.key_id, OLD.revoked_at
            USING ERRCODE = 'restrict_violation', TABLE = 'api_keys';
    END IF;
    IF OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL THEN
        NEW.revoked_at := now();
    END IF;
    RETURN NEW;
END;
$$;

CREATE FUNCTION taximeter.seal_audit(since interval DEFAULT '2 days'::interval) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    audit  taximeter.audit_log;
    last_n bigint;
    link   bytea;
    linked integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('taximeter.audit_chain', 0));
    SELECT chain.n, chain.digest INTO last_n, link FROM taximeter.audit_chain AS chain ORDER BY chain.n DESC LIMIT 1;
    last_n := coalesce(last_n, 0);
    link := coalesce(link, decode(repeat('00', 32), 'hex'));
    FOR audit IN
        SELECT log.* FROM taximeter.audit_log AS log
         WHERE log.at > now() - since
           AND NOT EXISTS (SELECT FROM taximeter.audit_chain AS chain WHERE chain.audit_id = log.id)
         ORDER BY log.id
    LOOP
        last_n := last_n + 1;
        link := taximeter.audit_link(link, audit);
        INSERT INTO taximeter.audit_chain (n, audit_id, digest) VALUES (last_n, audit.id, link);
        linked := linked + 1;
    END LOOP;
    RETURN linked;
END;
$$;

CREATE FUNCTION taximeter.seal_link(link_before bytea, seal taximeter.seals) RETURNS bytea
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT sha256(link_before || convert_to(concat_ws(E'\x1e',
        seal.n, extract(epoch FROM seal.at), seal.by, extract(epoch FROM seal.until), coalesce(seal.note, E'\x1f'),
        (SELECT string_agg(concat_ws(E'\x1f', place, kind, what, day - date '2000-01-01', coalesce(shard::text, '-'),
                                     coalesce(epoch::text, '-'), rows, credits, digest), E'\x1e' ORDER BY place)
           FROM taximeter.sealed_rows WHERE seal_n = seal.n)), 'UTF8'))
$$;

CREATE FUNCTION taximeter.stamp_audit() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    NEW.written_by := session_user;
    NEW.at := now();
    RETURN NEW;
END;
$$;

CREATE AGGREGATE taximeter.sum_totals(bigint[]) (
    SFUNC = taximeter.add_next_totals,
    STYPE = bigint[],
    PARALLEL = safe
);

CREATE FUNCTION taximeter.tell_of_ended_keys() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM pg_notify('taximeter_keys', CASE TG_TABLE_NAME WHEN 'organizations' THEN to_jsonb(NEW) ->> 'id' ELSE to_jsonb(NEW) ->> 'org_id' END);
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.top_up_allocation() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.allocated_credits > OLD.allocated_credits THEN
        NEW.topped_up_credits := greatest(NEW.allocated_credits - NEW.used_credits, 0);
    END IF;
    RETURN NEW;
END;
$$;

CREATE FUNCTION taximeter.top_up_pool() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.total_credits > OLD.total_credits THEN
        NEW.topped_up_credits := greatest(NEW.total_credits - NEW.used_credits, 0);
    END IF;
    RETURN NEW;
END;
$$;

CREATE FUNCTION taximeter.totals_from(day date, amount bigint) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (array_fill((0)::bigint, ARRAY[((EXTRACT(day FROM day))::integer - 1)]) || array_fill(amount, ARRAY[(32 - (EXTRACT(day FROM day))::integer)]));

CREATE FUNCTION taximeter.usage_deleted() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    changes taximeter.usage_daily_by_org[];
BEGIN
    PERFORM taximeter.note_used_by_hand(org_id, user_id, credits_used)
       FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
               FROM deleted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    WITH gone AS MATERIALIZED (
        SELECT org_id, user_id,
               CASE WHEN name_is_known OR type_is_known THEN service_type ELSE 'other' END AS service_type,
               CASE WHEN name_is_known THEN service_name ELSE 'other' END AS service_name,
               day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
          FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day, seq IS NULL AS by_sql,
                       count(*) AS requests, sum(credits_used) AS credits_used
                  FROM deleted
                 GROUP BY 1, 2, 3, 4, 5, 6) AS raw
         CROSS JOIN LATERAL (
               SELECT coalesce((SELECT true FROM taximeter.usage_names AS known
                                 WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                   AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                   AND known.service_name = raw.service_name LIMIT 1), false) AS name_is_known OFFSET 0) AS names
         CROSS JOIN LATERAL (
               SELECT name_is_known
                      OR coalesce((SELECT true FROM taximeter.usage_names AS known
                                    WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                      AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                    LIMIT 1), false) AS type_is_known OFFSET 0) AS types
         GROUP BY 1, 2, 3, 4, 5
    ), days AS (
        UPDATE taximeter.usage_daily AS daily
           SET requests = daily.requests - gone.requests, credits_used = daily.credits_used - gone.credits_used
          FROM gone
         WHERE (daily.org_id, daily.user_id, daily.service_type, daily.service_name, daily.day)
             = (gone.org_id, gone.user_id, gone.service_type, gone.service_name, gone.day)
    )
    UPDATE taximeter.usage_monthly_by_user AS monthly
       SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, less.requests_to_day),
           credits_to_day = taximeter.add_totals(monthly.credits_to_day, less.credits_to_day)
      FROM (SELECT org_id, date_trunc('month', day::timestamp)::date AS month, user_id,
                   taximeter.sum_totals(taximeter.totals_from(day, -requests)) AS requests_to_day,
                   taximeter.sum_totals(taximeter.totals_from(day, -credits_used)) AS credits_to_day
              FROM gone GROUP BY 1, 2, 3) AS less
     WHERE (monthly.org_id, monthly.month, monthly.user_id) = (less.org_id, less.month, less.user_id);
    DELETE FROM taximeter.usage_daily AS daily
     USING (SELECT DISTINCT org_id, user_id FROM deleted) AS gone
     WHERE daily.org_id = gone.org_id AND daily.user_id = gone.user_id AND daily.requests = 0;
    DELETE FROM taximeter.usage_monthly_by_user AS monthly
     USING (SELECT DISTINCT org_id, user_id FROM deleted) AS gone
     WHERE monthly.org_id = gone.org_id AND monthly.user_id = gone.user_id AND monthly.requests_to_day[31] = 0;
    -- Writer 2: what was done by hand, with its sign.
    SELECT array_agg(ROW(org_id, day, service_type, service_name, 2::smallint, -requests, -credits_used)
                     ::taximeter.usage_daily_by_org)
      INTO changes
      FROM (SELECT org_id, day, service_type, service_name, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
              FROM (
                SELECT org_id, user_id,
                       CASE WHEN name_is_known OR type_is_known THEN service_type ELSE 'other' END AS service_type,
                       CASE WHEN name_is_known THEN service_name ELSE 'other' END AS service_name,
                       day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
                  FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day, seq IS NULL AS by_sql,
                               count(*) AS requests, sum(credits_used) AS credits_used
                          FROM deleted
                         GROUP BY 1, 2, 3, 4, 5, 6) AS raw
                 CROSS JOIN LATERAL (
                       SELECT coalesce((SELECT true FROM taximeter.usage_names AS known
                                         WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                           AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                           AND known.service_name = raw.service_name LIMIT 1), false) AS name_is_known OFFSET 0) AS names
                 CROSS JOIN LATERAL (
                       SELECT name_is_known
                              OR coalesce((SELECT true FROM taximeter.usage_names AS known
                                            WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                              AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                            LIMIT 1), false) AS type_is_known OFFSET 0) AS types
                 GROUP BY 1, 2, 3, 4, 5
              ) AS by_account
             GROUP BY 1, 2, 3, 4) AS by_org;
    PERFORM taximeter.add_usage_by_org(changes);
    PERFORM taximeter.add_usage_of_all(changes, NULL);
    -- The charge of each row goes with it, and no other phase of its request; what went is on record.
    WITH uncharged AS (
        DELETE FROM taximeter.charged_requests AS charged
         USING deleted
         WHERE charged.org_id = deleted.org_id AND charged.request_id = deleted.request_id
           AND (charged.shard, charged.epoch, charged.seq) IS NOT DISTINCT FROM (deleted.shard, deleted.epoch, deleted.seq)
        RETURNING charged.org_id, charged.shard, charged.epoch, charged.seq
    )
    INSERT INTO taximeter.deletions (org_id, shard, epoch, events, requests, credits, reason)
    SELECT org_id, shard, epoch, sum(events)::bigint, sum(requests)::bigint, sum(credits)::bigint,
           nullif(current_setting('taximeter.deletion_reason', true), '')
      FROM (SELECT org_id, shard, epoch, 0 AS events, count(*) AS requests, sum(credits_used) AS credits
              FROM deleted GROUP BY 1, 2, 3
            UNION ALL
            SELECT org_id, shard, epoch, count(*) FILTER (WHERE seq IS NOT NULL), 0, 0 FROM uncharged GROUP BY 1, 2, 3) AS parts
     GROUP BY org_id, shard, epoch
     ORDER BY 1, 2, 3;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.usage_digest(id bigint, org_id text, user_id text, service_type text, service_name text, credits_used bigint, request_id text, request_metadata jsonb, created_at timestamp with time zone, shard integer, epoch bigint, seq bigint, late boolean, reserved bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN taximeter.digest_of(concat_ws('
'::text, id, org_id, user_id, service_type, service_name, credits_used, COALESCE(request_id, ''::text), (request_metadata)::text, ((EXTRACT(epoch FROM created_at) * (1000000)::numeric))::bigint, COALESCE((shard)::text, ''::text), COALESCE((epoch)::text, ''::text), COALESCE((seq)::text, ''::text), (late)::integer, reserved));

CREATE FUNCTION taximeter.usage_floor() RETURNS date
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce((max(month) + interval '1 month')::date, '-infinity'::date) FROM taximeter.dropped_months;
$$;

CREATE FUNCTION taximeter.usage_inserted() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    by_writer CONSTANT smallint := CASE
        WHEN current_setting('taximeter.settling', true) = 'on' THEN 0
        WHEN current_setting('taximeter.charging', true) = 'on' THEN 1
        ELSE 2 END;
    raw       taximeter.usage_of_day[];
    changes   taximeter.usage_daily_by_org[];
BEGIN
    IF by_writer = 2 THEN
        -- Usage without a charge was written by hand: the books say so instead of not adding up. Accounts come before rollups, as
        -- everywhere.
        PERFORM taximeter.note_used_by_hand(org_id, user_id, -credits_used)
           FROM (SELECT org_id, user_id, sum(credits_used)::bigint AS credits_used
                   FROM inserted GROUP BY 1, 2 ORDER BY 1, 2) AS by_account;
    END IF;
    -- The rows are read once; from here on there is one for each user, service and day of them.
    SELECT array_agg(ROW(org_id, user_id, service_type, service_name, day, by_sql, requests, credits_used)::taximeter.usage_of_day) INTO raw
      FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day, seq IS NULL AS by_sql,
                   count(*) AS requests, sum(credits_used)::bigint AS credits_used
              FROM inserted
             GROUP BY 1, 2, 3, 4, 5, 6) AS found;
    PERFORM taximeter.note_usage_names(array_agg(ROW(org_id, month, by_sql, service_type, service_name)::taximeter.usage_names))
       FROM (SELECT DISTINCT org_id, date_trunc('month', day::timestamp)::date AS month, by_sql, service_type, service_name
               FROM unnest(raw)) AS found;
    -- Sorted, so that two statements at once meet on the rows of the rollups in the same order.
    WITH by_account AS MATERIALIZED (
        SELECT org_id, user_id,
               CASE WHEN name_is_known OR type_is_known THEN service_type ELSE 'other' END AS service_type,
               CASE WHEN name_is_known THEN service_name ELSE 'other' END AS service_name,
               day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
          FROM unnest(raw) AS raw
         CROSS JOIN LATERAL (
               SELECT coalesce((SELECT true FROM taximeter.usage_names AS known
                                 WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                   AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                   AND known.service_name = raw.service_name LIMIT 1), false) AS name_is_known OFFSET 0) AS names
         CROSS JOIN LATERAL (
               SELECT name_is_known
                      OR coalesce((SELECT true FROM taximeter.usage_names AS known
                                    WHERE known.org_id = raw.org_id AND known.month = date_trunc('month', raw.day::timestamp)::date
                                      AND known.by_sql = raw.by_sql AND known.service_type = raw.service_type
                                    LIMIT 1), false) AS type_is_known OFFSET 0) AS types
         GROUP BY 1, 2, 3, 4, 5
    ), days AS (
        INSERT INTO taximeter.usage_daily AS daily
               (org_id, user_id, service_type, service_name, day, requests, credits_used)
        SELECT * FROM by_account ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (org_id, user_id, service_type, service_name, day) DO UPDATE
           SET requests = daily.requests + EXCLUDED.requests,
               credits_used = daily.credits_used + EXCLUDED.credits_used
    ), months AS (
        INSERT INTO taximeter.usage_monthly_by_user AS monthly (org_id, month, user_id, requests_to_day, credits_to_day)
        SELECT org_id, date_trunc('month', day::timestamp)::date, user_id,
               taximeter.sum_totals(taximeter.totals_from(day, requests)),
               taximeter.sum_totals(taximeter.totals_from(day, credits_used))
          FROM (SELECT org_id, user_id, day, sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
                  FROM by_account GROUP BY 1, 2, 3) AS by_day
         GROUP BY 1, 2, 3
         ORDER BY 1, 2, 3
        ON CONFLICT (org_id, month, user_id) DO UPDATE
           SET requests_to_day = taximeter.add_totals(monthly.requests_to_day, EXCLUDED.requests_to_day),
               credits_to_day = taximeter.add_totals(monthly.credits_to_day, EXCLUDED.credits_to_day)
    )
    SELECT array_agg(ROW(org_id, day, service_type, service_name, by_writer, requests, credits_used)
                     ::taximeter.usage_daily_by_org)
      INTO changes
      FROM (SELECT org_id, day, service_type, service_name,
                   sum(requests)::bigint AS requests, sum(credits_used)::bigint AS credits_used
              FROM by_account
             GROUP BY 1, 2, 3, 4) AS by_org;
    PERFORM taximeter.add_usage_by_org(changes);
    -- A settler books one shard at a time.
    PERFORM taximeter.add_usage_of_all(changes, CASE WHEN by_writer = 0 THEN (SELECT shard FROM inserted LIMIT 1) END);
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.usage_labels_deleted() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO taximeter.usage_daily_by_label AS daily (org_id, kind, day, label, writer, requests, credits_used)
    SELECT org_id, kind, day,
           CASE WHEN EXISTS (SELECT FROM taximeter.usage_daily_by_label AS known
                              WHERE known.org_id = gone.org_id AND known.kind = gone.kind AND known.day = gone.day
                                AND known.label = gone.label) THEN label ELSE 'other' END,
           2, -sum(requests)::bigint, -sum(credits_used)::bigint
      FROM (SELECT org_id, kind, (created_at AT TIME ZONE 'UTC')::date AS day, label,
                   count(*) AS requests, sum(credits_used) AS credits_used
              FROM deleted CROSS JOIN LATERAL taximeter.labels_of(request_metadata) AS labels
             WHERE request_metadata ?| ARRAY['key_id', 'tag']
             GROUP BY 1, 2, 3, 4) AS gone
     GROUP BY 1, 2, 3, 4
     ORDER BY 1, 2, 3, 4
    ON CONFLICT (org_id, kind, day, label, writer) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.usage_labels_inserted() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    labels_max CONSTANT integer := 200;
    by_writer  CONSTANT smallint := CASE
        WHEN current_setting('taximeter.settling', true) = 'on' THEN 0
        WHEN current_setting('taximeter.charging', true) = 'on' THEN 1
        ELSE 2 END;
BEGIN
    IF NOT EXISTS (SELECT FROM inserted WHERE request_metadata ?| ARRAY['key_id', 'tag']) THEN
        RETURN NULL;
    END IF;
    INSERT INTO taximeter.usage_daily_by_label AS daily (org_id, kind, day, label, writer, requests, credits_used)
    SELECT org_id, kind, day, CASE WHEN is_known OR place <= room THEN label ELSE 'other' END, by_writer,
           sum(requests)::bigint, sum(credits_used)::bigint
      FROM (SELECT found.*, names.is_known, rooms.room,
                   row_number() OVER (PARTITION BY found.org_id, found.kind, found.day, names.is_known ORDER BY found.label) AS place
              FROM (SELECT org_id, kind, (created_at AT TIME ZONE 'UTC')::date AS day, label,
                           count(*) AS requests, sum(credits_used) AS credits_used
                      FROM inserted CROSS JOIN LATERAL taximeter.labels_of(request_metadata) AS labels
                     GROUP BY 1, 2, 3, 4) AS found
             CROSS JOIN LATERAL (
                   SELECT coalesce((SELECT true FROM taximeter.usage_daily_by_label AS known
                                     WHERE known.org_id = found.org_id AND known.kind = found.kind AND known.day = found.day
                                       AND known.label = found.label LIMIT 1), false) AS is_known OFFSET 0) AS names
             CROSS JOIN LATERAL (
                   SELECT CASE WHEN names.is_known THEN 0 ELSE labels_max - (
                                SELECT count(DISTINCT known.label) FROM taximeter.usage_daily_by_label AS known
                                 WHERE known.org_id = found.org_id AND known.kind = found.kind AND known.day = found.day) END AS room
                   OFFSET 0) AS rooms) AS placed
     GROUP BY 1, 2, 3, 4
     -- Sorted, so that two statements of one writer meet on the rows in the same order.
     ORDER BY 1, 2, 3, 4
    ON CONFLICT (org_id, kind, day, label, writer) DO UPDATE
       SET requests = daily.requests + EXCLUDED.requests,
           credits_used = daily.credits_used + EXCLUDED.credits_used;
    RETURN NULL;
END;
$$;

CREATE FUNCTION taximeter.usage_months() RETURNS TABLE(month date, partition text, requests bigint, credits_used bigint, dropped_requests bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    WITH partitions AS (
        SELECT to_date(substr(child.relname, 13), 'YYYY_MM') AS month, child.relname::text AS partition
          FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
         WHERE inhparent = 'public.credit_usage_attribution'::regclass AND child.relname ~ '^attribution_\d{4,}_\d{2}$'
    ), totals AS (
        SELECT rollup.month, sum(rollup.requests)::bigint AS requests, sum(rollup.credits_used)::bigint AS credits_used
          FROM taximeter.usage_monthly_by_org AS rollup GROUP BY 1
    )
    SELECT month, partitions.partition, coalesce(totals.requests, 0), coalesce(totals.credits_used, 0),
           coalesce(gone.requests, 0)
      FROM partitions FULL JOIN totals USING (month) LEFT JOIN taximeter.dropped_months AS gone USING (month)
     ORDER BY month;
$_$;

CREATE FUNCTION taximeter.used_between(totals bigint[], month date, first date, last date) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((totals)[LEAST(((last - month) + 1), 31)] - COALESCE((totals)[(first - month)], (0)::bigint));

CREATE FUNCTION taximeter.was_charged(org text, usr text, request text, millicredits bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    first_user text;
    charged    bigint;
BEGIN
    SELECT min(known.user_id), sum(known.amount) INTO first_user, charged
      FROM taximeter.charged_requests AS known
     WHERE known.org_id = org AND known.request_id = request;
    IF first_user IS NULL THEN
        RETURN false;
    END IF;
    IF first_user <> usr OR charged <> millicredits THEN
        RAISE EXCEPTION 'request_id % of organisation % was used with other parameters: % millicredits of user %, not % of user %',
            request, org, charged, first_user, millicredits, usr
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'request_id_is_used_once', SCHEMA = 'taximeter',
                  TABLE = 'charged_requests';
    END IF;
    RETURN true;
END;
$$;

CREATE FUNCTION taximeter.write_audit(action text, org_id text, target text, before jsonb, after jsonb, request_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    actor text := current_setting('taximeter.actor', true);
BEGIN
    IF actor IS NULL OR actor !~ '^[^\u0001-\u001f\u007f]{1,255}$' THEN
        RAISE EXCEPTION 'taximeter.actor must say who does it, in 1 to 255 characters' USING ERRCODE = 'check_violation';
    END IF;
    IF actor ~ '^(taximeter|operator):' AND actor !~ '^taximeter:key:[0-9A-Za-z]{12}$' THEN
        RAISE EXCEPTION 'taximeter.actor is a user or a key of the installation, and not one of our own programs'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO taximeter.audit_log (actor, action, org_id, target, before, after, request_id)
    VALUES (actor, action, org_id, target, before, after, request_id);
END;
$_$;

CREATE FUNCTION taximeter.write_notice(type text, org_id text, subject text, data jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    INSERT INTO taximeter.notices (type, org_id, subject, data)
    SELECT $1, $2, left($3, 512), $4
     WHERE current_setting('taximeter.importing', true) IS DISTINCT FROM 'on';
$_$;

CREATE FUNCTION taximeter.write_test_notice(to_receiver uuid) RETURNS uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO taximeter.notices (type, org_id, subject, data, receiver_id)
    SELECT 'receiver.test', receiver.org_id, 'receiver/' || receiver.id,
           jsonb_build_object('receiver_id', receiver.id, 'name', receiver.name), receiver.id
      FROM taximeter.receivers AS receiver WHERE receiver.id = to_receiver
    RETURNING id;
$$;

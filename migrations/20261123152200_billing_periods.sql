-- Why: a subscription that is canceled, or upgraded for later, changes at the end of its period, and one that is neither begins
-- the next period on the day of the month that it began on.
-- Locks: ACCESS EXCLUSIVE on the subscriptions for a moment, to add columns.
-- Older code beside it: yes; its subscriptions have no day yet and keep that of their period's end.

-- migrate:up
ALTER TABLE organization_subscriptions
    ADD COLUMN cancel_at_period_end boolean NOT NULL DEFAULT false,
    ADD COLUMN pending_plan jsonb,
    ADD COLUMN billing_anchor_day smallint CONSTRAINT anchor_is_a_day_of_a_month CHECK (billing_anchor_day BETWEEN 1 AND 31);
COMMENT ON COLUMN organization_subscriptions.pending_plan IS
    'The plan from the end of the period on: plan_code, plan_name, monthly_price, requested_by.';
COMMENT ON COLUMN organization_subscriptions.billing_anchor_day IS
    'The day of the month that periods begin on; the last one of a shorter month.';

-- The anchor's day in the month after `ended`: from 31 January to 28 February to 31 March.
CREATE FUNCTION taximeter.next_billing_date(ended date, anchor_day integer) RETURNS date
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT next_month.first_day + least(
               anchor_day, extract(day FROM next_month.first_day + interval '1 month' - interval '1 day')::integer) - 1
      FROM (SELECT (date_trunc('month', ended::timestamp) + interval '1 month')::date AS first_day) AS next_month
$$;

-- Ends every period whose last day has come by `today` (a day in UTC); returns how many subscriptions it has changed. One that was
-- canceled ends; a plan that was chosen for later becomes the plan; the others go on. Safe to call at any time and by several at
-- once: a subscription that somebody else is changing is left to the next call.
CREATE FUNCTION taximeter.end_billing_periods(today date) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
                WHERE subscription.status <> 'canceled' AND subscription.billing_cycle_end <= today
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

-- migrate:down
DROP FUNCTION taximeter.end_billing_periods(date);
DROP FUNCTION taximeter.next_billing_date(date, integer);
ALTER TABLE organization_subscriptions
    DROP COLUMN billing_anchor_day,
    DROP COLUMN pending_plan,
    DROP COLUMN cancel_at_period_end;

-- Why: a pool with a monthly refresh amount gets it once a month. A month is a row of its own, inserted first and unique, so that
-- nothing is given twice whoever asks how often; and what a month gave is a fact that stays, where a counter that is set back would
-- forget. Credits that were left over stay in the pool.
-- Locks: ACCESS EXCLUSIVE on the pools for a moment.
-- Older code beside it: yes.

-- migrate:up
ALTER TABLE organization_credit_pools ADD COLUMN refreshed_through date NOT NULL DEFAULT '-infinity';
COMMENT ON COLUMN organization_credit_pools.refreshed_through IS
    'The last month (its first day, UTC) that needs no refresh any more. Derived: see taximeter.refresh_starts().';
-- Serves taximeter.refresh_pools(), which asks every minute.
CREATE INDEX pools_to_refresh ON organization_credit_pools (refreshed_through) WHERE monthly_refresh_amount > 0;

-- amount 0: the month was passed over, since the subscription had ended (or the pool is at its cap).
CREATE TABLE taximeter.pool_refreshes (
    org_id       text NOT NULL,
    period       date NOT NULL CONSTRAINT period_is_a_month CHECK (extract(day FROM period) = 1),
    amount       bigint NOT NULL CONSTRAINT amount_is_in_range CHECK (amount BETWEEN 0 AND 1000000000000),
    refreshed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, period)
);
CREATE TRIGGER refreshes_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON taximeter.pool_refreshes
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('what a month gave stays on record');

-- From when on a pool is refreshed. The month in which it is made, or in which refreshing is switched on, has its credits by other
-- means; a last_refresh_date says that its month is done, whoever sets it.
CREATE FUNCTION taximeter.refresh_starts() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
CREATE TRIGGER pool_refresh_starts BEFORE INSERT OR UPDATE OF monthly_refresh_amount, last_refresh_date
    ON organization_credit_pools
    FOR EACH ROW EXECUTE FUNCTION taximeter.refresh_starts();
UPDATE organization_credit_pools SET refreshed_through = coalesce(
    date_trunc('month', last_refresh_date::timestamp), date_trunc('month', now() AT TIME ZONE 'UTC'))::date;

-- Gives every pool the months that it has not had, up to that of `at_time`, at most `most` pools; months that were missed are
-- given too, at most a year of them. While a subscription is past due its months wait; once it was canceled they are passed over.
-- Each month is a line of the history and of the audit log. One row a month and pool; amount 0 when it was passed over.
CREATE FUNCTION taximeter.refresh_pools(at_time timestamptz, most integer)
RETURNS TABLE (org_id text, period date, amount bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_month CONSTANT timestamp := date_trunc('month', at_time AT TIME ZONE 'UTC');
    pool       public.organization_credit_pools;
    canceled   boolean;
    total      bigint;
BEGIN
    -- In the order in which pools are locked everywhere; who is at work on one is not waited for.
    FOR pool IN
        SELECT due.* FROM public.organization_credit_pools AS due
         WHERE due.monthly_refresh_amount > 0 AND due.refreshed_through < this_month
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

-- migrate:down
DROP FUNCTION taximeter.refresh_pools(timestamptz, integer);
DROP TRIGGER pool_refresh_starts ON organization_credit_pools;
DROP FUNCTION taximeter.refresh_starts();
DROP TABLE taximeter.pool_refreshes;
ALTER TABLE organization_credit_pools DROP COLUMN refreshed_through;

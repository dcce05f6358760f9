-- Why: the system knows when credits run low, a payment fails or the books are wrong, and told nobody. What somebody may want to be told is
-- written down as a notice, in the transaction of the fact: by triggers, so that it does not matter who changes a table and how. The
-- settler sends notices on. See docs/webhooks.md and docs/decisions/ (an outbox in the transaction of the fact).
-- Locks: SHARE ROW EXCLUSIVE on subscriptions, members, the billing history, keys, dead letters and lost events for a moment, to create
-- triggers: changes of them wait, reading does not.
-- Older code beside it: yes; what it does is noted as well, and sent once a newer settler runs.

-- migrate:up
-- In the order in which rows of them are locked.
LOCK TABLE organization_subscriptions, organization_members IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE org_billing_history IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE taximeter.api_keys, taximeter.dead_letters, taximeter.lost_events IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE taximeter.notices (
    n            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT notice_has_one_id UNIQUE,
    at           timestamptz NOT NULL DEFAULT now(),
    type         text NOT NULL,
    org_id       text,
    subject      text NOT NULL,
    data         jsonb NOT NULL,
    receiver_id  uuid,
    spread_at    timestamptz,
    CONSTRAINT type_is_dotted CHECK (type ~ '^[a-z_]+(\.[a-z_]+)*$'),
    CONSTRAINT subject_is_short CHECK (length(subject) BETWEEN 1 AND 512)
);
COMMENT ON TABLE taximeter.notices IS 'Facts that somebody may be told of, each written in the transaction that made it.';
COMMENT ON COLUMN taximeter.notices.org_id IS 'Whose it is; null for what is of the installation.';
COMMENT ON COLUMN taximeter.notices.subject IS 'What it is about: notices of one subject reach a receiver in the order of n.';
COMMENT ON COLUMN taximeter.notices.data IS 'What is named credits, or ..._credits, is millicredits here.';
COMMENT ON COLUMN taximeter.notices.receiver_id IS 'The only one that it is for: a test; null for all that ask for its type.';
COMMENT ON COLUMN taximeter.notices.spread_at IS 'When deliveries of it were made; null before.';
-- Serves "what is to be given to receivers".
CREATE INDEX notices_to_spread ON taximeter.notices (n) WHERE spread_at IS NULL;
-- Serves "what happened in this organisation in a span of time".
CREATE INDEX notices_by_org ON taximeter.notices (org_id, at);
-- Serves "what is too old", and the span of time of the whole installation.
CREATE INDEX notices_by_time ON taximeter.notices (at);

CREATE TABLE taximeter.conditions (
    subject  text PRIMARY KEY,
    is_wrong boolean NOT NULL,
    since    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE taximeter.conditions IS 'What is wrong now, or was: a change either way is a notice, its repetition none.';

CREATE TABLE taximeter.notice_marks (
    what    text NOT NULL,
    days    integer NOT NULL,
    through timestamptz NOT NULL DEFAULT '-infinity',
    last_id text,
    PRIMARY KEY (what, days),
    CONSTRAINT what_is_known CHECK (what IN ('allocation', 'key'))
);
COMMENT ON TABLE taximeter.notice_marks IS 'Up to which end it was said so many days before that it comes.';
COMMENT ON COLUMN taximeter.notice_marks.last_id IS 'Up to which of those that end at that moment; null for all.';
INSERT INTO taximeter.notice_marks (what, days) VALUES ('allocation', 7), ('allocation', 1), ('key', 7), ('key', 1);

REVOKE ALL ON taximeter.notices, taximeter.conditions, taximeter.notice_marks FROM taximeter_app, taximeter_settler;
REVOKE ALL ON SEQUENCE taximeter.notices_n_seq FROM taximeter_app, taximeter_settler;
GRANT SELECT ON taximeter.notices TO taximeter_app;
GRANT SELECT, UPDATE, DELETE ON taximeter.notices TO taximeter_settler;

-- Serves "which keys end soon".
CREATE INDEX api_keys_by_end ON taximeter.api_keys (expires_at, key_id) WHERE revoked_at IS NULL;

-- The one way in which a notice is written. Nothing is noted while an organisation comes from another cell: it was noted there.
CREATE FUNCTION taximeter.write_notice(type text, org_id text, subject text, data jsonb) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO taximeter.notices (type, org_id, subject, data)
    SELECT $1, $2, left($3, 512), $4
     WHERE current_setting('taximeter.importing', true) IS DISTINCT FROM 'on';
$$;
REVOKE EXECUTE ON FUNCTION taximeter.write_notice FROM PUBLIC;

-- A condition begins or ends: said once each. Returns whether it did. One row, locked, so that two who find the same say it once.
CREATE FUNCTION taximeter.note_condition(subject text, is_wrong boolean, type_wrong text, type_right text, data jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
$$;
REVOKE EXECUTE ON FUNCTION taximeter.note_condition FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.note_condition TO taximeter_settler;

-- Notes what ends within 7 days, and within one, each once: a mark says up to which end it was noted. At most so many of a kind at a time.
-- Returns how many. What was changed to end sooner than the mark is noted by the next one, if at all: whoever changed it knows.
CREATE FUNCTION taximeter.note_expiring(at_time timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
REVOKE EXECUTE ON FUNCTION taximeter.note_expiring FROM PUBLIC;
GRANT EXECUTE ON FUNCTION taximeter.note_expiring TO taximeter_settler;

CREATE FUNCTION taximeter.note_history() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
CREATE TRIGGER history_is_told AFTER INSERT ON org_billing_history FOR EACH ROW
    WHEN (NEW.event_type IN (
        'credits_purchased', 'credits_refunded', 'credits_adjusted', 'invoice_paid', 'invoice_failed', 'allocation_renewal_failed',
        'subscription_created', 'subscription_upgraded', 'subscription_canceled', 'subscription_resumed'))
    EXECUTE FUNCTION taximeter.note_history();

CREATE FUNCTION taximeter.note_subscription() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
CREATE TRIGGER status_is_told AFTER UPDATE OF status ON organization_subscriptions FOR EACH ROW
    WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION taximeter.note_subscription();

-- Who was added directly, or has accepted, has joined; whoever is no active member any more has left.
CREATE FUNCTION taximeter.note_member() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
CREATE TRIGGER member_is_told AFTER INSERT OR DELETE OR UPDATE OF status, role ON organization_members
    FOR EACH ROW EXECUTE FUNCTION taximeter.note_member();

CREATE FUNCTION taximeter.note_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
CREATE TRIGGER key_is_told AFTER INSERT ON taximeter.api_keys FOR EACH ROW EXECUTE FUNCTION taximeter.note_key();
CREATE TRIGGER revoked_key_is_told AFTER UPDATE OF revoked_at ON taximeter.api_keys FOR EACH ROW
    WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION taximeter.note_key();

CREATE FUNCTION taximeter.note_set_aside() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM taximeter.write_notice(
        'system.events_set_aside', NULL, 'shard/' || letter.shard,
        jsonb_build_object('shard', letter.shard, 'events', count(*), 'reason', min(letter.reason)))
       FROM inserted AS letter GROUP BY letter.shard;
    RETURN NULL;
END;
$$;
CREATE TRIGGER letters_are_told AFTER INSERT ON taximeter.dead_letters REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_set_aside();

CREATE FUNCTION taximeter.note_lost() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM taximeter.write_notice(
        'system.events_lost', NULL, 'shard/' || hole.shard,
        jsonb_build_object('shard', hole.shard, 'events', sum(hole.seq_last - hole.seq_first + 1)))
       FROM inserted AS hole GROUP BY hole.shard;
    RETURN NULL;
END;
$$;
CREATE TRIGGER losses_are_told AFTER INSERT ON taximeter.lost_events REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION taximeter.note_lost();

-- migrate:down
LOCK TABLE organization_subscriptions, organization_members IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE org_billing_history IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE taximeter.api_keys, taximeter.dead_letters, taximeter.lost_events IN SHARE ROW EXCLUSIVE MODE;
DROP TRIGGER losses_are_told ON taximeter.lost_events;
DROP TRIGGER letters_are_told ON taximeter.dead_letters;
DROP TRIGGER revoked_key_is_told ON taximeter.api_keys;
DROP TRIGGER key_is_told ON taximeter.api_keys;
DROP TRIGGER member_is_told ON organization_members;
DROP TRIGGER status_is_told ON organization_subscriptions;
DROP TRIGGER history_is_told ON org_billing_history;
DROP FUNCTION taximeter.note_lost;
DROP FUNCTION taximeter.note_set_aside;
DROP FUNCTION taximeter.note_key;
DROP FUNCTION taximeter.note_member;
DROP FUNCTION taximeter.note_subscription;
DROP FUNCTION taximeter.note_history;
DROP FUNCTION taximeter.note_expiring;
DROP FUNCTION taximeter.note_condition;
DROP FUNCTION taximeter.write_notice;
DROP INDEX taximeter.api_keys_by_end;
DROP TABLE taximeter.notice_marks, taximeter.conditions, taximeter.notices;

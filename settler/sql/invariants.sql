-- Queries that return no row while the books are right. Each row is one violation, as text. The comment lines of a block are
-- read by `taximeter check`: its invariant, what it says, and when it fires. Where a query says `timestamptz '-infinity'` and
-- `timestamptz 'infinity'` it can be asked of a span of time: what is before is sealed, or looked at by another question.

-- name: used_is_usage
-- invariant: I2
-- fires: used was changed without a charge behind the triggers' back, or a charge was booked in part. Usage is that of the months, which
-- are compared with their days: there is a tenth as much of them.
SELECT format('%s/%s: used differs from its usage by %s', org_id, user_id, sum(difference)) AS violation
  FROM (SELECT org_id, user_id, used_credits AS difference FROM user_credit_allocations
        UNION ALL
        SELECT org_id, user_id, -credits_to_day[31] FROM taximeter.usage_monthly_by_user
        UNION ALL
        SELECT org_id, user_id, -used_by_hand FROM taximeter.accounts) AS terms
 GROUP BY org_id, user_id
HAVING sum(difference) <> 0
 ORDER BY org_id, user_id
 LIMIT 21

-- name: pool_used_is_its_allocations
-- invariant: I2
-- fires: a pool's used was changed past the triggers, or a settle added to one side only.
SELECT format('%s: used of the pool differs from its allocations by %s', org_id, sum(difference)) AS violation
  FROM (SELECT org_id, used_credits AS difference FROM organization_credit_pools
        UNION ALL
        SELECT org_id, -used_credits FROM user_credit_allocations) AS terms
 GROUP BY org_id
HAVING sum(difference) <> 0
 ORDER BY org_id
 LIMIT 21

-- name: rollup_is_attribution
-- invariant: I2
-- fires: a partition of the attribution was written or dropped directly (`taximeter partitions` leaves a record), or the daily
-- rollup was edited. Days whose rows were dropped are not compared.
SELECT format('%s/%s on %s: the rollup has %s more requests and %s more millicredits than the attribution',
              org_id, user_id, day, sum(requests), sum(credits)) AS violation
  FROM (SELECT org_id, user_id, service_type, service_name, day, requests, credits_used AS credits
          FROM taximeter.usage_daily
         WHERE day >= taximeter.usage_floor() AND day >= (timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND day < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
        UNION ALL
        SELECT org_id, user_id,
               CASE WHEN name.org_id IS NOT NULL OR type.org_id IS NOT NULL THEN service_type ELSE 'other' END,
               CASE WHEN name.org_id IS NOT NULL THEN service_name ELSE 'other' END,
               day, -requests, -credits
          FROM (SELECT org_id, user_id, service_type, service_name, (created_at AT TIME ZONE 'UTC')::date AS day,
                       date_trunc('month', created_at AT TIME ZONE 'UTC')::date AS month, seq IS NULL AS by_sql,
                       count(*) AS requests, sum(credits_used) AS credits
                  FROM credit_usage_attribution
                 WHERE created_at >= taximeter.usage_floor()::timestamp AT TIME ZONE 'UTC'
                   AND created_at >= timestamptz '-infinity' AND created_at < timestamptz 'infinity'
                 GROUP BY 1, 2, 3, 4, 5, 6, 7
                UNION ALL
                SELECT org_id, user_id, service_type, service_name, day, date_trunc('month', day::timestamp)::date, by_sql, requests, credits
                  FROM taximeter.sealed_usage, taximeter.seal_state
                 WHERE sealed_until = timestamptz '-infinity' AND day >= (timestamptz '-infinity' AT TIME ZONE 'UTC')::date) AS used
          LEFT JOIN taximeter.usage_names AS name USING (org_id, month, by_sql, service_type, service_name)
          LEFT JOIN (SELECT DISTINCT org_id, month, by_sql, service_type FROM taximeter.usage_names) AS type
                    USING (org_id, month, by_sql, service_type)) AS terms
 GROUP BY org_id, user_id, service_type, service_name, day
HAVING sum(requests) <> 0 OR sum(credits) <> 0
 ORDER BY org_id, user_id, day
 LIMIT 21

-- name: dropped_months_are_in_the_rollup
-- invariant: I2
-- fires: the rollup of a month whose rows were dropped was edited.
SELECT format('%s: the rollup has %s more requests and %s more millicredits than were dropped and came later',
              to_char(month, 'YYYY-MM'), sum(requests), sum(credits)) AS violation
  FROM (SELECT date_trunc('month', day::timestamp)::date AS month, requests, credits_used AS credits
          FROM taximeter.usage_daily
         WHERE day < taximeter.usage_floor()
        UNION ALL
        SELECT month, -requests, -credits_used FROM taximeter.dropped_months
        UNION ALL
        SELECT date_trunc('month', created_at AT TIME ZONE 'UTC')::date, -1, -credits_used
          FROM credit_usage_attribution
         WHERE created_at < taximeter.usage_floor()::timestamp AT TIME ZONE 'UTC') AS terms
 GROUP BY month
HAVING sum(requests) <> 0 OR sum(credits) <> 0
 ORDER BY month
 LIMIT 21

-- name: rollup_by_org_is_the_rollup
-- invariant: I2
-- fires: one of the rollups of organisations was edited.
SELECT format('%s on %s: the rollup of the organisation has %s more requests and %s more millicredits than its users',
              org_id, day, sum(requests), sum(credits)) AS violation
  FROM (SELECT org_id, service_type, service_name, day, requests, credits_used AS credits
          FROM taximeter.usage_daily_by_org
        UNION ALL
        SELECT org_id, service_type, service_name, day, -requests, -credits_used FROM taximeter.usage_daily) AS terms
 WHERE day >= (timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND day < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
 GROUP BY org_id, service_type, service_name, day
HAVING sum(requests) <> 0 OR sum(credits) <> 0
 ORDER BY org_id, day
 LIMIT 21

-- name: rollup_by_label_is_attribution
-- invariant: I2
-- fires: the rollup of API keys and tags was edited, or usage was written past its triggers. The days of a span are whole, since what was
-- sealed of a day is not kept by label.
SELECT format('%s by %s on %s: the rollup has %s more requests and %s more millicredits than the attribution',
              org_id, kind, day, sum(requests), sum(credits)) AS violation
  FROM (SELECT org_id, kind, day, requests, credits_used AS credits
          FROM taximeter.usage_daily_by_label
        UNION ALL
        SELECT org_id, labels.kind, (created_at AT TIME ZONE 'UTC')::date, -1, -credits_used
          FROM credit_usage_attribution CROSS JOIN LATERAL taximeter.labels_of(request_metadata) AS labels
         WHERE request_metadata ?| ARRAY['key_id', 'tag']
           AND created_at >= taximeter.usage_floor()::timestamp AT TIME ZONE 'UTC'
           AND created_at >= date_trunc('day', timestamptz '-infinity' AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
           AND created_at < timestamptz 'infinity') AS terms
 WHERE day >= taximeter.usage_floor()
   AND day >= (timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND day < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
 GROUP BY org_id, kind, day
HAVING sum(requests) <> 0 OR sum(credits) <> 0
 ORDER BY org_id, kind, day
 LIMIT 21

-- name: rollup_by_month_is_that_by_day
-- invariant: I2
-- fires: one of the rollups of organisations was edited. Running totals are compared by day: each less the one before it.
SELECT format('%s on %s: the months have %s more requests and %s more millicredits than their days',
              org_id, day, sum(requests), sum(credits)) AS violation
  FROM (SELECT org_id, month + nth - 1 AS day, requests_to_day[nth] - coalesce(requests_to_day[nth - 1], 0) AS requests,
               credits_to_day[nth] - coalesce(credits_to_day[nth - 1], 0) AS credits
          FROM taximeter.usage_monthly_by_org,
               generate_series(greatest(month, (timestamptz '-infinity' AT TIME ZONE 'UTC')::date) - month + 1,
                               least(month + 31, (timestamptz 'infinity' AT TIME ZONE 'UTC')::date) - month) AS nth
         WHERE month >= date_trunc('month', timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND month < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
        UNION ALL
        SELECT org_id, day, -requests, -credits_used FROM taximeter.usage_daily_by_org) AS terms
 WHERE day >= (timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND day < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
 GROUP BY org_id, day
HAVING sum(requests) <> 0 OR sum(credits) <> 0
 ORDER BY org_id, day
 LIMIT 21

-- name: rollup_by_user_and_month_is_that_by_day
-- invariant: I2
-- fires: one of the rollups of users was edited.
SELECT format('%s/%s on %s: the months have %s more requests and %s more millicredits than their days',
              org_id, user_id, day, sum(requests), sum(credits)) AS violation
  FROM (SELECT org_id, user_id, month + nth - 1 AS day, requests_to_day[nth] - coalesce(requests_to_day[nth - 1], 0) AS requests,
               credits_to_day[nth] - coalesce(credits_to_day[nth - 1], 0) AS credits
          FROM taximeter.usage_monthly_by_user,
               generate_series(greatest(month, (timestamptz '-infinity' AT TIME ZONE 'UTC')::date) - month + 1,
                               least(month + 31, (timestamptz 'infinity' AT TIME ZONE 'UTC')::date) - month) AS nth
         WHERE month >= date_trunc('month', timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND month < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
        UNION ALL
        SELECT org_id, user_id, day, -requests, -credits_used FROM taximeter.usage_daily) AS terms
 WHERE day >= (timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND day < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
 GROUP BY org_id, user_id, day
HAVING sum(requests) <> 0 OR sum(credits) <> 0
 ORDER BY org_id, user_id, day
 LIMIT 21

-- name: rollup_of_all_is_that_of_organizations
-- invariant: I2
-- fires: the rollup of the whole system was edited.
SELECT format('%s, to day %s: everybody has %s more requests and %s more millicredits than the organisations',
              to_char(month, 'YYYY-MM'), nth, sum(requests), sum(credits)) AS violation
  FROM (SELECT month, nth, requests_to_day[nth] AS requests, credits_to_day[nth] AS credits
          FROM taximeter.usage_monthly,
               generate_series(greatest(month, (timestamptz '-infinity' AT TIME ZONE 'UTC')::date) - month + 1,
                               least(month + 31, (timestamptz 'infinity' AT TIME ZONE 'UTC')::date) - month) AS nth
        UNION ALL
        SELECT month, nth, -requests_to_day[nth], -credits_to_day[nth]
          FROM taximeter.usage_monthly_by_org,
               generate_series(greatest(month, (timestamptz '-infinity' AT TIME ZONE 'UTC')::date) - month + 1,
                               least(month + 31, (timestamptz 'infinity' AT TIME ZONE 'UTC')::date) - month) AS nth) AS terms
 WHERE month >= date_trunc('month', timestamptz '-infinity' AT TIME ZONE 'UTC')::date AND month < (timestamptz 'infinity' AT TIME ZONE 'UTC')::date
 GROUP BY month, nth
HAVING sum(requests) <> 0 OR sum(credits) <> 0
 ORDER BY month, nth
 LIMIT 21

-- name: pool_allocated_is_its_allocations
-- invariant: I3
-- fires: a pool's allocated or closed was changed past the triggers. Active allocations are allocated, the others closed.
SELECT format('%s: allocated of the pool differs from its active allocations by %s, closed from the others by %s',
              org_id, sum(allocated), sum(closed)) AS violation
  FROM (SELECT org_id, allocated_credits AS allocated, closed_credits AS closed FROM organization_credit_pools
        UNION ALL
        SELECT org_id, CASE WHEN is_active THEN -allocated_credits ELSE 0 END,
               CASE WHEN is_active THEN 0 ELSE -allocated_credits END
          FROM user_credit_allocations) AS terms
 GROUP BY org_id
HAVING sum(allocated) <> 0 OR sum(closed) <> 0
 ORDER BY org_id
 LIMIT 21

-- name: terms_are_not_negative
-- invariant: I3
-- fires: a constraint was dropped. (Free may be negative: a late charge of a closed account is always booked.)
SELECT format('%s: total %s, allocated %s, closed %s, used %s', org_id, total_credits, allocated_credits, closed_credits,
              used_credits) AS violation
  FROM organization_credit_pools
 WHERE least(total_credits, allocated_credits, closed_credits, used_credits) < 0
    OR available_credits IS DISTINCT FROM total_credits - allocated_credits - closed_credits
 ORDER BY org_id
 LIMIT 21

-- name: event_is_charged_once
-- invariant: I5
-- fires: an event was booked twice or in part, or rows of one of the two tables were changed by hand. Events whose charge is forgotten
-- are not compared, nor those of another cell (shards below zero), which came with a proof.
SELECT format('%s request %s: charged %s, attributed %s', org_id, request_id,
              sum(charged), sum(attributed)) AS violation
  FROM (SELECT shard, epoch, seq, org_id, request_id, amount AS charged, 0 AS attributed, 1 AS rows
          FROM taximeter.charged_requests
         WHERE seq IS NOT NULL AND shard >= 0 AND created_at >= taximeter.usage_floor()::timestamp AT TIME ZONE 'UTC'
           AND created_at >= timestamptz '-infinity' AND created_at < timestamptz 'infinity'
        UNION ALL
        SELECT shard, epoch, seq, org_id, request_id, 0, credits_used, -1
          FROM credit_usage_attribution
         WHERE seq IS NOT NULL AND shard >= 0 AND created_at >= taximeter.usage_floor()::timestamp AT TIME ZONE 'UTC'
           AND created_at >= timestamptz '-infinity' AND created_at < timestamptz 'infinity') AS terms
  LEFT JOIN (SELECT DISTINCT ON (shard) shard, epoch AS epoch_gone, seq_last AS seq_gone
               FROM taximeter.forgotten_charges ORDER BY shard, epoch DESC, seq_last DESC) AS forgotten USING (shard)
 WHERE epoch_gone IS NULL OR (epoch, seq) > (epoch_gone, seq_gone)
 GROUP BY org_id, request_id
HAVING sum(rows) <> 0 OR sum(charged) <> sum(attributed)
 ORDER BY org_id, request_id
 LIMIT 21

-- name: deduction_is_attributed
-- invariant: I5
-- fires: a deduction made in SQL was booked as charged and its usage is missing or of another amount.
SELECT format('%s request %s: charged %s, no such usage', charged.org_id, charged.request_id, charged.amount) AS violation
  FROM taximeter.charged_requests AS charged
  LEFT JOIN (SELECT org_id, request_id, created_at, sum(credits_used) AS amount
               FROM credit_usage_attribution
              WHERE seq IS NULL AND request_id IS NOT NULL AND created_at >= timestamptz '-infinity' AND created_at < timestamptz 'infinity'
              GROUP BY org_id, request_id, created_at) AS usage
    ON usage.org_id = charged.org_id AND usage.request_id = charged.request_id AND usage.created_at = charged.created_at
 WHERE charged.seq IS NULL AND charged.created_at >= timestamptz '-infinity' AND charged.created_at < timestamptz 'infinity'
   AND charged.created_at >= taximeter.usage_floor()::timestamp AT TIME ZONE 'UTC'
   AND usage.amount IS DISTINCT FROM charged.amount
 ORDER BY charged.org_id, charged.request_id
 LIMIT 21

-- name: entries_are_contiguous
-- invariant: I11
-- fires: an entry is missing or an account's counter was changed: the relay would stop at the gap, or skip a number.
SELECT format('%s/%s: last entry %s, but %s entries up to %s',
              org_id, user_id, max(entry_seq), sum(entries), max(highest)) AS violation
  FROM (SELECT org_id, user_id, entry_seq, 0 AS entries, 0 AS highest FROM taximeter.accounts
        UNION ALL
        SELECT org_id, user_id, 0, count(*), max(entry_seq) FROM taximeter.account_entries GROUP BY org_id, user_id) AS terms
 GROUP BY org_id, user_id
HAVING max(entry_seq) <> sum(entries) OR max(entry_seq) <> max(highest)
 ORDER BY org_id, user_id
 LIMIT 21

-- name: rows_belong_to_their_organization
-- invariant: I13
-- fires: a foreign key was dropped or bypassed.
SELECT format('%s: allocations without their %s', a.org_id,
              CASE WHEN p.org_id IS NULL THEN 'pool' ELSE 'organisation' END) AS violation
  FROM (SELECT DISTINCT org_id FROM user_credit_allocations) AS a
  LEFT JOIN organization_credit_pools AS p ON p.org_id = a.org_id
  LEFT JOIN organizations AS o ON o.id = a.org_id
 WHERE p.org_id IS NULL OR o.id IS NULL
 ORDER BY a.org_id
 LIMIT 21

-- name: request_belongs_to_its_user
-- invariant: I13
-- fires: a request is charged to one user and attributed to another.
SELECT format('%s request %s: charged to %s, attributed to %s', c.org_id, c.request_id, c.user_id, u.user_id) AS violation
  FROM taximeter.charged_requests AS c
  JOIN credit_usage_attribution AS u
    ON u.org_id = c.org_id AND u.request_id = c.request_id AND u.seq = c.seq
   AND u.shard = c.shard AND u.epoch = c.epoch
 WHERE u.user_id <> c.user_id
   AND c.created_at >= timestamptz '-infinity' AND c.created_at < timestamptz 'infinity'
   AND u.created_at >= timestamptz '-infinity' AND u.created_at < timestamptz 'infinity'
 ORDER BY c.org_id, c.request_id
 LIMIT 21

-- name: organization_keeps_its_shard
-- invariant: I13
-- fires: events of an organisation arrived through two shards: clients disagree about the number of shards.
SELECT format('%s: its events came through %s shards', org_id, count(DISTINCT shard)) AS violation
  FROM (SELECT org_id, shard, epoch
          FROM taximeter.charged_requests
         WHERE seq IS NOT NULL AND shard >= 0 -- Below zero: of another cell.
           AND created_at >= timestamptz '-infinity' AND created_at < timestamptz 'infinity'
        UNION ALL
        SELECT org_id, shard, epoch_last FROM taximeter.sealed_shards WHERE timestamptz '-infinity' > '-infinity') AS seen
 WHERE epoch >= (SELECT coalesce(max(since_epoch), 0) FROM taximeter.shard_layouts)
 GROUP BY org_id
HAVING count(DISTINCT shard) > 1
 ORDER BY org_id
 LIMIT 21

-- name: moves_are_their_entries
-- invariant: I7
-- fires: a move that is done has no entry, or an entry names a move that says something else: a row was written past the functions.
SELECT format('%s/%s: move %s and its entries differ by %s', org_id, user_id, reference, sum(amount)) AS violation
  FROM (SELECT org_id, from_user AS user_id, id::text AS reference, amount
          FROM taximeter.moves WHERE state = 'done'
        UNION ALL
        SELECT org_id, to_user, id::text, -amount
          FROM taximeter.moves WHERE state = 'done' AND to_user IS NOT NULL
        UNION ALL
        SELECT org_id, user_id, reference, delta
          FROM taximeter.account_entries
         WHERE reference IS NOT NULL AND kind IN ('transfer', 'deallocation', 'removal', 'expiry')) AS terms
 GROUP BY org_id, user_id, reference
HAVING sum(amount) <> 0
 ORDER BY org_id, user_id, reference
 LIMIT 21

-- name: audit_links_fit
-- invariant: I14
-- fires: a row of the audit log or of its chain was changed past the triggers, which only the owner of the database can do.
SELECT format('link %s of the audit log (row %s) does not fit: the row or a link before it was changed', n, audit_id) AS violation
  FROM (SELECT chain.n, chain.audit_id, chain.digest,
               taximeter.audit_link(coalesce(lag(chain.digest) OVER (ORDER BY chain.n), decode(repeat('00', 32), 'hex')), audit)
               AS expected
          FROM taximeter.audit_chain AS chain
          LEFT JOIN taximeter.audit_log AS audit ON audit.id = chain.audit_id) AS links
 WHERE digest <> expected AND EXISTS (SELECT FROM taximeter.audit_log AS audit WHERE audit.id = links.audit_id)
 ORDER BY n
 LIMIT 21

-- name: audit_rows_are_there
-- invariant: I14
-- fires: rows of the audit log, or links of its chain, were taken out past the triggers.
SELECT format('row %s of the audit log is gone (link %s)', chain.audit_id, chain.n) AS violation
  FROM taximeter.audit_chain AS chain
  LEFT JOIN taximeter.audit_log AS audit ON audit.id = chain.audit_id
 WHERE audit.id IS NULL
UNION ALL
SELECT format('%s links of the audit log are gone', max(n) - count(*)) FROM taximeter.audit_chain HAVING max(n) <> count(*)
UNION ALL
SELECT format('link %s of the audit log is not the one that was noted: the log was put back to an older copy', known.n)
  FROM taximeter.audit_end AS known
 WHERE NOT EXISTS (SELECT FROM taximeter.audit_chain AS chain WHERE chain.n = known.n AND chain.digest = known.digest)
 LIMIT 21

-- name: audit_rows_are_linked
-- invariant: I14
-- fires: no settler has run its minute's work for ten minutes, or links were taken out from the end.
SELECT format('row %s of the audit log, written at %s, is not linked', audit.id, audit.at) AS violation
  FROM taximeter.audit_log AS audit
 WHERE audit.at < now() - interval '10 minutes'
   AND NOT EXISTS (SELECT FROM taximeter.audit_chain AS chain WHERE chain.audit_id = audit.id)
 ORDER BY audit.id
 LIMIT 21

-- name: seals_are_linked
-- invariant: I16
-- fires: a seal, or what it sealed, was changed, put in or taken out past the triggers; or the seals were put back to an older copy.
SELECT format('seal %s does not fit: it, what it sealed or a seal before it was changed', n) AS violation
  FROM (SELECT seal.n, seal.link, taximeter.seal_link(
                   coalesce(lag(seal.link) OVER (ORDER BY seal.n), decode(repeat('00', 32), 'hex')), seal) AS expected
          FROM taximeter.seals AS seal) AS links
 WHERE link <> expected
UNION ALL
SELECT format('%s seals are gone', max(n) - count(*)) FROM taximeter.seals HAVING max(n) <> count(*)
UNION ALL
SELECT format('the last seal is not the one that was noted (%s, until %s)', state.n, coalesce(state.sealed_until::text, 'nothing'))
  FROM taximeter.seal_state AS state
  LEFT JOIN (SELECT n, link, until FROM taximeter.seals ORDER BY n DESC LIMIT 1) AS seal ON true
 WHERE (state.n, CASE WHEN state.n > 0 THEN state.link END, state.sealed_until)
       IS DISTINCT FROM (coalesce(seal.n, 0), seal.link, seal.until)
UNION ALL
SELECT format('seal %s is not there, and %s lines of what it sealed are', sealed.seal_n, count(*))
  FROM taximeter.sealed_rows AS sealed
 WHERE NOT EXISTS (SELECT FROM taximeter.seals AS seal WHERE seal.n = sealed.seal_n)
 GROUP BY sealed.seal_n
 LIMIT 21

-- name: sealed_days_are_unaltered
-- invariant: I16
-- fires: rows that were sealed were changed, put in or taken out past the triggers; found when the day was read again.
SELECT unnest(said) AS violation FROM taximeter.altered_days ORDER BY day LIMIT 21

-- name: months_came_back_as_they_left
-- invariant: I16
-- fires: a month that was brought back from its archive is not what was sealed before it left.
SELECT format('%s: as many rows came back as had left for the archive, and not the same ones',
              to_char(date_trunc('month', day::timestamp), 'YYYY-MM')) AS violation
  FROM taximeter.sealed_rows
 WHERE kind IN ('archived', 'restored')
 GROUP BY date_trunc('month', day::timestamp)
HAVING sum(rows) = 0 AND sum(digest) <> 0
 LIMIT 21

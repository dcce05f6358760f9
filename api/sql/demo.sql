-- name: settlement_lag
-- From the Redis time of each charge to the commit of the batch that settled it, for the report of
-- the demo. Both clocks are those of one machine.
-- $1 organisations
SELECT count(*) AS events,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY lag_s) AS p50_s,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY lag_s) AS p99_s
FROM (
    SELECT extract(EPOCH FROM batch.settled_at - charge.created_at)::float8 AS lag_s
    FROM credit_usage_attribution AS charge
    JOIN taximeter.settled_batches AS batch
      ON batch.shard = charge.shard
     AND batch.epoch = charge.epoch
     AND charge.seq BETWEEN batch.seq_first AND batch.seq_last
    WHERE charge.org_id = ANY ($1::text[])
) AS lags;

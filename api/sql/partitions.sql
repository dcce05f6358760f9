-- name: months
-- Why: which months hold usage or did, and what became of their rows.
SELECT month, partition, requests, credits_used, dropped_requests FROM taximeter.usage_months();

-- name: drop_month
-- Why: drops the rows of one month and records what the rollups have of it; how many rows went.
-- Locks: the attribution for a moment, at its end.
-- $1 first day of the month
SELECT taximeter.drop_attribution_month($1);

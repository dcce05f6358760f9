-- name: ping
-- Why: whether Postgres answers at all.
SELECT 1;

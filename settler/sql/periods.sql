-- name: end_billing_periods
-- Ends the periods that are over on a day, and begins the next ones. $1 the day in UTC
SELECT taximeter.end_billing_periods($1)

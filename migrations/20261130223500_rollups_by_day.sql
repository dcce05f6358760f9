-- Why: to seal a day, and to look at the one that goes on, all of the rollups were read: their keys begin with the organisation. Rows of a
-- day are written on that day, so a block index finds them, and an insert pays next to nothing for it.
-- Locks: SHARE on the three rollups, one after the other, for as long as reading them once takes (about 2 s for ten million rows):
-- settling waits, requests do not.
-- Older code beside it: yes.

-- migrate:up
-- Serves "the usage of a day", to be compared with the rows it stands for.
CREATE INDEX usage_daily_by_day ON taximeter.usage_daily USING brin (day) WITH (pages_per_range = 32, autosummarize = on);

-- Serves the same, of organisations.
CREATE INDEX usage_daily_by_org_by_day ON taximeter.usage_daily_by_org USING brin (day) WITH (pages_per_range = 32, autosummarize = on);

-- Serves the same, of months.
CREATE INDEX usage_monthly_by_user_by_month ON taximeter.usage_monthly_by_user USING brin (month) WITH (pages_per_range = 32, autosummarize = on);

-- migrate:down
DROP INDEX taximeter.usage_monthly_by_user_by_month;
DROP INDEX taximeter.usage_daily_by_org_by_day;
DROP INDEX taximeter.usage_daily_by_day;

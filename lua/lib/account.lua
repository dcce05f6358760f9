-- The account record: available, held (millicredits) and applied (number of the last entry, kept as text), one space between.
-- TAKES match
local function parse_account(record)
  local available, held, applied = match(record, '^(%-?%d+) (%d+) (%d+)$')
  if not available or #record > 60 then return nil end
  return available + 0, held + 0, applied
end

-- The account record: available, held (millicredits) and applied (number of the last entry, kept as text), one space between.
-- TAKES format, match
local function parse_account(record)
  local available, held, applied = match(record, '^(%-?%d+) (%d+) (%d+)$')
  if not available or #record > 60 then return nil end
  return tonumber(available), tonumber(held), applied
end

local function account_record(available, held, applied)
  return format('%d %d %s', available, held, applied)
end

-- The account record: available, held (millicredits) and applied (number of the last entry), one space between.
-- Numbers leave Lua only through %.0f: tostring, `..` and cjson keep 14 digits.
local function parse_account(record)
  local available, held, applied = match(record, '^(%-?%d+) (%d+) (%d+)$')
  if not available or #record > 60 then return nil end
  return tonumber(available), tonumber(held), tonumber(applied)
end

local function account_record(available, held, applied)
  return format('%.0f %.0f %.0f', available, held, applied)
end

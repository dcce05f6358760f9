-- What Postgres says of an account, read and written: not for the hot path, where each function that is made costs.
-- TAKES format, sub, whole, BALANCE_MAX

-- A whole number that may have a minus sign, at most BALANCE_MAX either way, or nil.
local function signed(text)
  if sub(text, 1, 1) ~= '-' then return whole(text, BALANCE_MAX) end
  local number = whole(sub(text, 2), BALANCE_MAX)
  return number and -number
end

-- As `parse_account` reads it.
local function account_record(available, held, applied)
  return format('%d %d %s', available, held, applied)
end

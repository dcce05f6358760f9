-- Shared first lines of every script: shorthands, limits, and the check of the shard's epoch.
local call, format, find, match, sub = redis.call, string.format, string.find, string.match, string.sub
local AMOUNT_MAX, BALANCE_MAX, PAYLOAD_BYTES_MAX, TTL_MS_MAX = 1e12, 9e14, 4096, 86400000

-- The error that refuses a whole call, or nil when the shard is open at the epoch that the caller expects.
-- `found` and `seq` are fields of meta; a shard without them, or fenced, admits nobody.
local function refusal(found, expected, seq)
  if found == expected and seq and find(seq, '^%d+$') then return nil end
  if not found or not seq then return redis.error_reply('FENCED the shard has not been opened') end
  if not find(found, '^%d+$') then return redis.error_reply('FENCED the shard is closed until it has been looked at') end
  return redis.error_reply('STALE_EPOCH the shard is at epoch ' .. found)
end

-- Numbers leave Lua through %d, which is exact to 2^53 where C's long has 64 bits (`open` refuses
-- other servers); tostring, `..` and cjson keep 14 digits only.

-- A whole number of at most 15 digits and at most `limit`, or nil. tonumber alone would take nan, inf, hex and fractions.
local function whole(text, limit)
  if not text or #text > 15 or not find(text, '^%d+$') then return nil end
  local number = text + 0
  if number <= limit then return number end
end

-- Redis time in milliseconds: the only clock of holds and events.
local function now_ms()
  local time = call('TIME')
  local micros = time[2] + 0
  return time[1] * 1000 + (micros - micros % 1000) / 1000
end

#!lua
--[[ limit: says whether a caller may make one more request of a kind. It moves no money and is bound to no shard: what it
knows may be lost at any time, and then the caller starts afresh.

Invariant: within any WINDOW_MS at most LIMIT requests are let in.

KEYS[1] requests  list  the times (ms) of the last requests that were let in, oldest first; gone after a window of silence
ARGV[1] limit, 1..100000
ARGV[2] window_ms, 1000..86400000

RETURNS 0 when it is let in, else the milliseconds until the next one will be
ERRORS MALFORMED: nothing was done ]]
if #KEYS ~= 1 or #ARGV ~= 2 then return redis.error_reply('MALFORMED arguments are missing') end
local call, format, floor, min = redis.call, string.format, math.floor, math.min
local limit, window_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
if not limit or limit < 1 or limit > 100000 then return redis.error_reply('MALFORMED limit is 1 to 100000') end
if not window_ms or window_ms < 1000 or window_ms > 86400000 then
  return redis.error_reply('MALFORMED window_ms is 1000 to 86400000')
end
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
-- Also what a limit that was higher has left behind.
call('LTRIM', KEYS[1], -limit, -1)
if call('LLEN', KEYS[1]) >= limit then
  local wait = tonumber(call('LINDEX', KEYS[1], 0)) + window_ms - now
  -- A clock that was put back keeps nobody out for longer than a window.
  if wait > 0 then return min(wait, window_ms) end
end
call('RPUSH', KEYS[1], format('%d', now))
call('PEXPIRE', KEYS[1], window_ms)
return 0

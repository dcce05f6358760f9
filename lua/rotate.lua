#!lua flags=allow-oom
--[[ rotate: forgets the older generation of outcomes, at most once a window.

Invariant: an outcome is remembered for at least one window and at most two (plus the pause between calls). A repeat that
comes later is caught by the ledger, which charges an (organisation, request) once.

KEYS[1] outcomes      hash  the younger generation
KEYS[2] outcomes_old  hash  the older one
KEYS[3] meta          hash  epoch, seq, rotated_ms
ARGV[1] epoch
ARGV[2] window_ms, 1000..86400000

RETURNS 1 when it rotated, 0 when the window is not over
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 3 or #ARGV ~= 2 then return redis.error_reply('MALFORMED arguments are missing') end
local window_ms = whole(ARGV[2], TTL_MS_MAX)
if not window_ms or window_ms < 1000 then return redis.error_reply('MALFORMED window_ms is 1000 to 86400000') end
local meta = call('HMGET', KEYS[3], 'epoch', 'seq', 'rotated_ms')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local time_ms = now_ms()
if meta[3] and time_ms - tonumber(meta[3]) < window_ms then return 0 end
call('HLEN', KEYS[1])
-- UNLINK first: a RENAME over a large hash would free it in the foreground.
call('UNLINK', KEYS[2])
if call('EXISTS', KEYS[1]) == 1 then call('RENAME', KEYS[1], KEYS[2]) end
call('HSET', KEYS[3], 'rotated_ms', format('%d', time_ms))
return 1

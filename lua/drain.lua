#!lua flags=allow-oom
--[[ drain: stops taking credit for a while, so that open holds can end before the shard is closed for maintenance.

Invariant: until the time is over, or the drain is ended, no reserve or charge is accepted; commit, release and touch are.
If whoever drains dies, the settler's next `admit` after that time ends it.

KEYS[1] meta  hash  epoch, seq, admit_until, drain_until_ms
ARGV[1] epoch
ARGV[2] how long, in ms; 0 ends a drain (credit is taken again, without a bound until the next `admit`)

RETURNS OK
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 1 or #ARGV ~= 2 then return redis.error_reply('MALFORMED arguments are missing') end
local meta = call('HMGET', KEYS[1], 'epoch', 'seq')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local lasting_ms = whole(ARGV[2], TTL_MS_MAX)
if not lasting_ms then return redis.error_reply('MALFORMED a drain lasts 0 to 86400000 ms') end
if lasting_ms == 0 then
  call('HDEL', KEYS[1], 'admit_until', 'drain_until_ms')
else
  call('HSET', KEYS[1], 'admit_until', '0', 'drain_until_ms', format('%d', now_ms() + lasting_ms))
end
return redis.status_reply('OK')

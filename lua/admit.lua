#!lua flags=allow-oom
--[[ admit: says up to which event credit is taken, so that the backlog of events stays bounded while Postgres is away; and how
many holds an account may have open; and that its settler reads payloads with codes.

Invariant: once seq has reached admit_until, `operate` takes no credit; no balance changes here. A drain under
way is left alone until its time is over.

KEYS[1] meta  hash  epoch, seq, admit_until, drain_until_ms, open_holds_max, payload_codes
ARGV[1] epoch
ARGV[2] admit_until: the number of the last settled event, and as many more as may wait
ARGV[3] most holds that an account may have open, 1..1000000

RETURNS the admit_until that holds now, as text; 0 while the shard is drained
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 1 or #ARGV ~= 3 then return redis.error_reply('MALFORMED arguments are missing') end
local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'drain_until_ms')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local admit_until = whole(ARGV[2], BALANCE_MAX)
if not admit_until or admit_until == 0 then return redis.error_reply('MALFORMED admit_until is 1 or more') end
local open_holds_max = whole(ARGV[3], 1000000)
if not open_holds_max or open_holds_max == 0 then
  return redis.error_reply('MALFORMED open_holds_max is 1 to 1000000')
end
call('HSET', KEYS[1], 'open_holds_max', ARGV[3], 'payload_codes', '1')
if meta[3] then
  if tonumber(meta[3]) > now_ms() then return '0' end
  call('HDEL', KEYS[1], 'drain_until_ms')
end
call('HSET', KEYS[1], 'admit_until', ARGV[2])
return ARGV[2]

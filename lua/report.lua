#!lua flags=allow-oom
--[[ report: notes that this server lacks calls that a client was told had been done. For the guardian, who rebuilds the shard.

Invariant: no balance, hold or event changes. What is recorded only grows within an epoch, and goes when the shard is opened anew.

KEYS[1] meta  hash  epoch, seq, missing
ARGV[1] epoch
ARGV[2] writes that the client was told of
ARGV[3] writes that the server had when it was asked again: less

RETURNS how many calls are known to be missing, as text
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 1 or #ARGV ~= 3 then return redis.error_reply('MALFORMED arguments are missing') end
if #KEYS ~= 1 or #ARGV ~= 3 then return redis.error_reply('MALFORMED report takes 1 key and 3 arguments') end
local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'missing')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local told, found = whole(ARGV[2], BALANCE_MAX), whole(ARGV[3], BALANCE_MAX)
if not told or not found or found >= told then return redis.error_reply('MALFORMED found is less than told') end
local missing = math.max(told - found, tonumber(meta[3] or '0'))
call('HSET', KEYS[1], 'missing', format('%d', missing))
return format('%d', missing)

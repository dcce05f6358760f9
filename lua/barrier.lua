#!lua flags=allow-oom
--[[ barrier: writes, and changes nothing, for WAIT and WAITAOF to wait for.

Invariant: no balance, hold or event changes. WAIT looks at the last write of its connection, and an operation that was
answered from memory has made none.

KEYS[1] meta  hash  barrier, epoch, writes

RETURNS {epoch, writes}, as text: what was written before this call is in what they count; empty where meta does not say
ERRORS MALFORMED: nothing was done ]]
if #KEYS ~= 1 or #ARGV ~= 0 then return redis.error_reply('MALFORMED arguments are missing') end
redis.call('HSET', KEYS[1], 'barrier', '1')
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'writes')
return {meta[1] or '', meta[2] or ''}

#!lua flags=allow-oom
--[[ approve: records the run id of a server whose data the guardian found to be whole, after a restart.

Invariant: clients admit nothing on a server whose run id is not the one recorded here.

KEYS[1] meta  hash  epoch, seq, run_id
ARGV[1] epoch
ARGV[2] run_id

RETURNS OK
ERRORS FENCED, STALE_EPOCH: nothing was done ]]
--- @include "lib/shard"
local meta = call('HMGET', KEYS[1], 'epoch', 'seq')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
call('HSET', KEYS[1], 'run_id', ARGV[2])
return redis.status_reply('OK')

#!lua flags=allow-oom
--[[ approve: records the run id of a server whose data the guardian found to be whole, after a restart.

Invariant: clients admit nothing on a server whose run id is not the one recorded here. Every approved server gets a number of
its own, `start`: it may have lost its newest writes, so what holds have reported before counts again when they are touched, and
`hints_due` says that all accounts must be compared with what Postgres takes for applied. A guardian that froze and wakes approves
nothing that another one has passed over.

KEYS[1] meta  hash  epoch, seq, run_id, replid, start, complete_ms, hints_due, writes, start_writes (those that this server began with)
ARGV[1] epoch
ARGV[2] run_id
ARGV[3] replid: its replication history; may be empty or missing
ARGV[4] the number of this start, as Postgres has given it; the next one where it is missing

RETURNS the number of this start
ERRORS FENCED, STALE_EPOCH, MALFORMED; RESTARTED: there was a start of this number, or a later one. Nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 1 or #ARGV < 2 then return redis.error_reply('MALFORMED approve takes 1 key and 4 arguments') end
local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'start', 'writes')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local before = whole(meta[3] or '0', BALANCE_MAX) or 0
local start = ARGV[4] and whole(ARGV[4], BALANCE_MAX) or not ARGV[4] and before + 1
if not start then return redis.error_reply('MALFORMED start is a whole number') end
if start <= before then return redis.error_reply('RESTARTED the shard is at start ' .. format('%d', before)) end
call('HDEL', KEYS[1], 'complete_ms')
call('HSET', KEYS[1], 'run_id', ARGV[2], 'replid', ARGV[3] or '', 'start', format('%d', start), 'hints_due', '1',
  'start_writes', meta[4] or '0')
return start

#!lua flags=allow-oom
--[[ complete: notes the last moment at which every account that Postgres knew was here.

Invariant: a client that asked for an account before that moment, and does not find it, may say that there is none. Whatever can
lose accounts (another epoch, another start) takes the note away, and only a walk through all accounts brings it back. Such a walk
has also compared how far each account is with what Postgres takes for applied.

KEYS[1] meta  hash  epoch, seq, start, complete_ms, hints_due
ARGV[1] epoch
ARGV[2] start
ARGV[3] Redis time in ms, read before Postgres was
ARGV[4] 1 after a walk through all accounts; 0 after what changed since the last note was relayed

RETURNS OK
ERRORS FENCED, STALE_EPOCH, MALFORMED; RESTARTED: another start, or nobody has walked through all accounts in this one. Nothing
  was done ]]
--- @include "lib/shard"
if #KEYS ~= 1 or #ARGV ~= 4 then return redis.error_reply('MALFORMED complete takes 1 key and 4 arguments') end
if not whole(ARGV[3], BALANCE_MAX) then return redis.error_reply('MALFORMED time') end
local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'start', 'complete_ms')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
if (meta[3] or '0') ~= ARGV[2] or not (meta[4] or ARGV[4] == '1') then
  return redis.error_reply('RESTARTED the accounts of this start are not known to be here')
end
call('HSET', KEYS[1], 'complete_ms', ARGV[3])
if ARGV[4] == '1' then call('HDEL', KEYS[1], 'hints_due') end
return redis.status_reply('OK')

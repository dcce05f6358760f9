#!lua flags=allow-oom
--[[ witness: records how far Postgres was when it was last seen with this shard.

Invariant: only ever written by a guardian that has found the shard whole. A Postgres that says less later, or another one,
has lost what this shard relies on, and the shard is rebuilt from it.

KEYS[1] meta  hash  epoch, seq, ledger
ARGV[1] epoch
ARGV[2] ledger: history (system identifier and timeline), bytes of log on the disk, last settled event; a space between

RETURNS OK
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
local meta = call('HMGET', KEYS[1], 'epoch', 'seq')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
if #ARGV[2] > 80 or not find(ARGV[2], '^%w+/%w+ %d+ %d+$') then return redis.error_reply('MALFORMED ledger') end
call('HSET', KEYS[1], 'ledger', ARGV[2])
return redis.status_reply('OK')

#!lua flags=allow-oom
--[[ witness: records how far Postgres was when it was last seen with this shard.

Invariant: what is recorded never goes back within an epoch. A Postgres that says less later, or another one, has lost what this
shard relies on: only a guardian may go on with it, by rebuilding the shard. Whoever wrote that down here would hide it from the guardian.

KEYS[1] meta  hash  epoch, seq, ledger
ARGV[1] epoch
ARGV[2] ledger: history (system identifier and timeline), bytes of log on the disk, last settled event; a space between

RETURNS OK, or BEHIND: this Postgres is less far than one that was seen here, or another one; nothing was done
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
-- Positions may have more digits than a number here holds.
local function less(a, b) return #a < #b or (#a == #b and a < b) end

local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'ledger')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local history, position, settled = match(ARGV[2], '^(%w+/%w+) (%d+) (%d+)$')
if #ARGV[2] > 80 or not history then return redis.error_reply('MALFORMED ledger') end
local known, furthest, last = match(meta[3] or '', '^(%w+/%w+) (%d+) (%d+)$')
if known and (known ~= history or less(position, furthest) or less(settled, last)) then return redis.status_reply('BEHIND') end
call('HSET', KEYS[1], 'ledger', ARGV[2])
return redis.status_reply('OK')

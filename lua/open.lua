#!lua
--[[ open: makes a shard usable at a new epoch. For the guardian alone, which has fenced and settled it before.

Invariant: an epoch is opened once, and epochs only grow. Accounts, holds and outcomes start empty (accounts load from
Postgres when they are first needed); events stay, for the settler's retention.

KEYS[1] accounts      hash
KEYS[2] holds         hash
KEYS[3] deadlines     zset
KEYS[4] outcomes      hash
KEYS[5] outcomes_old  hash
KEYS[6] meta          hash    epoch, seq, shards, format, run_id, rotated_ms, fenced_epoch
KEYS[7] events        stream  read only: its last id must be of an earlier epoch
ARGV[1] epoch, 1 or more
ARGV[2] shards: how many there are in all
ARGV[3] run_id of the server, as the guardian saw it

RETURNS OK
ERRORS MALFORMED; OPEN_ALREADY: the shard is open; EPOCH_USED: the epoch is not greater than one it has had; UNSUPPORTED: the
  server's Lua cannot print the numbers we use. Nothing was done ]]
--- @include "lib/shard"
if format('%d %d', BALANCE_MAX, -BALANCE_MAX) ~= '900000000000000 -900000000000000' then
  return redis.error_reply('UNSUPPORTED %d of this Lua does not reach 15 digits')
end
local epoch, shards = whole(ARGV[1], BALANCE_MAX), whole(ARGV[2], 16384)
if not epoch or epoch == 0 then return redis.error_reply('MALFORMED epoch is 1 or more') end
if not shards or shards == 0 then return redis.error_reply('MALFORMED shards is 1 to 16384') end
local meta = call('HMGET', KEYS[6], 'epoch', 'fenced_epoch')
if meta[1] and find(meta[1], '^%d+$') then return redis.error_reply('OPEN_ALREADY the shard is at epoch ' .. meta[1]) end
local last = call('XREVRANGE', KEYS[7], '+', '-', 'COUNT', 1)[1]
local before = math.max(tonumber(meta[2] or '') or 0, last and tonumber(match(last[1], '^(%d+)')) or 0)
if epoch <= before then return redis.error_reply('EPOCH_USED the shard has been at epoch ' .. format('%d', before)) end
for i = 1, 6 do call('UNLINK', KEYS[i]) end
call('HSET', KEYS[6], 'epoch', format('%d', epoch), 'seq', '0', 'shards', format('%d', shards), 'format', '1',
  'run_id', ARGV[3], 'rotated_ms', format('%d', now_ms()))
return redis.status_reply('OK')

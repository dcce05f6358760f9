#!lua flags=allow-oom
--[[ fence: closes a shard until `open`: every script that needs an epoch then answers FENCED. For the guardian.

Invariant: after it returns no balance, hold or event of the shard changes until the shard is opened at a greater epoch, and at one
that nobody has begun before: a guardian that froze, was replaced and wakes opens nothing.

KEYS[1] meta  hash  epoch, seq, fenced_epoch, fenced_reason, fenced_whole, fenced_floor, postgres
ARGV[1] reason, in words, for people who look
ARGV[2] 1 when nothing of the shard is lost or in doubt, so that what its holds have reported counts when it is opened again; else 0, or nothing
ARGV[3] the highest epoch that Postgres has begun: it and those before it are opened no more; may be left out
ARGV[4] history of that Postgres (system identifier/timeline), for which it is closed; may be left out or empty

RETURNS the epoch that the shard had, as text; empty when it had none or was fenced already
ERRORS MALFORMED; SUPERSEDED: the shard was closed for a later timeline of the same system. Nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 1 or #ARGV < 1 then return redis.error_reply('MALFORMED fence takes 1 key and 1 to 4 arguments') end
local whole_then, history = ARGV[2] or '0', ARGV[4] or ''
local meta = call('HMGET', KEYS[1], 'epoch', 'postgres')
local epoch = meta[1]
if history ~= '' then
  local system, timeline = match(history, '^(%w+)/(%x+)$')
  if not system or #history > 64 then return redis.error_reply('MALFORMED history') end
  local known_system, known = match(meta[2] or '', '^(%w+)/(%x+)$')
  if known_system == system and (#known > #timeline or (#known == #timeline and known > timeline)) then
    return redis.error_reply('SUPERSEDED by timeline ' .. known)
  end
  call('HSET', KEYS[1], 'postgres', history)
end
if ARGV[3] then call('HSET', KEYS[1], 'fenced_floor', ARGV[3]) end
if epoch and find(epoch, '^%d+$') then
  call('HSET', KEYS[1], 'epoch', 'fenced', 'fenced_epoch', epoch, 'fenced_reason', ARGV[1], 'fenced_whole', whole_then)
  return epoch
end
if not epoch then call('HSET', KEYS[1], 'epoch', 'fenced', 'fenced_reason', ARGV[1], 'fenced_whole', '0') end
return ''

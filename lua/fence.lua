#!lua flags=allow-oom
--[[ fence: closes a shard until `open`: every script that needs an epoch then answers FENCED. For the guardian.

Invariant: after it returns no balance, hold or event of the shard changes until the shard is opened at a greater epoch.

KEYS[1] meta  hash  epoch, seq, fenced_epoch, fenced_reason
ARGV[1] reason, in words, for people who look

RETURNS the epoch that the shard had, as text; empty when it had none or was fenced already
ERRORS none ]]
--- @include "lib/shard"
local epoch = call('HGET', KEYS[1], 'epoch')
if epoch and find(epoch, '^%d+$') then
  call('HSET', KEYS[1], 'epoch', 'fenced', 'fenced_epoch', epoch, 'fenced_reason', ARGV[1])
  return epoch
end
if not epoch then call('HSET', KEYS[1], 'epoch', 'fenced', 'fenced_reason', ARGV[1]) end
return ''

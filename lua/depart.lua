#!lua flags=allow-oom
--[[ depart: closes accounts of one organisation, which is moved to another cell, while all others go on.

Invariant: once `away` says something of an organisation, none of its accounts is loaded; and an account that was closed is not
there, so nothing takes from it, and nothing ends or opens a hold of it. Holds, deadlines and outcomes stay where they are. A move
that was undone closes nothing any more: who froze in the middle of it and wakes is refused.

KEYS[1] accounts  hash  org/user -> available held applied
KEYS[2] meta      hash  epoch, seq, away:<org>, undone:<org>, departures
ARGV[1] epoch
ARGV[2] org
ARGV[3] what is said of the organisation from now on: `moving` and the move, or `gone` with cell and addresses; nothing: it is let in
ARGV[4] departures: how many organisations have left this shard, or come, once this one has; 0 to leave that as it is
ARGV[5] the move; empty where none is to be named; with `-` before it: the move is undone, and may close nothing any more
ARGV[6..] accounts to close (org/user); at most 1000

RETURNS {seq: the last event, one record an account, or nil: it was not there}
ERRORS FENCED, STALE_EPOCH, MALFORMED; UNDONE: this move was undone. Nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 2 or #ARGV < 5 or #ARGV > 1005 then return redis.error_reply('MALFORMED depart takes 2 keys and up to 1000 accounts') end
local meta = call('HMGET', KEYS[2], 'epoch', 'seq', 'undone:' .. ARGV[2])
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local org = ARGV[2]
if not find(org, '^%w[%w._:@-]*$') then return redis.error_reply('MALFORMED org') end
local said = ARGV[3]
if said ~= '' and not find(said, '^moving [%x-]+$') and not find(said, '^gone %S+ %S+ %S+$') then
  return redis.error_reply('MALFORMED what is said')
end
local departures = whole(ARGV[4], BALANCE_MAX)
if not departures then return redis.error_reply('MALFORMED departures is a whole number') end
local move, is_undone = ARGV[5], sub(ARGV[5], 1, 1) == '-'
if move ~= '' and meta[3] == move then return redis.error_reply('UNDONE this move was undone') end
for i = 6, #ARGV do
  if sub(ARGV[i], 1, #org + 1) ~= org .. '/' then return redis.error_reply('MALFORMED an account of another organisation') end
end
local records = {}
if #ARGV > 5 then
  if said == '' then return redis.error_reply('MALFORMED no account is closed of an organisation that is let in') end
  records = call('HMGET', KEYS[1], unpack(ARGV, 6))
  call('HDEL', KEYS[1], unpack(ARGV, 6))
end
if said == '' then call('HDEL', KEYS[2], 'away:' .. org) else call('HSET', KEYS[2], 'away:' .. org, said) end
if is_undone then call('HSET', KEYS[2], 'undone:' .. org, sub(move, 2)) end
if departures > 0 then call('HSET', KEYS[2], 'departures', format('%d', departures)) end
return {meta[2], records}

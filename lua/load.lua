#!lua
--[[ load: accounts that Redis does not have yet, as Postgres saw them in one snapshot.

Invariant: an account is written only where none is, so a slow loader can never overwrite what has been spent or applied
since. `applied` is the last entry that the balance contains; the relay goes on from there.

KEYS[1] accounts  hash  org/user -> available held applied
KEYS[2] meta      hash  epoch, seq
ARGV[1] epoch
ARGV[2..] three per account: account (org/user), available (may be negative), applied; at most 1000 accounts

RETURNS one string an account: code, then fields
  1 OK        available held applied
  2 REPLAYED  available held applied (it was there already; nothing was written)
  -3 INVALID  field
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
--- @include "lib/account"
local count = (#ARGV - 1) / 3
if count < 1 or count > 1000 or count ~= math.floor(count) then
  return redis.error_reply('MALFORMED a call carries 1 to 1000 accounts of 3 arguments')
end
local meta = call('HMGET', KEYS[2], 'epoch', 'seq')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end

local names = {}
for i = 1, count do names[i] = ARGV[i * 3 - 1] end
local records = call('HMGET', KEYS[1], unpack(names))
local written, fields, replies = {}, {}, {}
for i = 1, count do
  local account, available_text = names[i], ARGV[i * 3]
  local negative = sub(available_text, 1, 1) == '-'
  local available = whole(negative and sub(available_text, 2) or available_text, BALANCE_MAX)
  local applied = whole(ARGV[i * 3 + 1], BALANCE_MAX)
  local record = written[account] or records[i]
  if not find(account, '^[^/%c]+/[^%c]+$') then replies[i] = '-3 account'
  elseif not available then replies[i] = '-3 available'
  elseif not applied then replies[i] = '-3 applied'
  elseif record then replies[i] = '2 ' .. record
  else
    record = account_record(negative and -available or available, 0, applied)
    written[account] = record
    fields[#fields + 1], fields[#fields + 2] = account, record
    replies[i] = '1 ' .. record
  end
end
if #fields > 0 then call('HSET', KEYS[1], unpack(fields)) end
return replies

#!lua
--[[ load: adds accounts that Redis does not have yet, as Postgres saw them in one snapshot.

Invariant: an account is written only where none is, so a slow loader can never overwrite what has been spent or applied
since. `applied` is the last entry that the balance contains; the relay goes on from there. None is written of an organisation that
is away: it lives in another cell, or is being moved.

KEYS[1] accounts  hash  org/user -> available held applied
KEYS[2] meta      hash  epoch, seq, away:<org>
ARGV[1] epoch
ARGV[2..] three per account: account (org/user), available (may be negative), applied; at most 1000 accounts

RETURNS one string an account: code, then fields
  1 OK        available held applied
  2 REPLAYED  available held applied (it was there already; nothing was written)
  -3 INVALID  field
  -10 ELSEWHERE  what `away` says of its organisation
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
--- @include "lib/figures"
--- @include "lib/rows"
local names, records, refused = read_rows(3, 2, KEYS[1], KEYS[2])
if refused then return refused end

-- Whose organisation is away. Most calls name one organisation.
local orgs, fields_of, away_of = {}, {}, {}
for i = 1, #names do
  local org = match(names[i], '^[^/]*')
  if away_of[org] == nil then
    away_of[org] = false
    orgs[#orgs + 1], fields_of[#fields_of + 1] = org, 'away:' .. org
  end
end
local said = call('HMGET', KEYS[2], unpack(fields_of))
for i = 1, #orgs do away_of[orgs[i]] = said[i] end

local written, fields, replies = {}, {}, {}
for i = 1, #names do
  local account, available = names[i], signed(ARGV[i * 3])
  local applied = whole(ARGV[i * 3 + 1], BALANCE_MAX)
  local record = written[account] or records[i]
  if #account > 1149 or not find(account, '^%w[%w._:@-]*/[^%c]+$') then replies[i] = '-3 account'
  elseif not available then replies[i] = '-3 available'
  elseif not applied then replies[i] = '-3 applied'
  elseif away_of[match(account, '^[^/]*')] then replies[i] = '-10 ' .. away_of[match(account, '^[^/]*')]
  elseif record then replies[i] = '2 ' .. record
  else
    record = account_record(available, 0, applied)
    written[account] = record
    fields[#fields + 1], fields[#fields + 2] = account, record
    replies[i] = '1 ' .. record
  end
end
if #fields > 0 then call('HSET', KEYS[1], unpack(fields)) end
return replies

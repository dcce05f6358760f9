#!lua flags=allow-oom
--[[ apply: numbered entries of accounts, from Postgres to the live balance.

Invariant: entry n of an account is applied exactly once and only after n - 1. It may take a balance below zero: what
Postgres has decided is a fact here.

KEYS[1] accounts  hash  org/user -> available held applied
KEYS[2] meta      hash  epoch, seq
ARGV[1] epoch
ARGV[2..] three per entry: account, n, delta (millicredits, may be negative); at most 1000 entries

RETURNS one string an entry: code, then the account's last applied entry
  1 OK          applied
  2 REPLAYED    applied (it was n or more already; nothing changed)
  -2 NOT_LOADED
  -3 INVALID    field
  -6 GAP        applied (less than n - 1; nothing changed)
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
--- @include "lib/account"
--- @include "lib/triples"

local current, replies, changed = {}, {}, {}
for i = 1, count do
  local account, delta = names[i], signed(ARGV[i * 3 + 1])
  local number = whole(ARGV[i * 3], BALANCE_MAX)
  local record = current[account] or records[i]
  if not number or number == 0 then replies[i] = '-3 n'
  elseif not delta then replies[i] = '-3 delta'
  elseif not record then replies[i] = '-2'
  else
    local available, held, applied = parse_account(record)
    applied = tonumber(applied)
    if not available then replies[i] = '-3 account'
    elseif applied >= number then replies[i] = format('2 %d', applied)
    elseif applied < number - 1 then replies[i] = format('-6 %d', applied)
    elseif math.abs(available + delta) > BALANCE_MAX then replies[i] = '-3 balance'
    else
      current[account] = account_record(available + delta, held, number)
      changed[account] = true
      replies[i] = format('1 %d', number)
    end
  end
end
local fields = {}
for account in pairs(changed) do
  fields[#fields + 1], fields[#fields + 2] = account, current[account]
end
if #fields > 0 then call('HSET', KEYS[1], unpack(fields)) end
return replies

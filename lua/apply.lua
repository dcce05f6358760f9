#!lua flags=allow-oom
--[[ apply: applies numbered entries of accounts, from Postgres, to the live balance.

Invariant: entry n of an account is applied exactly once and only after n - 1. It may take a balance below zero: what
Postgres has decided is a fact here. An entry that names a hold ends that hold in the same step, so that what it takes away
was never free in between; without the hold (it expired, or Redis lost it) the entry applies all the same.

KEYS[1] accounts   hash  org/user -> available held applied
KEYS[2] holds      hash  org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines  zset  org/request by Redis time in ms
KEYS[4] outcomes   hash  org/request -> state reserved charged account
KEYS[5] meta       hash  epoch, seq
KEYS[6] open_holds hash  org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch
ARGV[2..] four per entry: account, n, delta (millicredits, may be negative), the hold that it ends (org/request) or nothing;
          at most 1000 entries

RETURNS one string an entry: code, then the account's last applied entry
  1 OK          applied
  2 REPLAYED    applied (it was n or more already; nothing changed)
  -2 NOT_LOADED
  -3 INVALID    field
  -6 GAP        applied (less than n - 1; nothing changed)
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
--- @include "lib/account"
--- @include "lib/figures"
--- @include "lib/rows"
--- @include "lib/counts"
local names, records, refused = read_rows(4, 6, KEYS[1], KEYS[5])
if refused then return refused end

-- Few entries name a hold. ZCARD and HLEN are here for the type of their keys: a wrong one must show before the first write.
local wanted, holds, stored_counts, counts, places = {}, {}, {}, {}, {}
for i = 1, #names do
  local hold = ARGV[i * 4 + 1]
  if hold ~= '' then wanted[#wanted + 1] = hold end
end
if #wanted > 0 then
  call('ZCARD', KEYS[3])
  call('HLEN', KEYS[4])
  local found = call('HMGET', KEYS[2], unpack(wanted))
  for i = 1, #wanted do holds[wanted[i]] = found[i] end
  stored_counts = call('HMGET', KEYS[6], unpack(names))
end

local current, replies, changed = {}, {}, {}
local ended, outcomes = {}, {}
for i = 1, #names do
  local account, delta, hold = names[i], signed(ARGV[i * 4]), ARGV[i * 4 + 1]
  local number = whole(ARGV[i * 4 - 1], BALANCE_MAX)
  local record = current[account] or records[i]
  if not number or number == 0 then replies[i] = '-3 n'
  elseif not delta then replies[i] = '-3 delta'
  elseif not record then replies[i] = '-2'
  else
    local available, held, applied = parse_account(record)
    local reserved, whose = match(holds[hold] or '', '^(%d+)\t([^\t]+)\t')
    if whose ~= account then reserved = nil end
    applied = tonumber(applied)
    local freed = reserved and tonumber(reserved) or 0
    if not available then replies[i] = '-3 account'
    elseif applied >= number then replies[i] = format('2 %d', applied)
    elseif applied < number - 1 then replies[i] = format('-6 %d', applied)
    -- With what its holds keep: so an end of a hold never meets the limit.
    elseif math.abs(available + held + delta) > BALANCE_MAX then replies[i] = '-3 balance'
    else
      current[account] = account_record(available + freed + delta, held - freed, number)
      changed[account] = true
      replies[i] = format('1 %d', number)
      if reserved then
        ended[#ended + 1] = hold
        outcomes[#outcomes + 1] = hold
        outcomes[#outcomes + 1] = 'released ' .. reserved .. ' 0 ' .. account
        holds[hold] = nil
        if held > freed or freed == 0 then
          local place = places[account] or i
          places[account] = place
          counts[place] = math.max(0, (counts[place] or tonumber(stored_counts[place] or 0) or 0) - 1)
        end
      end
    end
  end
end
local fields = {}
for account in pairs(changed) do
  fields[#fields + 1], fields[#fields + 2] = account, current[account]
end
if #fields > 0 then call('HSET', KEYS[1], unpack(fields)) end
if #ended > 0 then
  call('HSET', KEYS[4], unpack(outcomes))
  call('HDEL', KEYS[2], unpack(ended))
  call('ZREM', KEYS[3], unpack(ended))
  write_counts(KEYS[6], names, stored_counts, counts)
end
return replies

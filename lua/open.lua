#!lua
--[[ open: makes a shard usable at a new epoch. For the guardian alone, which has fenced and settled it before.

Invariant: an epoch is opened once, and epochs only grow. Of the accounts only those that are given start here, less what their
open holds keep (the others load from Postgres when they are first needed); a hold of any other account is gone, and one whose
request the ledger has charged ends with that as its outcome. Other outcomes stay if that is said. Events stay, for the settler's
retention.

KEYS[1] accounts      hash    org/user -> available held applied
KEYS[2] holds         hash    org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines     zset    org/request by Redis time in ms; a hold without one is due at once
KEYS[4] outcomes      hash
KEYS[5] outcomes_old  hash
KEYS[6] meta          hash    epoch, seq, shards, format, run_id, replid, start, rotated_ms, fenced_epoch, fenced_floor,
                              open_holds_max, payload_codes, postgres, away:<org>, departures
KEYS[7] events        stream  read only: its last id must be of an earlier epoch
KEYS[8] open_holds    hash    org/user -> how many holds it has open, but for one if it holds anything: counted here
ARGV[1] epoch, 1 or more
ARGV[2] shards: how many there are in all
ARGV[3] run_id of the server, as the guardian saw it
ARGV[4] replid: its replication history, as the guardian saw it; may be empty
ARGV[5] start: the number of this start. What a hold has reported counts at its expiry if its mark has this number
ARGV[6] 1 when outcomes stay, else 0
ARGV[7..] three per account with open holds: account, remaining (what Postgres says, may be negative), applied; or three per hold
  that the ledger has ended: org/request, outcome, `ended`; or three per organisation that is away: org, what is said of it, `away`
  (its holds stay, its accounts are not here); or three for how many have left the shard: number, nothing, `departures`

RETURNS OK
ERRORS MALFORMED; OPEN_ALREADY: the shard is open; EPOCH_USED: the epoch is not greater than one that it has had, or
  that another guardian has passed over; UNSUPPORTED: the
  server's Lua cannot print the numbers we use. Nothing was done ]]
--- @include "lib/shard"
--- @include "lib/figures"
if format('%d %d', BALANCE_MAX, -BALANCE_MAX) ~= '900000000000000 -900000000000000' then
  return redis.error_reply('UNSUPPORTED %d of this Lua does not reach 15 digits')
end
if #KEYS ~= 8 or #ARGV < 6 or #ARGV % 3 ~= 0 then return redis.error_reply('MALFORMED arguments are missing') end
local epoch, shards, start = whole(ARGV[1], BALANCE_MAX), whole(ARGV[2], 16384), whole(ARGV[5], BALANCE_MAX)
if not epoch or epoch == 0 then return redis.error_reply('MALFORMED epoch is 1 or more') end
if not shards or shards == 0 then return redis.error_reply('MALFORMED shards is 1 to 16384') end
if not start then return redis.error_reply('MALFORMED start is 0 or more') end
local accounts, ended, outcome_fields = {}, {}, {}
local away, away_fields, departures = {}, {}, nil
for i = 7, #ARGV, 3 do
  if ARGV[i + 2] == 'ended' then
    if not find(ARGV[i + 1], '^%l+ %d+ %d+ .') then return redis.error_reply('MALFORMED outcome') end
    ended[ARGV[i]] = true
    outcome_fields[#outcome_fields + 1], outcome_fields[#outcome_fields + 2] = ARGV[i], ARGV[i + 1]
  elseif ARGV[i + 2] == 'away' then
    away[ARGV[i]] = true
    away_fields[#away_fields + 1], away_fields[#away_fields + 2] = 'away:' .. ARGV[i], ARGV[i + 1]
  elseif ARGV[i + 2] == 'departures' then departures = ARGV[i]
  else
    local available = signed(ARGV[i + 1])
    if not available or not whole(ARGV[i + 2], BALANCE_MAX) then return redis.error_reply('MALFORMED account') end
    accounts[ARGV[i]] = {available, 0, ARGV[i + 2], 0}
  end
end
local meta = call('HMGET', KEYS[6], 'epoch', 'fenced_epoch', 'uncharged_holds', 'uncharged_amount', 'fenced_floor',
  'open_holds_max', 'postgres')
if meta[1] and find(meta[1], '^%d+$') then return redis.error_reply('OPEN_ALREADY the shard is at epoch ' .. meta[1]) end
local last = call('XREVRANGE', KEYS[7], '+', '-', 'COUNT', 1)[1]
local before = math.max(tonumber(meta[2] or '') or 0, tonumber(meta[5] or '') or 0, last and tonumber(match(last[1], '^(%d+)')) or 0)
if epoch <= before then return redis.error_reply('EPOCH_USED the shard has been at epoch ' .. format('%d', before)) end

-- A key of another type is damage that this replaces.
local holds, deadlines = redis.pcall('HGETALL', KEYS[2]), redis.pcall('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
local due = {}
if not deadlines.err then
  for i = 1, #deadlines, 2 do due[deadlines[i]] = deadlines[i + 1] end
end
local now, hold_fields, deadline_fields, account_fields, count_fields = format('%d', now_ms()), {}, {}, {}, {}
if not holds.err then
  for i = 1, #holds, 2 do
    local key, record = holds[i], holds[i + 1]
    local reserved, account = match(record, '^(%d+)\t([^\t]+)\t%d+\t%w*\t')
    local is_away = reserved and away[match(account, '^[^/]*')]
    local one = reserved and not is_away and not ended[key] and accounts[account]
    if is_away then
      hold_fields[#hold_fields + 1], hold_fields[#hold_fields + 2] = key, record
      deadline_fields[#deadline_fields + 1], deadline_fields[#deadline_fields + 2] = due[key] or now, key
    elseif one then
      one[1], one[2] = one[1] - tonumber(reserved), one[2] + tonumber(reserved)
      one[4] = one[4] + 1
      hold_fields[#hold_fields + 1], hold_fields[#hold_fields + 2] = key, record
      deadline_fields[#deadline_fields + 1], deadline_fields[#deadline_fields + 2] = due[key] or now, key
    end
  end
end
for account, one in pairs(accounts) do
  account_fields[#account_fields + 1] = account
  account_fields[#account_fields + 1] = account_record(one[1], one[2], one[3])
  local further = one[4] - (one[2] > 0 and 1 or 0)
  if further > 0 then count_fields[#count_fields + 1], count_fields[#count_fields + 2] = account, format('%d', further) end
end

local CHUNK = 2000
call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[6], KEYS[8])
if ARGV[6] ~= '1' then call('UNLINK', KEYS[4], KEYS[5]) end
if type(redis.pcall('HLEN', KEYS[4])) ~= 'number' then call('UNLINK', KEYS[4]) end
for i = 1, #outcome_fields, CHUNK do
  call('HSET', KEYS[4], unpack(outcome_fields, i, math.min(i + CHUNK - 1, #outcome_fields)))
end
for i = 1, #account_fields, CHUNK do
  call('HSET', KEYS[1], unpack(account_fields, i, math.min(i + CHUNK - 1, #account_fields)))
end
for i = 1, #count_fields, CHUNK do
  call('HSET', KEYS[8], unpack(count_fields, i, math.min(i + CHUNK - 1, #count_fields)))
end
for i = 1, #hold_fields, CHUNK do
  call('HSET', KEYS[2], unpack(hold_fields, i, math.min(i + CHUNK - 1, #hold_fields)))
  call('ZADD', KEYS[3], unpack(deadline_fields, i, math.min(i + CHUNK - 1, #deadline_fields)))
end
call('HSET', KEYS[6], 'epoch', format('%d', epoch), 'seq', '0', 'shards', format('%d', shards), 'format', '1',
  'payload_codes', '1', 'run_id', ARGV[3], 'replid', ARGV[4], 'start', format('%d', start), 'rotated_ms', now,
  'uncharged_holds', meta[3] or '0', 'uncharged_amount', meta[4] or '0')
if meta[6] then call('HSET', KEYS[6], 'open_holds_max', meta[6]) end
if meta[7] then call('HSET', KEYS[6], 'postgres', meta[7]) end
if departures then call('HSET', KEYS[6], 'departures', departures) end
for i = 1, #away_fields, CHUNK do
  call('HSET', KEYS[6], unpack(away_fields, i, math.min(i + CHUNK - 1, #away_fields)))
end
return redis.status_reply('OK')

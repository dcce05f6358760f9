#!lua flags=allow-oom
--[[ sweep: ends holds whose deadline has passed, at most `limit` a call.

Invariant: a hold ends exactly once. What was reported by touch is charged (kind `expire`), the rest returns to available;
a commit that comes later finds the outcome and charges only what is missing. What was reported under an earlier start of the
server is not charged: the hold may have been released since, and the release lost with the newest writes of then. So nothing is
swept on a server that nobody has approved, or that was another one's replica since: a settler that froze and wakes would charge
what counts no more, and its event could take the number of a lost one and hide the loss.

KEYS[1] accounts   hash    org/user -> available held applied
KEYS[2] holds      hash    org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines  zset    org/request by Redis time in ms
KEYS[4] outcomes   hash    org/request -> state reserved charged account
KEYS[5] meta       hash    epoch, seq, run_id, replid, start, uncharged_holds, uncharged_amount
KEYS[6] events     stream  id epoch-seq; fields t, v1
KEYS[7] open_holds hash    org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch
ARGV[2] limit: how many holds at most, 1..1000

RETURNS {ended, events_written, still_due, holds whose progress was not charged, that progress in millicredits as text}
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
-- Shared first lines of every script: shorthands, limits, and the check of the shard's epoch.
local call, format, find, match, sub = redis.call, string.format, string.find, string.match, string.sub
local AMOUNT_MAX, BALANCE_MAX, PAYLOAD_BYTES_MAX, TTL_MS_MAX = 1e12, 9e14, 4096, 86400000

-- The error that refuses a whole call, or nil when the shard is open at the epoch that the caller expects.
-- `found` and `seq` are fields of meta; a shard without them, or fenced, admits nobody.
local function refusal(found, expected, seq)
  if found == expected and seq and find(seq, '^%d+$') then return nil end
  if not found or not seq then return redis.error_reply('FENCED the shard has not been opened') end
  if not find(found, '^%d+$') then return redis.error_reply('FENCED the shard is closed until it has been looked at') end
  return redis.error_reply('STALE_EPOCH the shard is at epoch ' .. found)
end

-- Numbers leave Lua through %d, which is exact to 2^53 where C's long has 64 bits (`open` refuses
-- other servers); tostring, `..` and cjson keep 14 digits only.

-- A whole number of at most 15 digits and at most `limit`, or nil. tonumber alone would take nan, inf, hex and fractions.
local function whole(text, limit)
  if not text or #text > 15 or not find(text, '^%d+$') then return nil end
  local number = tonumber(text)
  if number <= limit then return number end
end

-- A whole number that may have a minus sign, at most BALANCE_MAX either way, or nil.
local function signed(text)
  if sub(text, 1, 1) ~= '-' then return whole(text, BALANCE_MAX) end
  local number = whole(sub(text, 2), BALANCE_MAX)
  return number and -number
end

-- Redis time in milliseconds: the only clock of holds and events.
local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- The account record: available, held (millicredits) and applied (number of the last entry, kept as text), one space between.
-- TAKES format, match
local function parse_account(record)
  local available, held, applied = match(record, '^(%-?%d+) (%d+) (%d+)$')
  if not available or #record > 60 then return nil end
  return tonumber(available), tonumber(held), applied
end

local function account_record(available, held, applied)
  return format('%d %d %s', available, held, applied)
end
-- Appends the lines of one step to the stream and moves seq. It must be the first write of a script: a stream of the wrong
-- type, or one that is ahead of meta, then fails before anything has changed. `writes` moves with it, where the caller counts.
-- TAKES call, format
local function append_events(events_key, meta_key, epoch, seq, lines, time_ms, writes)
  local last = format('%d', seq + #lines)
  call('XADD', events_key, epoch .. '-' .. last, 't', format('%d', time_ms), 'v1', table.concat(lines, '\n'))
  if writes then call('HSET', meta_key, 'seq', last, 'writes', writes) else call('HSET', meta_key, 'seq', last) end
end
-- How many holds an account has open is kept but for one, which `held` above nothing stands for. So an account with one request
-- at a time has no count.
-- TAKES call, format

-- Writes the counts that are not what is stored, by place in `names`.
local function write_counts(key, names, stored_counts, counts)
  local fields, none = {}, {}
  for place, count in pairs(counts) do
    if count > 0 then
      if count ~= tonumber(stored_counts[place] or 0) then
        fields[#fields + 1], fields[#fields + 2] = names[place], format('%d', count)
      end
    elseif stored_counts[place] then none[#none + 1] = names[place] end
  end
  if #fields > 0 then call('HSET', key, unpack(fields)) end
  if #none > 0 then call('HDEL', key, unpack(none)) end
end
if #KEYS ~= 7 or #ARGV ~= 2 then return redis.error_reply('MALFORMED arguments are missing') end
local limit = whole(ARGV[2], 1000)
if not limit or limit == 0 then return redis.error_reply('MALFORMED limit is 1 to 1000') end
local meta = call('HMGET', KEYS[5], 'epoch', 'seq', 'start', 'run_id', 'replid')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
-- A simulated server may have no INFO; a settler that may not ask never gets here.
local info = redis.pcall('INFO', 'server', 'replication')
if type(info) == 'string' then
  local replid, before = match(info, 'master_replid:(%w+)'), match(info, 'master_replid2:(%w+)')
  -- A primary whose first replica comes begins a history too, one that continues no other's.
  local is_same = (meta[5] or '') == '' or not replid or meta[5] == replid
    or find(info, 'role:master', 1, true) and before and not find(before, '[^0]')
  if meta[4] ~= match(info, 'run_id:(%w+)') or not is_same then
    return redis.error_reply('FENCED the server has not been approved')
  end
end
call('HLEN', KEYS[4])

local time_ms = now_ms()
local now = format('%d', time_ms)
local due = call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, limit)
if #due == 0 then return {0, 0, 0, 0, '0'} end
local holds = call('HMGET', KEYS[2], unpack(due))

local names, places, parts = {}, {}, {}
for i = 1, #due do
  if holds[i] then
    local reserved, account, progress, mark, payload = match(holds[i], '^(%d+)\t([^\t]+)\t(%d+)\t(%w*)\t([^\t]*)$')
    if account then
      -- A hold of a release that knew of no starts has no number: it counts until the first start after it.
      local is_valid = (match(mark, '^(%d+)S') or '0') == (meta[3] or '0')
      parts[i] = {tonumber(reserved), tonumber(progress), account, payload, is_valid}
      if not places[account] then
        names[#names + 1] = account
        places[account] = #names
      end
    end
  end
end
local records = #names > 0 and call('HMGET', KEYS[1], unpack(names)) or {}
local stored_counts, counts = #names > 0 and call('HMGET', KEYS[7], unpack(names)) or {}, {}
local available, held, applied = {}, {}, {}
for i = 1, #names do
  if records[i] then available[i], held[i], applied[i] = parse_account(records[i]) end
end

-- A hold of an unreadable record or account keeps its place, for `check` to report; its deadline goes, so that the sweep moves on.
local events, ended, outcomes, changed = {}, {}, {}, {}
local uncharged_holds, uncharged_amount = 0, 0
for i = 1, #due do
  local part = parts[i]
  local place = part and places[part[3]]
  if place and available[place] then
    local reserved, reported, account, payload, is_valid = unpack(part)
    -- Never below what a balance may be: too little is charged then.
    local progress = is_valid and math.max(0, math.min(reported, available[place] + reserved + BALANCE_MAX)) or 0
    if progress < reported then
      uncharged_holds, uncharged_amount = uncharged_holds + 1, uncharged_amount + reported - progress
    end
    available[place] = available[place] + reserved - progress
    held[place] = held[place] - reserved
    if held[place] > 0 or reserved == 0 then
      counts[place] = math.max(0, (counts[place] or tonumber(stored_counts[place] or 0) or 0) - 1)
    end
    changed[place] = true
    if progress > 0 then
      events[#events + 1] =
        format('expire\t%s\t%s\t%d\t%d\t-\t%s', account, due[i], progress, reserved, payload)
    end
    ended[#ended + 1] = due[i]
    outcomes[#outcomes + 1] = due[i]
    outcomes[#outcomes + 1] = format('expired %d %d %s', reserved, progress, account)
  end
end

if #events > 0 then append_events(KEYS[6], KEYS[5], ARGV[1], tonumber(meta[2]), events, time_ms) end
local fields = {}
for place in pairs(changed) do
  fields[#fields + 1] = names[place]
  fields[#fields + 1] = account_record(available[place], held[place], applied[place])
end
if #fields > 0 then
  call('HSET', KEYS[1], unpack(fields))
  call('HSET', KEYS[4], unpack(outcomes))
  call('HDEL', KEYS[2], unpack(ended))
  write_counts(KEYS[7], names, stored_counts, counts)
end
call('ZREM', KEYS[3], unpack(due))
if uncharged_holds > 0 then
  local before = call('HMGET', KEYS[5], 'uncharged_holds', 'uncharged_amount')
  call('HSET', KEYS[5], 'uncharged_holds', format('%d', (tonumber(before[1] or '') or 0) + uncharged_holds),
    'uncharged_amount', format('%d', (tonumber(before[2] or '') or 0) + uncharged_amount))
end
return {#ended, #events, call('ZCOUNT', KEYS[3], '-inf', now), uncharged_holds, format('%d', uncharged_amount)}

-- The body of `operate` and `resolve`: read everything, decide every operation in memory, then write everything.
-- A Lua error does not roll back, so nothing that can fail comes after the first write.
local arguments, epoch = #ARGV - 1, ARGV[1]
local count = arguments / 7
if count < 1 or count > 1000 or arguments % 7 ~= 0 then
  return redis.error_reply('MALFORMED a call carries 1 to 1000 operations of 7 arguments')
end
local meta = call('HMGET', KEYS[6], 'epoch', 'seq')
local refused = refusal(meta[1], epoch, meta[2])
if refused then return refused end

-- Read. Deadlines are not needed, but a key of the wrong type must show before the first write; the same for outcomes.
call('ZCARD', KEYS[3])
local names, places, keys = {}, {}, {}
for i = 1, count do
  local account = ARGV[i * 7 - 4]
  if not places[account] then
    names[#names + 1] = account
    places[account] = #names
  end
  keys[i] = ARGV[i * 7 - 3]
end
local records = call('HMGET', KEYS[1], unpack(names))
local found = call('HMGET', KEYS[2], unpack(keys))
local holds, absent = {}, {}
for i = 1, count do
  local hold = found[i]
  if hold then holds[keys[i]] = hold else absent[#absent + 1] = keys[i] end
end
local outcomes = {}
local function read_outcomes(key)
  local values, missing = call('HMGET', key, unpack(absent)), {}
  for i = 1, #absent do
    if values[i] then outcomes[absent[i]] = values[i] else missing[#missing + 1] = absent[i] end
  end
  absent = missing
end
if #absent > 0 then read_outcomes(KEYS[4]) else call('HLEN', KEYS[4]) end
if #absent > 0 then read_outcomes(KEYS[5]) end

-- Decide.
local available, held, applied = {}, {}, {}
for i = 1, #names do
  local record = records[i]
  if record then
    local a, h, n = parse_account(record)
    if a then available[i], held[i], applied[i] = a, h, n else available[i] = false end
  end
end
local changed, opened, ended, deadlines, events, replies = {}, {}, {}, {}, {}, {}
local time_ms

for i = 1, count do
  local base = i * 7 - 5
  local op, account, key = ARGV[base], ARGV[base + 1], ARGV[base + 2]
  local amount, ttl_ms = whole(ARGV[base + 3], AMOUNT_MAX), whole(ARGV[base + 4], TTL_MS_MAX)
  local owner, payload = ARGV[base + 5], ARGV[base + 6]
  local place = places[account]
  local free, kept = available[place], held[place]
  local hold, outcome = holds[key], outcomes[key]
  local slash = find(account, '/', 1, true)
  local reply

  -- What the id already stands for: an open hold, or the outcome of one.
  local state, reserved, charged, whose, progress, holder
  if hold then
    state, charged = 'open', 0
    reserved, progress, holder, whose = match(hold, '^(%d+)\t(%d+)\t(%w*)\t([^\t]*)')
  elseif outcome then
    state, reserved, charged, whose = match(outcome, '^(%a+) (%d+) (%d+) (.*)$')
  end
  reserved, charged, progress = tonumber(reserved), tonumber(charged), tonumber(progress)

  local function known(code)
    return format('%s %.0f %.0f %s %.0f %.0f', code, free, kept, state, reserved, charged)
  end
  local function change(free_now, kept_now)
    available[place], held[place], changed[place] = free_now, kept_now, true
    reply = format('1 %.0f %.0f', free_now, kept_now)
  end
  local function event(kind, charge, flags)
    if payload == '' and hold then payload = match(hold, '\t([^\t]*)$') end
    events[#events + 1] = format('%s\t%s\t%s\t%.0f\t%.0f\t%s\t%s', kind, account, key, charge, reserved or 0, flags, payload)
  end
  local function finish(how, charge)
    local record = format('%s %.0f %.0f %s', how, reserved or 0, charge, account)
    holds[key], outcomes[key], ended[key], opened[key] = nil, record, record, nil
  end

  if not amount then reply = '-3 amount'
  elseif not ttl_ms then reply = '-3 ttl_ms'
  elseif not slash or string.sub(key, 1, slash) ~= string.sub(account, 1, slash) or #key == slash then reply = '-3 key'
  elseif #payload > PAYLOAD_BYTES_MAX or find(payload, '%c') then reply = '-3 payload'
  elseif find(owner, '%W') or #owner > 32 then reply = '-3 owner'
  elseif free == nil then reply = '-2'
  elseif free == false then reply = '-3 account'
  elseif state and not (reserved and charged and whose) then reply = '-3 record'

  elseif op == 'reserve' and SPENDING then
    if ttl_ms == 0 then reply = '-3 ttl_ms'
    elseif hold and whose == account and reserved == amount then
      if holder == owner then reply = format('1 %.0f %.0f', free, kept) else reply = known('2') end
    elseif outcome and whose == account and reserved == amount and state ~= 'charged' then reply = known('2')
    elseif state then reply = known('-4')
    elseif free < amount then reply = format('-1 %.0f %.0f', free, kept)
    else
      time_ms = time_ms or now_ms()
      change(free - amount, kept + amount)
      holds[key] = format('%.0f\t0\t%s\t%s\t%s', amount, owner, account, payload)
      opened[key] = holds[key]
      deadlines[key] = time_ms + ttl_ms
    end

  elseif op == 'charge' and SPENDING then
    if state == 'charged' and whose == account and charged == amount then reply = known('2')
    elseif state then reply = known('-4')
    elseif free < amount then reply = format('-1 %.0f %.0f', free, kept)
    else
      change(free - amount, kept)
      event('charge', amount, '-')
      finish('charged', amount)
    end

  elseif op == 'commit' then
    if state and whose ~= account then reply = known('-4')
    elseif free - amount < -BALANCE_MAX then reply = '-3 balance'
    elseif hold then
      change(free + reserved - amount, kept - reserved)
      event('commit', amount, '-')
      finish('committed', amount)
    elseif state == 'expired' and amount <= charged and charged > 0 then
      reply = format('3 %.0f %.0f %.0f', free, kept, charged)
    elseif state == 'expired' or not state then
      local before = charged or 0
      change(free - (amount - before), kept)
      reply = format('3 %.0f %.0f %.0f', available[place], kept, amount)
      event('commit', amount - before, before > 0 and 'rest' or 'late')
      finish('committed', amount)
    elseif state == 'committed' and charged == amount then reply = known('2')
    else reply = known('-4')
    end

  elseif op == 'release' then
    if state and whose ~= account then reply = known('-4')
    elseif hold then
      change(free + reserved, kept - reserved)
      finish('released', 0)
    elseif state == 'released' or state == 'expired' then reply = known('2')
    elseif state then reply = known('-4')
    else reply = format('-5 %.0f %.0f', free, kept)
    end

  elseif op == 'touch' then
    if ttl_ms == 0 then reply = '-3 ttl_ms'
    elseif state and (whose ~= account or not hold) then reply = known('-4')
    elseif hold then
      time_ms = time_ms or now_ms()
      if payload == '' then payload = match(hold, '\t([^\t]*)$') end
      holds[key] = format('%.0f\t%.0f\t%s\t%s\t%s', reserved, math.max(progress, amount), holder, account, payload)
      opened[key] = holds[key]
      deadlines[key] = time_ms + ttl_ms
      reply = format('1 %.0f %.0f', free, kept)
    else reply = format('-5 %.0f %.0f', free, kept)
    end

  else reply = '-3 op'
  end
  replies[i] = reply
end

-- Write, the one command that can still fail first.
if #events > 0 then append_events(KEYS[7], KEYS[6], epoch, tonumber(meta[2]), events, time_ms or now_ms()) end
local fields = {}
for place in pairs(changed) do
  fields[#fields + 1] = names[place]
  fields[#fields + 1] = account_record(available[place], held[place], applied[place])
end
if #fields > 0 then call('HSET', KEYS[1], unpack(fields)) end
fields = {}
local scores = {}
for key, record in pairs(opened) do
  fields[#fields + 1], fields[#fields + 2] = key, record
  scores[#scores + 1], scores[#scores + 2] = format('%.0f', deadlines[key]), key
end
if #fields > 0 then
  call('HSET', KEYS[2], unpack(fields))
  call('ZADD', KEYS[3], unpack(scores))
end
fields = {}
local gone = {}
for key, record in pairs(ended) do
  fields[#fields + 1], fields[#fields + 2] = key, record
  gone[#gone + 1] = key
end
if #fields > 0 then
  call('HSET', KEYS[4], unpack(fields))
  call('HDEL', KEYS[2], unpack(gone))
  call('ZREM', KEYS[3], unpack(gone))
end
return replies

-- The body of `operate` and `resolve`: read everything, decide every operation in memory, then write everything.
-- A Lua error does not roll back, so nothing that can fail comes after the first write. It is the hot path: amounts go from
-- ARGV into records as the text they came in (validated), and the loop makes no closures, since those cost more than the sums.
local VOIDED_BYTES_MAX = 331
-- Most holds of an account where meta does not say, and the longest life of a hold of nothing, which costs nobody anything.
local OPEN_HOLDS_MAX, FREE_HOLD_TTL_MS = 1000, 300000
local epoch, arguments = ARGV[1], #ARGV - 1
local count = arguments / 7
if #KEYS ~= 8 or arguments < 7 or count > 1000 or arguments % 7 ~= 0 then
  return redis.error_reply('MALFORMED a call carries 1 to 1000 operations of 7 arguments')
end
local meta = call('HMGET', KEYS[6], 'epoch', 'seq', 'admit_until', 'start', 'writes', 'open_holds_max')
local refused = refusal(meta[1], epoch, meta[2])
if refused then return refused end
local start = (meta[4] or '0') .. 'S'
local writes = tonumber(match(meta[5] or '', '^%d+$') or '0')
local open_max = tonumber(match(meta[6] or '', '^%d+$') or OPEN_HOLDS_MAX)
-- Why no credit is taken now. What an id stands for already is said all the same: a repeat asks for nothing new.
local paused
if not SPENDING then paused = '-7 memory'
elseif meta[3] and tonumber(meta[2]) >= tonumber(meta[3]) then paused = meta[3] == '0' and '-7 drain' or '-7 backlog' end

-- Read. ZCARD and HLEN are here for the type of their keys: a wrong one must show before the first write.
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
local holds, outcomes, absent = {}, {}, {}
for i = 1, count do
  if found[i] then holds[keys[i]] = found[i] else absent[#absent + 1] = keys[i] end
end
if #absent == 0 then call('HLEN', KEYS[4]) end
for generation = 4, 5 do
  if #absent > 0 then
    local values, missing = call('HMGET', KEYS[generation], unpack(absent)), {}
    for i = 1, #absent do
      if values[i] then outcomes[absent[i]] = values[i] else missing[#missing + 1] = absent[i] end
    end
    absent = missing
  end
end
local available, held, applied = {}, {}, {}
for i = 1, #names do
  if records[i] then available[i], held[i], applied[i] = parse_account(records[i]) end
end

-- How many holds each account has open, but for the one that `held` above nothing stands for. Read when first needed: an account
-- with one request at a time never needs it.
local counts, further = nil, {}
local function further_of(place)
  if not counts then counts = call('HMGET', KEYS[8], unpack(names)) end
  further[place] = further[place] or tonumber(counts[place] or 0) or 0
  return further[place]
end

-- Decide.
local changed, events, replies = {}, {}, {}
local held_fields, deadline_fields, ended_keys, outcome_fields = {}, {}, {}, {}
local time_ms, ttl_seen, deadline

for i = 1, count do
  local base = i * 7 - 5
  local op, account, key, amount_text = ARGV[base], ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
  local ttl_text, owner, payload = ARGV[base + 4], ARGV[base + 5], ARGV[base + 6]
  local place = places[account]
  local free, kept = available[place], held[place]
  local amount = whole(amount_text, AMOUNT_MAX)
  local slash = find(account, '/', 1, true)
  local ttl_ms = 0
  if ttl_text ~= '0' then ttl_ms = whole(ttl_text, TTL_MS_MAX) end

  -- What the id already stands for: an open hold, the outcome of one, or nothing (state is nil).
  local hold, outcome = holds[key], outcomes[key]
  local state, reserved_text, charged_text, mine = nil, '0', '0', true
  local voided = ' '
  if hold then
    state, reserved_text = 'open', match(hold, '^%d+')
    if reserved_text then mine = find(hold, account .. '\t', #reserved_text + 2, true) == #reserved_text + 2 end
  elseif outcome then
    local whose
    state, reserved_text, charged_text, whose = match(outcome, '^(%l+) (%d+) (%d+) (.+)$')
    state, mine = state or 'unreadable', whose == account
    if state == 'voided' then
      -- Closed to late copies of the reserves that were given back, by their owners; to all others it stands for nothing.
      voided = match(whose, '\t(.*)$') or ''
      if op ~= 'reserve' or not find(voided, ' ' .. owner .. ' ', 1, true) then
        state, reserved_text, charged_text, mine = nil, '0', '0', true
      else mine = match(whose, '^[^\t]*') == account
      end
    end
  end

  -- Who asks. Nobody is named where one of our own processes does, which may everything; a key ends and touches what was
  -- opened under its own name, unless it has the right `a` (any hold), and charges beyond a hold by the right `c` alone.
  local bound, stranger, asker = false, false, nil
  if find(owner, 'O', 1, true) and op ~= 'reserve' and op ~= 'void' then
    local rights
    rights, asker = match(owner, '^([ac]*)O(%w+)$')
    bound = not rights or not find(rights, 'c', 1, true)
    if hold and rights and not find(rights, 'a', 1, true) then
      local opener = match(hold, '^%d+\t[^\t]+\t%d+\t[%l%dS]*O(%w+)\t')
      -- A release before this one named nobody, and knew no starts: whose its holds are cannot be told.
      stranger = opener ~= asker and (opener ~= nil or find(hold, '^%d+\t[^\t]+\t%d+\t%d+S') ~= nil)
    end
  end

  -- How it ends: a reply at once, or the new available and held with a record of what the id stands for from now on.
  local reply, free_now, kept_now, state_now, event_kind, event_amount
  local flags, known = '-', false

  if not amount then reply = '-3 amount'
  elseif not ttl_ms then reply = '-3 ttl_ms'
  elseif not slash or find(key, sub(account, 1, slash), 1, true) ~= 1 or #key > slash + 128
    or not find(key, '^[%w._:/-]+$', slash + 1) then reply = '-3 key'
  elseif #payload > PAYLOAD_BYTES_MAX or find(payload, '\n', 1, true) or find(payload, '\t', 1, true) then reply = '-3 payload'
  elseif not free then reply = records[place] and '-3 account' or '-2'
  elseif not reserved_text then reply = '-3 record'
  elseif not mine then reply = format('-4 %d %d foreign 0 0', free, kept)
  elseif bound and not asker then reply = '-3 owner'
  elseif stranger then reply = '-8 opener'

  elseif op == 'commit' then
    if hold then
      local reserved = tonumber(reserved_text)
      if bound and amount > reserved then reply = '-8 charge'
      else
        free_now, kept_now = free + reserved - amount, kept - reserved
        state_now, event_kind, event_amount = 'committed', 'commit', amount_text
      end
    elseif not state or state == 'expired' then
      local charged = tonumber(charged_text)
      if bound and (charged == 0 or amount > charged) then reply = '-8 charge'
      elseif charged == 0 or amount > charged then
        free_now, kept_now = free - (amount - charged), kept
        state_now, event_kind, event_amount = 'committed', 'commit', format('%d', amount - charged)
        flags = charged > 0 and 'rest' or 'late'
        reply = format('3 %d %d %d', free_now, kept, amount)
      else reply = format('3 %d %d %d', free, kept, charged)
      end
    else known = state == 'committed' and tonumber(charged_text) == amount and '2' or '-4'
    end

  elseif op == 'reserve' then
    if ttl_ms == 0 then reply = '-3 ttl_ms'
    elseif #owner > 65 or not (find(owner, '^[%l%d]*$') or find(owner, '^[%l%d]*O%w+$')) then reply = '-3 owner'
    elseif hold then
      local mark = match(hold, '^%d+\t[^\t]+\t%d+\t(%w*)\t') or ''
      if tonumber(reserved_text) ~= amount then known = '-4'
      elseif mark ~= owner and match(mark, '^%d+S(%w*)$') ~= owner then known = '2'
      else reply = format('1 %d %d', free, kept)
      end
    elseif state then known = state ~= 'charged' and tonumber(reserved_text) == amount and '2' or '-4'
    elseif paused then reply = paused
    elseif free < amount then reply = format('-1 %d %d', free, kept)
    -- What a move holds is an administrator's, whom no flood of a user's may stop.
    elseif (kept > 0 or amount == 0) and further_of(place) + (kept > 0 and 1 or 0) >= open_max
      and not find(key, '/', slash + 1, true) then
      reply = format('-9 %d %d %d', free, kept, open_max)
    else
      free_now, kept_now = free - amount, kept + amount
      if amount == 0 and ttl_ms > FREE_HOLD_TTL_MS then ttl_ms = FREE_HOLD_TTL_MS end
      hold = amount_text .. '\t' .. account .. '\t0\t' .. start .. owner .. '\t' .. payload
    end

  elseif op == 'charge' then
    if state then known = state == 'charged' and tonumber(charged_text) == amount and '2' or '-4'
    elseif paused then reply = paused
    elseif free < amount then reply = format('-1 %d %d', free, kept)
    else
      free_now, kept_now = free - amount, kept
      state_now, event_kind, event_amount = 'charged', 'charge', amount_text
    end

  elseif op == 'release' then
    if hold then
      local reserved = tonumber(reserved_text)
      free_now, kept_now, state_now, amount_text = free + reserved, kept - reserved, 'released', '0'
    elseif state then known = (state == 'released' or state == 'expired') and '2' or '-4'
    else reply = format('-5 %d %d', free, kept)
    end

  elseif op == 'touch' then
    if ttl_ms == 0 then reply = '-3 ttl_ms'
    elseif hold and bound and amount > tonumber(reserved_text) then reply = '-8 progress'
    elseif hold then
      local progress, mark, about = match(hold, '^%d+\t[^\t]+\t(%d+)\t(%w*)\t(.*)$')
      if amount > tonumber(progress) then progress = amount_text end
      if payload ~= '' then about = payload end
      if ttl_ms > FREE_HOLD_TTL_MS and tonumber(reserved_text) == 0 then ttl_ms = FREE_HOLD_TTL_MS end
      free_now, kept_now = free, kept
      -- Who touches has not ended it: what it reported before this start of the server is true as well. What a release
      -- before this one opened is from now on that of the key which goes on with it.
      if asker and not find(mark, '[SO]') then mark = mark .. 'O' .. asker end
      hold = reserved_text .. '\t' .. account .. '\t' .. progress .. '\t' .. start .. (match(mark, '^%d+S(%w*)$') or mark)
        .. '\t' .. about
    elseif state then known = '-4'
    else reply = format('-5 %d %d', free, kept)
    end

  elseif op == 'void' then
    -- Gives back what a reserve of this owner took, and closes the id to copies of it that are still under way.
    local mark = hold and match(hold, '^%d+\t[^\t]+\t%d+\t(%w*)\t') or owner
    if owner == '' or #owner > 65 or find(owner, '%W') then reply = '-3 owner'
    elseif mark ~= owner and match(mark, '^%d+S(%w*)$') ~= owner then known = '-4'
    elseif state and not hold then known = '2'
    else
      local reserved = hold and tonumber(reserved_text) or 0
      free_now, kept_now, state_now = free + reserved, kept - reserved, 'voided'
      voided = sub(' ' .. owner .. voided, 1, VOIDED_BYTES_MAX)
      reserved_text, amount_text = hold and reserved_text or amount_text, '0'
    end

  elseif op == 'expire' then
    -- The end of a hold that was not kept here: what it reported is charged; a commit that comes later adds the rest.
    if state and not hold then known = state == 'expired' and '2' or '-4'
    else
      local reserved = tonumber(reserved_text)
      free_now, kept_now, state_now = free + reserved - amount, kept - reserved, 'expired'
      if amount > 0 then event_kind, event_amount = 'expire', amount_text end
    end

  else reply = '-3 op'
  end

  -- There is no such limit above: `apply` and `load` bound available and held together, and nothing here adds to both.
  if free_now and free_now < -BALANCE_MAX and free_now < free then reply, free_now = '-3 balance', nil
  -- A charge has a request id as the ledger knows them; only holds of moves have a further slash.
  elseif event_kind and find(key, '/', slash + 1, true) then reply, free_now, known = '-3 key', nil, false
  end
  if known then
    reply = format('%s %d %d %s %s %s', known, free, kept, state, reserved_text, charged_text)
  elseif free_now then
    reply = reply or format('1 %d %d', free_now, kept_now)
    available[place], held[place], changed[place] = free_now, kept_now, true
    if event_kind then
      if payload == '' and hold then payload = match(hold, '^%d+\t[^\t]+\t%d+\t%w*\t(.*)$') end
      events[#events + 1] = event_kind .. '\t' .. account .. '\t' .. key .. '\t' .. event_amount
        .. '\t' .. reserved_text .. '\t' .. flags .. '\t' .. payload
    end
    if state_now then
      outcome = state_now .. ' ' .. reserved_text .. ' ' .. amount_text .. ' ' .. account
      if state_now == 'voided' then outcome = outcome .. '\t' .. voided end
      local at = #outcome_fields
      outcome_fields[at + 1], outcome_fields[at + 2] = key, outcome
      ended_keys[#ended_keys + 1] = key
      -- Not below nothing: a release before this one has opened holds without counting them.
      if hold and (kept_now > 0 or kept == kept_now) then further[place] = math.max(0, further_of(place) - 1) end
      holds[key], outcomes[key] = nil, outcome
    else
      if op == 'reserve' and (kept > 0 or amount == 0) then further[place] = further_of(place) + 1 end
      time_ms = time_ms or now_ms()
      if ttl_ms ~= ttl_seen then ttl_seen, deadline = ttl_ms, format('%d', time_ms + ttl_ms) end
      local at = #held_fields
      held_fields[at + 1], held_fields[at + 2] = key, hold
      deadline_fields[at + 1], deadline_fields[at + 2] = deadline, key
      holds[key] = hold
    end
  end
  replies[i] = reply
end

-- Write, the one command that can still fail first. A hold opened and ended in one batch is written, then removed.
-- `writes` moves with every call that changes anything, so that a client knows when a server has lost what it was told.
if next(changed) then writes = writes + 1 end
local writes_text = format('%d', writes)
if #events > 0 then append_events(KEYS[7], KEYS[6], epoch, tonumber(meta[2]), events, time_ms or now_ms(), writes_text)
elseif next(changed) then call('HSET', KEYS[6], 'writes', writes_text) end
replies[count + 1] = writes_text
local account_fields = {}
for place in pairs(changed) do
  local at = #account_fields
  account_fields[at + 1] = names[place]
  account_fields[at + 2] = account_record(available[place], held[place], applied[place])
end
if #account_fields > 0 then call('HSET', KEYS[1], unpack(account_fields)) end
if #held_fields > 0 then
  call('HSET', KEYS[2], unpack(held_fields))
  call('ZADD', KEYS[3], unpack(deadline_fields))
end
if #ended_keys > 0 then
  call('HSET', KEYS[4], unpack(outcome_fields))
  call('HDEL', KEYS[2], unpack(ended_keys))
  call('ZREM', KEYS[3], unpack(ended_keys))
end
if counts then write_counts(KEYS[8], names, counts, further) end
return replies

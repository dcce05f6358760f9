#!lua
--[[ operate: does a batch of reserve, commit, release, charge, touch, void and expire on one shard, in order, in one step.

Invariant: available + held of an account changes only by what an event of the same step charges; one request id is
charged at most once; whatever is refused changes nothing. Refused as a whole by the server when memory is out (no
allow-oom flag); the client then sends what resolves holds through `resolve`.

KEYS[1] accounts      hash    org/user -> available held applied
KEYS[2] holds         hash    org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines     zset    org/request by Redis time in ms
KEYS[4] outcomes      hash    org/request -> state reserved charged account (younger generation); voided, charged: TAB and owners
KEYS[5] outcomes_old  hash    the older generation, read only
KEYS[6] meta          hash    epoch, seq, admit_until (no credit is taken once seq has reached it; 0: a drain), writes,
                              open_holds_max (most holds that an account may have open; 1000 where it is missing)
KEYS[7] events        stream  id epoch-seq; fields t, v1
KEYS[8] open_holds    hash    org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch the client believes in
ARGV[2..] seven per operation: op, account, key (org/request), amount, ttl_ms, owner, payload

RETURNS one string an operation: code, then fields with a space between; then `writes`: calls that have changed the shard since
  its epoch began, this one included
  1 OK            available held
  2 REPLAYED      available held state reserved charged
  3 LATE          available held charged
  -1 INSUFFICIENT available held
  -2 NOT_LOADED
  -3 INVALID      field
  -4 CONFLICT     available held state reserved charged (state foreign: of another user, without figures)
  -5 UNKNOWN_HOLD available held
  -7 PAUSED       reason (backlog or drain): no credit is taken now; what ends holds goes on
  -8 NOT_ALLOWED  right: opener (another key's hold), charge (beyond the hold, or without one), progress (beyond the hold)
  -9 TOO_MANY_HOLDS available held limit: the account has as many holds open as it may have
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
-- Reads all that a batch of `operate` or `resolve` is about, before anything is decided or written. Ends the script with an error
-- when the call is malformed, or its epoch is not the shard's.
-- TAKES call, match, refusal, parse_account
-- GIVES count: how many operations there are
-- GIVES seq, admit_until, start, writes, open_holds_max: of meta; `start` with the S that ends it in marks, admit_until as text
-- GIVES names, places: the accounts, each once, and where each is among them
-- GIVES records: accounts by place, as they are stored; false where there is none
-- GIVES available_of, held_of, applied_of: their figures by place; nil where there are none, or none that can be read
-- GIVES hold_of, outcome_of: by org/request, open holds and ended ones as they are stored

-- Most holds of an account where meta does not say.
local OPEN_HOLDS_MAX = 1000
local argument_count = #ARGV - 1
local count = argument_count / 7
if #KEYS ~= 8 or count < 1 or count > 1000 or argument_count % 7 ~= 0 then
  return redis.error_reply('MALFORMED a call carries 1 to 1000 operations of 7 arguments')
end
local meta = call('HMGET', KEYS[6], 'epoch', 'seq', 'admit_until', 'start', 'writes', 'open_holds_max')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local seq, admit_until, start = meta[2], meta[3], (meta[4] or '0') .. 'S'
local writes = tonumber(match(meta[5] or '', '^%d+$') or '0')
local open_holds_max = tonumber(match(meta[6] or '', '^%d+$') or OPEN_HOLDS_MAX)

-- ZCARD and HLEN are here for the type of their keys: a wrong one must show before the first write.
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
local hold_of, outcome_of, absent = {}, {}, {}
for i = 1, count do
  if found[i] then hold_of[keys[i]] = found[i] else absent[#absent + 1] = keys[i] end
end
if #absent == 0 then call('HLEN', KEYS[4]) end
for generation = 4, 5 do
  if #absent > 0 then
    local values, missing = call('HMGET', KEYS[generation], unpack(absent)), {}
    for i = 1, #absent do
      if values[i] then outcome_of[absent[i]] = values[i] else missing[#missing + 1] = absent[i] end
    end
    absent = missing
  end
end
local available_of, held_of, applied_of = {}, {}, {}
for i = 1, #names do
  if records[i] then available_of[i], held_of[i], applied_of[i] = parse_account(records[i]) end
end
local takes_credit = true
-- Decides every operation of a batch in memory, in order, and writes nothing. It is the hot path: amounts go from ARGV into records
-- as the text they came in (validated), and the loop makes no closures, since those cost more than the sums; nor are the three
-- parts functions, whose closures and tables would cost 5 to 7 in 100 instructions of a lone reserve.
-- TAKES call, format, find, match, sub, whole, now_ms, AMOUNT_MAX, BALANCE_MAX, PAYLOAD_BYTES_MAX, TTL_MS_MAX
-- TAKES takes_credit: false where memory is out
-- TAKES count, seq, admit_until, start, open_holds_max, names, places, records: as read
-- TAKES available_of, held_of, hold_of, outcome_of: changed here, so that each operation sees what those before it have done
-- GIVES replies: one string an operation
-- GIVES changed: places of the accounts that are another now
-- GIVES events: lines of charges
-- GIVES time_ms: Redis time, when somebody needed it
-- GIVES hold_fields, deadline_fields: holds that were opened or touched, as HSET and ZADD take them
-- GIVES ended, outcome_fields: holds that have ended, and what each stands for from now on
-- GIVES stored_counts, counts: how many holds accounts have open, by place: as read (nil when nobody asked), and now
local VOIDED_BYTES_MAX = 331
-- The longest life of a hold of nothing, which costs nobody anything.
local FREE_HOLD_TTL_MS = 300000
local changed, events, replies = {}, {}, {}
local hold_fields, deadline_fields, ended, outcome_fields = {}, {}, {}, {}
local time_ms, last_ttl_ms, deadline

-- Why no credit is taken now. What an id stands for already is said all the same: a repeat asks for nothing new.
local paused
if not takes_credit then paused = '-7 memory'
elseif admit_until and tonumber(seq) >= tonumber(admit_until) then
  paused = admit_until == '0' and '-7 drain' or '-7 backlog'
end

-- How many holds each account has open, but for the one that `held` above nothing stands for. Read when first needed: an
-- account with one request at a time never needs it.
local stored_counts, counts = nil, {}
local function count_of(place)
  if not stored_counts then stored_counts = call('HMGET', KEYS[8], unpack(names)) end
  counts[place] = counts[place] or tonumber(stored_counts[place] or 0) or 0
  return counts[place]
end

for i = 1, count do
  local base = i * 7 - 5
  local op, account, key, amount_text = ARGV[base], ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
  local ttl_text, owner, payload = ARGV[base + 4], ARGV[base + 5], ARGV[base + 6]
  local place = places[account]
  local available, held = available_of[place], held_of[place]
  local amount = whole(amount_text, AMOUNT_MAX)
  local slash = find(account, '/', 1, true)
  local ttl_ms = 0
  if ttl_text ~= '0' then ttl_ms = whole(ttl_text, TTL_MS_MAX) end

  -- What the id already stands for: an open hold, the outcome of one, or nothing (state is nil).
  local hold, outcome = hold_of[key], outcome_of[key]
  local state, reserved_text, charged_text, mine = nil, '0', '0', true
  local voided_owners, charger = ' ', ''
  if hold then
    state, reserved_text = 'open', match(hold, '^%d+')
    if reserved_text then mine = find(hold, account .. '\t', #reserved_text + 2, true) == #reserved_text + 2 end
  elseif outcome then
    local whose
    state, reserved_text, charged_text, whose = match(outcome, '^(%l+) (%d+) (%d+) (.+)$')
    if state == 'charged' then whose, charger = match(whose, '^([^\t]*)\t?(.*)$') end
    state, mine = state or 'unreadable', whose == account
    if state == 'voided' then
      -- Closed to late copies of the reserves that were given back, by their owners; to all others it stands for nothing.
      voided_owners = match(whose, '\t(.*)$') or ''
      if op ~= 'reserve' or not find(voided_owners, ' ' .. owner .. ' ', 1, true) then
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
  local reply, new_available, new_held, new_state, event_kind, event_amount
  local flags, known_code = '-', nil

  if not amount then reply = '-3 amount'
  elseif not ttl_ms then reply = '-3 ttl_ms'
  elseif not slash or find(key, sub(account, 1, slash), 1, true) ~= 1 or #key > slash + 128
    or not find(key, '^[%w._:/-]+$', slash + 1) then reply = '-3 key'
  elseif #payload > PAYLOAD_BYTES_MAX or find(payload, '\n', 1, true) or find(payload, '\t', 1, true) then reply = '-3 payload'
  elseif not available then reply = records[place] and '-3 account' or '-2'
  elseif not reserved_text then reply = '-3 record'
  elseif not mine then reply = format('-4 %d %d foreign 0 0', available, held)
  elseif bound and not asker then reply = '-3 owner'
  elseif stranger then reply = '-8 opener'

  elseif op == 'commit' then
    if hold then
      local reserved = tonumber(reserved_text)
      if bound and amount > reserved then reply = '-8 charge'
      else
        new_available, new_held = available + reserved - amount, held - reserved
        new_state, event_kind, event_amount = 'committed', 'commit', amount_text
      end
    elseif not state or state == 'expired' then
      local charged = tonumber(charged_text)
      if bound and (charged == 0 or amount > charged) then reply = '-8 charge'
      elseif charged == 0 or amount > charged then
        new_available, new_held = available - (amount - charged), held
        new_state, event_kind, event_amount = 'committed', 'commit', format('%d', amount - charged)
        flags = charged > 0 and 'rest' or 'late'
        reply = format('3 %d %d %d', new_available, held, amount)
      else reply = format('3 %d %d %d', available, held, charged)
      end
    else known_code = state == 'committed' and tonumber(charged_text) == amount and '2' or '-4'
    end

  elseif op == 'reserve' then
    if ttl_ms == 0 then reply = '-3 ttl_ms'
    elseif #owner > 65 or not (find(owner, '^[%l%d]*$') or find(owner, '^[%l%d]*O%w+$')) then reply = '-3 owner'
    elseif hold then
      local mark = match(hold, '^%d+\t[^\t]+\t%d+\t(%w*)\t') or ''
      if tonumber(reserved_text) ~= amount then known_code = '-4'
      elseif mark ~= owner and match(mark, '^%d+S(%w*)$') ~= owner then known_code = '2'
      else reply = format('1 %d %d', available, held)
      end
    elseif state then known_code = state ~= 'charged' and tonumber(reserved_text) == amount and '2' or '-4'
    elseif paused then reply = paused
    elseif available < amount then reply = format('-1 %d %d', available, held)
    -- What a move holds is an administrator's, whom no flood of a user's may stop.
    elseif (held > 0 or amount == 0) and count_of(place) + (held > 0 and 1 or 0) >= open_holds_max
      and not find(key, '/', slash + 1, true) then
      reply = format('-9 %d %d %d', available, held, open_holds_max)
    else
      if outcome then
        -- What this batch has voided is open again: it stays.
        for at = #ended, 1, -1 do if ended[at] == key then table.remove(ended, at) end end
      end
      new_available, new_held = available - amount, held + amount
      if amount == 0 and ttl_ms > FREE_HOLD_TTL_MS then ttl_ms = FREE_HOLD_TTL_MS end
      hold = amount_text .. '\t' .. account .. '\t0\t' .. start .. owner .. '\t' .. payload
    end

  elseif op == 'charge' then
    if state then
      known_code = state == 'charged' and tonumber(charged_text) == amount and '2' or '-4'
      -- The same call, whose reply was lost.
      if known_code == '2' and charger ~= '' and charger == owner then
        reply, known_code = format('1 %d %d', available, held), nil
      end
    elseif paused then reply = paused
    elseif available < amount then reply = format('-1 %d %d', available, held)
    else
      new_available, new_held = available - amount, held
      new_state, event_kind, event_amount = 'charged', 'charge', amount_text
    end

  elseif op == 'release' then
    if hold then
      local reserved = tonumber(reserved_text)
      new_available, new_held, new_state, amount_text = available + reserved, held - reserved, 'released', '0'
    elseif state then known_code = (state == 'released' or state == 'expired') and '2' or '-4'
    else reply = format('-5 %d %d', available, held)
    end

  elseif op == 'touch' then
    if ttl_ms == 0 then reply = '-3 ttl_ms'
    elseif hold and bound and amount > tonumber(reserved_text) then reply = '-8 progress'
    elseif hold then
      local progress, mark, about = match(hold, '^%d+\t[^\t]+\t(%d+)\t(%w*)\t(.*)$')
      if amount > tonumber(progress) then progress = amount_text end
      if payload ~= '' then about = payload end
      if ttl_ms > FREE_HOLD_TTL_MS and tonumber(reserved_text) == 0 then ttl_ms = FREE_HOLD_TTL_MS end
      new_available, new_held = available, held
      -- Who touches has not ended it: what it reported before this start of the server is true as well. What a release
      -- before this one opened is from now on that of the key which goes on with it.
      if asker and not find(mark, '[SO]') then mark = mark .. 'O' .. asker end
      hold = reserved_text .. '\t' .. account .. '\t' .. progress .. '\t' .. start .. (match(mark, '^%d+S(%w*)$') or mark)
        .. '\t' .. about
    elseif state then known_code = '-4'
    else reply = format('-5 %d %d', available, held)
    end

  elseif op == 'void' then
    -- Gives back what a reserve of this owner took, and closes the id to copies of it that are still under way.
    local mark = hold and match(hold, '^%d+\t[^\t]+\t%d+\t(%w*)\t') or owner
    if owner == '' or #owner > 65 or find(owner, '%W') then reply = '-3 owner'
    elseif mark ~= owner and match(mark, '^%d+S(%w*)$') ~= owner then known_code = '-4'
    elseif state and not hold then known_code = '2'
    else
      local reserved = hold and tonumber(reserved_text) or 0
      new_available, new_held, new_state = available + reserved, held - reserved, 'voided'
      voided_owners = sub(' ' .. owner .. voided_owners, 1, VOIDED_BYTES_MAX)
      reserved_text, amount_text = hold and reserved_text or amount_text, '0'
    end

  elseif op == 'expire' then
    -- The end of a hold that was not kept here: what it reported is charged; a commit that comes later adds the rest.
    if state and not hold then known_code = state == 'expired' and '2' or '-4'
    else
      local reserved = tonumber(reserved_text)
      new_available, new_held, new_state = available + reserved - amount, held - reserved, 'expired'
      if amount > 0 then event_kind, event_amount = 'expire', amount_text end
    end

  else reply = '-3 op'
  end

  -- There is no such limit above: `apply` and `load` bound available and held together, and nothing here adds to both.
  if new_available and new_available < -BALANCE_MAX and new_available < available then reply, new_available = '-3 balance', nil
  -- A charge has a request id as the ledger knows them; only holds of moves have a further slash.
  elseif event_kind and find(key, '/', slash + 1, true) then reply, new_available, known_code = '-3 key', nil, nil
  end
  if known_code then
    reply = format('%s %d %d %s %s %s', known_code, available, held, state, reserved_text, charged_text)
  elseif new_available then
    reply = reply or format('1 %d %d', new_available, new_held)
    available_of[place], held_of[place], changed[place] = new_available, new_held, true
    if event_kind then
      if payload == '' and hold then payload = match(hold, '^%d+\t[^\t]+\t%d+\t%w*\t(.*)$') end
      events[#events + 1] = event_kind .. '\t' .. account .. '\t' .. key .. '\t' .. event_amount
        .. '\t' .. reserved_text .. '\t' .. flags .. '\t' .. payload
    end
    if new_state then
      outcome = new_state .. ' ' .. reserved_text .. ' ' .. amount_text .. ' ' .. account
      if new_state == 'voided' then outcome = outcome .. '\t' .. voided_owners
      elseif new_state == 'charged' and owner ~= '' and #owner <= 65 and not find(owner, '[^%l%d]') then
        outcome = outcome .. '\t' .. owner
      end
      local at = #outcome_fields
      outcome_fields[at + 1], outcome_fields[at + 2] = key, outcome
      ended[#ended + 1] = key
      -- Not below nothing: a release before this one has opened holds without counting them.
      if hold and (new_held > 0 or held == new_held) then counts[place] = math.max(0, count_of(place) - 1) end
      hold_of[key], outcome_of[key] = nil, outcome
    else
      if op == 'reserve' and (held > 0 or amount == 0) then counts[place] = count_of(place) + 1 end
      time_ms = time_ms or now_ms()
      if ttl_ms ~= last_ttl_ms then last_ttl_ms, deadline = ttl_ms, format('%d', time_ms + ttl_ms) end
      local at = #hold_fields
      hold_fields[at + 1], hold_fields[at + 2] = key, hold
      deadline_fields[at + 1], deadline_fields[at + 2] = deadline, key
      hold_of[key] = hold
    end
  end
  replies[i] = reply
end
-- Writes what was decided for a batch of `operate` or `resolve`, and answers. A Lua error does not roll back, so the one command
-- that can still fail comes first, and nothing is looked at any more. The last reply is `writes`, which moves with every call that
-- changes anything, so that a client knows when a server has lost what it was told.
-- TAKES call, format, now_ms, account_record, append_events, write_counts
-- TAKES count, seq, writes, names, available_of, held_of, applied_of: as read, and changed by what was decided
-- TAKES replies, changed, events, time_ms, hold_fields, deadline_fields, ended, outcome_fields, stored_counts, counts: as decided
local account_fields = {}
for place in pairs(changed) do
  local at = #account_fields
  account_fields[at + 1] = names[place]
  account_fields[at + 2] = account_record(available_of[place], held_of[place], applied_of[place])
end
if #account_fields > 0 then writes = writes + 1 end
local writes_text = format('%d', writes)
if #events > 0 then
  append_events(KEYS[7], KEYS[6], ARGV[1], tonumber(seq), events, time_ms or now_ms(), writes_text)
elseif #account_fields > 0 then call('HSET', KEYS[6], 'writes', writes_text)
end
if #account_fields > 0 then call('HSET', KEYS[1], unpack(account_fields)) end
-- A hold that was opened and ended in one batch is written, then removed.
if #hold_fields > 0 then
  call('HSET', KEYS[2], unpack(hold_fields))
  call('ZADD', KEYS[3], unpack(deadline_fields))
end
if #ended > 0 then
  call('HSET', KEYS[4], unpack(outcome_fields))
  call('HDEL', KEYS[2], unpack(ended))
  call('ZREM', KEYS[3], unpack(ended))
end
if stored_counts then write_counts(KEYS[8], names, stored_counts, counts) end
replies[count + 1] = writes_text
return replies

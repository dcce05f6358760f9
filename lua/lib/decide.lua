-- Decides every operation of a batch in memory, in order, and writes nothing. It is the hot path: amounts go from ARGV into records
-- as the text they came in (validated), and the loop makes no closures, since those cost more than the sums; nor are the three
-- parts functions, whose closures and tables would cost 5 to 7 in 100 instructions of a lone reserve. A lone operation is decided
-- by the same lines as one of a batch: what it gives stays in variables, since tables would cost it more than its decision.
-- TAKES call, format, find, match, sub, whole, now_ms, plain_payload
-- TAKES AMOUNT_MAX, BALANCE_MAX, PAYLOAD_BYTES_MAX, TTL_MS_MAX
-- TAKES takes_credit: false where memory is out
-- TAKES arguments, count, seq, admit_until, start, names, places, records: as read
-- TAKES record, available, held, hold, outcome: of a lone operation, as read
-- TAKES available_of, held_of, hold_of, outcome_of: changed here, so that each operation sees what those before it have done
-- GIVES is_batch: whether there is more than one
-- GIVES account, key, reply: of a lone operation; reply is one string
-- GIVES new_available: nil where nothing has changed
-- GIVES balance: available and held of the account now, as its record has them
-- GIVES event: line of its charge, if it is one
-- GIVES had_hold, new_state, deadline: the open hold that it met; in what state it ended its id, which `outcome` then says; where it
-- ended nothing, when `hold`, which it opened or touched, is due
-- GIVES time_ms: Redis time, when a hold needed it
-- GIVES replies, balance_of, events: of a batch, one string an operation; of accounts that are another now, by place; lines
-- GIVES hold_fields, deadline_fields: holds that were opened or touched, as HSET and ZADD take them
-- GIVES ended, outcome_fields: holds that have ended, and what each id stands for from now on
-- GIVES stored_counts, counts: how many holds accounts have open, by place: as read (nil when nobody asked), and now; a lone
-- operation has place 1
local VOIDED_BYTES_MAX = 331
-- The longest life of a hold of nothing, which costs nobody anything.
local FREE_HOLD_TTL_MS = 300000
-- Most holds of an account where meta does not say.
local OPEN_HOLDS_MAX = 1000
local is_batch = count > 1
local balance_of, events, replies, hold_fields, deadline_fields, ended, outcome_fields
if is_batch then
  balance_of, events, replies, hold_fields, deadline_fields, ended, outcome_fields = {}, {}, {}, {}, {}, {}, {}
end
local time_ms, last_ttl_text, known_ttl_ms, last_ttl_ms, deadline, codes
local account, key, reply, new_available, new_state, had_hold, balance, event

-- Why no credit is taken now. What an id stands for already is said all the same: a repeat asks for nothing new.
local paused
if not takes_credit then paused = '-7 memory'
elseif admit_until and seq + 0 >= admit_until + 0 then
  paused = admit_until == '0' and '-7 drain' or '-7 backlog'
end

-- How many holds each account has open, but for the one that `held` above nothing stands for. Read when first needed: an
-- account with one request at a time never needs it, nor how many there may be.
local stored_counts, counts, open_holds_max

for i = 1, count do
  local base = i * 7 - 5
  local op, amount_text = arguments[base], arguments[base + 3]
  local ttl_text, owner, payload = arguments[base + 4], arguments[base + 5], arguments[base + 6]
  local place = 1
  account, key = arguments[base + 1], arguments[base + 2]
  if is_batch then
    place = places[account]
    available, held = available_of[place], held_of[place]
    hold, outcome = hold_of[key], outcome_of[key]
  end
  local is_payload = true
  if payload ~= '' then
    -- A hold keeps a payload with codes where the settlers know them; an event has none.
    if sub(payload, 1, 1) == '\1' then
      if codes == nil then codes = call('HGET', KEYS[6], 'payload_codes') end
      if codes ~= '1' or op ~= 'reserve' and op ~= 'touch' then payload = plain_payload(payload) end
    end
    is_payload = #payload <= PAYLOAD_BYTES_MAX and not find(payload, '\n', 1, true) and not find(payload, '\t', 1, true)
  end
  -- As `whole` has it, without a call.
  local amount = #amount_text < 16 and find(amount_text, '^%d+$') and amount_text + 0
  if amount and amount > AMOUNT_MAX then amount = nil end
  -- A charge has a request id as the ledger knows them; only holds of moves have a further slash.
  local slash = find(account, '/', 1, true)
  local is_request = slash and find(key, '^[%w._:-]+$', slash + 1)
  local ttl_ms = 0
  if ttl_text ~= '0' then
    if ttl_text ~= last_ttl_text then last_ttl_text, known_ttl_ms = ttl_text, whole(ttl_text, TTL_MS_MAX) end
    ttl_ms = known_ttl_ms
  end

  -- What the id already stands for: an open hold, the outcome of one, or nothing (state is nil).
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
  if op ~= 'reserve' and owner ~= '' and op ~= 'void' and find(owner, 'O', 1, true) then
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
  local new_held, event_kind, event_amount, known_code
  local flags = '-'
  reply, new_available, new_state, had_hold = nil, nil, nil, hold

  if not amount then reply = '-3 amount'
  elseif not ttl_ms then reply = '-3 ttl_ms'
  elseif not slash or find(key, sub(account, 1, slash), 1, true) ~= 1 or #key > slash + 128
    or not is_request and not find(key, '^[%w._:/-]+$', slash + 1) then reply = '-3 key'
  elseif not is_payload then reply = '-3 payload'
  elseif not available then reply = (record or records and records[place]) and '-3 account' or '-2'
  elseif not reserved_text then reply = '-3 record'
  elseif not mine then reply = format('-4 %d %d foreign 0 0', available, held)
  elseif bound and not asker then reply = '-3 owner'
  elseif stranger then reply = '-8 opener'

  elseif op == 'commit' then
    if hold then
      local reserved = reserved_text + 0
      if bound and amount > reserved then reply = '-8 charge'
      else
        new_available, new_held = available + reserved - amount, held - reserved
        new_state, event_kind, event_amount = 'committed', 'commit', amount_text
      end
    elseif not state or state == 'expired' then
      local charged = charged_text + 0
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
    else
      local is_counted = held > 0 or amount == 0
      if is_counted then
        stored_counts, counts = stored_counts or call('HMGET', KEYS[8], unpack(names or {account})), counts or {}
        counts[place] = counts[place] or tonumber(stored_counts[place] or 0) or 0
        open_holds_max = open_holds_max or tonumber(match(call('HGET', KEYS[6], 'open_holds_max') or '', '^%d+$') or OPEN_HOLDS_MAX)
      end
      -- What a move holds is an administrator's, whom no flood of a user's may stop.
      if is_counted and counts[place] + (held > 0 and 1 or 0) >= open_holds_max and is_request then
        reply = format('-9 %d %d %d', available, held, open_holds_max)
      else
        if outcome and is_batch then
          -- What this batch has voided is open again: it stays.
          for at = #ended, 1, -1 do if ended[at] == key then table.remove(ended, at) end end
        end
        if is_counted then counts[place] = counts[place] + 1 end
        new_available, new_held = available - amount, held + amount
        if amount == 0 and ttl_ms > FREE_HOLD_TTL_MS then ttl_ms = FREE_HOLD_TTL_MS end
        hold = amount_text .. '\t' .. account .. '\t0\t' .. start .. 'S' .. owner .. '\t' .. payload
      end
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
      local reserved = reserved_text + 0
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
      if payload ~= '' then about = (match(about, '^\31[^\31]*\31') or '') .. payload end
      if ttl_ms > FREE_HOLD_TTL_MS and tonumber(reserved_text) == 0 then ttl_ms = FREE_HOLD_TTL_MS end
      new_available, new_held = available, held
      -- Who touches has not ended it: what it reported before this start of the server is true as well. What a release
      -- before this one opened is from now on that of the key which goes on with it.
      if asker and not find(mark, '[SO]') then mark = mark .. 'O' .. asker end
      hold = reserved_text .. '\t' .. account .. '\t' .. progress .. '\t' .. start .. 'S' .. (match(mark, '^%d+S(%w*)$') or mark)
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
      local reserved = hold and reserved_text + 0 or 0
      new_available, new_held, new_state = available + reserved, held - reserved, 'voided'
      voided_owners = sub(' ' .. owner .. voided_owners, 1, VOIDED_BYTES_MAX)
      reserved_text, amount_text = hold and reserved_text or amount_text, '0'
    end

  elseif op == 'expire' then
    -- The end of a hold that was not kept here: what it reported is charged; a commit that comes later adds the rest.
    if state and not hold then known_code = state == 'expired' and '2' or '-4'
    else
      local reserved = reserved_text + 0
      new_available, new_held, new_state = available + reserved - amount, held - reserved, 'expired'
      if amount > 0 then event_kind, event_amount = 'expire', amount_text end
    end

  else reply = '-3 op'
  end

  -- There is no such limit above: `apply` and `load` bound available and held together, and nothing here adds to both.
  if new_available and new_available < -BALANCE_MAX and new_available < available then reply, new_available = '-3 balance', nil
  elseif event_kind and not is_request then reply, new_available, known_code = '-3 key', nil, nil
  end
  if known_code then
    reply = format('%s %d %d %s %s %s', known_code, available, held, state, reserved_text, charged_text)
  elseif new_available then
    balance = format('%d %d', new_available, new_held)
    reply = reply or '1 ' .. balance
    if event_kind then
      if payload == '' and hold then payload = plain_payload(match(hold, '^%d+\t[^\t]+\t%d+\t%w*\t(.*)$')) end
      event = event_kind .. '\t' .. account .. '\t' .. key .. '\t' .. event_amount
        .. '\t' .. reserved_text .. '\t' .. flags .. '\t' .. payload
    end
    if new_state then
      outcome = new_state .. ' ' .. reserved_text .. ' ' .. amount_text .. ' ' .. account
      if new_state == 'voided' then outcome = outcome .. '\t' .. voided_owners
      elseif new_state == 'charged' and owner ~= '' and #owner <= 65 and not find(owner, '[^%l%d]') then
        outcome = outcome .. '\t' .. owner
      end
      -- Not below nothing: a release before this one has opened holds without counting them.
      if hold and (new_held > 0 or held == new_held) then
        stored_counts, counts = stored_counts or call('HMGET', KEYS[8], unpack(names or {account})), counts or {}
        counts[place] = math.max(0, (counts[place] or tonumber(stored_counts[place] or 0) or 0) - 1)
      end
    else
      time_ms = time_ms or now_ms()
      if ttl_ms ~= last_ttl_ms then last_ttl_ms, deadline = ttl_ms, format('%d', time_ms + ttl_ms) end
    end
    if is_batch then
      available_of[place], held_of[place], balance_of[place] = new_available, new_held, balance
      if event_kind then events[#events + 1] = event end
      if new_state then
        local at = #outcome_fields
        outcome_fields[at + 1], outcome_fields[at + 2] = key, outcome
        if hold then ended[#ended + 1] = key end
        hold_of[key], outcome_of[key] = nil, outcome
      else
        local at = #hold_fields
        hold_fields[at + 1], hold_fields[at + 2] = key, hold
        deadline_fields[at + 1], deadline_fields[at + 2] = deadline, key
        hold_of[key] = hold
      end
    end
  end
  if is_batch then replies[i] = reply end
end

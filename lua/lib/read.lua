-- Reads all that a batch of `operate` or `resolve` is about, before anything is decided or written. Ends the script with an error
-- when the call is malformed, or its epoch is not the shard's.
-- TAKES call, find, refusal, parse_account
-- GIVES arguments, count: ARGV, and how many operations there are
-- GIVES seq, admit_until, start, writes: of meta, all but the last as text
-- GIVES record, available, held, applied, hold, outcome: of a lone operation, for which no table is made: the account as it is
-- stored (false where there is none) and its figures, and what its id stands for
-- GIVES names, places: of a batch, the accounts, each once, and where each is among them
-- GIVES records: accounts by place, as they are stored; false where there is none
-- GIVES available_of, held_of, applied_of: their figures by place; nil where there are none, or none that can be read
-- GIVES hold_of, outcome_of: by org/request, open holds and ended ones as they are stored

local arguments = ARGV
local argument_count = #arguments - 1
local count = argument_count / 7
if #KEYS ~= 8 or count < 1 or count > 1000 or argument_count % 7 ~= 0 then
  return redis.error_reply('MALFORMED a call carries 1 to 1000 operations of 7 arguments')
end
local meta = call('HMGET', KEYS[6], 'epoch', 'seq', 'admit_until', 'start', 'writes')
local refused = refusal(meta[1], arguments[1], meta[2])
if refused then return refused end
local seq, admit_until, start = meta[2], meta[3], meta[4] or '0'
local writes = meta[5] and find(meta[5], '^%d+$') and meta[5] + 0 or 0

-- ZCARD and HLEN are here for the type of their keys: a wrong one must show before the first write. A lone reserve needs no ZCARD,
-- since its ZADD is that first write.
local record, available, held, applied, hold, outcome
local names, places, records, available_of, held_of, applied_of, hold_of, outcome_of
if count == 1 then
  local key = arguments[4]
  record, hold = call('HGET', KEYS[1], arguments[3]), call('HGET', KEYS[2], key)
  if record then available, held, applied = parse_account(record) end
  if hold then call('HLEN', KEYS[4]) else outcome = call('HGET', KEYS[4], key) or call('HGET', KEYS[5], key) end
  if hold or arguments[2] ~= 'reserve' then call('ZCARD', KEYS[3]) end
else
  call('ZCARD', KEYS[3])
  local keys, absent = {}, {}
  names, places, available_of, held_of, applied_of, hold_of, outcome_of = {}, {}, {}, {}, {}, {}, {}
  for i = 1, count do
    local account = arguments[i * 7 - 4]
    if not places[account] then
      names[#names + 1] = account
      places[account] = #names
    end
    keys[i] = arguments[i * 7 - 3]
  end
  records = call('HMGET', KEYS[1], unpack(names))
  local found = call('HMGET', KEYS[2], unpack(keys))
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
  for i = 1, #names do
    if records[i] then available_of[i], held_of[i], applied_of[i] = parse_account(records[i]) end
  end
end

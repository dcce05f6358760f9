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

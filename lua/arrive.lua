#!lua flags=allow-oom
--[[ arrive: opens accounts of one organisation that came from another cell, or comes back, with their open holds.

Invariant: an account opens once, with all its holds in the same step; one that is there is left as it is, whatever is said of it
here. Nothing is opened of an organisation of which `away` says nothing: that has been let in already.

KEYS[1] accounts    hash  org/user -> available held applied
KEYS[2] holds       hash  org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines   zset  org/request by Redis time in ms
KEYS[4] outcomes    hash  org/request -> state reserved charged account
KEYS[5] meta        hash  epoch, seq, start, away:<org>
KEYS[6] open_holds  hash  org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch
ARGV[2] org
ARGV[3..] rows of five: `account`, org/user, what Postgres says remains (may be negative), applied, nothing;
          `hold`, org/request, its record without a number of start, how many ms it has left (0: it is due), 1 when what it has
          reported counts, else 0; `outcome`, org/request, what it stands for, nothing, nothing. Of an account all holds are given.

RETURNS how many accounts it has opened
ERRORS FENCED, STALE_EPOCH, MALFORMED; LET_IN: the organisation is not away. Nothing was done ]]
--- @include "lib/shard"
--- @include "lib/figures"
if #KEYS ~= 6 or #ARGV < 7 or (#ARGV - 2) % 5 ~= 0 then return redis.error_reply('MALFORMED arrive takes 6 keys and rows of five') end
local org = ARGV[2]
local meta = call('HMGET', KEYS[5], 'epoch', 'seq', 'start', 'away:' .. org)
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
if not meta[4] then return redis.error_reply('LET_IN the organisation is not away') end
local start, prefix, time_ms = meta[3] or '0', org .. '/', now_ms()
local fresh, names, holds_of, outcomes = {}, {}, {}, {}
for i = 3, #ARGV, 5 do
  local kind, name = ARGV[i], ARGV[i + 1]
  if sub(name, 1, #prefix) ~= prefix then return redis.error_reply('MALFORMED a row of another organisation') end
  if kind == 'account' then
    local remaining = signed(ARGV[i + 2])
    if not remaining or not whole(ARGV[i + 3], BALANCE_MAX) then return redis.error_reply('MALFORMED account') end
    if call('HEXISTS', KEYS[1], name) == 0 then
      fresh[name] = {remaining, 0, ARGV[i + 3], 0}
      names[#names + 1] = name
    end
  elseif kind == 'hold' then
    local reserved, account, progress, owner, payload = match(ARGV[i + 2], '^(%d+)\t([^\t]+)\t(%d+)\t(%w*)\t([^\t]*)$')
    if not reserved or not whole(ARGV[i + 3], BALANCE_MAX) then return redis.error_reply('MALFORMED hold') end
    local record = reserved .. '\t' .. account .. '\t' .. progress .. '\t' .. (ARGV[i + 4] == '1' and start or '0') .. 'S' .. owner
      .. '\t' .. payload
    holds_of[account] = holds_of[account] or {}
    table.insert(holds_of[account], {name, tonumber(reserved), record, format('%d', time_ms + tonumber(ARGV[i + 3]))})
  elseif kind == 'outcome' then
    if not find(ARGV[i + 2], '^%l+ %d+ %d+ .') then return redis.error_reply('MALFORMED outcome') end
    outcomes[#outcomes + 1] = {name, ARGV[i + 2]}
  else return redis.error_reply('MALFORMED kind') end
end
for i = 1, #names do
  local account = names[i]
  local one = fresh[account]
  local holds = holds_of[account] or {}
  for j = 1, #holds do
    one[1], one[2], one[4] = one[1] - holds[j][2], one[2] + holds[j][2], one[4] + 1
    call('HSET', KEYS[2], holds[j][1], holds[j][3])
    call('ZADD', KEYS[3], holds[j][4], holds[j][1])
  end
  call('HSET', KEYS[1], account, account_record(one[1], one[2], one[3]))
  local further = one[4] - (one[2] > 0 and 1 or 0)
  if further > 0 then call('HSET', KEYS[6], account, format('%d', further)) else call('HDEL', KEYS[6], account) end
end
for i = 1, #outcomes do call('HSETNX', KEYS[4], outcomes[i][1], outcomes[i][2]) end
return #names

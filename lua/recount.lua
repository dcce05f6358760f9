#!lua flags=allow-oom
--[[ recount: counts the open holds of every account anew, from the holds themselves.

Invariant: afterwards the count of each account is that of its holds; no balance and no hold changes. The other scripts keep
the counts true by themselves: this is for what a release before the counts has opened and ended, and for what was done by hand.

KEYS[1] holds       hash  org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[2] meta        hash  epoch, seq
KEYS[3] open_holds  hash  org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch
ARGV[2] limit: with more open holds than this nothing is counted, so that nobody waits for it

RETURNS how many accounts had another count; -1 when there are too many holds
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 3 or #ARGV ~= 2 then return redis.error_reply('MALFORMED recount takes 3 keys and 2 arguments') end
local limit = whole(ARGV[2], 100000)
if not limit then return redis.error_reply('MALFORMED limit is 0 to 100000') end
local meta = call('HMGET', KEYS[2], 'epoch', 'seq')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
if call('HLEN', KEYS[1]) > limit then return -1 end
local holds, before, counts, keeps, wrong = call('HGETALL', KEYS[1]), call('HGETALL', KEYS[3]), {}, {}, 0
for i = 2, #holds, 2 do
  local amount, account = match(holds[i], '^(%d+)\t([^\t]+)\t')
  if account then
    -- The first that keeps something is not counted.
    local first = tonumber(amount) > 0 and not keeps[account]
    keeps[account] = keeps[account] or first
    counts[account] = (counts[account] or 0) + (first and 0 or 1)
  end
end
for i = 1, #before, 2 do
  local account, count = before[i], counts[before[i]] or 0
  if count == 0 then
    call('HDEL', KEYS[3], account)
    wrong = wrong + 1
  elseif format('%d', count) == before[i + 1] then counts[account] = nil end
end
for account, count in pairs(counts) do
  if count > 0 then
    call('HSET', KEYS[3], account, format('%d', count))
    wrong = wrong + 1
  end
end
return wrong

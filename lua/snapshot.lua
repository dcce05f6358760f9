#!lua flags=allow-oom
--[[ snapshot: reads what reconcile and check compare with Postgres, at one cut of the shard.

Invariant: changes nothing. Everything it returns was true at the same moment, after event seq and before event seq + 1.

KEYS[1] accounts   hash  org/user -> available held applied
KEYS[2] holds      hash  org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines  zset  org/request by Redis time in ms
KEYS[4] meta       hash  epoch, seq
KEYS[5] open_holds hash  org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch
ARGV[2] holds_limit: with more open holds than this none are returned
ARGV[3..] accounts (org/user), at most 1000

RETURNS {seq, now_ms, holds_count, deadlines_count, first_deadline_ms (-1 when there is none),
         {record or nil per account}, {hold key, hold record, ...} of these accounts, or nil when there are more than holds_limit,
         {what open_holds has per account, or nil}}
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was read ]]
--- @include "lib/shard"
if #KEYS ~= 5 or #ARGV < 2 then return redis.error_reply('MALFORMED arguments are missing') end
local holds_limit, count = whole(ARGV[2], 100000), #ARGV - 2
if not holds_limit then return redis.error_reply('MALFORMED holds_limit is 0 to 100000') end
if count > 1000 then return redis.error_reply('MALFORMED a call asks for at most 1000 accounts') end
local meta = call('HMGET', KEYS[4], 'epoch', 'seq')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end

local records, counts, wanted = {}, {}, {}
if count > 0 then
  records = call('HMGET', KEYS[1], unpack(ARGV, 3))
  counts = call('HMGET', KEYS[5], unpack(ARGV, 3))
end
for i = 3, #ARGV do wanted[ARGV[i]] = true end
local holds_count, holds = call('HLEN', KEYS[2]), false
if holds_count <= holds_limit then
  holds = {}
  local all = holds_count > 0 and call('HGETALL', KEYS[2]) or {}
  for i = 1, #all, 2 do
    if wanted[match(all[i + 1], '^%d+\t([^\t]+)\t')] then
      holds[#holds + 1] = all[i]
      holds[#holds + 1] = all[i + 1]
    end
  end
end
local first = call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
return {
  meta[2], format('%d', now_ms()), holds_count, call('ZCARD', KEYS[3]),
  first[2] and format('%d', tonumber(first[2])) or '-1', records, holds, counts,
}

-- Arguments in rows of WIDTH, each beginning with an account: counted, and the accounts read. For `apply` and `load`.
local count = (#ARGV - 1) / WIDTH
if #KEYS ~= ROW_KEYS or count < 1 or count > 1000 or count ~= math.floor(count) then
  return redis.error_reply(format('MALFORMED a call carries 1 to 1000 accounts of %d arguments', WIDTH))
end
local meta = call('HMGET', KEYS[2], 'epoch', 'seq')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local names = {}
for i = 1, count do names[i] = ARGV[(i - 1) * WIDTH + 2] end
local records = call('HMGET', KEYS[1], unpack(names))

-- Reads the accounts of a call whose arguments are rows, each beginning with an account. For `apply` and `load`.
-- TAKES call, format, refusal

-- `width` is that of a row in arguments. Returns the accounts and their records by row (false where there is none), or nil, nil and
-- the error that refuses the call.
local function read_rows(width, key_count, accounts_key, meta_key)
  local count = (#ARGV - 1) / width
  if #KEYS ~= key_count or count < 1 or count > 1000 or count ~= math.floor(count) then
    return nil, nil, redis.error_reply(format('MALFORMED a call carries 1 to 1000 accounts of %d arguments', width))
  end
  local meta = call('HMGET', meta_key, 'epoch', 'seq')
  local refused = refusal(meta[1], ARGV[1], meta[2])
  if refused then return nil, nil, refused end
  local names = {}
  for i = 1, count do names[i] = ARGV[(i - 1) * width + 2] end
  return names, call('HMGET', accounts_key, unpack(names))
end

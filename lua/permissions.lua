#!lua flags=no-writes,allow-oom,allow-stale
--[[ permissions: lists which commands the connected user may not run. A script is not undone when a command in it is
refused, so this is asked before the first one.

Invariant: nothing is written and nothing is read. Hence a replica answers too, and a server that refuses writes.

KEYS[1] any  any key of the shard; it need not exist. None where no command names `*`
ARGV[1..] a command with arguments, a space between; `*` stands for the key

RETURNS those of them that are refused
ERRORS MALFORMED ]]
if #KEYS > 1 or #ARGV == 0 then return redis.error_reply('MALFORMED arguments are missing') end
local refused = {}
for i = 1, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '%S+') do
    if word == '*' and not KEYS[1] then return redis.error_reply('MALFORMED arguments are missing') end
    words[#words + 1] = word == '*' and KEYS[1] or word
  end
  -- It raises of a command that this server does not have, or has under another name.
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if not (known and allowed) then refused[#refused + 1] = ARGV[i] end
end
return refused

#!lua flags=allow-oom
--[[ permissions: which commands the connected user may not run. A script is not undone when a command in it is refused, so
this is asked before the first one.

Invariant: nothing is written and nothing is read.

KEYS[1] any  any key of the shard; it need not exist
ARGV[1..] a command with arguments, a space between; `*` stands for the key

RETURNS those of them that are refused
ERRORS MALFORMED ]]
if #KEYS ~= 1 then return redis.error_reply('MALFORMED arguments are missing') end
local refused = {}
for i = 1, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '%S+') do words[#words + 1] = word == '*' and KEYS[1] or word end
  if not redis.acl_check_cmd(unpack(words)) then refused[#refused + 1] = ARGV[i] end
end
return refused

#!lua flags=allow-oom
--[[ note_postgres: records which Postgres was seen with this shard, and how far it was.

Invariant: what is recorded never goes back within an epoch. A Postgres that says less later, another one, or one that has made other
steps than it had when it was last seen here, has lost what this shard relies on: only a guardian may go on with it, by rebuilding the
shard. Whoever wrote that down here would hide it from the guardian.

KEYS[1] meta  hash  epoch, seq, ledger
ARGV[1] epoch
ARGV[2] ledger: history (system identifier and timeline), bytes of log on the disk, last settled event, and since there are steps
          the number of the last step and its random number; a space between
ARGV[3] the random numbers of the last steps, the youngest first, a space between; nothing of a caller that knows no steps

RETURNS OK, or BEHIND: this Postgres is less far than one that was seen here, or another one; nothing was done
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
if #KEYS ~= 1 or #ARGV < 2 then return redis.error_reply('MALFORMED arguments are missing') end
-- Positions may have more digits than a number here holds.
local function less(a, b) return #a < #b or (#a == #b and a < b) end

-- History, position, settled, and the step with its random number or nothing.
local function read(text)
  local history, position, settled, rest = match(text, '^(%w+/%w+) (%d+) (%d+)(.*)$')
  local step, token = match(rest or '', '^ (%d+) (%d+)$')
  if not step and rest ~= '' then return nil end
  return history, position, settled, step, token
end

local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'ledger')
local refused = refusal(meta[1], ARGV[1], meta[2])
if refused then return refused end
local ledger = ARGV[2]
local history, position, settled, step = read(ledger)
if #ledger > 120 or not history then return redis.error_reply('MALFORMED ledger') end
local known, furthest, last, known_step, known_token = read(meta[3] or '')
if known and (known ~= history or less(position, furthest) or less(settled, last)) then return redis.status_reply('BEHIND') end
if known_step and step then
  local back, seen = tonumber(step) - tonumber(known_step), 0
  if back < 0 then return redis.status_reply('BEHIND') end
  for token in string.gmatch(ARGV[3] or '', '%d+') do
    if seen == back and token ~= known_token then return redis.status_reply('BEHIND') end
    seen = seen + 1
  end
elseif known_step then
  -- A caller of an older release must not make the shard forget.
  ledger = ledger .. ' ' .. known_step .. ' ' .. known_token
end
call('HSET', KEYS[1], 'ledger', ledger)
return redis.status_reply('OK')

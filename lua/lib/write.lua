-- Writes what was decided for a batch of `operate` or `resolve`, and answers. A Lua error does not roll back, so the one command
-- that can still fail comes first, and nothing is looked at any more. The last reply is `writes`, which moves with every call that
-- changes anything, so that a client knows when a server has lost what it was told.
-- TAKES call, format, sub, now_ms, append_events, write_counts
-- TAKES count, seq, writes, names, applied, applied_of: as read
-- TAKES account, key, reply, new_available, balance, event, had_hold, new_state, hold, outcome, deadline: as decided, lone
-- TAKES is_batch, replies, balance_of, events, time_ms, hold_fields, deadline_fields, ended, outcome_fields, stored_counts, counts: as decided
if not is_batch then
  if not new_available then return {reply, format('%d', writes)} end
  local writes_text = format('%d', writes + 1)
  -- The first write of a hold that was not there is of a key that nobody has looked at yet.
  if not new_state then call('ZADD', KEYS[3], deadline, key) end
  if event then
    -- As `now_ms` has it, by its digits alone.
    local time = call('TIME')
    append_events(KEYS[7], KEYS[6], ARGV[1], seq + 1, event, time[1] .. sub('00000' .. time[2], -6, -4), writes_text)
  else call('HSET', KEYS[6], 'writes', writes_text)
  end
  call('HSET', KEYS[1], account, balance .. ' ' .. applied)
  if not new_state then call('HSET', KEYS[2], key, hold)
  else
    call('HSET', KEYS[4], key, outcome)
    if had_hold then
      call('HDEL', KEYS[2], key)
      call('ZREM', KEYS[3], key)
    end
  end
  if stored_counts then write_counts(KEYS[8], {account}, stored_counts, counts) end
  return {reply, writes_text}
end

local account_fields = {}
for place, text in pairs(balance_of) do
  local at = #account_fields
  account_fields[at + 1], account_fields[at + 2] = names[place], text .. ' ' .. applied_of[place]
end
if #account_fields > 0 then writes = writes + 1 end
local writes_text = format('%d', writes)
if #events > 0 then
  append_events(KEYS[7], KEYS[6], ARGV[1], seq + #events, table.concat(events, '\n'), format('%d', time_ms or now_ms()), writes_text)
elseif #account_fields > 0 then call('HSET', KEYS[6], 'writes', writes_text)
end
if #account_fields > 0 then call('HSET', KEYS[1], unpack(account_fields)) end
-- A hold that was opened and ended in one batch is written, then removed.
if #hold_fields > 0 then
  call('HSET', KEYS[2], unpack(hold_fields))
  call('ZADD', KEYS[3], unpack(deadline_fields))
end
if #outcome_fields > 0 then call('HSET', KEYS[4], unpack(outcome_fields)) end
if #ended > 0 then
  call('HDEL', KEYS[2], unpack(ended))
  call('ZREM', KEYS[3], unpack(ended))
end
if stored_counts then write_counts(KEYS[8], names, stored_counts, counts) end
replies[count + 1] = writes_text
return replies

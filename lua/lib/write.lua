-- Writes what was decided for a batch of `operate` or `resolve`, and answers. A Lua error does not roll back, so the one command
-- that can still fail comes first, and nothing is looked at any more. The last reply is `writes`, which moves with every call that
-- changes anything, so that a client knows when a server has lost what it was told.
-- TAKES call, format, now_ms, account_record, append_events, write_counts
-- TAKES count, seq, writes, names, available_of, held_of, applied_of: as read, and changed by what was decided
-- TAKES replies, changed, events, time_ms, hold_fields, deadline_fields, ended, outcome_fields, stored_counts, counts: as decided
local account_fields = {}
for place in pairs(changed) do
  local at = #account_fields
  account_fields[at + 1] = names[place]
  account_fields[at + 2] = account_record(available_of[place], held_of[place], applied_of[place])
end
if #account_fields > 0 then writes = writes + 1 end
local writes_text = format('%d', writes)
if #events > 0 then
  append_events(KEYS[7], KEYS[6], ARGV[1], tonumber(seq), events, time_ms or now_ms(), writes_text)
elseif #account_fields > 0 then call('HSET', KEYS[6], 'writes', writes_text)
end
if #account_fields > 0 then call('HSET', KEYS[1], unpack(account_fields)) end
-- A hold that was opened and ended in one batch is written, then removed.
if #hold_fields > 0 then
  call('HSET', KEYS[2], unpack(hold_fields))
  call('ZADD', KEYS[3], unpack(deadline_fields))
end
if #ended > 0 then
  call('HSET', KEYS[4], unpack(outcome_fields))
  call('HDEL', KEYS[2], unpack(ended))
  call('ZREM', KEYS[3], unpack(ended))
end
if stored_counts then write_counts(KEYS[8], names, stored_counts, counts) end
replies[count + 1] = writes_text
return replies

-- Appends the lines of one step to the stream and moves seq. It must be the first write of a script: a stream of the wrong
-- type, or one that is ahead of meta, then fails before anything has changed. `writes` moves with it, where the caller counts.
-- TAKES call, format
local function append_events(events_key, meta_key, epoch, seq, lines, time_ms, writes)
  local last = format('%d', seq + #lines)
  call('XADD', events_key, epoch .. '-' .. last, 't', format('%d', time_ms), 'v1', table.concat(lines, '\n'))
  if writes then call('HSET', meta_key, 'seq', last, 'writes', writes) else call('HSET', meta_key, 'seq', last) end
end

-- Appends the lines of one step to the stream, and moves seq to `last`, the number of the last of them; `time_text` is Redis time in
-- ms. It must be the first write of a script: a stream of the wrong type, or one that is ahead of meta, then fails before anything
-- has changed. `writes` moves with it, where the caller counts.
-- TAKES call, format
local function append_events(events_key, meta_key, epoch, last, lines, time_text, writes)
  last = format('%d', last)
  call('XADD', events_key, epoch .. '-' .. last, 't', time_text, 'v1', lines)
  if writes then call('HSET', meta_key, 'seq', last, 'writes', writes) else call('HSET', meta_key, 'seq', last) end
end

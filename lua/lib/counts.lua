-- How many holds an account has open is kept but for one, which `held` above nothing stands for. So an account with one request
-- at a time has no count.
-- TAKES call, format

-- Writes the counts that are not what is stored, by place in `names`.
local function write_counts(key, names, stored_counts, counts)
  local fields, none = {}, {}
  for place, count in pairs(counts) do
    if count > 0 then
      if count ~= tonumber(stored_counts[place] or 0) then
        fields[#fields + 1], fields[#fields + 2] = names[place], format('%d', count)
      end
    elseif stored_counts[place] then none[#none + 1] = names[place] end
  end
  if #fields > 0 then call('HSET', key, unpack(fields)) end
  if #none > 0 then call('HDEL', key, unpack(none)) end
end

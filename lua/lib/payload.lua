-- What a hold says it is for, as its record has it: plain JSON, or the same behind the byte 1 with codes for what is in most of
-- them (`meter/wire/payload_codes.py` writes it). Facts of a later release may stand before it, between two bytes 31: they stay with
-- the hold, and are no part of the payload. So does a text behind a byte that nobody knows here.
-- TAKES match, sub

-- The JSON of what a record has.
local function plain_payload(text)
  if sub(text, 1, 1) == '\31' then text = match(text, '^\31[^\31]*\31(.*)$') or text end
  if sub(text, 1, 1) ~= '\1' then return text end
  return (string.gsub(sub(text, 2), '%c', {
    ['\2'] = '{"type":"llm_inference","name":"', ['\3'] = '","meta":{', ['\4'] = '"model":',
    ['\5'] = '"' .. (match(text, '^\1\2([^"\\%c]+)\3') or '') .. '"', ['\6'] = ',"estimated":true}}',
    ['\7'] = '"provider":"openai",', ['\8'] = '"provider":',
  }))
end

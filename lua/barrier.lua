#!lua flags=allow-oom
--[[ barrier: a write that changes nothing, for WAIT and WAITAOF to wait for.

Invariant: no balance, hold or event changes. WAIT looks at the last write of its connection, and an operation that was
answered from memory has made none.

KEYS[1] meta  hash  barrier

RETURNS OK
ERRORS none ]]
redis.call('HSET', KEYS[1], 'barrier', '1')
return redis.status_reply('OK')

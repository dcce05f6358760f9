#!lua flags=allow-oom
--[[ resolve: commit, release and touch of a batch, also when Redis is out of memory.

Invariant: as `operate`; besides, it takes no credit: a reserve or a charge in it is INVALID. Without it a Redis that is
full of holds and events could never be drained.

KEYS[1] accounts      hash    org/user -> available held applied
KEYS[2] holds         hash    org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines     zset    org/request by Redis time in ms
KEYS[4] outcomes      hash    org/request -> state reserved charged account (younger generation)
KEYS[5] outcomes_old  hash    the older generation, read only
KEYS[6] meta          hash    epoch, seq
KEYS[7] events        stream  id epoch-seq; fields t, v1
ARGV[1] epoch the client believes in
ARGV[2..] seven per operation: op, account, key (org/request), amount, ttl_ms, owner, payload

RETURNS one string an operation, as `operate`
  1 OK            available held
  2 REPLAYED      available held state reserved charged
  3 LATE          available held charged
  -2 NOT_LOADED
  -3 INVALID      field
  -4 CONFLICT     available held state reserved charged (state foreign: of another user, without figures)
  -5 UNKNOWN_HOLD available held
  -8 NOT_ALLOWED  right: opener (another key's hold), charge (beyond the hold, or without one), progress (beyond the hold)
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
local SPENDING = false
--- @include "lib/shard"
--- @include "lib/account"
--- @include "lib/events"
--- @include "lib/batch"

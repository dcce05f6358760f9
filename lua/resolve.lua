#!lua flags=allow-oom
--[[ resolve: does a batch of `operate`, also when Redis is out of memory.

Invariant: as `operate`; besides, it takes no credit: a reserve or a charge in it is told what its id stands for already, else
PAUSED. Without it a Redis that is full of holds and events could never be drained.

KEYS[1] accounts      hash    org/user -> available held applied
KEYS[2] holds         hash    org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines     zset    org/request by Redis time in ms
KEYS[4] outcomes      hash    org/request -> state reserved charged account (younger generation); voided, charged: TAB and owners
KEYS[5] outcomes_old  hash    the older generation, read only
KEYS[6] meta          hash    epoch, seq, writes
KEYS[7] events        stream  id epoch-seq; fields t, v1
KEYS[8] open_holds    hash    org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch the client believes in
ARGV[2..] seven per operation: op, account, key (org/request), amount, ttl_ms, owner, payload

RETURNS one string an operation, then `writes`, as `operate`
  1 OK            available held
  2 REPLAYED      available held state reserved charged
  3 LATE          available held charged
  -2 NOT_LOADED
  -3 INVALID      field
  -4 CONFLICT     available held state reserved charged (state foreign: of another user, without figures)
  -5 UNKNOWN_HOLD available held
  -7 PAUSED       memory: no credit is taken now
  -8 NOT_ALLOWED  right: opener (another key's hold), charge (beyond the hold, or without one), progress (beyond the hold)
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
--- @include "lib/account"
--- @include "lib/events"
--- @include "lib/counts"
--- @include "lib/payload"
--- @include "lib/read"
local takes_credit = false
--- @include "lib/decide"
--- @include "lib/write"

#!lua
--[[ operate: does a batch of reserve, commit, release, charge, touch, void and expire on one shard, in order, in one step.

Invariant: available + held of an account changes only by what an event of the same step charges; one request id is
charged at most once; whatever is refused changes nothing. Refused as a whole by the server when memory is out (no
allow-oom flag); the client then sends what resolves holds through `resolve`.

KEYS[1] accounts      hash    org/user -> available held applied
KEYS[2] holds         hash    org/request -> amount, account, progress, mark, payload (TAB between)
KEYS[3] deadlines     zset    org/request by Redis time in ms
KEYS[4] outcomes      hash    org/request -> state reserved charged account (younger generation); voided, charged: TAB and owners
KEYS[5] outcomes_old  hash    the older generation, read only
KEYS[6] meta          hash    epoch, seq, admit_until (no credit is taken once seq has reached it; 0: a drain), writes,
                              open_holds_max (most holds that an account may have open; 1000 where it is missing)
KEYS[7] events        stream  id epoch-seq; fields t, v1
KEYS[8] open_holds    hash    org/user -> how many holds it has open, but for one if it holds anything
ARGV[1] epoch the client believes in
ARGV[2..] seven per operation: op, account, key (org/request), amount, ttl_ms, owner, payload

RETURNS one string an operation: code, then fields with a space between; then `writes`: calls that have changed the shard since
  its epoch began, this one included
  1 OK            available held
  2 REPLAYED      available held state reserved charged
  3 LATE          available held charged
  -1 INSUFFICIENT available held
  -2 NOT_LOADED
  -3 INVALID      field
  -4 CONFLICT     available held state reserved charged (state foreign: of another user, without figures)
  -5 UNKNOWN_HOLD available held
  -7 PAUSED       reason (backlog or drain): no credit is taken now; what ends holds goes on
  -8 NOT_ALLOWED  right: opener (another key's hold), charge (beyond the hold, or without one), progress (beyond the hold)
  -9 TOO_MANY_HOLDS available held limit: the account has as many holds open as it may have
ERRORS FENCED, STALE_EPOCH, MALFORMED: nothing was done ]]
--- @include "lib/shard"
--- @include "lib/account"
--- @include "lib/events"
--- @include "lib/counts"
--- @include "lib/payload"
--- @include "lib/read"
local takes_credit = true
--- @include "lib/decide"
--- @include "lib/write"

"""The bugs: each replaces one text of one file, and names tests of which at least one must fail."""

from __future__ import annotations

from typing import Final, NamedTuple


class Bug(NamedTuple):
    """`old` stands in `file` exactly once. `tests` are what pytest takes, below tests/."""

    name: str
    file: str
    old: str
    new: str
    tests: str


OPERATE: Final = "lua/test_operate.py"
BUGS: Final = (
    Bug(
        "balances are written before the event",
        "lua/lib/batch.lua",
        "if #events > 0 then append_events(KEYS[7]",
        "for place in pairs(changed) do call('HSET', KEYS[1], names[place],"
        " account_record(available[place], held[place], applied[place])) end\n"
        "if #events > 0 then append_events(KEYS[7]",
        "lua/test_input.py lua/test_shard_life.py",
    ),
    Bug(
        "the stream keeps its newest entries only",
        "lua/lib/events.lua",
        "call('XADD', events_key, epoch",
        "call('XADD', events_key, 'MAXLEN', 3, epoch",
        "settler/test_settle.py",
    ),
    Bug(
        "holds vanish with a time to live",
        "lua/lib/batch.lua",
        "  call('ZADD', KEYS[3], unpack(deadline_fields))\n",
        "  call('ZADD', KEYS[3], unpack(deadline_fields))\n  call('PEXPIRE', KEYS[2], 1)\n",
        OPERATE,
    ),
    Bug(
        "an epoch is not looked at",
        "lua/lib/shard.lua",
        "  if found == expected and seq",
        "  if found and seq",
        "lua/test_shard_life.py",
    ),
    Bug(
        "tonumber without a pattern",
        "lua/lib/shard.lua",
        "  if #text > 15 or not find(text, '^%d+$') then return nil end\n",
        "  if not tonumber(text) then return nil end\n",
        "lua/test_input.py",
    ),
    Bug(
        "an account may be overdrawn by one reserve",
        "lua/lib/batch.lua",
        "    elseif free < amount then reply = format('-1 %d %d', free, kept)\n"
        "    else\n"
        "      free_now, kept_now = free - amount, kept + amount\n",
        "    elseif free < 0 then reply = format('-1 %d %d', free, kept)\n"
        "    else\n"
        "      free_now, kept_now = free - amount, kept + amount\n",
        "lua/test_operate.py meter/test_client.py meter/test_batching.py",
    ),
    Bug(
        "a late commit forgets what the expiry has charged",
        "lua/lib/batch.lua",
        "        free_now, kept_now = free - (amount - charged), kept\n",
        "        free_now, kept_now = free - amount, kept\n",
        "lua/test_sweep.py settler/test_settle.py",
    ),
    Bug(
        "an expiry charges what was held, not what was reported",
        "lua/sweep.lua",
        "    available[place] = available[place] + reserved - progress\n",
        "    available[place] = available[place]\n",
        "lua/test_sweep.py",
    ),
    Bug(
        "an entry that was applied is applied again",
        "lua/apply.lua",
        "    elseif applied >= number then replies[i] = format('2 %d', applied)\n",
        "    elseif applied > number then replies[i] = format('2 %d', applied)\n",
        "lua/test_entries.py",
    ),
    Bug(
        "an entry may come before the one before it",
        "lua/apply.lua",
        "    elseif applied < number - 1 then replies[i] = format('-6 %d', applied)\n",
        "    elseif false then replies[i] = format('-6 %d', applied)\n",
        "lua/test_entries.py",
    ),
    Bug(
        "request ids are shared by all organisations",
        "meter/keys.py",
        '    return f"{org_id}/{request_id}"',
        '    return f"acme/{request_id}"',
        "meter/test_client.py sidecar/test_routes.py",
    ),
    Bug(
        "digits of any script are digits",
        "meter/limits.py",
        'r"[A-Za-z0-9._:-]{1,128}"',
        r'r"[\w._:-]{1,128}"',
        "meter/test_client.py",
    ),
    Bug(
        "a server is admitted that nobody has approved",
        "meter/handshake.py",
        "    if approved != run_id:\n",
        "    if not approved:\n",
        "meter/test_faults.py settler/test_guardian.py",
    ),
    Bug(
        "leaving the block gives back what was spent",
        "meter/hold.py",
        "            await self.commit(self._spent)\n",
        "            await self.release()\n",
        "meter/test_client.py",
    ),
    Bug(
        "a cancelled reserve leaves its hold",
        "meter/dispatch.py",
        "            self._spawn(self._abandon(operation))\n",
        "            pass\n",
        "meter/test_client.py",
    ),
    Bug(
        "what an expiry has charged already is not given back",
        "settler/claims.py",
        "            self.paid_before[event.seq] = amount\n",
        "",
        "settler/test_claims.py",
    ),
    Bug(
        "the rest after a forgotten expiry is refused",
        "settler/claims.py",
        '        if by_expiry and event.flags == "late"',
        '        if False and event.flags == "late"',
        "settler/test_claims.py",
    ),
    Bug(
        "what is set aside is not given back",
        "settler/ledger.py",
        "            if bad.org_id and bad.user_id and bad.amount\n",
        "            if bad.org_id and bad.user_id and bad.amount and bad.amount < 0\n",
        "settler/test_settle.py",
    ),
    Bug(
        "settling begins one event too late",
        "settler/stream.py",
        'f"({epoch}-{run.last_seq}"',
        'f"({epoch}-{run.last_seq + 1}"',
        "settler/test_settle.py",
    ),
    Bug(
        "a run that was read ahead is booked on any server",
        "settler/ahead.py",
        "        if self._next is not None and self._next[0] == mark:\n",
        "        if self._next is not None:\n",
        "settler/test_ahead.py",
    ),
    Bug(
        "trimming passes the watermark",
        "settler/trim.py",
        "    minimum = f\"{boundary['epoch']}-{boundary['seq'] + 1}\"\n",
        "    minimum = f\"{boundary['epoch'] + 1}-0\"\n",
        "settler/test_upkeep.py",
    ),
    Bug(
        "a Redis that went back in time is trusted",
        "settler/verdict.py",
        "    if seq < mark.seq:\n",
        "    if seq < 0:\n",
        "settler/test_guardian.py",
    ),
    Bug(
        "a Postgres that went back is trusted",
        "settler/verdict.py",
        "    if mark.ledger and seen.ledger and not mark.ledger.continues(seen.ledger):\n",
        "    if False:\n",
        "settler/test_guardian.py",
    ),
    Bug(
        "entries are applied before their Postgres is remembered",
        "settler/relay.py",
        "            await bear_witness_of_now(stores, mark.shard, mark.epoch)\n",
        "            pass\n",
        "settler/test_guardian.py",
    ),
    Bug(
        "a restarted server's lost entries are not sent again",
        "settler/guardian.py",
        '            await conn.execute(_ACCOUNTS["lower_hints"]',
        '            _ = (_ACCOUNTS["lower_hints"]',
        "settler/test_guardian.py",
    ),
    Bug(
        "the reconciler forgets events that are not settled yet",
        "settler/cut.py",
        "        return self.remaining + self.entries - self.unsettled\n",
        "        return self.remaining + self.entries\n",
        "settler/test_check.py",
    ),
)

"""Bugs in the scripts of Redis."""

from __future__ import annotations

from typing import Final

from mutants.bug import Bug

BUGS: Final = (
    Bug(
        "a guardian that wakes opens an epoch that another one has passed over",
        "lua/open.lua",
        "tonumber(meta[5] or '') or 0, last",
        "last",
        "settler/test_frozen.py",
    ),
    Bug(
        "balances are written before the event",
        "lua/lib/batch.lua",
        "if #events > 0 then append_events(KEYS[7]",
        "for place in pairs(changed) do call('HSET', KEYS[1], names[place],"
        " account_record(available[place], held[place], applied[place])) end\n"
        "if #events > 0 then append_events(KEYS[7]",
        "lua/test_input.py lua/test_shard_life.py",
        item="HINCRBY before XADD",
    ),
    Bug(
        "a server that syncs every second is believed to sync always",
        "lua/permissions.lua",
        "#KEYS > 1 or #ARGV == 0",
        "#KEYS ~= 1",
        "settler/test_promise.py",
    ),
    Bug(
        "the stream keeps its newest entries only",
        "lua/lib/events.lua",
        "call('XADD', events_key, epoch",
        "call('XADD', events_key, 'MAXLEN', 3, epoch",
        "settler/test_settle.py",
        item="MAXLEN on XADD",
    ),
    Bug(
        "a key ends any hold",
        "lua/lib/batch.lua",
        "  elseif stranger then reply = '-8 opener'\n",
        "",
        "attacks/test_keys_confine.py",
    ),
    Bug(
        "a key that may not charge commits above its hold",
        "lua/lib/batch.lua",
        "      if bound and amount > reserved then reply = '-8 charge'\n      else",
        "      if false then reply = '-8 charge'\n      else",
        "attacks/test_keys_confine.py",
    ),
    Bug(
        "a key that may not charge commits what nobody has held",
        "lua/lib/batch.lua",
        "if bound and (charged == 0 or amount > charged) then",
        "if bound and state and (charged == 0 or amount > charged) then",
        "attacks/test_keys_confine.py",
    ),
    Bug(
        "progress has no bound",
        "lua/lib/batch.lua",
        "    elseif hold and bound and amount > tonumber(reserved_text) then",
        "    elseif false then",
        "attacks/test_keys_confine.py",
    ),
    Bug(
        "holds vanish with a time to live",
        "lua/lib/batch.lua",
        "  call('ZADD', KEYS[3], unpack(deadline_fields))\n",
        "  call('ZADD', KEYS[3], unpack(deadline_fields))\n  call('PEXPIRE', KEYS[2], 1)\n",
        "lua/test_operate.py",
        item="TTL on holds",
    ),
    Bug(
        "an epoch is not looked at",
        "lua/lib/shard.lua",
        "  if found == expected and seq",
        "  if found and seq",
        "lua/test_shard_life.py",
        item="missing epoch check",
    ),
    Bug(
        "tonumber without a pattern",
        "lua/lib/shard.lua",
        "  if not text or #text > 15 or not find(text, '^%d+$') then return nil end\n",
        "  if not tonumber(text) then return nil end\n",
        "lua/test_input.py",
        item="tonumber without regex",
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
        "an id that the ledger cannot read is charged",
        "lua/lib/batch.lua",
        "\n    or not find(key, '^[%w._:/-]+$', slash + 1)",
        "",
        "lua/test_input.py",
    ),
    Bug(
        "credits fill an account up to where its holds have no room",
        "lua/apply.lua",
        "math.abs(available + held + delta) > BALANCE_MAX",
        "math.abs(available + delta) > BALANCE_MAX",
        "lua/test_input.py",
    ),
    Bug(
        "a restart leaves the word of the settler standing",
        "lua/approve.lua",
        "call('HDEL', KEYS[1], 'complete_ms')\n",
        "",
        "settler/test_fill.py",
    ),
    Bug(
        "holds are swept on a server that nobody has approved",
        "lua/sweep.lua",
        "if type(info) == 'string' and meta[4] ~= match",
        "if type(info) == 'nil' and meta[4] ~= match",
        "lua/test_sweep.py search/test_search.py",
    ),
    Bug(
        "a report from before a start is charged",
        "lua/sweep.lua",
        "local progress = counts and math.max",
        "local progress = math.max",
        "settler/test_holds_kept.py property/test_shard_machine.py",
    ),
    Bug(
        "an approved server is no new start",
        "lua/approve.lua",
        "BALANCE_MAX) or 0) + 1\n",
        "BALANCE_MAX) or 0)\n",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "a touch does not vouch for what was reported before",
        "lua/lib/batch.lua",
        "progress .. '\\t' .. start .. (match(mark, '^%d+S(%w*)$') or mark)",
        "progress .. '\\t' .. mark",
        "settler/test_holds_kept.py lua/test_operate.py",
    ),
    Bug(
        "an opened shard forgets what its holds keep",
        "lua/open.lua",
        "one[1], one[2] = one[1] - tonumber(reserved), one[2] + tonumber(reserved)",
        "one[2] = one[2] + tonumber(reserved)",
        "settler/test_maintenance.py settler/test_holds_kept.py",
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
        "an entry sets the balance instead of moving it",
        "lua/apply.lua",
        "account_record(available + freed + delta, held - freed, number)",
        "account_record(delta, held - freed, number)",
        "lua/test_entries.py",
        item="SET instead of delta in repair",
    ),
    Bug(
        "loading writes over an account that is there",
        "lua/load.lua",
        "  elseif record then replies[i] = '2 ' .. record\n",
        "",
        "lua/test_entries.py meter/test_client.py settler/test_relay.py",
        item="SET instead of delta in repair",
    ),
    Bug(
        "a Postgres that went back is written down as the one to go on with",
        "lua/witness.lua",
        "if known and (known ~= history",
        "if false and (known ~= history",
        "lua/test_shard_life.py settler/test_guardian.py",
    ),
)

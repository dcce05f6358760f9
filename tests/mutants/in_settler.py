"""Bugs in the settler."""

from __future__ import annotations

from typing import Final

from mutants.bug import Bug

BUGS: Final = (
    Bug(
        "any entry under the watermark's number is the settled one",
        "settler/shards/verdict.py",
        "    if entry is None or seen.epoch != mark.epoch or seen.settled_entry == entry:\n",
        "    if entry is None or seen.epoch != mark.epoch or seen.settled_entry is not None:\n",
        "settler/test_histories.py",
    ),
    Bug(
        "a run is booked behind an entry that is another one",
        "settler/settling/read_ahead.py",
        "        if not run.empty:\n            # After it",
        "        if run.empty:\n            # After it",
        "settler/test_histories.py",
    ),
    Bug(
        "what is set aside already is taken for displaced",
        "settler/settling/displaced.py",
        "        if line in aside:\n",
        "        if False and line in aside:\n",
        "settler/test_histories.py",
    ),
    Bug(
        "a rest of another history is charged whole",
        "settler/settling/displaced.py",
        '        return _changed(event.line, rest, b"rest") if rest > 0 else None\n',
        "        return event.line\n",
        "settler/test_histories.py",
    ),
    Bug(
        "whoever settles takes what a server has that was passed over",
        "settler/settling/read_ahead.py",
        "            if not self._closed:\n",
        "            if False:\n",
        "settler/test_histories.py",
    ),
    Bug(
        "a server that was passed over is taken for the approved one",
        "settler/shards/verdict.py",
        "    return has_diverged(mark, seen) or passed_over\n",
        "    return has_diverged(mark, seen)\n",
        "settler/test_histories.py",
    ),
    Bug(
        "a commit of another history is a repeat of the expiry",
        "settler/settling/charged_requests.py",
        'if by_expiry and event.kind == "commit" and',
        'if by_expiry and event.flags == "late" and',
        "settler/test_histories.py",
    ),
    Bug(
        "a hold that has ended in the ledger is brought back",
        "settler/shards/carried_holds.py",
        "    charged = await _charged(stores, home)\n",
        "    charged: dict[str, str] = {}\n",
        "settler/test_histories.py",
    ),
    Bug(
        "a rebuild after a loss forgets what has expired",
        "settler/shards/carried_holds.py",
        "    expired = {} if whole else await _expired_lately(stores, shard, shards)\n",
        "    expired: dict[str, str] = {}\n",
        "settler/test_histories.py::"
        "test_a_commit_after_everything_is_lost_is_told_what_its_request_costs",
    ),
    Bug(
        "an older copy of the audit log is the audit log",
        "settler/sql/invariants.sql",
        "  FROM taximeter.audit_end AS known\n WHERE NOT EXISTS",
        "  FROM taximeter.audit_end AS known\n WHERE false AND NOT EXISTS",
        "sql/test_audit_chain.py",
    ),
    Bug(
        "the entry at the watermark is trimmed",
        "settler/sql/upkeep.sql",
        "least(boundary.seq, mark.seq - 1)",
        "least(boundary.seq, mark.seq)",
        "settler/test_histories.py settler/test_upkeep.py",
    ),
    Bug(
        "the relay vouches for a moment after it looked",
        "settler/worker/jobs.py",
        "            await note_complete(self._stores, whole)\n",
        "            from dataclasses import replace\n"
        "            whole = [replace(one, asked_ms=one.asked_ms + 60_000) for one in whole]\n"
        "            await note_complete(self._stores, whole)\n",
        "settler/test_fill.py",
    ),
    Bug(
        "a move that Postgres does not know keeps its hold",
        "settler/sql/guardian.sql",
        "    OR NOT EXISTS (SELECT FROM taximeter.moves AS move\n",
        "    OR false AND NOT EXISTS (SELECT FROM taximeter.moves AS move\n",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "what holds reported before a loss counts after a rebuild",
        "settler/shards/carried_holds.py",
        "    start = seen.start if whole else seen.start + 1\n",
        "    start = seen.start\n",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "a server that was a replica in between is the same start",
        "settler/shards/verdict.py",
        "same_history = not replid or not self.replid or replid == self.replid",
        "same_history = True",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "a server counts as started when its first replica comes",
        "settler/shards/shard_view.py",
        'return server.get("role") == "master" and bool(second) and not second.strip("0")',
        "return False",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "a doubt is forgotten by the guardian after the one who had it",
        "settler/shards/rebuild.py",
        'whole = seen.is_approved_server and seen.meta.get("fenced_whole") == "1"',
        "whole = seen.is_approved_server",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "reshard forgets when holds were last heard of",
        "settler/shards/spread.py",
        "moved = hold._replace(start=start if still else 0)",
        "moved = hold._replace(start=start)",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "a rebuild keeps the hold of a move that is booked",
        "settler/shards/carried_holds.py",
        "    if ended:\n",
        "    if not ended:\n",
        "settler/test_holds_kept.py",
    ),
    Bug(
        "what an expiry has charged already is not given back",
        "settler/settling/charged_requests.py",
        "            self.paid_before[event.seq] = amount\n",
        "",
        "settler/test_charged_requests.py",
    ),
    Bug(
        "the rest after a forgotten expiry is refused",
        "settler/settling/charged_requests.py",
        "        if by_expiry and event.kind == ",
        "        if False and event.kind == ",
        "settler/test_charged_requests.py",
    ),
    Bug(
        "the rest after an expiry is booked as not late, one way of two",
        "settler/settling/columns.py",
        '        event.flags != "-", *purpose, shard, epoch, created_at,\n',
        '        event.flags == "late", *purpose, shard, epoch, created_at,\n',
        "settler/test_copy_rows.py::test_both_ways_write_the_same_rows",
    ),
    Bug(
        "what is set aside is not given back",
        "settler/settling/event_rows.py",
        "            if bad.org_id and bad.user_id and bad.amount\n",
        "            if bad.org_id and bad.user_id and bad.amount and bad.amount < 0\n",
        "settler/test_settle.py",
    ),
    Bug(
        "settling begins one event too late",
        "settler/settling/stream.py",
        'f"({epoch}-{run.last_seq}"',
        'f"({epoch}-{run.last_seq + 1}"',
        "settler/test_settle.py",
    ),
    Bug(
        "a run that was read ahead is booked on any server",
        "settler/settling/read_ahead.py",
        "        if self._next is not None and self._next[0] == mark:\n",
        "        if self._next is not None:\n",
        "settler/test_read_ahead.py",
    ),
    Bug(
        "trimming passes the watermark",
        "settler/settling/trim.py",
        "    minimum = f\"{boundary['epoch']}-{boundary['seq'] + 1}\"\n",
        "    minimum = f\"{boundary['epoch'] + 1}-0\"\n",
        "settler/test_upkeep.py",
    ),
    Bug(
        "a Redis that went back in time is trusted",
        "settler/shards/verdict.py",
        "    if seq < mark.seq:\n",
        "    if seq < 0:\n",
        "settler/test_guardian.py",
    ),
    Bug(
        "a server of another history is trusted for its numbers",
        "settler/shards/verdict.py",
        "    if mark.run_id not in (seen.run_id, data):\n",
        "    if False:\n",
        "settler/test_histories.py",
    ),
    Bug(
        "a Postgres that went back is trusted",
        "settler/shards/verdict.py",
        "    if _went_back(mark, seen):\n",
        "    if False:\n",
        "settler/test_guardian.py",
    ),
    Bug(
        "entries are applied before their Postgres is remembered",
        "settler/moves/relay.py",
        "            await step_and_note_position(stores, mark.shard, mark.epoch)\n",
        "            pass\n",
        "settler/test_guardian.py",
    ),
    Bug(
        "a Postgres that goes on from an older copy is known by its figures alone",
        "settler/books/postgres_position.py",
        "            and self._has_made_step_of(before)\n",
        "",
        "settler/test_postgres_histories.py",
    ),
    Bug(
        "a Postgres makes no step before its entries are applied",
        "settler/books/postgres_position.py",
        "    await make_step(stores.pool, shard)\n",
        "",
        "settler/test_postgres_histories.py",
    ),
    Bug(
        "commits wait for the disk only where that is the default",
        "settler/books/connections.py",
        '            self._commit = "on" if chosen == _WEAK else chosen\n',
        "            self._commit = chosen\n            return conn\n",
        "settler/test_postgres_histories.py",
    ),
    Bug(
        "a restarted server's lost entries are not sent again",
        "settler/shards/guardian.py",
        '            await conn.execute(_ACCOUNTS["lower_hints"]',
        '            _ = (_ACCOUNTS["lower_hints"]',
        "settler/test_guardian.py",
    ),
    Bug(
        "the reconciler forgets events that are not settled yet",
        "settler/proof/consistent_cut.py",
        "        return self.remaining + self.entries - self.unsettled\n",
        "        return self.remaining + self.entries\n",
        "settler/test_check.py",
        item="reconciler without cut",
    ),
    Bug(
        "the watermark is committed before the rows",
        "settler/settling/settle.py",
        "    return await write_run(conn, shard, run, rows)\n",
        "    settled = await write_run(conn, shard, Run(run.epoch, run.after_seq, run.last_seq))\n"
        "    await conn.execute('COMMIT')\n"
        "    await conn.execute('BEGIN')\n"
        "    await conn.execute(_SQL['mark_settling'])\n"
        "    await book_events(conn, shard, run.epoch, run.parse()[0])\n"
        "    return settled\n",
        "settler/test_kill_at_every_await.py::test_settle",
        item="XACK before COMMIT",
    ),
    Bug(
        "the rows are committed before the watermark",
        "settler/settling/settle.py",
        "    moved = await conn.execute(\n",
        "    await conn.execute('COMMIT')\n"
        "    await conn.execute('BEGIN')\n"
        "    moved = await conn.execute(\n",
        "settler/test_kill_at_every_await.py::test_settle",
    ),
    Bug(
        "the stream is trimmed before the rows are committed",
        "settler/settling/settle.py",
        "    return await write_run(conn, shard, run, rows)\n",
        "    stores = reader._stores\n"
        "    last = f'{run.epoch}-{run.last_seq + 1}'\n"
        "    await stores.redis.xtrim(stores.keys(shard).events, minid=last, approximate=False)\n"
        "    return await write_run(conn, shard, run, rows)\n",
        "settler/test_kill_at_every_await.py::test_settle",
        item="XTRIM before commit",
    ),
    Bug(
        "totals grow by what was set aside as a repeat",
        "settler/settling/event_rows.py",
        "    for event in booked:\n",
        "    for event in events:\n",
        "settler/test_settle.py",
        item="DO NOTHING without RETURNING",
    ),
    Bug(
        "the first run of a shard begins at the end of its stream",
        "settler/settling/stream.py",
        "        for entry_id, fields in raw:\n",
        "        if run.last_seq == 0:\n"
        "            raw = raw[-1:]\n"
        "        for entry_id, fields in raw:\n",
        "settler/test_settle.py",
        item="group at $",
    ),
    Bug(
        "allocations are locked in the order they come",
        "settler/sql/settle.sql",
        " WHERE a.is_active\n ORDER BY a.org_id, a.user_id\n",
        " WHERE a.is_active\n ORDER BY a.org_id DESC, a.user_id DESC\n",
        "settler/test_lock_order.py",
        item="unsorted updates",
    ),
    Bug(
        "closed allocations are locked in the order they come",
        "settler/sql/settle.sql",
        "                LIMIT 1)\n ORDER BY a.org_id, a.user_id\n",
        "                LIMIT 1)\n ORDER BY a.org_id DESC, a.user_id DESC\n",
        "settler/test_lock_order.py",
    ),
    Bug(
        "pools are locked in the order they come",
        "settler/sql/settle.sql",
        " WHERE org_id = ANY ($1::text[])\n ORDER BY org_id\n",
        " WHERE org_id = ANY ($1::text[])\n ORDER BY org_id DESC\n",
        "settler/test_lock_order.py",
    ),
    Bug(
        "an entry that was sent counts as applied",
        "settler/moves/relay.py",
        "            answered[account] = int(rest)\n",
        "            sent = [e['entry_seq'] for e in entries if e['user_id'] == account[1]]\n"
        "            answered[account] = max(sent)\n",
        "settler/test_relay.py",
        item="outbox id > last",
    ),
    Bug(
        "a hint from before a restart is kept",
        "settler/sql/accounts.sql",
        "mark.shard = $4 AND mark.epoch = $5 AND mark.run_id IS NOT DISTINCT FROM $6)",
        "mark.shard = $4 AND coalesce($5::bigint, 0) >= 0 AND coalesce($6, '') >= '')",
        "settler/test_relay.py::test_an_answer_of_the_server_before_moves_no_hint",
    ),
    Bug(
        "a move is credited before it is held",
        "settler/moves/moves.py",
        "    reply = await ask_live_side(take(",
        "    return await _row(conn, 'carry_out', move_id)\n    reply = await ask_live_side(take(",
        "settler/test_moves.py",
    ),
    Bug(
        "the settler's client repeats what it has sent",
        "settler/books/stores.py",
        "        retry=Retry(NoBackoff(), 0),\n",
        "        retry=Retry(NoBackoff(), 3),\n"
        "        retry_on_error=[__import__('redis').ConnectionError],\n",
        "settler/test_stores.py",
        item="library retries on",
    ),
    Bug(
        "a guardian looks at the server of the first shard only",
        "settler/shards/guardian.py",
        "    await stores.check_server(shard)\n",
        "    await stores.check_server(0)\n",
        "cluster/test_books.py::test_a_promoted_node_that_is_not_fit_is_not_approved",
    ),
)

"""Books what a stream of another history charged under numbers that Postgres had given already."""

from __future__ import annotations

from typing import Final

import structlog

from taximeter.settler.events import Event, parse_line, parse_time
from taximeter.settler.marks import lock_mark
from taximeter.settler.queries import load_queries
from taximeter.settler.settle import write_run
from taximeter.settler.stores import Connection, Stores
from taximeter.settler.stream import Fields, Numbered, Run, read_run

_SQL: Final = load_queries("guardian")
_SETTLE: Final = load_queries("settle")
_EVENTS_PER_PAGE: Final = 5_000

log = structlog.get_logger("taximeter.settler")


async def settle_displaced(conn: Connection, stores: Stores, shard: int) -> int:
    """Settle everything that the stream of a closed, diverged shard still has of the watermark's
    epoch and the ledger has not, whatever its numbers; returns how many events that were.

    They become the events of an epoch of their own, since numbers of theirs are taken: request ids
    tell what is booked. One transaction, so a crash leaves all of it or nothing. What the server
    lost of the settled history is in Postgres; what it lost beyond that, nobody here knows. Raises
    asyncpg and redis errors.
    """
    keys = stores.keys(shard)
    async with conn.transaction():
        await conn.execute(_SETTLE["mark_settling"])
        mark = await lock_mark(conn, shard)
        run = Run(mark.epoch + 1, 0, 0)
        after = 0
        while True:
            page = await read_run(stores.redis, keys, mark.epoch, after, _EVENTS_PER_PAGE)
            if page.empty:
                break
            for entry in page.entries:
                fields = await _unknown(conn, shard, mark.epoch, entry)
                if fields is not None:
                    last = run.last_seq + fields[b"v1"].count(b"\n") + 1
                    run.add(f"{run.epoch}-{last}".encode(), fields)
            after = page.last_seq
        await conn.execute(_SQL["begin_epoch"], shard, run.epoch, None)
        if not run.empty:
            await write_run(conn, shard, run)
            # No stream has these entries.
            await conn.execute(_SQL["forget_settled_entry"], shard)
    settled_to = f"{mark.epoch}-{mark.seq}"
    log.warning("displaced", shard=shard, settled_to=settled_to, events=run.last_seq)
    return run.last_seq


async def _unknown(conn: Connection, shard: int, epoch: int, entry: Numbered) -> Fields | None:
    """The lines of an entry that Postgres has neither booked nor set aside, as fields of one."""
    text = entry.fields.get(b"v1")
    if text is None:
        return None
    time = entry.fields.get(b"t", b"")
    lines = text.split(b"\n")
    items = [parse_line(line, 0, parse_time(time)) for line in lines]
    events = [item for item in items if isinstance(item, Event)]
    rows = await conn.fetch(
        _SETTLE["charged_already"],
        [event.org_id for event in events],
        [event.request_id for event in events],
        [event.phase for event in events],
    )
    booked = {(row["org_id"], row["request_id"], row["phase"]) for row in rows}
    aside = {row["raw"] for row in await conn.fetch(_SQL["set_aside"], shard, epoch, lines)}
    left = [
        line
        for line, item in zip(lines, items, strict=True)
        if line not in aside
        and not (isinstance(item, Event) and (item.org_id, item.request_id, item.phase) in booked)
    ]
    return {b"t": time, b"v1": b"\n".join(left)} if left else None

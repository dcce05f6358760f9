"""Books what a stream of another history charged under numbers that Postgres had given already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import structlog

from taximeter.settler.events import PHASE_CHARGE, PHASE_REST, Event, parse_line, parse_time
from taximeter.settler.marks import lock_mark
from taximeter.settler.queries import load_queries
from taximeter.settler.settle import write_run
from taximeter.settler.stores import Connection, Stores
from taximeter.settler.stream import Fields, Numbered, Run, read_run

_SQL: Final = load_queries("guardian")
_SETTLE: Final = load_queries("settle")
_EVENTS_PER_PAGE: Final = 5_000
PHASES: Final = [PHASE_CHARGE, PHASE_REST]

Request = tuple[str, str]

log = structlog.get_logger("taximeter.settler")


async def settle_displaced(conn: Connection, stores: Stores, shard: int) -> int:
    """Settle everything that the stream of a closed, diverged shard still has of the watermark's
    epoch and the ledger has not, whatever its numbers; returns how many events that were.

    They become the events of an epoch of their own, since numbers of theirs are taken: request ids
    tell what is booked, and of a request that both histories charged what is missing to this one's
    charge. One transaction, so a crash leaves all of it or nothing. What the server
    lost of the settled history is in Postgres; what it lost beyond that, nobody here knows. Raises
    asyncpg and redis errors.
    """
    keys = stores.keys(shard)
    async with conn.transaction():
        await conn.execute(_SETTLE["mark_settling"])
        mark = await lock_mark(conn, shard)
        run = Run(mark.epoch + 1, 0, 0)
        expired: dict[Request, int] = {}
        after = 0
        while True:
            page = await read_run(stores.redis, keys, mark.epoch, after, _EVENTS_PER_PAGE)
            if page.empty:
                break
            for entry in page.entries:
                fields = await _unknown(conn, shard, mark.epoch, entry, expired)
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


async def _unknown(
    conn: Connection, shard: int, epoch: int, entry: Numbered, expired: dict[Request, int]
) -> Fields | None:
    """The lines of an entry that Postgres has neither booked nor set aside, as fields of one.
    `expired`: what expiries have charged in this stream; those of the entry are added.
    """
    text = entry.fields.get(b"v1")
    if text is None:
        return None
    time = entry.fields.get(b"t", b"")
    lines = text.split(b"\n")
    items = [parse_line(line, 0, parse_time(time)) for line in lines]
    requests = [(item.org_id, item.request_id) for item in items if isinstance(item, Event)]
    rows = await conn.fetch(
        _SETTLE["charged_already"],
        *([request[part] for request in requests for _ in PHASES] for part in (0, 1)),
        PHASES * len(requests),
    )
    booked: defaultdict[Request, dict[int, int]] = defaultdict(dict)
    for row in rows:
        booked[row["org_id"], row["request_id"]][row["phase"]] = row["amount"]
    aside = {row["raw"] for row in await conn.fetch(_SQL["set_aside"], shard, epoch, lines)}
    left = []
    for line, item in zip(lines, items, strict=True):
        if line in aside:
            continue
        if not isinstance(item, Event):
            left.append(line)
            continue
        request = (item.org_id, item.request_id)
        if item.kind == "expire":
            expired[request] = item.amount
        due = _due(item, booked[request], expired.get(request))
        if due is not None:
            left.append(line if due == item.amount else _with_amount(line, due))
    return {b"t": time, b"v1": b"\n".join(left)} if left else None


def _due(event: Event, booked: Mapping[int, int], expired: int | None) -> int | None:
    """What is to be settled of an event of this history, None for nothing. `booked`: by phase, what
    the ledger has charged; `expired`: what the expiry of its hold charged here.

    A commit of more than the ledger has goes to those who write claims: they book the rest after an
    expiry, and set it aside as a duplicate else.
    """
    charge = booked.get(PHASE_CHARGE)
    if charge is None:
        return event.amount
    if event.phase == PHASE_REST and PHASE_REST not in booked:
        # A rest is what an expiry had left; another one may be booked, or the whole commit.
        in_all = event.amount + (charge if expired is None else expired)
        return in_all - charge if in_all > charge else None
    known = event.amount in (booked[event.phase], sum(booked.values()))
    return None if known or event.kind == "expire" else event.amount


def _with_amount(line: bytes, amount: int) -> bytes:
    fields = line.split(b"\t")
    fields[3] = b"%d" % amount
    return b"\t".join(fields)

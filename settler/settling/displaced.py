"""Books what a stream of another history charged under numbers that Postgres had given already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import lock_mark
from taximeter.settler.settling.events import PHASE_CHARGE, PHASE_REST, Event, parse_line
from taximeter.settler.settling.settle import write_run
from taximeter.settler.settling.stream import Fields, Run, read_run

_SQL: Final = load_queries("guardian")
_SETTLE: Final = load_queries("settle")
_EVENTS_PER_PAGE: Final = 5_000
PHASES: Final = [PHASE_CHARGE, PHASE_REST]

Request = tuple[str, str]

log = structlog.get_logger("taximeter.settler")


@dataclass(slots=True)
class Displaced:
    """`events`: that were settled. `lost`: numbers beyond the settled ones that the server gave and
    has no events for any more. `expired`: what expiries have charged in this stream, by
    request; `unpaid`: those of them that were not settled.
    """

    events: int = 0
    lost: int = 0
    expired: dict[Request, int] = field(default_factory=dict)
    unpaid: dict[Request, int] = field(default_factory=dict)


async def settle_displaced(
    conn: Connection, stores: Stores, shard: int, known_seq: int = 0
) -> Displaced:
    """Settle everything that was answered in the stream of a closed, diverged shard, in the
    watermark's epoch, and that the ledger has not, whatever its numbers.

    They become the events of an epoch of their own, since numbers of theirs are taken: request ids
    tell what is booked, and of a request that both histories charged what is missing to this one's
    charge. An expiry was answered to nobody, and its hold may have ended otherwise in the history
    that is lost: it charges nothing unless the ledger has it.

    One transaction, so a crash leaves all of it or nothing. What the server lost of the settled
    history is in Postgres. Numbers beyond that, up to `known_seq`, which the server gave and has no
    events for, are written down as lost: a Postgres that was put back lacks what it had settled and
    the stream has forgotten since. Raises asyncpg and redis errors.
    """
    keys = stores.keys(shard)
    async with conn.transaction():
        await conn.execute(_SETTLE["mark_settling"])
        mark = await lock_mark(conn, shard)
        run = Run(mark.epoch + 1, 0, 0)
        found = Displaced()
        holes: list[tuple[int, int]] = []
        after = 0
        while True:
            page = await read_run(stores.redis, keys, mark.epoch, after, _EVENTS_PER_PAGE)
            if page.empty:
                break
            for fields in await _unknown(conn, shard, mark.epoch, page, found):
                last = run.last_seq + fields[b"v1"].count(b"\n") + 1
                run.add(f"{run.epoch}-{last}".encode(), fields)
            holes += page.holes
            after = page.last_seq
        holes = [
            (max(first, mark.seq + 1), last) for first, last in (*holes, (after + 1, known_seq))
        ]
        holes = [(first, last) for first, last in holes if first <= last]
        if holes:
            firsts, lasts = map(list, zip(*holes, strict=True))
            await conn.execute(_SETTLE["insert_lost"], shard, mark.epoch, firsts, lasts)
            found.lost = sum(last - first + 1 for first, last in holes)
        await conn.execute(_SQL["begin_epoch"], shard, run.epoch, None)
        if not run.empty:
            await write_run(conn, shard, run)
            # No stream has these entries.
            await conn.execute(_SQL["forget_settled_entry"], shard)
    settled_to = f"{mark.epoch}-{mark.seq}"
    found.events = run.last_seq
    log.warning(
        "displaced",
        shard=shard,
        settled_to=settled_to,
        events=found.events,
        lost=found.lost,
        expiries_not_charged=len(found.unpaid),
    )
    return found


async def _unknown(
    conn: Connection, shard: int, epoch: int, page: Run, found: Displaced
) -> list[Fields]:
    """The lines of each entry that Postgres has neither booked nor set aside, as fields of one.
    Two queries, however many entries.
    """
    lines = [line for entry in page.entries for line in entry.fields.get(b"v1", b"").split(b"\n")]
    events = [item for line in lines if isinstance(item := parse_line(line, 0, None), Event)]
    rows = await conn.fetch(
        _SETTLE["charged_already"],
        [event.org_id for event in events for _ in PHASES],
        [event.request_id for event in events for _ in PHASES],
        PHASES * len(events),
    )
    booked: defaultdict[Request, dict[int, int]] = defaultdict(dict)
    for row in rows:
        booked[row["org_id"], row["request_id"]][row["phase"]] = row["amount"]
    aside = {row["raw"] for row in await conn.fetch(_SQL["set_aside"], shard, epoch, lines)}
    left = (still_due(entry.fields, booked, aside, found) for entry in page.entries)
    return [fields for fields in left if fields is not None]


def still_due(
    fields: Fields,
    booked: Mapping[Request, Mapping[int, int]],
    aside: Container[bytes],
    found: Displaced,
) -> Fields | None:
    """What is left to settle of an entry of a stream whose history is not the settled one, as
    fields of one; None for nothing. No I/O.

    `booked`: what the ledger has charged each request, by phase; `aside`: lines that are dead
    letters already. `found` is added to.
    """
    text = fields.get(b"v1")
    if text is None:
        return None
    left = []
    for line in text.split(b"\n"):
        item = parse_line(line, 0, None)
        if line in aside:
            continue
        if not isinstance(item, Event):
            left.append(line)
            continue
        request = (item.org_id, item.request_id)
        if item.kind == "expire":
            found.expired[request] = item.amount
            if request not in booked:
                found.unpaid[request] = item.amount
            continue
        due = _due(item, booked.get(request, {}), found.expired.get(request))
        if due is not None:
            found.unpaid.pop(request, None)
            left.append(due)
    return {b"t": fields.get(b"t", b""), b"v1": b"\n".join(left)} if left else None


def _due(event: Event, booked: Mapping[int, int], expired: int | None) -> bytes | None:
    """The line to be settled for a commit or charge of this history, None for nothing. `booked`: by
    phase, what the ledger has charged; `expired`: what the expiry of its hold charged here.

    A commit of more than the ledger has goes to those who write claims: they book the rest after an
    expiry, and set it aside as a duplicate else.
    """
    charge = booked.get(PHASE_CHARGE)
    if event.phase == PHASE_REST and PHASE_REST not in booked and expired is not None:
        # What an expiry had left; another one may be booked, or none, or the whole commit.
        in_all = event.amount + expired
        if charge is None:
            return _changed(event.line, in_all, b"late")
        rest = in_all - charge
        return _changed(event.line, rest, b"rest") if rest > 0 else None
    if charge is None:
        return event.line
    known = event.amount in (booked.get(event.phase), sum(booked.values()))
    return None if known else event.line


def _changed(line: bytes, amount: int, flags: bytes) -> bytes:
    fields = line.split(b"\t", 6)
    fields[3], fields[5] = b"%d" % amount, flags
    return b"\t".join(fields)

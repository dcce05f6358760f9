"""Writes events into the ledger, inside the transaction of settle. What the ledger refuses comes
back as bad lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg

from taximeter.settler.books.accounts import Account
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection
from taximeter.settler.settling.charged_requests import insert_charged, set_aside
from taximeter.settler.settling.columns import (
    ATTRIBUTION_COLUMNS,
    CHARGED_COLUMNS,
    attribution_record,
)
from taximeter.settler.settling.copy_rows import CopyRows
from taximeter.settler.settling.events import BadLine, Event
from taximeter.settler.settling.payloads import read_payload
from taximeter.settler.settling.totals import add_to_totals, lock_accounts, lock_allocations

_SQL: Final = load_queries("settle")
REFUSALS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.RaiseError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.StatementTooComplexError,
    ValueError,
)
"""What Postgres answers when it is the rows that are wrong. Anything else is about the server, and
is tried again.
"""


async def attribution_table(conn: Connection, month: str | None) -> tuple[str, str]:
    """Schema and name of the table that usage of this month is copied into: its partition, where
    that does everything that the whole table does. Rows that COPY has to distribute are written one
    by one; into a partition they go by the page.
    """
    if month is not None:
        # Nobody attaches or detaches partitions from here on.
        await conn.execute(_SQL["keep_partitions"])
        partition: str | None = await conn.fetchval(_SQL["partition_of_month"], month)
        if partition is not None:
            return "taximeter", partition
    return "public", "credit_usage_attribution"


async def book_copy_rows(conn: Connection, rows: CopyRows) -> bool:
    """Book a whole well-formed run at once; False, and nothing is booked, when Postgres refuses any
    of it or an organisation does not exist: then each event needs a look of its own.

    Raises what is not about the rows (deadlock, lost connection).
    """
    org_ids = {org_id for org_id, _ in rows.amounts}
    if len(await conn.fetch(_SQL["known_organizations"], list(org_ids))) < len(org_ids):
        return False
    try:
        async with conn.transaction():
            # The common lock order: allocations first, then what belongs to their accounts, then
            # pools.
            targets = await lock_allocations(conn, rows.amounts)
            await lock_accounts(conn, rows.amounts, targets, ())
            await conn.copy_to_table(
                "charged_requests",
                schema_name="taximeter",
                columns=CHARGED_COLUMNS,
                source=rows.charged_text(),
            )
            schema, table = await attribution_table(conn, rows.month)
            await conn.copy_to_table(
                table,
                schema_name=schema,
                columns=ATTRIBUTION_COLUMNS,
                source=rows.attribution_text(),
            )
            await add_to_totals(conn, rows.amounts, targets)
    except REFUSALS:
        return False
    return True


async def book_events(
    conn: Connection, shard: int, epoch: int, events: Sequence[Event]
) -> list[BadLine]:
    """Book `events`; returns those that could not be. Nothing is durable before the caller's
    transaction commits.

    The whole run is tried at once. When Postgres refuses a row, the halves are tried on their own,
    so that one poison event costs a few steps and never its neighbours. Raises what is not about
    the rows (deadlock, lost connection).
    """
    if not events:
        return []
    try:
        async with conn.transaction():
            return await _book_at_once(conn, shard, epoch, events)
    except REFUSALS as error:
        if len(events) == 1:
            return [set_aside(events[0], "refused_by_database", f"{type(error).__name__}: {error}")]
    middle = len(events) // 2
    return [
        *await book_events(conn, shard, epoch, events[:middle]),
        *await book_events(conn, shard, epoch, events[middle:]),
    ]


async def _book_at_once(
    conn: Connection, shard: int, epoch: int, events: Sequence[Event]
) -> list[BadLine]:
    bad: list[BadLine] = []
    org_ids = {event.org_id for event in events}
    known = {row[0] for row in await conn.fetch(_SQL["known_organizations"], list(org_ids))}
    if org_ids - known:
        detail = "no organisation has this id"
        bad += [
            set_aside(e, "unknown_organization", detail) for e in events if e.org_id not in known
        ]
        events = [event for event in events if event.org_id in known]
    times = _entry_times(events)
    # The common lock order: allocations first, then what belongs to their accounts, then pools.
    targets = await lock_allocations(conn, {(event.org_id, event.user_id) for event in events})
    charged = await insert_charged(conn, shard, epoch, events, times)
    booked = list(charged.events.values())
    paid_before = [e for e in booked if e.seq in charged.paid_before]
    await lock_accounts(
        conn,
        {(event.org_id, event.user_id) for event in booked},
        targets,
        {
            *((event.org_id, event.user_id) for event in paid_before),
            *((one.org_id, one.user_id) for one in charged.bad if one.org_id and one.user_id),
        },
    )
    await _write_attribution(conn, shard, epoch, booked, times)
    amounts: defaultdict[Account, int] = defaultdict(int)
    for event in booked:
        amounts[event.org_id, event.user_id] += event.amount
    await add_to_totals(conn, amounts, targets)
    await _give_back(
        conn,
        [
            (e.org_id, e.user_id, charged.paid_before[e.seq], f"{shard}:{epoch}-{e.seq}")
            for e in paid_before
        ],
    )
    return bad + charged.bad


def _entry_times(events: Iterable[Event]) -> dict[int | None, datetime]:
    """Redis time of each entry as a timestamp; a damaged one becomes the time of settling."""
    now = datetime.now(UTC)
    return {
        ms: now if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
        for ms in {event.time_ms for event in events}
    }


async def _write_attribution(
    conn: Connection,
    shard: int,
    epoch: int,
    events: Sequence[Event],
    times: dict[int | None, datetime],
) -> None:
    records = [
        attribution_record(event, read_payload(event.payload), shard, epoch, times[event.time_ms])
        for event in events
    ]
    await conn.copy_records_to_table(
        "credit_usage_attribution", columns=ATTRIBUTION_COLUMNS, records=records
    )


async def write_dead_letters(
    conn: Connection, shard: int, epoch: int, bad_lines: Sequence[BadLine]
) -> None:
    """Keep bad lines with their raw bytes, and give back what is known to have been taken by
    them.
    """
    if not bad_lines:
        return
    await conn.execute(
        _SQL["insert_dead_letters"],
        shard,
        epoch,
        [bad.seq for bad in bad_lines],
        [bad.reason for bad in bad_lines],
        [bad.detail for bad in bad_lines],
        [bad.org_id for bad in bad_lines],
        [bad.user_id for bad in bad_lines],
        [bad.request_id for bad in bad_lines],
        [bad.amount for bad in bad_lines],
        [bad.line for bad in bad_lines],
    )
    await _give_back(
        conn,
        [
            (bad.org_id, bad.user_id, bad.amount, f"{shard}:{epoch}-{bad.seq}")
            for bad in bad_lines
            if bad.org_id and bad.user_id and bad.amount
        ],
    )


async def _give_back(conn: Connection, repairs: list[tuple[str, str, int, str]]) -> None:
    """Entries for the live balances: (organisation, user, millicredits, reference) each."""
    if repairs:
        await conn.execute(_SQL["give_back"], *map(list, zip(*repairs, strict=True)))

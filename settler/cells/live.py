"""Closes the live accounts of an organisation that changes its cell, reads what is open, and opens
them elsewhere, or again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from redis.exceptions import ResponseError

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import account_field, shard_of
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Stores
from taximeter.settler.books.watermarks import count_shards, read_mark, read_position
from taximeter.settler.settling.settle import settle_shard
from taximeter.settler.shards.drain import ShardBusy, guardian_locks
from taximeter.settler.shards.shard_view import view_shard

_SQL: Final = load_queries("cells")
_GUARDIAN: Final = load_queries("guardian")
_DEPART: Final = load_script("depart")
_ARRIVE: Final = load_script("arrive")
_PAGE: Final = 200
_PAUSE_S: Final = 0.05
_TRIES: Final = 5
_GUARDIAN_WAIT_S: Final = 10.0
_NO_FIGURES: Final = (0, -1)
_SETTLED_WITHIN_S: Final = 60.0
_OUTCOME: Final = re.compile(r"[a-z]+ \d+ \d+ ([^\t]+)")
OUTCOMES_MAX: Final = 200_000
"""With more outcomes than this in a shard none travel: the ledger knows what was charged."""


class LiveSideMoved(Exception):
    """The shard was opened anew again and again meanwhile; nothing is closed for good."""


@dataclass(frozen=True, slots=True)
class Carried:
    """One open hold, or what a request that ended lately stands for. left_ms: until the deadline of
    a hold. counts: whether its progress is charged when it expires.
    """

    key: str
    kind: str
    account: str
    record: str
    left_ms: int = 0
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """Every account that was loaded when it was closed, with (available + held, applied), and the
    last event of the shard then.
    """

    accounts: dict[str, tuple[int, int]]
    position: tuple[int, int]


async def shard_for(stores: Stores, org_id: str) -> int:
    """The shard of an organisation. Raises LookupError before the system was first used."""
    shards = await count_shards(stores.pool)
    if shards == 0:
        raise LookupError("no settler has ever run for this cell")
    return shard_of(org_id, shards)


async def say(stores: Stores, org_id: str, said: str, move: str = "") -> tuple[int, int]:
    """Have the shard say this of the organisation; nothing: it is let in. Returns the last event of
    the shard. Raises redis errors.
    """
    shard = await shard_for(stores, org_id)
    mark = await read_mark(stores.pool, shard)
    seq, _ = await _depart(stores, shard, mark.epoch, org_id, said, 0, move)
    return mark.epoch, int(seq)


async def close_accounts(
    stores: Stores,
    org_id: str,
    said: str,
    move: str,
    may: Callable[[Connection], Awaitable[None]],
) -> Closed:
    """Close every live account of the organisation, and make sure that no server which lacks that
    is ever approved. `may` raises when the move does not go on. Raises LiveSideMoved, ShardBusy,
    asyncpg and redis errors.
    """
    shard = await shard_for(stores, org_id)
    async with _guarded(stores, shard) as conn:
        closed: dict[str, tuple[int, int]] = {}
        for _ in range(_TRIES):
            await may(conn)
            mark = await read_mark(stores.pool, shard)
            await _depart(stores, shard, mark.epoch, org_id, said, 0, move)
            cursor = 0
            while True:
                cursor, page = await stores.redis.hscan(
                    stores.keys(shard).accounts, cursor, match=f"{org_id}/*", count=1_000
                )
                names = list(page)
                for first in range(0, len(names), 1_000):
                    some = names[first : first + 1_000]
                    _, records = await _depart(
                        stores, shard, mark.epoch, org_id, said, 0, move, some
                    )
                    for name, record in zip(some, records, strict=True):
                        if record is not None:
                            closed[name.decode("utf-8", "backslashreplace")] = _figures(record)
                if cursor == 0:
                    break
            wanted = mark.departures + 1
            seq, _ = await _depart(stores, shard, mark.epoch, org_id, said, wanted, move)
            counted = await conn.fetchval(
                _GUARDIAN["count_departure"], shard, mark.epoch, mark.departures
            )
            # Written down before it is looked at: whoever is approved after this has all of it.
            seen = await view_shard(stores, shard)
            if counted and seen.departures >= wanted and seen.epoch == mark.epoch:
                return Closed(closed, (mark.epoch, int(seq)))
        raise LiveSideMoved(f"shard {shard} was opened anew again and again")


def _figures(record: bytes) -> tuple[int, int]:
    """(available + held, applied) of an account; for what is none, what no account has."""
    try:
        available, held, applied = map(int, record.split(b" "))
    except ValueError:
        return _NO_FIGURES
    return available + held, applied


@asynccontextmanager
async def _guarded(stores: Stores, shard: int) -> AsyncIterator[Connection]:
    """The guardian's lock of a shard, waiting a little for who has it. Raises ShardBusy."""
    deadline = time.monotonic() + _GUARDIAN_WAIT_S
    async with AsyncExitStack() as stack:
        conn: Connection | None = None
        while conn is None:
            try:
                conn = await stack.enter_async_context(guardian_locks(stores, [shard]))
            except ShardBusy:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_S)
        yield conn


async def settle_through(stores: Stores, org_id: str, position: tuple[int, int]) -> None:
    """Settle until everything up to there is in the books. Raises TimeoutError when that does not
    come, as of a shard that nobody opens again, asyncpg and redis errors.
    """
    shard = await shard_for(stores, org_id)
    async with asyncio.timeout(_SETTLED_WITHIN_S):
        while (await read_position(stores.pool, shard) or (0, 0)) < position:
            result = await settle_shard(stores, shard)
            if result.state != "settled":
                await asyncio.sleep(_PAUSE_S)


async def read_open(stores: Stores, org_id: str) -> list[Carried]:
    """The open holds of a closed organisation, and what its requests of the last minutes stand for.
    Raises redis errors.
    """
    shard = await shard_for(stores, org_id)
    keys = stores.keys(shard)
    seen = await view_shard(stores, shard)
    seconds, micros = await (await stores.server(shard)).time()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    found: list[Carried] = []
    async for page in _scan(stores, keys.holds, org_id):
        async with stores.redis.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.zscore(keys.deadlines, key)
            scores = await pipe.execute()
        for (key, record), score in zip(page.items(), scores, strict=True):
            try:
                hold = HoldRecord.parse(record)
            except ValueError:  # Damage, which nobody can go on with; `check` shows it.
                continue
            # A sweep that met it while its account was closed took its deadline: it is due.
            left_ms = 0 if score is None else max(0, int(score) - now_ms)
            counts = (hold.start or 0) == seen.start
            text = hold._replace(start=None).text()
            found.append(Carried(key, "hold", hold.account, text, left_ms, counts))
    outcomes: dict[str, Carried] = {}
    for name in (keys.outcomes_old, keys.outcomes):
        if await stores.redis.hlen(name) > OUTCOMES_MAX:
            continue
        async for page in _scan(stores, name, org_id):
            for key, outcome in page.items():
                text = outcome.decode("utf-8", "replace")
                if (found_in := _OUTCOME.match(text)) is not None:
                    outcomes[key] = Carried(key, "outcome", found_in[1], text)
    open_now = {one.key for one in found}
    return found + [one for key, one in outcomes.items() if key not in open_now]


async def open_accounts(
    stores: Stores,
    org_id: str,
    carried: Sequence[Carried],
    opened: Callable[[Sequence[str]], Awaitable[None]] | None = None,
) -> int:
    """Open every account of a closed organisation that is not open yet, with its holds; how many
    were opened. `opened` is told the accounts page by page. Safe to repeat: an account opens once.
    Raises asyncpg and redis errors.
    """
    shard = await shard_for(stores, org_id)
    of_account: dict[str, list[Carried]] = {}
    for one in carried:
        of_account.setdefault(one.account, []).append(one)
    done, after = 0, ""
    while True:
        rows = await stores.pool.fetch(_SQL["accounts_page"], org_id, after, _PAGE)
        if not rows:
            return done
        after = rows[-1]["user_id"]
        names = [account_field(org_id, row["user_id"]) for row in rows]
        arguments: list[str | int] = []
        for name, row in zip(names, rows, strict=True):
            arguments += ["account", name, row["available"], row["applied"], ""]
            for one in of_account.get(name, ()):
                arguments += [one.kind, one.key, one.record, one.left_ms, int(one.counts)]
        mark = await read_mark(stores.pool, shard)
        keys = stores.keys(shard)
        try:
            done += await _ARRIVE.call(
                stores.redis, keys.applying(), [mark.epoch, org_id, *arguments]
            )
        except ResponseError as error:
            if str(error).startswith("LET_IN"):
                return done
            raise
        if opened is not None:
            await opened(names)


async def forget_open(stores: Stores, org_id: str, carried: Iterable[Carried]) -> None:
    """Take what has left out of the shard. Raises redis errors."""
    keys = stores.keys(await shard_for(stores, org_id))
    names, accounts = [one.key for one in carried], {one.account for one in carried}
    for first in range(0, len(names), 1_000):
        page = names[first : first + 1_000]
        async with stores.redis.pipeline(transaction=True) as pipe:
            pipe.hdel(keys.holds, *page)
            pipe.zrem(keys.deadlines, *page)
            pipe.hdel(keys.outcomes, *page)
            pipe.hdel(keys.outcomes_old, *page)
            await pipe.execute()
    if accounts:
        await stores.redis.hdel(keys.open_holds, *sorted(accounts))


def differences(
    closed: Mapping[str, tuple[int, int]], known: Mapping[str, tuple[int, int]]
) -> list[str]:
    """Accounts whose live balance was not what the books say, with all of its events settled."""
    # Without an entry there is no row, and nothing.
    return sorted(name for name, figures in closed.items() if known.get(name, (0, 0)) != figures)


async def _scan(stores: Stores, key: str, org_id: str) -> AsyncIterator[dict[str, bytes]]:
    cursor = 0
    while True:
        cursor, page = await stores.redis.hscan(key, cursor, match=f"{org_id}/*", count=1_000)
        if page:
            found = {name.decode("utf-8", "replace"): value for name, value in page.items()}
            # What is no name of ours is damage, which nobody can go on with; `check` shows it.
            yield {name: value for name, value in found.items() if "\ufffd" not in name}
        if cursor == 0:
            return


async def _depart(
    stores: Stores,
    shard: int,
    epoch: int,
    org_id: str,
    said: str,
    departures: int,
    move: str,
    accounts: Sequence[bytes] = (),
) -> tuple[bytes, list[bytes | None]]:
    keys = stores.keys(shard)
    arguments: list[str | bytes | int] = [epoch, org_id, said, departures, move, *accounts]
    seq, records = await _DEPART.call(stores.redis, [keys.accounts, keys.meta], arguments)
    return seq, records

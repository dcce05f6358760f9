"""Writes down where SQL can see it what the requests of each account have open on the live side.

Postgres knows what is allocated and what was settled. What is held at this moment, and what was
charged and is not settled yet, only Redis knows; whoever takes credits by SQL leaves alone what the
last look has seen of it (docs/decisions/0056-what-sql-may-take.md).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import structlog

from taximeter.meter.wire.keys import ShardKeys, split_account
from taximeter.settler.books.accounts import Account
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.shard_reads import parse_hold, scan_hash
from taximeter.settler.books.stores import Stores
from taximeter.settler.settling.unsettled import EventsForgotten, UnsettledEvents, read_unsettled

_SQL: Final = load_queries("exposure")
READ_MAX: Final = 50_000
_SHOWN_MAX: Final = 5

log = structlog.get_logger("taximeter.settler")


async def note_exposure(stores: Stores, shard: int, *, limit: int = READ_MAX) -> bool:
    """Write down what each account of a shard has open. False when that was not possible (the shard
    moved on meanwhile): the look before it stands, and is too old in ten seconds.

    With more than `limit` open holds the accounts are read instead, whose records say what is held:
    however many holds a few of them open, the others can spend. With more than `limit` of both
    nothing is read, and it is written down that it is not known.

    What names no account (a damaged record) is nobody's: it is set aside and logged, and `check`
    reports it. Safe to run any number of times at once: the newest look counts. Raises asyncpg and
    redis errors.
    """
    mark = await stores.pool.fetchrow(_SQL["mark_and_time"], shard)
    if mark is None:
        return False
    keys = stores.keys(shard)
    # Before the events: what is charged in between counts twice, and never not at all.
    held = await _held(stores, keys, limit)
    opened = defaultdict(int, held or {})
    charged = UnsettledEvents(shard, mark["epoch"], mark["seq"])
    epoch, seq = await stores.redis.hmget(keys.meta, "epoch", "seq")
    if epoch is None or seq is None or int(epoch) != charged.epoch:
        return False
    try:
        await read_unsettled(stores, charged, int(seq))
    except EventsForgotten:
        return False
    for account, amount in charged.unsettled.items():
        opened[account] += amount
    seen, unreadable = dict[Account, int](), list[str]()
    for name, amount in opened.items():
        try:
            whose = split_account(name)
        except ValueError:
            unreadable.append(name)
        else:
            if amount:
                seen[whose] = amount
    if unreadable:
        log.warning(
            "exposure", shard=shard, of_no_account=len(unreadable), shown=unreadable[:_SHOWN_MAX]
        )
    noted: bool = await stores.pool.fetchval(
        _SQL["note_exposures"],
        shard,
        mark["now"],
        held is not None,
        [org_id for org_id, _ in seen],
        [user_id for _, user_id in seen],
        list(seen.values()),
    )
    return noted


async def _held(stores: Stores, keys: ShardKeys, limit: int) -> dict[str, int] | None:
    """What each account holds, None when that is too much to read."""
    held: defaultdict[str, int] = defaultdict(int)
    if int(await stores.redis.hlen(keys.holds)) <= limit:
        for record in (await scan_hash(stores.redis, keys.holds)).values():
            account, amount = parse_hold(record)
            held[account] += amount
    elif int(await stores.redis.hlen(keys.accounts)) <= limit:
        for name, record in (await scan_hash(stores.redis, keys.accounts)).items():
            figures = record.split(b" ")
            if len(figures) == 3 and figures[1].isdigit():
                held[name.decode("utf-8", "replace")] = int(figures[1])
    else:
        return None
    return held

"""Brings every account that Postgres knows back into shards that were opened or approved anew, for
clients that cannot ask Postgres themselves, and says since when nothing is missing. The same walk
compares how far each account is with what the relay takes for applied: a restart may have lost it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.places.deadline import altogether
from taximeter.meter.places.routed import by_server
from taximeter.meter.server.trouble import is_out_of_memory
from taximeter.meter.wire.keys import account_field, shard_of
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.accounts import last_applied
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark, count_shards, read_marks

_SQL: Final = load_queries("accounts")
_LOAD: Final = load_script("load")
_COMPLETE: Final = load_script("complete")
_CLOSED: Final = ("FENCED", "STALE_EPOCH", "RESTARTED")
ANSWER_S = 1.0
"""How long the others wait for one of several servers."""


@dataclass(frozen=True, slots=True)
class Place:
    """A shard as it was when a pass began, at `asked_ms` by the time of its server: another epoch
    or start needs another pass. filled: since it was opened or approved.
    """

    shard: int
    epoch: int
    start: int
    asked_ms: int
    filled: bool


@dataclass(slots=True)
class Filled:
    """What one round came to: accounts loaded, those that had lost entries, which the relay sends
    again, and shards that have all of theirs now.
    """

    loaded: int = 0
    behind: int = 0
    complete: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Pass:
    """A walk through all accounts of Postgres. `refused`: what Redis said to an account for which
    it had no memory.
    """

    places: dict[int, Place]
    shards: int
    after: tuple[str, str] = ("", "")
    refused: ResponseError | None = None


class Filler:
    """Walks through all accounts once for each shard that was opened or approved anew.

    A round ends after `budget_s` and the next one goes on where it was. Any number of processes may
    do this at once: an account is written only where none is. What a crash leaves is done again.
    """

    def __init__(self, stores: Stores, *, page_accounts: int = 500, budget_s: float = 2.0) -> None:
        self._stores = stores
        self._page_accounts = page_accounts
        self._budget_s = budget_s
        self._pass: _Pass | None = None

    async def fill(self) -> Filled:
        """One round; cheap when nothing is missing. Raises asyncpg and redis errors."""
        done = Filled()
        if self._pass is None:
            self._pass = await self._begin()
        if self._pass is None:
            return done
        deadline = time.monotonic() + self._budget_s
        try:
            while await self._page(self._pass, done):
                if time.monotonic() >= deadline:
                    return done
        except BaseException:
            self._pass = None
            raise
        if self._pass.refused is not None:
            refused, self._pass = self._pass.refused, None
            raise refused
        places = list(self._pass.places.values())
        done.complete = await note_complete(self._stores, places, first=True)
        self._pass = None
        return done

    async def _begin(self) -> _Pass | None:
        places = await read_places(self._stores, filled=False)
        if not places:
            return None
        shards = await count_shards(self._stores.pool)
        return _Pass({one.shard: one for one in places}, shards)

    async def _page(self, walk: _Pass, done: Filled) -> bool:
        """True when there may be more accounts and somebody who wants them."""
        stores = self._stores
        rows = await stores.pool.fetch(_SQL["accounts_page"], *walk.after, self._page_accounts)
        pages: dict[int, list[asyncpg.Record]] = {}
        for row in rows:
            shard = shard_of(row["org_id"], walk.shards)
            if shard in walk.places:
                pages.setdefault(shard, []).append(row)
        for shard, page in pages.items():
            names = [account_field(row["org_id"], row["user_id"]) for row in page]
            records = await stores.redis.hmget(stores.keys(shard).accounts, names)
            done.behind += await self._lower_hints(page, records)
            missing = [row for row, record in zip(page, records, strict=True) if record is None]
            if missing:
                done.loaded += await self._load(walk, shard, missing)
        if len(rows) < self._page_accounts or not walk.places:
            return False
        walk.after = (rows[-1]["org_id"], rows[-1]["user_id"])
        return True

    async def _load(self, walk: _Pass, shard: int, missing: list[asyncpg.Record]) -> int:
        """Write these accounts into Redis; how many were written."""
        keys = self._stores.keys(shard)
        args: list[str | int] = [walk.places[shard].epoch]
        for row in missing:
            name = account_field(row["org_id"], row["user_id"])
            args += [name, row["available"], row["applied"]]
        try:
            replies = await _LOAD.call(self._stores.redis, [keys.accounts, keys.meta], args)
        except ResponseError as error:
            if is_out_of_memory(error):
                # Entries are applied all the same, so the others are compared before it is said.
                walk.refused = error
                return 0
            if not str(error).startswith(_CLOSED):
                raise
            del walk.places[shard]
            return 0
        return sum(reply.startswith(b"1 ") for reply in replies)

    async def _lower_hints(self, page: list[asyncpg.Record], records: list[bytes | None]) -> int:
        """Let the relay send again what these accounts have lost; how many have."""
        behind = [
            (row["org_id"], row["user_id"], applied)
            for row, record in zip(page, records, strict=True)
            if (applied := last_applied(record)) is not None and applied < row["hint"]
        ]
        if behind:
            columns = map(list, zip(*behind, strict=True))
            await self._stores.pool.execute(_SQL["lower_hints"], *columns)
        return len(behind)


async def read_places(stores: Stores, *, filled: bool) -> list[Place]:
    """The open shards that have (or have not) been filled since they were opened or approved. Of
    several servers one that does not answer within ANSWER_S is left out, with its shards. Raises
    redis errors when none does.
    """
    return [place for place in (await ask_places(stores)).places if place.filled is filled]


@dataclass(frozen=True, slots=True)
class Asked:
    """The open shards, and those whose server did not say what they are."""

    places: list[Place] = field(default_factory=list)
    away: frozenset[int] = frozenset()


async def ask_places(stores: Stores) -> Asked:
    """Ask all servers at once. Raises redis errors when none of them answers."""
    marks = await read_marks(stores.pool)
    by_meta = {stores.keys(shard).meta: mark for shard, mark in marks.items()}
    groups = list((await by_server(stores.redis, by_meta)).values())
    several = len(groups) > 1
    found = await asyncio.gather(
        *(_ask(stores, [(meta, by_meta[meta]) for meta in group], several) for group in groups),
        return_exceptions=True,
    )
    places: list[Place] = []
    away: set[int] = set()
    silent: BaseException | None = None
    for group, answer in zip(groups, found, strict=True):
        if not isinstance(answer, BaseException):
            places += answer
            continue
        silent = answer
        if not isinstance(answer, RedisError | OSError):
            raise answer
        away |= {by_meta[meta].shard for meta in group}
    if silent is not None and len(away) == len(marks):
        raise silent
    return Asked(sorted(places, key=lambda place: place.shard), frozenset(away))


async def _ask(stores: Stores, group: list[tuple[str, Mark]], several: bool) -> list[Place]:
    async with (
        altogether(ANSWER_S if several else None),
        stores.redis.pipeline(transaction=False) as pipe,
    ):
        pipe.time()
        for meta, _ in group:
            pipe.hmget(meta, "epoch", "start", "complete_ms", "hints_due")
        (seconds, micros), *fields = await pipe.execute()
    asked_ms = seconds * 1000 + micros // 1000
    return [
        Place(
            mark.shard, mark.epoch, int(start or 0), asked_ms, complete is not None and due is None
        )
        for (_, mark), (epoch, start, complete, due) in zip(group, fields, strict=True)
        if epoch == str(mark.epoch).encode()
    ]


async def note_complete(stores: Stores, places: list[Place], *, first: bool = False) -> list[int]:
    """Write down that these shards had every account that Postgres knew when they were asked;
    returns those that are still what they were. Raises redis errors.
    """
    noted: list[int] = []
    for place in places:
        args: list[Any] = [place.epoch, place.start, place.asked_ms, int(first)]
        try:
            await _COMPLETE.call(stores.redis, [stores.keys(place.shard).meta], args)
        except ResponseError as error:
            if not str(error).startswith(_CLOSED):
                raise
            continue
        noted.append(place.shard)
    return noted

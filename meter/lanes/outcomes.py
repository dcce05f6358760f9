"""Reads what became of a request id, and whether every shard would take one now."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from redis.exceptions import RedisError

from taximeter.meter.lanes.confirm import what_is_missing
from taximeter.meter.lanes.shards import Shards
from taximeter.meter.places.places import Places, name_of
from taximeter.meter.server.handshake import greet
from taximeter.meter.server.trouble import unavailable, within
from taximeter.meter.wire.errors import ShardFenced, StoreError, StoreUnavailable
from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import ShardKeys, account_field, request_field, shard_of
from taximeter.meter.wire.limits import check_org_id, check_request_id
from taximeter.meter.wire.receipt import Receipt, State
from taximeter.meter.wire.replies import text_of
from taximeter.meter.wire.waits import Waits


class RequestReader:
    """Reads holds and outcomes of every shard. Nothing here writes.

    `redis` is a `redis.asyncio.Redis` that goes by `places`; no answer is waited for longer than
    `timeout_s`.
    """

    def __init__(self, redis: Any, places: Places, shards: Shards, timeout_s: float) -> None:
        self._redis = redis
        self._places = places
        self._shards = shards
        self._keys = shards.keys
        self._timeout_s = timeout_s

    async def find(
        self, org_id: str, request_id: str, user_id: str | None = None
    ) -> Receipt | None:
        """What Redis knows of the request, or None when it is neither open nor remembered, or not
        of this user where one is named.

        Outcomes are remembered for one to two windows of the settler's `outcome_window_s`; after
        that the ledger in Postgres is the only record. Raises InvalidRequest, ShardFenced,
        StoreError.
        """
        key = request_field(check_org_id(org_id), check_request_id(request_id))
        count = len(self._keys)
        keys = self._keys[shard_of(org_id, count)]
        # One transaction, so that a hold which ends meanwhile is found on one side or the other.
        replies = await self._transaction(
            ("HMGET", keys.meta, "epoch", "shards"),
            ("HGET", keys.holds, key),
            ("HGET", keys.outcomes, key),
            ("HGET", keys.outcomes_old, key),
        )
        self._check_open(keys, count, replies[0])
        hold, outcome, outcome_old = map(text_of, replies[1:])
        if hold:
            record = _parse(hold)
            state, reserved, charged = "open", str(record.amount), "0"
            account = record.account
        elif outcome or outcome_old:
            state, reserved, charged, account = (outcome or outcome_old).split(" ", 3)
            if state == "voided":  # Nobody was told that it was open.
                return None
            account = account.partition("\t")[0]
        else:
            return None
        if user_id is not None and account != account_field(org_id, user_id):
            return None
        meta, found = await self._transaction(
            ("HMGET", keys.meta, "epoch", "shards"), ("HGET", keys.accounts, account)
        )
        self._check_open(keys, count, meta)
        balance = text_of(found)
        if not balance:
            raise StoreError(f"account {account} of a known request is not in Redis")
        available, held, _ = balance.split(" ")
        return Receipt(
            request_id,
            cast(State, state),
            int(reserved),
            int(charged),
            int(available),
            int(held),
        )

    async def payload(self, org_id: str, request_id: str) -> str:
        """What an open hold says it is for, as JSON; empty when it says nothing or none is open.
        Raises InvalidRequest, StoreError.
        """
        key = request_field(check_org_id(org_id), check_request_id(request_id))
        count = len(self._keys)
        keys = self._keys[shard_of(org_id, count)]
        meta, hold = await self._transaction(
            ("HMGET", keys.meta, "epoch", "shards"), ("HGET", keys.holds, key)
        )
        self._check_open(keys, count, meta)
        return _parse(text_of(hold)).payload if hold else ""

    async def check_open(self) -> None:
        """Return as soon as a new connection is admitted on some shard: whoever asks for another
        one is told by the answer. Raises what the first one said, ShardFenced or StoreUnavailable,
        when none admits.
        """
        closed: dict[int, StoreError] = {}
        asking = [
            asyncio.create_task(self._greet(*place, closed)) for place in self._by_place(closed)
        ]
        try:
            for answer in asyncio.as_completed(asking):
                if await answer:
                    return
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        raise closed[min(closed)]

    async def closed(self) -> list[str]:
        """The shards that admit nobody now, and why, in words."""
        closed: dict[int, StoreError] = {}
        places = self._by_place(closed)
        await asyncio.gather(*(self._greet(*place, closed) for place in places))
        return [
            f"shard {shard} is away" if isinstance(error, StoreUnavailable) else str(error)
            for shard, error in sorted(closed.items())
        ]

    async def _greet(
        self, place: Any, shards: list[ShardKeys], closed: dict[int, StoreError]
    ) -> bool:
        """Whether one of these shards of a server is open; `closed` gets the others."""
        connection: Any = place.connection_pool.make_connection()
        count, admitted = len(self._keys), False
        left = {keys.shard: keys for keys in shards}
        try:
            async with within(self._timeout_s):
                await connection.connect()
                for keys in shards:
                    try:
                        await greet(
                            connection, keys, partial(self._shards.check, keys.shard, count)
                        )
                        admitted = True
                    except ShardFenced as error:
                        closed[keys.shard] = error
                    del left[keys.shard]
        except StoreUnavailable as error:
            self._places.heed(error.__cause__ or error)
            closed |= dict.fromkeys(left, error)
        finally:
            await connection.disconnect(nowait=True)
        return admitted

    async def unconfirmed(self, waits: Waits) -> list[str]:
        """Who does not confirm what is written now, of those whom `waits` asks; empty when all do.
        Raises StoreUnavailable where there is one server, and it is away.
        """
        missing: list[str] = []
        asked = [wait for wait in dict.fromkeys((waits.reserve, waits.commit)) if wait != "none"]
        for place, (keys, *_) in self._by_place({}):
            connection: Any = place.connection_pool.make_connection()
            where = f"{name}: " if (name := name_of(place)) else ""
            try:
                async with within(self._timeout_s + 2 * waits.timeout_s):
                    await connection.connect()
                    for wait in asked:
                        goal = waits.goal(wait)
                        found = await what_is_missing(connection, keys, goal, waits.timeout_s)
                        missing += [where + found] if found else []
            except StoreUnavailable:
                if not where:
                    raise
                missing.append(f"{where}it does not answer")
            finally:
                await connection.disconnect(nowait=True)
        return missing

    def _by_place(self, lost: dict[int, StoreError]) -> list[tuple[Any, list[ShardKeys]]]:
        """Every server that has a shard, with its shards; `lost` gets those that no server has."""
        found: dict[int, tuple[Any, list[ShardKeys]]] = {}
        for keys in self._keys:
            try:
                place = self._places.of(keys.meta)
            except RedisError as error:
                lost[keys.shard] = unavailable(error)
            else:
                found.setdefault(id(place), (place, []))[1].append(keys)
        return list(found.values())

    def _check_open(self, keys: ShardKeys, count: int, meta: Any) -> None:
        epoch, shards = map(text_of, meta)
        self._shards.check(keys.shard, count, shards)
        if not epoch.isdigit():
            raise ShardFenced(f"shard {keys.shard} is {epoch or 'not opened yet'}")

    async def _transaction(self, *commands: tuple[str, ...]) -> list[Any]:
        async with (
            within(self._timeout_s),
            self._redis.pipeline(transaction=True) as pipeline,
        ):
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute()
            return replies


def _parse(hold: str) -> HoldRecord:
    try:
        return HoldRecord.parse(hold)
    except ValueError as error:
        raise StoreError(f"Redis has a damaged hold: {error}") from error

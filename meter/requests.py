"""Reads what became of a request id, and whether every shard would take one now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from redis.exceptions import RedisError

from taximeter.meter.errors import ShardFenced, StoreError, StoreUnavailable
from taximeter.meter.handshake import greet
from taximeter.meter.keys import ShardKeys, request_field, shard_of
from taximeter.meter.limits import check_org_id, check_request_id
from taximeter.meter.models import Receipt, State


class RequestReader:
    """Reads holds and outcomes of every shard. Nothing here writes.

    `redis` is a `redis.asyncio.Redis` on `pool`; no answer is waited for longer than `timeout_s`.
    """

    def __init__(
        self, redis: Any, pool: Any, shards: Sequence[ShardKeys], timeout_s: float
    ) -> None:
        self._redis = redis
        self._pool = pool
        self._shards = shards
        self._timeout_s = timeout_s

    async def find(self, org_id: str, request_id: str) -> Receipt | None:
        """What Redis knows of the request, or None when it is neither open nor remembered.

        Outcomes are remembered for one to two windows of the settler's `outcome_window_s`; after
        that the ledger in Postgres is the only record. Raises InvalidRequest, ShardFenced,
        StoreError.
        """
        key = request_field(check_org_id(org_id), check_request_id(request_id))
        keys = self._shards[shard_of(org_id, len(self._shards))]
        # One transaction, so that a hold which ends meanwhile is found on one side or the other.
        replies = await self._transaction(
            ("HGET", keys.meta, "epoch"),
            ("HGET", keys.holds, key),
            ("HGET", keys.outcomes, key),
            ("HGET", keys.outcomes_old, key),
        )
        epoch, hold, outcome, outcome_old = map(_text, replies)
        _check_open(keys, epoch)
        if hold:
            amount, account = hold.split("\t", 2)[:2]
            state, reserved, charged = "open", amount, "0"
        elif outcome or outcome_old:
            state, reserved, charged, account = (outcome or outcome_old).split(" ", 3)
        else:
            return None
        epoch, record = map(
            _text,
            await self._transaction(("HGET", keys.meta, "epoch"), ("HGET", keys.accounts, account)),
        )
        _check_open(keys, epoch)
        if not record:
            raise StoreError(f"account {account} of a known request is not in Redis")
        available, held, _ = record.split(" ")
        return Receipt(
            request_id,
            cast(State, state),
            int(reserved),
            int(charged),
            int(available),
            int(held),
        )

    async def check_open(self) -> None:
        """Return when a new connection is admitted on every shard. Raises ShardFenced,
        StoreUnavailable.
        """
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()
                for keys in self._shards:
                    await greet(connection, keys)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis: {type(error).__name__} {error}".rstrip()) from error
        finally:
            await connection.disconnect(nowait=True)

    async def _transaction(self, *commands: tuple[str, ...]) -> list[Any]:
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._redis.pipeline(transaction=True) as pipeline,
            ):
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute()
                return replies
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis: {type(error).__name__} {error}".rstrip()) from error


def _check_open(keys: ShardKeys, epoch: str) -> None:
    if not epoch.isdigit():
        raise ShardFenced(f"shard {keys.shard} is {epoch or 'not opened yet'}")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")

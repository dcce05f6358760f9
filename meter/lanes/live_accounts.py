"""Reads live accounts, and loads from Postgres (through the injected loader) those that Redis does
not have. Without a loader it waits for the settler to bring them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import RedisError

from taximeter.meter.lanes.shards import Shards
from taximeter.meter.server.trouble import unavailable, within
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.away import FIELD, away_error
from taximeter.meter.wire.balance import Balance, Elsewhere, Loader
from taximeter.meter.wire.codes import FENCED, STALE_EPOCH, Code
from taximeter.meter.wire.errors import (
    AccountNotFound,
    MeterError,
    ShardFenced,
    StoreError,
    StoreUnavailable,
)
from taximeter.meter.wire.keys import ShardKeys, account_field, shard_of
from taximeter.meter.wire.replies import text_of
from taximeter.meter.wire.scripts import Script, load_script

_LOOK_AGAIN_S = 0.1


class AccountReader:
    """Loads are single-flight per account: a thousand requests of a new user cost one query."""

    def __init__(
        self,
        redis: Any,
        shards: Shards,
        loader: Loader | None,
        settings: MeterSettings,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._shards = shards
        self._keys_of_all = shards.keys
        self._loader = loader
        self._elsewhere = elsewhere
        self._loading: dict[str, asyncio.Task[None]] = {}

    async def balance(self, org_id: str, user_id: str) -> Balance:
        """Live balance, read at the shard's current epoch. Raises AccountNotFound, ShardFenced,
        StoreUnavailable.
        """
        account = account_field(org_id, user_id)
        for _ in range(3):
            keys = self._keys(org_id)
            reply = await self._call(
                load_script("snapshot"),
                keys,
                [keys.accounts, keys.holds, keys.deadlines, keys.meta, keys.open_holds],
                ["0", account],
            )
            if reply[5] and reply[5][0]:
                available, held, _ = reply[5][0].split()
                return Balance(int(available), int(held))
            await self.load(org_id, user_id)
        raise StoreError(
            f"account {account} was loaded but is not there: something removes it from Redis"
        )

    async def load(self, org_id: str, user_id: str) -> None:
        """Write the account into Redis unless it is there. Raises AccountNotFound, or what the
        loader raises.
        """
        account = account_field(org_id, user_id)
        task = self._loading.get(account)
        if task is None:
            task = asyncio.create_task(self._load(org_id, user_id, account))
            self._loading[account] = task
            task.add_done_callback(lambda done: self._loaded(account, done))
        await asyncio.shield(task)

    def _loaded(self, account: str, task: asyncio.Task[None]) -> None:
        del self._loading[account]
        if not task.cancelled():
            task.exception()  # Seen, also when everybody who waited for it was cancelled.

    async def _load(self, org_id: str, user_id: str, account: str) -> None:
        keys = self._keys(org_id)
        # The epoch is read before Postgres is: a balance from before a rebuild is then refused, not
        # written.
        epoch = await self._epoch(keys)
        if self._loader is None:
            await self._wait_for_settler(keys, org_id, user_id, account)
            return
        try:
            async with asyncio.timeout(self._settings.resolve_timeout_s):
                loaded = await self._loader(org_id, user_id)
        except MeterError:
            raise
        except Exception as error:
            cause = f"{type(error).__name__} {error}".rstrip()
            raise StoreUnavailable(
                f"account {account} is not in Redis and could not be loaded: {cause}"
            ) from error
        if loaded is None:
            raise await self._not_found(org_id, user_id)
        if loaded.epoch is not None and str(loaded.epoch) != epoch:
            raise ShardFenced(
                f"shard {keys.shard} is at epoch {epoch}, and Postgres was asked at {loaded.epoch}"
            )
        (reply,) = await self._call(
            load_script("load"),
            keys,
            [keys.accounts, keys.meta],
            [account, str(loaded.available), str(loaded.applied)],
            epoch=epoch,
        )
        code, _, rest = text_of(reply).partition(" ")
        if int(code) == Code.ELSEWHERE:
            raise away_error(org_id, rest)

    async def _not_found(self, org_id: str, user_id: str) -> AccountNotFound:
        """What to say of an account that is not here. Raises WrongCell, CellUnknown instead."""
        if self._elsewhere is not None:
            await self._elsewhere(org_id)
        return AccountNotFound(org_id, user_id)

    async def _wait_for_settler(
        self, keys: ShardKeys, org_id: str, user_id: str, account: str
    ) -> None:
        """Return when the settler has brought the account, as it does for all that Postgres knows.

        Only a note of the settler that all of them were there, later than this question, tells that
        there is none. Raises AccountNotFound then, StoreUnavailable when neither comes in time,
        ShardFenced.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.resolve_timeout_s
        asked_ms: int | None = None
        while True:
            found, meta, (seconds, micros) = await self._look(keys, org_id, account)
            epoch, complete, away = meta
            if found is not None:
                return
            if away is not None:
                raise away_error(org_id, text_of(away))
            if not text_of(epoch).isdigit():
                raise ShardFenced(f"shard {keys.shard} is {text_of(epoch) or 'not opened yet'}")
            now_ms = int(seconds) * 1000 + int(micros) // 1000
            asked_ms = now_ms if asked_ms is None else asked_ms
            if text_of(complete).isdigit() and int(complete) > asked_ms:
                raise await self._not_found(org_id, user_id)
            if loop.time() >= deadline:
                raise StoreUnavailable(
                    f"account {account} is not in Redis, and no settler has said yet whether there"
                    " is one; try again"
                )
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _look(self, keys: ShardKeys, org_id: str, account: str) -> Any:
        async with (
            within(self._settings.call_timeout_s),
            self._redis.pipeline(transaction=True) as pipeline,
        ):
            pipeline.hget(keys.accounts, account)
            pipeline.hmget(keys.meta, "epoch", "complete_ms", FIELD + org_id)
            pipeline.time()
            return await pipeline.execute()

    async def _epoch(self, keys: ShardKeys) -> str:
        count = len(self._keys_of_all)  # what `keys` was chosen by; it may change while we wait
        async with within(self._settings.call_timeout_s):
            epoch, found = await self._redis.hmget(keys.meta, "epoch", "shards")
        self._shards.check(keys.shard, count, text_of(found))
        text = text_of(epoch)
        if not text.isdigit():
            raise ShardFenced(f"shard {keys.shard} is {text or 'not opened yet'}")
        return text

    async def _call(
        self,
        script: Script,
        keys: ShardKeys,
        names: list[str],
        args: list[str],
        epoch: str | None = None,
    ) -> Any:
        epoch = epoch or await self._epoch(keys)
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                return await script.call(self._redis, names, [epoch, *args])
        except (RedisError, OSError) as error:
            message = str(error)
            if message.startswith((FENCED, STALE_EPOCH)):
                raise ShardFenced(message) from error
            raise unavailable(error) from error

    def _keys(self, org_id: str) -> ShardKeys:
        return self._keys_of_all[shard_of(org_id, len(self._keys_of_all))]

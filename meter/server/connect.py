"""Connects to Redis and checks that credits may be kept there by this user."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, Final

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from taximeter.meter.places.places import Places, find_places, name_of
from taximeter.meter.places.redirects import redirect_of
from taximeter.meter.places.seeds import Seeds, read_seeds
from taximeter.meter.server.durability import read_facts
from taximeter.meter.server.handshake import greet
from taximeter.meter.server.permissions import METER, check_permissions, missing_permission
from taximeter.meter.server.trouble import within
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import ShardFenced, StoreError, StoreUnavailable, UnsafeServer
from taximeter.meter.wire.keys import ShardKeys

_SHARDS_ASKED: Final = 16


def seeds_of(url: str, settings: MeterSettings) -> Seeds:
    """Whom to ask, without the retries of the library. Raises ValueError."""
    return read_seeds(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=settings.call_timeout_s,
    )


async def connect_places(seeds: Seeds, settings: MeterSettings) -> tuple[Places, int]:
    """Where keys live, and the number of shards.

    Raises ShardFenced, MissingPermission, StoreUnavailable when `take_timeout_s` is over,
    StoreError.
    """
    places: Places | None = None
    try:
        async with asyncio.timeout(settings.take_timeout_s):
            places = await find_places(seeds)
            return places, await _count_shards(places, settings)
    except BaseException as error:
        if places is not None:
            await places.aclose()
        if isinstance(error, StoreError):
            raise
        if isinstance(error, NoPermissionError):
            raise missing_permission(str(seeds.options.get("username", "")), error) from error
        if isinstance(error, Exception):
            kind = StoreUnavailable if isinstance(error, TimeoutError) else StoreError
            message = f"cannot reach Redis: {type(error).__name__} {error}"
            raise kind(message.rstrip()) from error
        raise


async def _count_shards(places: Places, settings: MeterSettings) -> int:
    """Ask the first shard that is open. Of several servers one that is away is passed over."""
    troubles: list[Exception] = []
    away: set[str] = set()
    for shard in range(_SHARDS_ASKED):
        keys = ShardKeys(settings.key_prefix, shard)
        server = ""
        try:
            server = name_of(places.of(keys.meta))
            if server not in away:
                async with asyncio.timeout(settings.call_timeout_s / 2 if server else None):
                    return await _count_at(places, keys, settings)
        except ShardFenced as error:
            troubles.append(error)
        except (RedisError, OSError) as error:
            troubles.append(error)
            away.add(server)
        if not server:
            break
    raise troubles[0]


async def _count_at(places: Places, keys: ShardKeys, settings: MeterSettings) -> int:
    trouble: RedisError | None = None
    while True:
        connection: Any = places.of(keys.meta, trouble).connection_pool.make_connection()
        try:
            await connection.connect()
            return (await greet(connection, keys)).shards
        except RedisError as error:
            if redirect_of(error) is None:
                raise
            places.heed(error)
            trouble = error
        finally:
            await connection.disconnect(nowait=True)
        await asyncio.sleep(settings.retry_pause_s)


class Vetted:
    """The servers that were found fit for use, by their run ids: each is asked once, before it is
    used.
    """

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self._fit: set[str] = set()
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def check(self, redis: Any, key: str, run_id: str = "") -> None:
        """Return when credits may be kept on the server of this run id (any: on the one that
        answers), and this user may run every script there. `key` is one that it owns.

        Raises UnsafeServer, MissingPermission, StoreUnavailable.
        """
        if run_id in self._fit:
            return
        async with self._asking[run_id]:
            if run_id in self._fit:
                return
            found = await check_server(redis, key, self._settings)
            self._fit.add(found)
        self._asking.pop(run_id, None)
        if run_id not in ("", found):
            raise StoreUnavailable(f"another server has taken its place ({name_of(redis)})")


async def check_server(redis: Any, key: str, settings: MeterSettings) -> str:
    """Return its run id when credits may be kept on the server, and this user may run every script.
    `key` is one that it owns.

    Raises UnsafeServer, MissingPermission, StoreUnavailable.
    """
    async with within(settings.call_timeout_s):
        facts = await read_facts(redis)
        objections = facts.objections()
        if objections:
            raise UnsafeServer(objections, name_of(redis))
        await check_permissions(redis, METER, key)
    return facts.run_id

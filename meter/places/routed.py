"""A redis-py client that sends each command to the server that owns its key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.places.deadline import altogether
from taximeter.meter.places.places import OneServer, Places, find_places
from taximeter.meter.places.redirects import PASSING, code_of, redirect_of
from taximeter.meter.places.seeds import Seeds
from taximeter.meter.wire.replies import text_of

HOPS_MAX: Final = 5
"""How often one call is sent on before it fails."""
PATIENCE_S: Final = 0.5
"""How long a call is tried again whose servers say that it is not their time."""
_PAUSE_S: Final = 0.05
_KEYLESS: Final = frozenset(
    ("CLIENT", "CONFIG", "CONFIG GET", "CONFIG SET", "DBSIZE", "INFO", "PING", "TIME", "WAIT")
)


class RoutedRedis(Redis):
    """Like a `redis.asyncio.Redis` of the one server that owns the keys of each call.

    It finds out at its first call what there is. A command without a key goes to any primary of a
    cluster; a pipeline to the owner of the first key in it, since all of one are in one slot. With
    `deadline_s` no call takes longer altogether, whatever it waits for: redis-py's TimeoutError
    then. A call is sent again only where the server says that nothing of it was done.
    """

    def __init__(
        self, seeds: Seeds, places: Places | None = None, *, deadline_s: float | None = None
    ) -> None:
        first = seeds.addresses[0] if seeds.addresses else None
        super().__init__(connection_pool=ConnectionPool(**seeds.at(first)))
        self._seeds = seeds
        self._deadline_s = deadline_s
        self._finding = asyncio.Lock()
        self._places: Places | None = None
        self._is_one = False
        if places is not None:
            self._take(places)

    @property
    def is_one(self) -> bool:
        """Whether there is one server, as far as is known."""
        return self._is_one

    async def places(self) -> Places:
        """Where keys live. Raises redis errors while nobody can be asked, StoreError when the URL
        does not fit what is there.
        """
        if self._places is None:
            async with self._finding:
                if self._places is None:
                    self._take(
                        await find_places(self._seeds, self.connection_pool, self._deadline_s)
                    )
        assert self._places is not None
        return self._places

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with altogether(self._deadline_s):
            places = self._places or await self.places()
            if self._is_one:
                call: Any = super().execute_command
                return await call(*args, **options)
            return await self._route(
                places, _key_of(args), lambda node: node.execute_command(*args, **options)
            )

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _RoutedPipeline(self, transaction)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if self._places is not None:
            await self._places.aclose()
        await self.connection_pool.disconnect()

    def _take(self, places: Places) -> None:
        self._places = places
        if isinstance(places, OneServer):
            self._is_one = True
            self.connection_pool = places.redis.connection_pool

    async def _route(
        self, places: Places, key: str | None, call: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        trouble: ResponseError | None = None
        hops = 0
        while True:
            try:
                return await call(places.of(key, trouble))
            except ResponseError as error:
                places.heed(error)
                trouble = error
                if code_of(error) not in PASSING or loop.time() > until:
                    raise
            except (RedisError, OSError) as error:
                places.heed(error)
                raise
            hops += 1
            if redirect_of(trouble) is None or hops > HOPS_MAX:
                await asyncio.sleep(_PAUSE_S)


async def server_of(redis: Any, key: str) -> Any:
    """A client of the one server that owns the key now. Raises redis errors."""
    if not isinstance(redis, RoutedRedis):
        return redis
    if not redis.is_one:
        await redis.exists(key)  # Where it has moved, the old owner says so.
    return (await redis.places()).of(key)


async def by_server(redis: Any, keys: Iterable[str]) -> list[list[str]]:
    """The keys that one server has, as far as is known now. Raises redis errors."""
    if not isinstance(redis, RoutedRedis):
        return [list(keys)]
    places = await redis.places()
    found: dict[int, list[str]] = {}
    for key in keys:
        found.setdefault(id(places.of(key)), []).append(key)
    return list(found.values())


class _RoutedPipeline(Pipeline):
    """Sent as a whole, and again as a whole."""

    def __init__(self, redis: RoutedRedis, transaction: bool) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, transaction, None)
        self._redis = redis

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        redis, stack = self._redis, list(self.command_stack)
        if not stack:
            return []

        async def call(node: Redis) -> list[Any]:
            self.command_stack = list(stack)
            self.connection_pool = node.connection_pool
            return await Pipeline.execute(self, raise_on_error)

        async with altogether(redis._deadline_s):
            places = await redis.places()
            keys = (_key_of(command) for command, _ in stack)
            key = next((one for one in keys if one is not None), None)
            if redis._is_one:
                return await call(redis)
            replies: list[Any] = await redis._route(places, key, call)
            return replies


def _key_of(command: tuple[Any, ...]) -> str | None:
    """The first key that a command names."""
    name = str(command[0]).upper()
    if name in _KEYLESS:
        return None
    if name in ("EVAL", "EVALSHA"):
        return text_of(command[3]) if int(command[2]) else None
    return text_of(command[1]) if len(command) > 1 else None

"""Sends each command of a redis-py client to the server that owns its key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from taximeter.meter.places.deadline import altogether
from taximeter.meter.places.places import OneServer, Places, find_places, name_of, pooled
from taximeter.meter.places.redirects import PASSING, code_of, redirect_of
from taximeter.meter.places.seeds import Seeds
from taximeter.meter.wire.errors import StoreUnavailable
from taximeter.meter.wire.replies import text_of

HOPS_MAX: Final = 5
"""How often one call is sent on before it fails."""
PATIENCE_S: Final = 0.5
"""How long a call is tried again whose servers say that it is not their time."""
LOOK_AGAIN_S: Final = 0.15
"""How soon another look follows one that a server which is away was the reason of..."""
LOOKING_S: Final = 1.0
"""...and for how long, after a call has failed on it."""
SILENT_S = 0.5
"""A call that has no answer for so long is a reason to look where its key is now."""
_PAUSE_S: Final = 0.05
_KEYLESS: Final = frozenset(
    ("CLIENT", "CONFIG", "CONFIG GET", "CONFIG SET", "DBSIZE", "INFO", "PING", "TIME", "WAIT")
)


class RoutedRedis(Redis):
    """Like a `redis.asyncio.Redis` of the one server that owns the keys of each call.

    It finds out at its first call what there is. A command without a key goes to any primary of a
    cluster; a pipeline to the owner of the first key in it, since all of one are in one slot. With
    `deadline_s` no call takes longer altogether, whatever it waits for: redis-py's TimeoutError
    then. A call is sent again only where the server says that nothing of it was done. What a server
    answers that may have been replaced meanwhile is not handed on: redis-py's ConnectionError.
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
        self._watcher: Callable[[], None] | None = None
        self._looks_until = 0.0
        self._next_look: asyncio.TimerHandle | None = None
        if places is not None:
            self._take(places)

    @property
    def is_one(self) -> bool:
        """Whether there is one server, as far as is known."""
        return self._is_one

    @property
    def known(self) -> Places | None:
        """The same as `places`; None before the first call."""
        return self._places

    @property
    def connections(self) -> tuple[int, int]:
        """How many of its connections are in use, and how many wait."""
        return (0, 0) if self._places is None else pooled(self._places.clients())

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

    def tell_of_moves(self, told: Callable[[], None]) -> None:
        """`told` is called when keys may be with other servers of a cluster than before."""
        self._watcher = told
        if self._places is not None:
            self._places.watch(told)

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
        if self._next_look is not None:
            self._next_look.cancel()
        if self._places is not None:
            await self._places.aclose()
        await self.connection_pool.disconnect()

    def _take(self, places: Places) -> None:
        self._places = places
        if self._watcher is not None:
            places.watch(self._watcher)
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
                node, sent_at = places.of(key, trouble), monotonic()
                async with _while_it_has(places, key, node):
                    reply = await call(node)
                if key is not None and not node.standing.covers(sent_at):
                    await _prove(node, sent_at)
                return reply
            except ResponseError as error:
                places.heed(error)
                trouble = error
                if code_of(error) not in PASSING or loop.time() > until:
                    raise
            except (RedisError, OSError) as error:
                places.heed(error)
                self._looks_until = loop.time() + LOOKING_S
                self._look_later(places, error)
                raise
            hops += 1
            if redirect_of(trouble) is None or hops > HOPS_MAX:
                await asyncio.sleep(_PAUSE_S)

    def _look_later(self, places: Places, error: BaseException) -> None:
        """Its replica may be elected any moment, and whoever calls next would only begin to look
        then.
        """
        loop = asyncio.get_running_loop()

        def look() -> None:
            self._next_look = None
            places.heed(error)
            if loop.time() < self._looks_until:
                self._look_later(places, error)

        if self._next_look is None:
            self._next_look = loop.call_later(LOOK_AGAIN_S, look)


async def _prove(node: Any, sent_at: float) -> None:
    """Raises redis-py's ConnectionError when it may have been replaced before it answered."""
    try:
        await node.standing.prove(sent_at, node.address)
    except StoreUnavailable as error:
        raise RedisConnectionError(str(error)) from error


@asynccontextmanager
async def _while_it_has(places: Places, key: str | None, node: Any) -> AsyncIterator[None]:
    """Gives a call up as soon as another server has its key: one that hangs would be waited for
    long after its replica has taken over. Raises redis-py's TimeoutError then.
    """
    loop, patience = asyncio.get_running_loop(), asyncio.timeout(None)
    looking: asyncio.TimerHandle | None = None

    def has_it() -> bool:
        try:
            return key is not None and places.of(key) is node
        except ResponseError:  # Nobody has: then it may still answer.
            return True

    def look() -> None:
        nonlocal looking
        if had_it and not has_it():
            patience.reschedule(loop.time())
            return
        places.heed(RedisTimeoutError("it says nothing"))
        looking = loop.call_later(SILENT_S, look)

    had_it = has_it()  # Not who is asked behind ASKING.
    looking = loop.call_later(SILENT_S, look)
    try:
        async with patience:
            yield
    except TimeoutError as error:
        if not patience.expired():
            raise
        raise RedisTimeoutError(f"{name_of(node)} said nothing, and has lost the slot") from error
    finally:
        if looking is not None:
            looking.cancel()


def known_server(redis: Any, key: str) -> str:
    """Name of the server that owns the key, as far as is known without asking; empty where there is
    one alone.
    """
    if not isinstance(redis, RoutedRedis) or redis.known is None:
        return ""
    try:
        return name_of(redis.known.of(key))
    except ResponseError:
        return "nobody"


async def server_of(redis: Any, key: str) -> Any:
    """A client of the one server that owns the key now. Raises redis errors."""
    if not isinstance(redis, RoutedRedis):
        return redis
    if not redis.is_one:
        await redis.exists(key)  # Where it has moved, the old owner says so.
    return (await redis.places()).of(key)


async def by_server(redis: Any, keys: Iterable[str]) -> dict[str, list[str]]:
    """The keys that one server has, by its name, as far as is known now. Raises redis errors."""
    if isinstance(redis, RoutedRedis):
        await redis.places()
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(known_server(redis, key), []).append(key)
    return found


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

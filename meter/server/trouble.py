"""Tells which errors of Redis pass by themselves, and says StoreUnavailable where Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from taximeter.meter.wire.errors import StoreUnavailable

_PASSING = (
    "LOADING",
    "READONLY",
    "MISCONF",
    "BUSY",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MASTERDOWN",
    "MOVED",
    "ASK",
)


def _words(error: BaseException) -> str:
    # redis-py strips the code from the text of the errors it has classes for, and names it in the
    # class instead.
    return f"{type(error).__name__} {error}"


def is_out_of_memory(error: BaseException) -> bool:
    """Redis refused a script because used memory is above maxmemory: nothing was done."""
    return isinstance(error, ResponseError) and (
        "OutOfMemory" in type(error).__name__
        or str(error).startswith("OOM ")
        or "-OOM" in str(error)
    )


def is_final(error: BaseException) -> bool:
    """True for an error reply that asking again will not change (wrong type of key, a script error,
    no permission).
    """
    if not isinstance(error, ResponseError):
        return False
    passing = type(error).__name__ in (
        "ReadOnlyError",
        "BusyLoadingError",
        "TryAgainError",
        "ClusterDownError",
        "MasterDownError",
        "MovedError",
        "AskError",
    )
    return not passing and not str(error).startswith(_PASSING)


def may_have_written(error: BaseException) -> bool:
    """Whether a final error may have come after a script's first write. Ours look at everything
    before they write; but permissions are asked for command by command, and nothing is undone.
    """
    return not isinstance(error, NoPermissionError) or "script" in str(error)


def unavailable(error: BaseException) -> StoreUnavailable:
    """What callers are told of an error of Redis or of the way to it."""
    return StoreUnavailable(f"Redis: {type(error).__name__} {error}".rstrip())


@asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[None]:
    """Wait for Redis no longer than that. Raises StoreUnavailable where it would raise an error of
    redis-py, OSError or TimeoutError.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise unavailable(error) from error

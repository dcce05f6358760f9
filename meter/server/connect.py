"""Connects to a Redis server and checks that credits may be kept there by this user."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError

from taximeter.meter.server.durability import read_facts
from taximeter.meter.server.handshake import greet
from taximeter.meter.server.permissions import METER, check_permissions, missing_permission
from taximeter.meter.server.trouble import within
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import StoreError, UnsafeServer
from taximeter.meter.wire.keys import ShardKeys


async def connect_pool(url: str, settings: MeterSettings) -> tuple[Any, int]:
    """A connection pool without the retries of the library, and the number of shards.

    Raises ShardFenced, MissingPermission, StoreError.
    """
    pool: Any = ConnectionPool.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        socket_connect_timeout=settings.call_timeout_s,
    )
    connection = pool.make_connection()
    try:
        async with asyncio.timeout(settings.take_timeout_s):
            await connection.connect()
            identity = await greet(connection, ShardKeys(settings.key_prefix, 0))
    except StoreError:
        raise
    except NoPermissionError as error:
        raise missing_permission(Redis(connection_pool=pool), error) from error
    except Exception as error:
        raise StoreError(f"cannot reach Redis: {type(error).__name__} {error}".rstrip()) from error
    finally:
        await connection.disconnect(nowait=True)
    return pool, identity.shards


async def check_server(redis: Any, settings: MeterSettings) -> None:
    """Return when credits may be kept on the server, and this user may run every script.

    Raises UnsafeServer, MissingPermission, StoreUnavailable.
    """
    async with within(settings.call_timeout_s):
        objections = (await read_facts(redis)).objections()
        if objections:
            raise UnsafeServer(objections)
        await check_permissions(redis, METER, ShardKeys(settings.key_prefix, 0).meta)

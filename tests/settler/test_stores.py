"""The clients that the settler opens."""

from __future__ import annotations

import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import ConnectionError as LostConnection
from support.proxy import Proxy

from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_redis


async def test_a_command_whose_reply_was_lost_is_not_sent_again(
    redis_url: str, redis: redis_asyncio.Redis, key_prefix: str
) -> None:
    """What may be repeated is decided by who knows what it does, and never by the library."""
    async with Proxy(redis_url) as proxy:
        client = open_redis(StoreSettings(redis_url=proxy.url))
        try:
            await client.ping()
            proxy.lose_replies(1, to=b"INCR")
            with pytest.raises(LostConnection):
                await client.incr(key_prefix)
        finally:
            await client.aclose()
    assert proxy.lost == 1
    assert await redis.get(key_prefix) == b"1"

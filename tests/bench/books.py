"""Both stores with funded accounts and an open shard, for everything that settles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bench.harness import BenchFailed
from bench.live import LiveShards, make_accounts
from bench.peers import fund, open_deduction_pool
from bench.servers import Servers
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.relay import relay
from taximeter.settler.shards.guardian import ensure_shards, guard


@dataclass(slots=True)
class Books:
    """`stores` as the settler has them; `live` is the same Redis as the benchmark looks at it."""

    redis_url: str
    database_url: str
    stores: Stores
    live: LiveShards


@asynccontextmanager
async def funded_books(servers: Servers) -> AsyncIterator[Books]:
    """A fresh database and one fresh shard, with every account live. Removed at the end."""
    accounts = make_accounts(servers.scale.users, servers.scale.organisations)
    async with servers.redis() as (redis_url, redis), servers.database() as database_url:
        pool: Any = await open_deduction_pool(database_url)
        async with pool:
            await fund(pool, accounts)
            live = LiveShards(redis, servers.prefix, accounts)
            await live.remove()
            stores = Stores(pool, redis, servers.prefix)
            await ensure_shards(stores, 1)
            await guard(stores, 0, 1)
            while (await relay(stores)).applied:
                pass
            await live.load(accounts)
            loaded = int(await redis.hlen(live.keys(0).accounts))
            if loaded != len(accounts):
                raise BenchFailed(f"{loaded} of {len(accounts)} accounts are live")
            yield Books(redis_url, database_url, stores, live)
            await live.remove()

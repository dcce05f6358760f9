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
async def funded_books(
    servers: Servers, shards: int = 1, *, organisations: int | None = None, name: str = ""
) -> AsyncIterator[Books]:
    """A fresh database and fresh shards, with every account live. Removed at the end. `name` tells
    several of them on one server apart.
    """
    accounts = make_accounts(servers.scale.users, organisations or servers.scale.organisations)
    prefix = f"{servers.prefix}{name}"
    async with servers.redis() as (redis_url, redis), servers.database() as database_url:
        pool: Any = await open_deduction_pool(database_url)
        async with pool:
            await fund(pool, accounts)
            live = LiveShards(redis, prefix, accounts, shards)
            await live.remove()
            stores = Stores(pool, redis, prefix)
            await ensure_shards(stores, shards)
            for shard in range(shards):
                await guard(stores, shard, shards)
            while (await relay(stores)).applied:
                pass
            await live.load(accounts)
            loaded = sum([await redis.hlen(live.keys(shard).accounts) for shard in range(shards)])
            if loaded != len(accounts):
                raise BenchFailed(f"{loaded} of {len(accounts)} accounts are live")
            yield Books(redis_url, database_url, stores, live)
            await live.remove()

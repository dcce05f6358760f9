"""How long nobody can spend after Redis lost everything, or was only restarted, with a million
accounts.
"""

from __future__ import annotations

import shutil
import time
from typing import Final

from redis.asyncio import Redis

from bench.harness import BenchFailed, Figure, value
from bench.live import LiveShards, make_accounts
from bench.peers import fund_at_once, open_deduction_pool
from bench.servers import Servers
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.stores import Pool, Stores
from taximeter.settler.shards.fill import Filler
from taximeter.settler.shards.guardian import ensure_shards, guard

_AMOUNT: Final = 1
_USERS_AN_ORGANISATION: Final = 500
_FIRST_USERS: Final = 100


async def run(servers: Servers) -> list[Figure]:
    """Reopening does not depend on the accounts: after a loss each is loaded by its first request,
    and after a restart they are compared with Postgres while everybody spends.
    """
    accounts = make_accounts(
        servers.scale.grown_accounts, servers.scale.grown_accounts // _USERS_AN_ORGANISATION
    )
    async with servers.database() as database_url:
        pool = await open_deduction_pool(database_url)
        async with pool:
            await fund_at_once(pool, accounts)
            folder = servers.data_dir / "reopen"
            shutil.rmtree(folder, ignore_errors=True)  # A run that was killed leaves its data.
            with EmbeddedValkey(folder) as server:
                redis = Redis.from_url(server.url, socket_timeout=120.0)
                stores = Stores(pool, redis, servers.prefix)
                await ensure_shards(stores, 1)
                await guard(stores, 0, 1)
                live = LiveShards(redis, servers.prefix, accounts)
                await live.load(accounts, applied=1)
                server.kill()
                server.start()
                approved_s = await _reopened(stores, "approved")
                compared_s = await _compared(stores)
                await redis.flushall()
                rebuilt_s = await _reopened(stores, "rebuilt")
                first_s = await _first_requests(server.url, pool, stores, accounts)
                await redis.aclose()
    count = f"{len(accounts):,} accounts"
    return [
        Figure("reopen_restart", f"{count}: open again after a restart", "s", value(approved_s)),
        Figure(
            "reopen_compared", f"{count}: compared with Postgres after that", "s", value(compared_s)
        ),
        Figure("reopen_loss", f"{count}: open again after FLUSHALL", "s", value(rebuilt_s)),
        Figure(
            "reopen_first",
            f"first requests of {_FIRST_USERS} users after that, one after the other, each",
            "ms",
            value(1000 * first_s / _FIRST_USERS),
        ),
    ]


async def _reopened(stores: Stores, action: str) -> float:
    """Seconds of the guardian's work, from its first look to open."""
    started = time.monotonic()
    guarded = await guard(stores, 0, 1)
    if guarded.action != action or not guarded.usable:
        raise BenchFailed(f"the guardian should have {action} the shard: {guarded}")
    return time.monotonic() - started


async def _compared(stores: Stores) -> float:
    """Seconds until the settler has looked at every account, one round after the other."""
    started = time.monotonic()
    filler = Filler(stores)
    while not (await filler.fill()).complete:
        pass
    return time.monotonic() - started


async def _first_requests(
    url: str, pool: Pool, stores: Stores, accounts: list[tuple[str, str]]
) -> float:
    async with await Meter.connect(
        url, key_prefix=stores.prefix, loader=account_loader(pool)
    ) as meter:
        started = time.monotonic()
        step = max(1, len(accounts) // _FIRST_USERS)
        for org_id, user_id in accounts[::step][:_FIRST_USERS]:
            await meter.charge(org_id, user_id, _AMOUNT)
        return time.monotonic() - started

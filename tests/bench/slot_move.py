"""What callers feel while the engine moves a slot of a cluster: with a few accounts in the shard,
and with a million.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Final

import asyncpg
from redis.crc import key_slot
from support.moving import Traffic

from bench.harness import BenchFailed, Figure, Target, value
from bench.live import AVAILABLE
from bench.peers import fund
from bench.servers import Servers
from taximeter.api.embedded.cluster import EmbeddedCluster
from taximeter.api.local.process import LocalProcess
from taximeter.meter import Meter
from taximeter.meter.wire.keys import shard_of
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.proof.check import check
from taximeter.settler.status.lag import shard_statuses

SHARDS: Final = 6
"""Two on each primary."""
MOVED: Final = 0
CALLERS: Final = 8
"""For each shard."""
PAUSE_S: Final = 0.005
MOVES: Final = 6
MOVES_OF_MANY: Final = 2
AFTER_S: Final = 4.0
LATENCY_S: Final = 1.0
OPEN_S: Final = 2.5
QUIET_S_MAX: Final = 900.0
_FEW: Final = 50
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Felt:
    """What one move was like, in seconds. silence: the longest time without an answer in the moved
    shard; latency and others: the slowest call there and in the other shards.
    """

    took: float
    silence: float
    latency: float
    others: float


async def run(servers: Servers) -> list[Figure]:
    """Everything that was answered is proved in the books afterwards."""
    few, failed = await _measure(servers, _FEW, MOVES)
    many_accounts = servers.scale.grown_accounts
    many, failed_of_many = await _measure(servers, many_accounts, MOVES_OF_MANY)
    count = f"{many_accounts:,} accounts"
    return [
        Figure(
            "slot_move_failed",
            f"calls that fail while a slot moves, {MOVES} moves",
            "",
            value(len(failed)),
            note=next(iter(failed), ""),
            target=Target(0, "at most", "value"),
        ),
        Figure(
            "slot_move_latency",
            "slowest call of the moved shard",
            "s",
            value(*(one.latency for one in few)),
            value(*(one.others for one in few)),
            "of the others",
            target=Target(LATENCY_S, "at most", "value", "python"),
            note=f"moved in {max(one.took for one in few):.2f} s at most",
        ),
        Figure(
            "slot_move_many_failed",
            f"{count}: calls that fail while their slot moves, {MOVES_OF_MANY} moves",
            "",
            value(len(failed_of_many)),
            note=next(iter(failed_of_many), ""),
            target=Target(0, "at most", "value"),
        ),
        Figure(
            "slot_move_many",
            f"{count}: without an answer",
            "s",
            value(*(one.silence for one in many)),
            value(*(one.others for one in many)),
            "slowest call of other shards",
            target=Target(OPEN_S, "at most", "value", "python"),
            note=f"moved in {max(one.took for one in many):.1f} s at most",
        ),
    ]


async def _measure(servers: Servers, accounts: int, moves: int) -> tuple[list[Felt], list[str]]:
    folder = servers.data_dir / "cluster"
    shutil.rmtree(folder, ignore_errors=True)  # A run that was killed leaves its data.
    try:
        with servers.arq_url() as arq_url, EmbeddedCluster(folder) as cluster:
            async with (
                servers.database() as database_url,
                asyncpg.create_pool(database_url, min_size=1, max_size=8) as pool,
            ):
                return await _move(servers, cluster, arq_url, database_url, pool, accounts, moves)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _move(
    servers: Servers,
    cluster: EmbeddedCluster,
    arq_url: str,
    database_url: str,
    pool: Any,
    accounts: int,
    moves: int,
) -> tuple[list[Felt], list[str]]:
    settings = StoreSettings(
        redis_url=cluster.url(), database_url=database_url, redis_timeout_s=60.0
    )
    orgs = {shard: list(islice(_organisations(shard), 2)) for shard in range(SHARDS)}
    await fund(pool, [(org, "u") for names in orgs.values() for org in names])
    settler = LocalProcess(
        "settler",
        ["settler"],
        {
            "TAXIMETER_REDIS_URL": cluster.url(),
            "TAXIMETER_ARQ_REDIS_URL": arq_url,
            "TAXIMETER_DATABASE_URL": database_url,
            "TAXIMETER_SHARDS": str(SHARDS),
        },
        servers.data_dir / "logs" / "settler.log",
    )
    client = open_redis(settings)
    stores = Stores(pool, client)
    settler.start()
    try:
        await _until_quiet(stores, settler)
        await _crowd(stores, accounts)
        loader = account_loader(pool)
        async with (
            await Meter.connect(cluster.url(), loader=loader) as meter,
            Traffic(meter, orgs, CALLERS, PAUSE_S) as traffic,
        ):
            await asyncio.sleep(AFTER_S)
            felt = [await _one_move(cluster, stores, traffic) for _ in range(moves)]
        await _uncrowd(stores, accounts)
        await _until_quiet(stores, settler)
        await _prove(stores, traffic)
    finally:
        settler.stop()
        await client.aclose()
    return felt, [said for _, _, said in traffic.failed]


def _organisations(shard: int) -> Iterable[str]:
    return (one for number in range(10**9) if shard_of(one := f"org-{number}", SHARDS) == shard)


def _pages(accounts: int) -> Iterable[list[str]]:
    """Names of accounts that nobody calls for, in the shard that moves."""
    org = next(islice(_organisations(MOVED), 2, None))
    for first in range(0, accounts, _PAGE):
        yield [f"{org}/user-{number}" for number in range(first, min(first + _PAGE, accounts))]


async def _crowd(stores: Stores, accounts: int) -> None:
    """Let the shard have so many more accounts. Redis alone has them: it is Redis that has to move
    them, and the guardian opens a shard before anybody compares its accounts with Postgres.
    """
    keys = stores.keys(MOVED)
    epoch = int(await stores.redis.hget(keys.meta, "epoch"))
    for page in _pages(accounts):
        arguments: list[str | int] = [epoch]
        for name in page:
            arguments += (name, AVAILABLE, 0)
        await load_script("load").call(stores.redis, [keys.accounts, keys.meta], arguments)


async def _uncrowd(stores: Stores, accounts: int) -> None:
    for page in _pages(accounts):
        await stores.redis.hdel(stores.keys(MOVED).accounts, *page)


async def _one_move(cluster: EmbeddedCluster, stores: Stores, traffic: Traffic) -> Felt:
    slot = key_slot(stores.keys(MOVED).meta.encode())
    owner = cluster.owner(slot)
    to = next(node for node in cluster.primaries if node is not owner)
    began = time.monotonic()
    await asyncio.to_thread(cluster.migrate, slot, to)
    took = time.monotonic() - began
    await asyncio.sleep(AFTER_S)
    await traffic.goes_on()
    since = [one for one in traffic.answered if one.ended >= began]
    ends = [began, *(one.ended for one in since if one.shard == MOVED)]
    by_place: dict[bool, list[float]] = {True: [0.0], False: [0.0]}
    for one in since:
        by_place[one.shard == MOVED].append(one.ended - one.began)
    return Felt(
        took,
        max(after - before for before, after in pairwise(ends)),
        max(by_place[True]),
        max(by_place[False]),
    )


async def _until_quiet(stores: Stores, settler: LocalProcess) -> None:
    """Every shard is open and has every account, and nothing waits."""
    end = time.monotonic() + QUIET_S_MAX
    while True:
        settler.check_alive()
        shards = await shard_statuses(stores)
        metas = [stores.keys(shard).meta for shard in range(SHARDS)]
        filled = [await stores.redis.hmget(meta, "complete_ms", "hints_due") for meta in metas]
        waits = any(
            one.redis_seq is None or one.unsettled_events or one.open_holds or one.unapplied_entries
            for one in shards
        )
        if len(shards) == SHARDS and not waits and all(at and not due for at, due in filled):
            return
        if time.monotonic() > end:
            raise BenchFailed(f"not at rest after {QUIET_S_MAX:.0f} s: {shards}")
        await asyncio.sleep(0.2)


async def _prove(stores: Stores, traffic: Traffic) -> None:
    rows = await stores.pool.fetch(
        "SELECT org_id, request_id, sum(amount)::bigint FROM taximeter.charged_requests"
        " GROUP BY 1, 2"
    )
    booked = {(org, request): amount for org, request, amount in rows}
    wrong = {
        key
        for key in booked.keys() | traffic.charged.keys()
        if booked.get(key) != traffic.charged.get(key) and key not in traffic.doubtful
    }
    if wrong:
        raise BenchFailed(f"{len(wrong)} requests are booked otherwise than told: {min(wrong)}")
    report = await check(stores)
    if not report.holds:
        violated = {one.name: one.violations for one in report.invariants if not one.holds}
        raise BenchFailed(f"the books are wrong: {violated}")

"""Power loss at every moment: the append-only file of a recorded life is cut, and what is left is
brought back together with a Postgres that may be behind it or ahead of it.

Cuts are command boundaries and single bytes. A few of both are drawn; `POWER_LOSS_CUTS=all` takes
every boundary and many bytes.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World
from support.aof import command_ends, copy_cut, incremental_file
from support.servers import run_sql, with_database

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.settler.books.stores import Stores
from taximeter.settler.settling.settle import settle_once
from taximeter.settler.shards.guardian import guard
from taximeter.settler.worker.sweep import sweep

ALL_CUTS = os.environ.get("POWER_LOSS_CUTS") == "all"
# Copied while nobody else is in it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.own_database,
    pytest.mark.timeout(3600 if ALL_CUTS else 900),
]

SEED = 20261123
CUTS_AT_COMMANDS = 14
CUTS_AT_BYTES = 250 if ALL_CUTS else 10
Ledger = dict[str, int]
Told = list[tuple[int, str, int]]
"""(size of the file when it was answered, request, charge)"""


@asynccontextmanager
async def world_on(database_url: str, redis_url: str) -> AsyncIterator[World]:
    async with (
        asyncpg.create_pool(database_url, min_size=1, max_size=3) as pool,
        redis_asyncio.Redis.from_url(redis_url) as redis,
    ):
        yield World(Stores(pool, redis))


async def live_and_record(
    server: EmbeddedValkey, database_url: str, copies: list[str]
) -> tuple[Told, list[int]]:
    """Every kind of write, with a copy of Postgres now and then; the sizes are the file's when they
    were made.
    """
    told: Told = []
    sizes: list[int] = []
    dice = random.Random(SEED)
    log = incremental_file(server.data_dir)

    def note(request: str, charge: int) -> None:
        told.append((log.stat().st_size, request, charge))

    number = 0
    for copy in copies:
        async with world_on(database_url, server.url) as world:
            if number == 0:
                await world.start()
                await world.organization("acme", ann=50_000, bob=3_000)
            for _ in range(4):
                number += 1
                n = str(number)
                amount = dice.randint(1, 90)
                await world.charge("ann", amount, f"c{n}")
                note(f"c{n}", amount)
                await world.operate("acme", ("reserve", "bob", f"h{n}", 100))
                await world.operate("acme", ("touch", "bob", f"h{n}", 7))
                if number % 2:
                    await world.operate("acme", ("commit", "bob", f"h{n}", amount))
                    note(f"h{n}", amount)
                await world.operate(
                    "acme", ("reserve", "ann", f"r{n}", 50), ("release", "ann", f"r{n}", 0)
                )
            await world.stores.redis.zadd(world.keys().deadlines, {f"acme/h{number}": 1}, xx=True)
            await sweep(world.stores, 0, 1)
            await world.pool.execute(
                "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 100"
            )
            await world.relay()
            await guard(world.stores, 0, 1)
            await settle_once(world.stores, 0, batch_events=dice.randint(1, 8))
        copy_database(database_url, database_url_name(database_url), copy)
        sizes.append(log.stat().st_size)
    return told, sizes


def copy_database(url: str, source: str, target: str) -> None:
    run_sql(url, f'CREATE DATABASE "{target}" TEMPLATE "{source}"')


def database_url_name(url: str) -> str:
    return url.rsplit("/", 1)[1].partition("?")[0]


async def ledger(pool: asyncpg.Pool) -> Ledger:
    rows = await pool.fetch(
        "SELECT request_id, sum(amount)::bigint AS amount"
        " FROM taximeter.charged_requests GROUP BY 1"
    )
    return {row["request_id"]: row["amount"] for row in rows}


async def in_stream(world: World) -> Ledger:
    """What the events say that this Redis still has."""
    found: Ledger = {}
    for _, fields in await world.stores.redis.xrange(world.keys().events):
        for line in fields[b"v1"].decode().split("\n"):
            _, _, request, amount, *_ = line.split("\t")
            request = request.partition("/")[2]
            found[request] = found.get(request, 0) + int(amount)
    return found


async def recover(folder: Path, database_url: str, told: Ledger, case: str) -> str:
    """Start on what is left, let the guardian look, and prove the books; returns what it did."""
    with EmbeddedValkey(folder, ("--appendfsync", "always")) as server:
        async with world_on(database_url, server.url) as world:
            before = await ledger(world.pool)
            guarded = await guard(world.stores, 0, 1)
            assert guarded.usable, (case, guarded)
            # A deadline that was moved into the past, and the end of that hold lost.
            await sweep(world.stores, 0, guarded.epoch)
            left = await in_stream(world)
            await world.assert_books()
            after = await ledger(world.pool)
            # All that Postgres had and all that Redis still has, each once: and nothing else.
            assert after == before | left, case
            lacking = {
                request: charge for request, charge in told.items() if after.get(request) != charge
            }
            assert not lacking, f"{case}: answered before the cut and gone: {lacking}"
            await world.pool.execute(
                "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
            )
            await world.relay()
            await world.charge("ann", 5, "after")
            await world.assert_books()
            assert (await ledger(world.pool))["after"] == 5
            return guarded.action


async def test_every_prefix_of_the_file_is_brought_back(tmp_path: Path, database_url: str) -> None:
    copies = [f"{database_url_name(database_url)}_{place}" for place in range(4)]
    with EmbeddedValkey(tmp_path / "recorded", ("--appendfsync", "always")) as server:
        told, sizes = await live_and_record(server, database_url, copies)
        server.kill()
        data = incremental_file(server.data_dir).read_bytes()
    ends = command_ends(data)
    assert ends[-1] == len(data)
    dice = random.Random(SEED)
    at_commands = ends if ALL_CUTS else sorted(dice.sample(ends, CUTS_AT_COMMANDS))
    inside = sorted(set(range(len(data))) - set(ends))
    at_bytes = sorted(dice.sample(inside, CUTS_AT_BYTES))
    cuts = sorted({*at_commands, *at_bytes, len(data)})
    actions: dict[str, int] = {}
    try:
        for place, cut in enumerate(cuts):
            # The Postgres of that moment or of a later one: only Redis has lost its end.
            later = [one for one, size in zip(copies, sizes, strict=True) if size >= cut]
            copy = dice.choice(later[:2])
            case = f"cut at {cut} of {len(data)}, Postgres as of {copy[-1]}"
            own = f"{copies[0]}_own"
            copy_database(database_url, copy, own)
            folder = tmp_path / f"cut-{place}"
            copy_cut(tmp_path / "recorded", folder, cut)
            answered = {request: charge for size, request, charge in told if size <= cut}
            try:
                action = await recover(folder, with_database(database_url, own), answered, case)
            finally:
                run_sql(database_url, f'DROP DATABASE "{own}" WITH (FORCE)')
                shutil.rmtree(folder)
            actions[action] = actions.get(action, 0) + 1
    finally:
        for copy in copies:
            run_sql(database_url, f'DROP DATABASE IF EXISTS "{copy}" WITH (FORCE)')
    # Both ways were taken, else this shows nothing about one of them.
    assert actions.get("rebuilt"), actions
    assert actions.get("approved"), actions
    print(
        f"{len(at_commands)} of {len(ends)} command boundaries and {len(at_bytes)} bytes inside"
        f" of commands, in a file of {len(data)} bytes: {actions}"
    )

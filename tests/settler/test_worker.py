"""The worker as it is run: a process of its own that may be killed, doubled, or lose its
scheduler.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError
from settler_world import World, eventually
from support.forked import Forked

import taximeter.settler
from taximeter.meter import Meter, StoreError
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.main import (
    _close,
    _scheduler_pool,
    deserialize,
    make_worker,
    serialize,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROUND_S, SLOW_S = 1.0, 20.0
"""Direct SQL reaches the live balance within two rounds of the relay; and how long that may be for
a machine that is slow.
"""

Env = dict[str, str]


CUT_OFF = re.compile(r"failed, (CancelledError|TimeoutError)\b")
"""What arq says of a job that was not done in its time."""


@contextmanager
def settler(env: Env, log: Path) -> Iterator[Forked]:
    """`taximeter settler` as a process; killed at the end if it is still there."""
    log.touch()
    process = Forked(["settler"], environment={**os.environ, **env}, output=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def env(settler_database_url: str, redis_url: str, key_prefix: str) -> Env:
    """Settings of a worker process on the stores of this test."""
    return {
        "TAXIMETER_DATABASE_URL": settler_database_url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_QUEUE": f"{key_prefix}:queue",
        "TAXIMETER_KEY_PREFIX": key_prefix,
    }


@pytest.fixture
async def world(stores: Stores) -> World:
    """A system that nobody has opened yet: the worker has to."""
    return World(stores)


async def opened(world: World) -> None:
    async def is_open() -> bool:
        return bool(await world.stores.redis.hget(world.keys().meta, "run_id"))

    await eventually(is_open, 60.0)


async def live_is(world: World, user_id: str, available: int) -> float:
    """Wait until the live balance is `available`; returns how long that took, in seconds."""
    started = asyncio.get_running_loop().time()

    async def arrived() -> bool:
        live = await world.live(user_id)
        return live is not None and live[0] == available

    await eventually(arrived)
    return asyncio.get_running_loop().time() - started


async def test_direct_sql_reaches_the_live_balance_in_two_seconds_under_load(
    world: World, env: Env, redis_url: str, key_prefix: str, tmp_path: Path
) -> None:
    with settler(env, tmp_path / "log"):
        await opened(world)
        await world.organization("acme", ann=10_000, load=10**8)
        loader = account_loader(world.pool)
        running = True

        async def load(meter: Meter) -> None:
            while running:
                await asyncio.gather(*(meter.charge("acme", "load", 1) for _ in range(20)))
                await asyncio.sleep(0.01)

        async with (
            await Meter.connect(redis_url, key_prefix=key_prefix, loader=loader) as meter,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(load(meter))
            try:
                waits = []
                for statement, expected in (
                    ("UPDATE {0} SET allocated_credits = 20000 WHERE {1}", 20_000),
                    ("SELECT allocate_credits_to_user('acme', 'ann', 500, 'root')", 20_500),
                    (
                        "SELECT deduct_credits('acme', 'ann', 300, 'llm_inference', 'gpt',"
                        " 'sql1', '{{}}'::jsonb)",
                        20_200,
                    ),
                    ("UPDATE {0} SET is_active = false WHERE {1}", 0),
                    (
                        "INSERT INTO {0} (org_id, user_id, allocated_credits)"
                        " VALUES ('acme', 'ann', 700)",
                        700,
                    ),
                    ("DELETE FROM {0} WHERE {1} AND is_active", 0),
                ):
                    await world.pool.execute(
                        statement.format("user_credit_allocations", "user_id = 'ann'")
                    )
                    waits.append(await live_is(world, "ann", expected))
            finally:
                running = False
        # The median, so that one stall of a busy test machine is not taken for a broken promise.
        assert sorted(waits)[len(waits) // 2] < SLOW_S
        every_s = await world.pool.fetchval(
            "SELECT max(every_s) FROM taximeter.heartbeats WHERE loop = 'relay'"
        )
        assert every_s <= ROUND_S
        await all_settled(world)
    await world.assert_books()


async def all_settled(world: World) -> None:
    async def done() -> bool:
        seq = int(await world.stores.redis.hget(world.keys().meta, "seq"))
        return (await world.mark())["seq"] == seq

    await eventually(done)


async def test_two_workers_and_kills_book_everything_once(
    world: World, env: Env, redis_url: str, key_prefix: str, tmp_path: Path
) -> None:
    """A worker is killed without warning again and again while another one works and charges
    go on.
    """
    charged = 0
    with settler(env, tmp_path / "steady"):
        await opened(world)
        await world.organization("acme", ann=10**9)
        loader = account_loader(world.pool)
        async with await Meter.connect(redis_url, key_prefix=key_prefix, loader=loader) as meter:
            for kill in range(3):
                log = tmp_path / f"killed{kill}"
                with settler(env, log) as victim:

                    async def victim_settled(log: Path = log) -> bool:
                        """Charge until the victim, and not only the other one, has settled some."""
                        nonlocal charged
                        await asyncio.gather(*(meter.charge("acme", "ann", 3) for _ in range(10)))
                        charged += 30
                        logged = await asyncio.to_thread(log.read_text)
                        return '"event": "settled"' in logged

                    await eventually(victim_settled, 60.0)  # Its start is in it.
                    victim.send_signal(signal.SIGKILL)
        await all_settled(world)
    assert await world.used("ann") == charged
    await world.assert_books()


async def test_sigterm_stops_it_cleanly_and_logs_are_json_without_secrets(
    world: World, env: Env, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with settler(env, log) as process:
        await opened(world)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = [line["event"] for line in lines]
    # A round or a job that a slow machine cuts off is an error in the log, and is made again.
    errors = [line for line in lines if line["level"] != "info" and line["event"] != "guardian"]
    other = [
        line for line in errors if "retry_in_s" not in line and not CUT_OFF.search(line["event"])
    ]
    assert not other, json.dumps(other)
    assert events[0] == "started"
    assert events[-1] == "stopped"
    assert all(secret not in log.read_text() for secret in ("postgresql://", "redis://"))


async def test_another_number_of_shards_is_refused_at_the_start(
    world: World, env: Env, tmp_path: Path
) -> None:
    await world.start(shards=2)
    log = tmp_path / "log"
    with settler(env | {"TAXIMETER_SHARDS": "3"}, log) as process:
        assert await asyncio.to_thread(process.wait, 30) == 1
    assert "TAXIMETER_SHARDS is 3, but this system was made with 2" in log.read_text()


@pytest.fixture
async def own_redis(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Any]
) -> AsyncIterator[tuple[World, Any]]:
    """A world whose Redis may be stopped."""
    server = valkey_server()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        yield World(Stores(pool, redis, key_prefix)), server


async def test_it_outlives_a_restart_of_redis_which_is_also_its_scheduler(
    own_redis: tuple[World, Any], env: Env, tmp_path: Path
) -> None:
    world, server = own_redis
    env |= {"TAXIMETER_REDIS_URL": server.url, "TAXIMETER_ARQ_REDIS_URL": server.url}
    with settler(env, tmp_path / "log") as process:
        await opened(world)
        await world.organization("acme", ann=1_000)
        await world.charge("ann", 10)
        await all_settled(world)
        url = server.url
        server.stop()
        server.start()
        assert server.url == url, "the test needs the same port again"

        async def usable() -> bool:
            with suppress(StoreError, RedisError, OSError):
                await (await Meter.connect(url, key_prefix=world.stores.prefix)).aclose()
                return True
            return False

        await eventually(usable)
        await world.charge("ann", 20)
        await all_settled(world)
        assert await world.used("ann") == 30
        assert process.poll() is None


def test_jobs_are_json() -> None:
    job = {"t": 1, "f": "taximeter.settle", "a": (), "k": {}, "et": 1_790_000_000_000}
    assert json.loads(serialize(job)) == {**job, "a": []}
    assert deserialize(serialize(job))["f"] == "taximeter.settle"
    with pytest.raises(ValueError, match=r"codec|Expecting"):
        deserialize(b"\x80\x04pickle")


async def test_the_scheduler_has_a_redis_of_its_own(stores: Stores, redis_url: str) -> None:
    settings = SettlerSettings(redis_url="redis://127.0.0.1:1/0", arq_redis_url=redis_url)
    async with _scheduler_pool(settings) as pool:
        worker = make_worker(Settler(stores, settings), settings, LoopActivity(), pool)
        assert await worker.pool.ping()
    assert worker.keep_result_s == 0
    assert worker.job_serializer is serialize


@pytest.mark.filterwarnings(
    # arq's own end of a worker: what was cut off closes when the loop has gone on.
    "ignore:Call to deprecated close:DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)
async def test_jobs_of_arq_are_due_by_any_clock_and_never_pile_up(
    world: World, redis_url: str, key_prefix: str
) -> None:
    settings = SettlerSettings(redis_url=redis_url, arq_queue=f"{key_prefix}:queue")
    redis = world.stores.redis

    async def queued() -> dict[bytes, float]:
        return dict(await redis.zrange(settings.arq_queue, 0, -1, withscores=True))

    for _ in range(2):
        async with _scheduler_pool(settings) as pool:
            worker = make_worker(Settler(world.stores, settings), settings, LoopActivity(), pool)
            worker.allow_pick_jobs = False  # As if whoever queued them froze at once.
            running = asyncio.create_task(worker.async_run())

            async def is_queued() -> bool:
                return len(await queued()) == 3

            await eventually(is_queued)
            await _close(worker, running)
            assert all(score < 10**9 for score in (await queued()).values()), "far before any clock"
            for name in await queued():
                left_ms = await redis.pttl(b"arq:job:" + name)
                assert 0 < left_ms <= 540_000, "one that nobody takes is forgotten by Redis' clock"


def test_arq_is_imported_by_the_worker_alone() -> None:
    importers = set()
    for path in Path(next(iter(taximeter.settler.__path__))).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            if any(module.partition(".")[0] == "arq" for module in modules):
                importers.add(path.name)
    assert importers == {"main.py"}

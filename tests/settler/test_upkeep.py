"""What keeps Redis and Postgres small never takes away what is still needed."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from pydantic import ValidationError
from settler_world import World, eventually

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.proof.reconcile import ReconcileLimits, reconcile
from taximeter.settler.settling.trim import trim
from taximeter.settler.status.lag import shard_statuses
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.sweep import rotate, sweep


async def stream_length(world: World) -> int:
    return int(await world.stores.redis.xlen(world.keys().events))


async def test_nothing_is_trimmed_before_the_retention(world: World) -> None:
    await world.organization("acme", ann=10_000)
    for _ in range(300):
        await world.charge("ann", 1)
    await world.settle()
    assert await trim(world.stores, 0, retention_s=3_600, retention_max=10**6) == 0
    assert await stream_length(world) == 300


@pytest.mark.parametrize(("retention_s", "retention_max"), [(0.0, 10**6), (3_600.0, 0)])
async def test_trimming_stops_at_the_watermark(
    world: World, retention_s: float, retention_max: int
) -> None:
    await world.organization("acme", ann=10_000)
    for _ in range(300):
        await world.charge("ann", 1)
    await world.settle()
    for _ in range(250):
        await world.charge("ann", 1)
    removed = await trim(world.stores, 0, retention_s=retention_s, retention_max=retention_max)
    # Whole nodes go, so some settled entries may stay; unsettled ones always do.
    assert 200 <= removed <= 300
    await world.settle()
    assert await world.used("ann") == 550
    assert (await world.mark())["lost_events"] == 0
    await world.assert_books()


async def test_the_number_of_events_bounds_the_stream(world: World) -> None:
    await world.organization("acme", ann=10_000)
    for _ in range(500):
        await world.charge("ann", 1)
    await world.settle()
    await trim(world.stores, 0, retention_s=3_600, retention_max=100)
    assert 100 <= await stream_length(world) <= 300


async def test_batches_are_pruned_but_the_boundary_stays(world: World) -> None:
    await world.organization("acme", ann=10_000)
    for _ in range(4):
        await world.charge("ann", 1)
        await world.settle()
    await world.pool.execute(
        "UPDATE taximeter.settled_batches SET settled_at = now() - make_interval(days => 5 - "
        "seq_last::int)"
        " WHERE seq_last < 4"
    )
    await world.pool.execute(load_queries("upkeep")["prune_batches"], 86_400.0)
    kept = await world.pool.fetch("SELECT seq_last FROM taximeter.settled_batches ORDER BY 1")
    assert [row[0] for row in kept] == [3, 4]
    boundary = await world.pool.fetchrow(
        load_queries("upkeep")["trim_boundary"], 0, 86_400.0, 10**6
    )
    assert boundary is not None
    assert tuple(boundary) == (1, 3)


async def test_sweeping_is_bounded_and_ends_each_hold_once(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.operate("acme", *[("reserve", "ann", f"h{i}", 10, 1) for i in range(25)])

    async def all_due() -> bool:
        now = await world.stores.redis.time()
        due = await world.stores.redis.zcount(
            world.keys().deadlines, "-inf", now[0] * 1000 + now[1] // 1000
        )
        return int(due) == 25

    await eventually(all_due)
    first = await sweep(world.stores, 0, 1, limit=5, calls_max=2)
    assert (first.ended, first.still_due) == (10, 15)
    rest = await asyncio.gather(*(sweep(world.stores, 0, 1, limit=5) for _ in range(3)))
    assert sum(one.ended for one in rest) == 15
    assert await world.live("ann") == (10_000, 0, 1)
    await world.assert_books()


async def test_outcomes_are_forgotten_after_their_window_only(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.charge("ann", 1)
    assert not await rotate(world.stores, 0, 1, window_s=300)
    await world.stores.redis.hset(world.keys().meta, "rotated_ms", 1)
    assert await rotate(world.stores, 0, 1, window_s=300)
    assert await world.stores.redis.hlen(world.keys().outcomes_old) == 1


async def test_status_says_how_far_behind_each_shard_is(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.operate("acme", ("reserve", "ann", "h1", 10), ("charge", "ann", "c1", 5))
    await world.pool.execute("UPDATE user_credit_allocations SET allocated_credits = 20000")
    (status,) = await shard_statuses(world.stores)
    assert (status.redis_seq, status.settled_seq, status.unsettled_events) == (1, 0, 1)
    assert (status.open_holds, status.unapplied_entries) == (1, 1)
    assert status.unsettled_age_ms >= 0
    await world.settle()
    await world.relay()
    (status,) = await shard_statuses(world.stores)
    assert (status.unsettled_events, status.unsettled_age_ms, status.unapplied_entries) == (0, 0, 0)
    await world.stores.redis.hset(world.keys().meta, "epoch", "fenced")
    (status,) = await shard_statuses(world.stores)
    assert status.redis_seq is None


async def test_credits_may_be_bought_before_the_first_settler_comes(stores: Stores) -> None:
    """There are entries then, and no shard that they are behind in."""
    await World(stores).pool.execute(
        "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ('a', 'a', 'a', 'test');"
        "INSERT INTO organization_credit_pools (org_id, total_credits) VALUES ('a', 100);"
        "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
        " VALUES ('a', 'ann', 10)"
    )
    assert await shard_statuses(stores) == []


async def test_a_tick_of_everything_on_a_fresh_system(stores: Stores) -> None:
    settler = Settler(stores, SettlerSettings(shards=2))
    assert await settler.start() == 2
    world = World(stores, 2)
    await settler.settle()
    await world.organization("acme", ann=10_000)
    await world.operate("acme", ("reserve", "ann", "h1", 10, 1), ("charge", "ann", "c1", 5))
    await world.pool.execute(
        "UPDATE user_credit_allocations SET expires_at = now() - interval '1 hour'"
    )

    async def hold_is_over() -> bool:
        await settler.sweep()
        return int(await stores.redis.hlen(world.keys().holds)) == 0

    await eventually(hold_is_over)
    await settler.settle()
    await settler.moves()
    await settler.refresh()
    await settler.daily()
    await settler.relay()
    await settler.reconcile()
    assert await world.live("ann") == (0, 0, 2)
    await world.assert_books()


async def test_the_limit_of_open_holds_reaches_every_shard(stores: Stores) -> None:
    """And counts that a release before them has left wrong are mended."""
    settler = Settler(stores, SettlerSettings(open_holds_max=2))
    await settler.start()
    await settler.settle()
    world = World(stores, 1)
    await world.organization("acme", ann=10_000)
    for request in ("h1", "h2"):
        await world.operate("acme", ("reserve", "ann", request, 10))
    keys = world.keys()
    assert await stores.redis.hget(keys.meta, "open_holds_max") == b"2"
    assert await stores.redis.hgetall(keys.open_holds) == {b"acme/ann": b"1"}
    await stores.redis.delete(keys.open_holds)
    await settler.reconcile()
    assert await stores.redis.hgetall(keys.open_holds) == {b"acme/ann": b"1"}
    await world.assert_books()


async def test_a_worker_that_never_settles_still_sweeps(world: World) -> None:
    """The scheduler gives each tick to one of the workers, and it may always be another one."""
    await world.organization("acme", ann=10_000)
    await world.operate("acme", ("reserve", "ann", "h1", 10, 1))
    settler = Settler(world.stores, SettlerSettings())
    await settler.start()

    async def hold_is_over() -> bool:
        await settler.sweep()
        return int(await world.stores.redis.hlen(world.keys().holds)) == 0

    await eventually(hold_is_over)
    assert await world.live("ann") == (10_000, 0, 1)


async def test_trouble_with_one_shard_is_not_trouble_of_the_others(stores: Stores) -> None:
    settler = Settler(stores, SettlerSettings(shards=2))
    await settler.start()
    await settler.settle()
    world = World(stores, 2)
    for org_id in ("acme", "other", "third"):
        await world.organization(org_id, ann=1_000)
        await world.charge("ann", 1, org_id=org_id)
    sick = world.keys("acme")
    await stores.redis.delete(sick.meta)
    await stores.redis.set(sick.meta, "of the wrong type")
    await settler.settle()
    for org_id in ("acme", "other", "third"):
        healthy = world.keys(org_id).shard != sick.shard
        assert await world.used("ann", org_id) == int(healthy)


async def test_reconcile_reports_and_repairs_nothing(world: World) -> None:
    await world.organization("acme", ann=10_000)
    await world.stores.redis.hset(world.keys().accounts, "acme/ann", "9999 0 1")
    books = await reconcile(world.stores, ReconcileLimits())
    assert [str(one) for one in books.suspects] == [
        "acme/ann: live balance less what the books say (-1)"
    ]
    assert await world.live("ann") == (9_999, 0, 1)
    assert await world.pool.fetchval("SELECT count(*) FROM taximeter.account_entries") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"shards": 0},
        {"settle_batch_events": 0},
        {"sweep_limit": 1_001},
        {"outcome_window_s": 0.5},
        {"event_retention_s": -1},
        {"key_prefix": "a{b"},
        {"redis_url": "http://x"},
        {"arq_redis_url": "x"},
        {"database_url": "mysql://x"},
        {"database_pool_max": 1},
    ],
)
def test_settings_are_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SettlerSettings(**wrong)  # type: ignore[arg-type]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAXIMETER_EVENT_RETENTION_S", "60")
    monkeypatch.setenv("TAXIMETER_OUTCOME_WINDOW_S", "30")
    settings = SettlerSettings()
    assert (settings.event_retention_s, settings.outcome_window_s) == (60, 30)


async def test_every_query_is_accepted_by_postgres(pool: asyncpg.Pool) -> None:
    names = (
        "settle", "accounts", "guardian", "upkeep", "moves", "reconcile", "status", "invariants",
    )  # fmt: skip
    async with pool.acquire() as conn, conn.transaction():
        for name in names:
            for statement in load_queries(name).values():
                await conn.prepare(statement)

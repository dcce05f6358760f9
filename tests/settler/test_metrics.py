"""What Prometheus reads of a settler is what its stores say, and names nobody."""

from __future__ import annotations

from dataclasses import replace

import redis.asyncio as redis_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from settler_world import World

from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.money import MoneyLook
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.work_metrics import WorkMetrics, settler_exposition

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """A settler on the world's stores, and what a scrape of it says."""

    def __init__(self, stores: Stores, named: tuple[str, ...] = ()) -> None:
        self.named = named
        self.work, self.activity = WorkMetrics(), LoopActivity()
        self.settler = Settler(stores, SettlerSettings(), activity=self.activity, metrics=self.work)
        self._stores = stores

    async def scrape(self) -> Samples:
        health, money = HealthCheck(self._stores), MoneyLook(self._stores.pool, self.named)
        exposition = settler_exposition(health, self.work, self.activity, money)
        exposition.watch_pool("settler", self._stores.pool)
        body, content_type = await exposition.text(OPENMETRICS)
        await health.aclose()
        await money.aclose()
        assert content_type.startswith("application/openmetrics-text")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"taximeter_{name}", frozenset(labels.items())


async def test_what_is_scraped_is_what_the_stores_say(world: World) -> None:
    await world.organization("acme", ann=1_000, bob=2_000)
    scraped = Scraped(world.stores)
    for loop in scraped.settler.loops():
        scraped.activity.expect(loop.name, loop.every_s)
    await scraped.settler.guard()
    await world.charge("ann", 300)
    await world.operate("acme", ("reserve", "bob", "h1", 500), ("reserve", "bob", "h2", 600))
    waiting = await scraped.scrape()
    assert waiting[of("unsettled_events", shard="0")] == 1
    assert waiting[of("settlement_lag_seconds", shard="0")] >= 0
    assert waiting[of("settled_events_total", shard="0")] == 0
    assert waiting[of("settle_events_count")] == 0
    assert waiting[of("open_holds", shard="0")] == 2

    await world.inject(b"\x00\xff no event")
    await world.overdue("h1")
    await scraped.settler.sweep()
    await scraped.settler.settle()
    await world.organization("other", eve=70)  # Relayed by somebody else.
    await world.pool.execute("SELECT taximeter.allocate_credits('other', 'eve', 30, 'test')")
    await scraped.settler.relay()
    await scraped.settler.reconcile()
    done = await scraped.scrape()
    assert done[of("store_up", store="postgres")] == done[of("store_up", store="redis")] == 1
    assert done[of("shard_open", shard="0")] == done[of("shard_usable", shard="0")] == 1
    assert done[of("shard_epoch", shard="0")] == (await world.mark())["epoch"]
    assert done[of("unsettled_events", shard="0")] == 0
    assert done[of("settled_events_total", shard="0")] == 1
    assert done[of("dead_events_total", shard="0")] == 1
    assert done[of("lost_events_total", shard="0")] == 0
    assert done[of("settle_events_sum")] == 2
    assert done[of("settle_seconds_count")] == done[of("settle_events_count")]
    assert done[of("expired_holds_total")] == 1
    assert done[of("relayed_entries_total")] == 1
    assert done[of("open_holds", shard="0")] == 1
    assert done[of("accounts")] == 3
    assert done[of("account_credits", state="held")] == 0.6
    assert done[of("account_credits", state="available")] == 2.2
    assert done[of("drifting_accounts")] == 0
    assert done[of("loop_failing", loop="settle")] == 0
    assert done[of("loop_idle_seconds", loop="guard")] >= 0
    assert done[of("postgres_connections", pool="settler", state="max")] > 0
    assert done[of("loop_work_total", loop="guard", outcome="done")] > 0
    assert done[of("loop_period_seconds", loop="guard")] == 0.5
    assert done[of("guardian_state", shard="0", state="whole")] == 1
    assert done[of("fences_total", shard="0")] == 0
    assert done[of("relay_lag_seconds")] >= 0
    assert done[of("job_seconds_count", loop="reconcile")] == 1
    assert done[of("job_seconds_count", loop="daily")] == 0
    assert done[of("pools")] == 2
    assert done[of("pool_credits", state="total")] == 2 * 10**6
    assert done[of("booked_requests_total")] == 1
    assert done[of("booked_credits_total")] == 0.3
    assert done[of("dead_letters")] == 1
    assert done[of("unacknowledged_lost_events")] == 0


async def test_of_organisations_only_the_named_are_told(world: World) -> None:
    await world.organization("acme", ann=1_000)
    await world.organization("other", bob=1_000)
    scraped = Scraped(world.stores, named=("acme", "nobody"))
    await scraped.settler.guard()
    await world.charge("ann", 300)
    await scraped.settler.settle()
    found = await scraped.scrape()
    about = {
        (name, labels) for name, labels in found if "organization" in name and "created" not in name
    }
    assert {labels["org_id"] for _, frozen in about for labels in [dict(frozen)]} == {"acme"}
    assert found[of("organization_credits", org_id="acme", state="total")] == 10**6
    assert found[of("organization_credits", org_id="acme", state="used")] == 0.3
    assert found[of("organization_credits", org_id="acme", state="in_progress")] == 0
    assert found[of("organization_requests_total", org_id="acme")] == 1
    assert found[of("organization_booked_credits_total", org_id="acme")] == 0.3


async def test_a_fence_and_what_came_of_it_are_counted(world: World) -> None:
    await world.organization("acme", ann=1_000)
    scraped = Scraped(world.stores)
    await scraped.settler.guard()
    await world.charge("ann", 300)
    await world.stores.redis.flushdb()
    lost = await scraped.scrape()
    assert lost[of("shard_open", shard="0")] == 0
    await scraped.settler.settle()
    found = await scraped.scrape()
    assert found[of("shard_open", shard="0")] == 1
    assert found[of("fences_total", shard="0")] == 1
    assert found[of("guardian_actions_total", action="rebuilt")] == 1
    assert found[of("shard_epoch", shard="0")] == lost[of("shard_epoch", shard="0")] + 1


async def test_a_shard_that_cannot_be_looked_at_is_unknown(world: World) -> None:
    scraped = Scraped(world.stores)
    await scraped.settler.guard()
    async with redis_asyncio.Redis(host="127.0.0.1", port=1, socket_connect_timeout=1) as away:
        broken = Scraped(replace(world.stores, redis=away))
        broken.settler._metrics = scraped.work
        await broken.settler.guard()
    found = await scraped.scrape()
    assert found[of("guardian_state", shard="0", state="unknown")] == 1
    assert found[of("shard_usable", shard="0")] == 0


async def test_drift_is_counted_when_two_looks_agree(world: World) -> None:
    await world.organization("acme", ann=1_000)
    scraped = Scraped(world.stores)
    await scraped.settler.guard()
    await world.stores.redis.hset(world.keys("acme").accounts, "acme/ann", "999 0 1")
    await scraped.settler.reconcile()
    assert (await scraped.scrape())[of("drifting_accounts")] == 0
    await scraped.settler.reconcile()
    assert (await scraped.scrape())[of("drifting_accounts")] == 1


async def test_figures_are_there_while_a_store_is_away(world: World) -> None:
    away = redis_asyncio.Redis(host="127.0.0.1", port=1, socket_connect_timeout=1)
    scraped = Scraped(replace(world.stores, redis=away))
    found = await scraped.scrape()
    assert found[of("store_up", store="redis")] == 0
    assert found[of("store_up", store="postgres")] == 1
    assert of("unsettled_events", shard="0") not in found  # Unknown is not nought.
    assert ("process_cpu_seconds_total", frozenset()) in found
    await away.aclose()


async def test_labels_name_nobody_and_their_number_does_not_grow_with_use(world: World) -> None:
    scraped = Scraped(world.stores)
    await world.organization("acme", ann=1_000)
    await scraped.settler.settle()
    await scraped.settler.reconcile()
    few = await scraped.scrape()
    for number in range(10):
        await world.organization(f"org{number}", **{f"user{number}": 1_000})
        await world.charge(f"user{number}", 1, org_id=f"org{number}")
    await scraped.settler.settle()
    await scraped.settler.reconcile()
    many = await scraped.scrape()
    assert few.keys() == many.keys()
    said = {value for _, labels in many for _, value in labels}
    said = {value for value in said if value != "organization"}  # Whose a receiver is.
    assert not [value for value in said if value.startswith(("org", "user", "acme", "ann"))]

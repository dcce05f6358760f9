"""A real Prometheus scrapes a whole system: every query of every board has an answer, and alarms
fire when the system is broken.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import httpx
import pytest
from arq import create_pool
from arq.connections import RedisSettings
from operate.boards import boards, queries
from operate.prometheus import Prometheus, program, prometheus, rules_with
from redis.asyncio import Redis

from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.local.system import LocalSystem, local_system
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.worker.main import deserialize, serialize

BILLING = "/api/v1/org-billing"
EVERY_S = 1
KEYS = ShardKeys("tm", 0)
FLOOD = 2_500
"""Operations at once: what fits into the next calls, and more."""

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(900)]


@dataclass
class Scene:
    """A system that runs, and what is done to it."""

    system: LocalSystem
    targets: dict[str, str]
    token: str

    def pid(self, name: str) -> int:
        return next(one.pid for one in self.system.processes if one.name == name)

    def signal(self, name: str, number: int) -> None:
        if name == "redis":
            os.kill(self.system.servers[0].pid, number)
        else:
            os.kill(self.pid(name), number)

    def spend(self, client: httpx.Client) -> None:
        """One of each: a chat, a hold with its commit, a charge that is too large, a gate."""
        api, sidecar = self.system.api_url, self.system.sidecar_url
        headers = {"Authorization": f"Bearer {self.token}"}
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
        client.post(f"{api}/api/v1/llm/chat/completions", json=body, headers=headers)
        one = {"org_id": "acme", "user_id": "ann"}
        held = client.post(f"{sidecar}/v1/reserve", json={**one, "amount_millicredits": 50})
        if held.status_code == 200:
            ends = {"request_id": held.json()["request_id"], "amount_millicredits": 20}
            client.post(f"{sidecar}/v1/commit", json={**one, **ends})
        client.post(f"{sidecar}/v1/charge", json={**one, "amount_millicredits": 10**12})

    def flood(self, number: int) -> int:
        """More operations at once than may wait; returns how many were refused for that."""
        operation = {"op": "charge", "org_id": "acme", "user_id": "ann", "amount_millicredits": 1}
        refused = 0

        def batch(_: int) -> None:
            nonlocal refused
            answer = httpx.post(
                f"{self.system.sidecar_url}/v1/batch",
                json={"operations": [operation] * 500},
                timeout=300,
                trust_env=False,
            )
            results = answer.json()["results"]
            refused += sum(one["status"] == 429 for one in results)

        threads = [threading.Thread(target=batch, args=(one,)) for one in range(number // 500)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return refused

    async def job(self, name: str) -> None:
        """Have it done now, and not with its next minute."""
        pool = await create_pool(
            RedisSettings.from_dsn(self.system.arq_redis_url),
            job_serializer=serialize,
            job_deserializer=deserialize,
            default_queue_name="taximeter:upkeep",
        )
        try:
            await pool.enqueue_job(name, _job_id=f"taximeter.{name}")
        finally:
            await pool.aclose()

    async def write(self, record: bytes | None) -> bytes:
        """Put another record under acme/ann, or read the one that is there."""
        async with Redis.from_url(self.system.redis_url) as redis:
            found: bytes = await redis.hget(KEYS.accounts, "acme/ann")
            if record is not None:
                await redis.hset(KEYS.accounts, "acme/ann", record)
            return found

    async def fence(self) -> None:
        async with Redis.from_url(self.system.redis_url) as redis:
            await load_script("fence").call(redis, [KEYS.meta], ["a test", "1"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    program("prometheus")
    api_metrics, settler = free_port(), free_port()
    settings = {
        "TAXIMETER_METRICS_PORT": str(api_metrics),
        "TAXIMETER_SETTLER_PORT": str(settler),
        "TAXIMETER_METRICS_ORGANIZATIONS": json.dumps(["acme"]),
        "TAXIMETER_ACCOUNT_QUEUE_MAX": "1",
        "TAXIMETER_PRICE_AGE_MAX_DAYS": "3650",
    }
    folder = tmp_path_factory.mktemp("operated")
    with local_system(folder, with_sidecar=True, settings=settings) as system:
        assert system.sidecar_url is not None
        targets = {
            "taximeter-api": f"{LOOPBACK}:{api_metrics}",
            "taximeter-sidecar": system.sidecar_url.removeprefix("http://"),
            "taximeter-settler": f"{LOOPBACK}:{settler}",
        }
        token = load_dev_key(folder).mint("ann", ttl_s=3600, roles=("system_admin",))
        made = Scene(system, targets, token)
        _found(system, token)
        yield made


def _found(system: LocalSystem, token: str) -> None:
    """The organisation acme, whose user ann has credits that are live."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=system.api_url, timeout=60, headers=headers, trust_env=False) as api:
        body = {
            "org_id": "acme",
            "plan_code": "professional",
            "org_name": "Acme",
            "billing_email": "billing@acme.example",
            "initial_credits": 10_000,
            "user_id": "ann",
        }
        assert api.post(f"{BILLING}/subscriptions", json=body).status_code == 200
        body = {"user_id": "ann", "credits": 5_000}
        assert api.post(f"{BILLING}/credits/acme/allocate", json=body).status_code == 200


@pytest.fixture(scope="module")
def watched(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that looks every second, at rules that wait for two."""
    folder = tmp_path_factory.mktemp("watched") / "prometheus"
    rules = rules_with(every_s=EVERY_S, pause=False)
    with prometheus(folder, scene.targets, rules, every_s=EVERY_S) as running:
        running.until("count(up == 1) == 3")
        yield running


def is_answered(running: Prometheus, query: str) -> bool:
    """Whether it has a series with a number."""
    values = [float(one["value"][1]) for one in running.ask(query)]
    return any(not math.isnan(value) for value in values)


def test_every_query_of_every_board_is_answered(scene: Scene, watched: Prometheus) -> None:
    left: dict[str, str] = {
        f"{board['uid']}, {title}: {query}": query.replace("$__rate_interval", "1m").replace(
            "$org", "acme"
        )
        for board in boards()
        for title, query in queries(board)
    }
    assert len(left) > 60
    end = time.monotonic() + 240
    with httpx.Client(timeout=60, trust_env=False) as client:
        while left:
            scene.spend(client)
            asyncio.run(scene.job("reconcile"))
            left = {name: query for name, query in left.items() if not is_answered(watched, query)}
            assert time.monotonic() < end, "\n".join(left)


@pytest.mark.parametrize(
    "every_s",
    [EVERY_S, pytest.param(15, marks=[pytest.mark.long, pytest.mark.timeout(2400)])],
)
def test_alarms_fire_while_the_system_is_broken_and_end_when_it_is_mended(
    scene: Scene, watched: Prometheus, tmp_path: Path, every_s: int
) -> None:
    """At 15 s, the rules are those that are deployed."""
    if every_s == EVERY_S:
        _break_and_mend(scene, watched)
        return
    rules = rules_with(every_s=every_s, pause=True)
    with prometheus(tmp_path / "prometheus", scene.targets, rules, every_s=every_s) as running:
        running.until("count(up == 1) == 3")
        _break_and_mend(scene, running)


BROKEN = ("BooksWrong", "QueueFull", "SettlerStopped", "ShardFenced")
FIRING = f'ALERTS{{alertname=~"Taximeter({"|".join(BROKEN)})",alertstate="firing"}}'
PATIENCE_S = 600.0


def _break_and_mend(scene: Scene, running: Prometheus) -> None:
    running.until(f"absent({FIRING})")

    # Wrong books: somebody writes to a live account.
    right = asyncio.run(scene.write(None))
    available, held, applied = right.split()
    asyncio.run(scene.write(b" ".join((b"%d" % (int(available) - 7), held, applied))))
    _compare_until(scene, running, fires=True)
    asyncio.run(scene.write(right))
    _compare_until(scene, running, fires=False)

    # A full queue: Redis stands still while many ask.
    scene.signal("redis", SIGSTOP)
    try:
        refused = threading.Thread(target=scene.flood, args=(FLOOD,))
        refused.start()
        running.until("sum(taximeter_busy_refusals_total) > 0", within_s=PATIENCE_S)
    finally:
        scene.signal("redis", SIGCONT)
    refused.join()
    running.until_alarm("TaximeterQueueFull", within_s=PATIENCE_S)

    # The settler stands still, and nobody opens a shard that is closed.
    scene.signal("settler", SIGSTOP)
    try:
        running.until_alarm("TaximeterSettlerStopped", within_s=PATIENCE_S)
        asyncio.run(scene.fence())
        running.until_alarm("TaximeterShardFenced", within_s=PATIENCE_S)
    finally:
        scene.signal("settler", SIGCONT)
    for name in ("TaximeterSettlerStopped", "TaximeterShardFenced"):
        running.until_alarm(name, fires=False, within_s=PATIENCE_S)


def _compare_until(scene: Scene, running: Prometheus, *, fires: bool) -> None:
    """Books are compared until the alarm is what it should be."""
    firing = 'ALERTS{alertname="TaximeterBooksWrong",alertstate="firing"}'
    end = time.monotonic() + PATIENCE_S
    while bool(running.ask(firing)) != fires:
        assert time.monotonic() < end, running.firing()
        asyncio.run(scene.job("reconcile"))
        time.sleep(0.5)

"""A sidecar under somebody's flood: who floods hears 429, and the figures name nobody."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
from redis.asyncio import Redis
from support.proxy import Proxy
from support.shard import ScriptedShard
from support.sidecar import FUNDS, Caller, exposed, problem, served

from taximeter.meter import Meter, MeterSettings
from taximeter.meter.sidecar import create_sidecar

MANY = httpx.Limits(max_connections=100)
SETTINGS = MeterSettings(
    queue_max=40, batch_max=10, lanes_per_server=1, take_timeout_s=60.0, call_timeout_s=60.0
)


async def test_who_floods_is_told_so_and_others_are_served(
    redis: Redis, redis_url: str, shard: ScriptedShard
) -> None:
    await shard.load("other/bob", FUNDS)
    async with (
        Proxy(redis_url) as proxy,
        await Meter.connect(proxy.url, settings=SETTINGS) as meter,
        served(create_sidecar(meter, metrics=exposed(meter))) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=MANY) as client,
    ):
        caller = Caller(client, url)
        await caller.ok("charge", amount_millicredits=1)
        proxy.black_hole(True)
        flood = [
            asyncio.create_task(caller.post("charge", amount_millicredits=1)) for _ in range(90)
        ]
        refused = []
        for done in asyncio.as_completed(flood):
            refused.append(await done)
            if len(refused) == 90 - SETTINGS.queue_max - SETTINGS.batch_max:
                break
        other = asyncio.create_task(
            caller.post("charge", org_id="other", user_id="bob", amount_millicredits=1)
        )
        for response in refused:
            assert problem(response) == (429, "TOO_MANY_WAITING", {"limit": "account"})
            assert response.headers["Retry-After"] == "1"
        proxy.heal()
        assert (await other).status_code == 200
        answers = Counter([(await task).status_code for task in flood])
        assert set(answers) == {200, 429}
        assert await caller.balance() == (FUNDS - 1 - answers[200], 0)

        figures = await caller.client.get("/metrics")
        assert figures.headers["content-type"].startswith("text/plain")
        lines = dict(line.rsplit(" ", 1) for line in figures.text.splitlines() if line[0] != "#")
        of = 'taximeter_busy_refusals_total{limit="account",shard="0"}'
        assert float(lines[of]) == answers[429]
        assert float(lines['taximeter_waiting_operations{shard="0"}']) == 0
        total = float(lines['taximeter_wait_seconds_bucket{le="+Inf",shard="0"}'])
        assert total == float(lines['taximeter_wait_seconds_count{shard="0"}'])
        assert total >= answers[200] + 2
        for name in ("acme", "ann", "other", "bob"):
            assert name not in figures.text

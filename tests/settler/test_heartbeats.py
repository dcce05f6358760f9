"""What heartbeats say of the settlers, and what the settler's own HTTP side says."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from settler_world import World, eventually
from support.frozen import frozen_objects
from support.settlers import settler_process

from taximeter.api.embedded.machine import free_port
from taximeter.settler.status.heartbeats import IN_TIME, Beat, judge_heartbeats


def beats(settler: str = "a", silent_s: float = 0.1, **troubles: str) -> list[Beat]:
    return [
        Beat(settler, loop, silent_s, 0.2, 1.0, troubles.get(loop), 0.0)
        for loop in (*IN_TIME, "reconcile")
    ]


def changed(found: list[Beat], loop: str, **change: float) -> list[Beat]:
    return [
        Beat(**{**{name: getattr(one, name) for name in Beat.__slots__}, **change})
        if one.loop == loop
        else one
        for one in found
    ]


@pytest.mark.parametrize(
    ("found", "works", "reason"),
    [
        ([], False, "none"),
        (beats(), True, None),
        (beats(silent_s=3.0), False, "stopped"),
        (beats(silent_s=3.0) + beats("b"), True, "one_stopped"),
        (beats(settle="OSError"), False, "failing:settle"),
        (beats(settle="OSError") + beats("b"), True, None),
        (beats(reconcile="OSError"), True, "failing:reconcile"),
        (changed(beats(), "relay", idle_s=16.0), False, "stuck:relay"),
        (changed(beats(), "relay", idle_s=14.0), True, None),
        (changed(beats(), "reconcile", idle_s=200.0, every_s=60.0), True, "late:reconcile"),
        (changed(beats(), "reconcile", idle_s=170.0, every_s=60.0), True, None),
        (changed(beats(), "sweep", clock_off_s=-6.0), True, "clock_off"),
        ([one for one in beats() if one.loop != "sweep"], False, "stuck:sweep"),
    ],
)
def test_what_one_does_not_do_another_may(
    found: list[Beat], works: bool, reason: str | None
) -> None:
    hearts = judge_heartbeats(found)
    assert (hearts.works, hearts.reason) == (works, reason)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_settler_serves_its_health(
    world: World, settler_database_url: str, redis_url: str, key_prefix: str, tmp_path: Path
) -> None:
    port = free_port()
    env = {
        "TAXIMETER_DATABASE_URL": settler_database_url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_REDIS_URL": redis_url,
        "TAXIMETER_ARQ_QUEUE": f"{key_prefix}:queue",
        "TAXIMETER_KEY_PREFIX": key_prefix,
        "TAXIMETER_SETTLER_PORT": str(port),
    }
    with settler_process(env, tmp_path / "log"):
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10
        ) as client:

            async def answers(path: str, status: int) -> bool:
                try:
                    return (await client.get(path)).status_code == status
                except httpx.TransportError:
                    return False

            await eventually(lambda: answers("/readyz", 200), 60.0)
            await eventually(lambda: answers("/api/v1/system/status", 200))
            health = (await client.get("/api/v1/system/status")).json()
            assert health["settler"] == {
                "status": "ok",
                "reason": None,
                "settlement_lag_s": 0.0,
                "alive": 1,
                "stopped": 0,
            }
            assert (await client.get("/livez")).json() == {"status": "ok", "reason": None}
            metrics = (await client.get("/metrics")).text
            assert re.search(r'^taximeter_build_info{.*process="settler"', metrics, re.MULTILINE)
            assert 'taximeter_loop_failing{loop="settle"} 0.0' in metrics
            assert 'taximeter_loop_idle_seconds{loop="reconcile"}' in metrics  # A job of arq.
            assert 'taximeter_shard_usable{shard="0"} 1.0' in metrics
            assert frozen_objects(metrics) > 10_000
            # It cannot do its work, and says so; it is alive all the same.
            await world.pool.execute("REVOKE SELECT ON taximeter.watermarks FROM taximeter_settler")
            await eventually(lambda: answers("/readyz", 503))
            assert (await client.get("/readyz")).json()["reason"].startswith("failing:")
            assert (await client.get("/livez")).status_code == 200
            await world.pool.execute("GRANT SELECT ON taximeter.watermarks TO taximeter_settler")
            await eventually(lambda: answers("/readyz", 200))

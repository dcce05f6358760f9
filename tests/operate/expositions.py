"""Makes what each process tells at /metrics, without stores and without a process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

from prometheus_client.core import Metric

from taximeter.api.processes.exposed import api_exposition
from taximeter.api.processes.sidecar import add_sidecar_families
from taximeter.api.upstreams.upstream_times import UpstreamTimes
from taximeter.api.web.fair_shares import FairShares
from taximeter.api.web.outermost import Outermost
from taximeter.meter.lanes.pressure import Pressure
from taximeter.meter.lanes.tally import Tally
from taximeter.settler.proof.reconcile import Totals
from taximeter.settler.shards.guardian import Guarded
from taximeter.settler.status.health import (
    PartHealth,
    SettlerHealth,
    SystemHealth,
    UpstreamHealth,
)
from taximeter.settler.status.lag import ShardStatus
from taximeter.settler.status.metrics import Exposition
from taximeter.settler.status.money import MoneyLook
from taximeter.settler.status.spans import SpanCounts, span_families
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.work_metrics import WorkMetrics, settler_exposition

POOL: Any = SimpleNamespace(get_size=lambda: 1, get_idle_size=lambda: 1, get_max_size=lambda: 8)
METER: Any = SimpleNamespace(
    pressure=lambda: [(0, 0, Pressure())],
    overdrafts=0,
    tally=Tally(),
    connections={"lanes": 1, "used": 0, "idle": 1},
    on_credit=(0, 0, 0, 0),
)
REDIS: Any = SimpleNamespace(connections=(0, 1))
PRICER: Any = SimpleNamespace(
    knows_editions=True, list_version="2026-11-01", list_dated=date(2026, 11, 1)
)


def looked(*, calls_upstreams: bool = False, prices: bool = True) -> Any:
    """A look at a system in which all is well."""
    well = PartHealth(status="ok")
    shard = ShardStatus(0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, datetime.now(UTC))
    return SimpleNamespace(
        seen=SystemHealth(
            status="ok",
            postgres=well,
            redis=well,
            settler=SettlerHealth(status="ok", settlement_lag_s=0.0, alive=1),
            upstream=UpstreamHealth(status="ok", upstreams={"openai": "ok"})
            if calls_upstreams
            else None,
            prices=well if prices else None,
            shards=[],
        ),
        shards_seen=[shard],
    )


def api() -> Exposition:
    upstream = SimpleNamespace(
        times=UpstreamTimes(), connections={"used": 0}, rest=SimpleNamespace(rests=False)
    )
    services: Any = SimpleNamespace(
        stores=SimpleNamespace(redis=REDIS),
        health=looked(calls_upstreams=True),
        meters=SimpleNamespace(current=METER),
        router=SimpleNamespace(upstreams={"openai": upstream}),
        pricer=PRICER,
        pool=POOL,
        keys=SimpleNamespace(pool=POOL),
        reports=SimpleNamespace(replica=POOL),
        requests=FairShares(1, "requests"),
        bodies=FairShares(1, "bytes"),
        keepers=SimpleNamespace(pending=[]),
        tracing=SimpleNamespace(families=spans),
    )
    return api_exposition(services, requested("GET"))


def spans() -> Iterator[Metric]:
    """What a process tells that traces."""
    return span_families(SpanCounts(1))


def requested(method: str) -> Outermost:
    async def nobody(*_: object) -> None:
        pass

    outermost = Outermost(nobody)
    outermost.times.note(method, "/v1/reserve", 200, 0.1)
    return outermost


def sidecar() -> Exposition:
    served: Any = SimpleNamespace(meter=METER, refused_in_batches=Counter())
    health = looked()
    health.shards_seen = []
    exposition = Exposition("sidecar", health)
    add_sidecar_families(exposition, requested("POST"), served, PRICER)
    exposition.watch_pool("sidecar", POOL)
    exposition.add(spans)
    return exposition


def settler() -> Exposition:
    work, activity, money = WorkMetrics(), LoopActivity(), MoneyLook(POOL, ["acme"])
    activity.expect("settle", 1.0)
    work.guarded(Guarded(0, True, 1, "nothing", "whole"))
    work.reconciled(Totals(), 0, 0)
    work.exported_to(date(2026, 11, 29))
    money._money = dict.fromkeys(  # type: ignore[assignment]
        (
            *("pools", "total", "available", "allocated", "closed", "used"),
            *("booked_requests", "booked", "unacknowledged", "dead_letters", "silent"),
        ),
        0,
    )
    money._checked = {  # type: ignore[assignment]
        **dict.fromkeys(
            (
                *("checked_at", "proved_at", "seconds", "violations", "rows_new", "rows_sealed"),
                *("sealed_until", "round_ended_at", "seal_n"),
            ),
            1,
        ),
        "violated": ["I16"],
        "seal_head": "ff" * 32,
    }
    money._organizations = [  # type: ignore[assignment]
        {
            "org_id": "acme",
            **dict.fromkeys(("total", "available", "allocated", "closed", "used"), 0),
            **dict.fromkeys(("in_progress", "requests", "booked"), 0),
        }
    ]
    exposition = settler_exposition(looked(prices=False), work, activity, money)
    exposition.watch_redis(REDIS)
    exposition.watch_pool("settler", POOL)
    exposition.add(spans)
    return exposition


PROCESSES = {"API": api, "sidecar": sidecar, "settler": settler}

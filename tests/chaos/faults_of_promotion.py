"""A standby of Postgres is promoted, in step with its primary or behind it; then the old primary
comes back and takes writes as well. Nobody may use it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg
from support.replica import ask, cut_off, in_step, promote, standby_of

from chaos.scene import BOUND_S, Loss, Scene, Struck
from taximeter.api.embedded.postgres import EmbeddedPostgres

COMES_BACK_EVENTS = 10
CHARGED = "SELECT count(*) FROM taximeter.charged_requests"


class _Written(NamedTuple):
    """What only our processes change."""

    settled: int
    charged: int
    entries: int
    audited: int


def postgres_promotion(name: str, *, behind: bool) -> Callable[[Scene], Awaitable[Struck]]:
    """`behind`: the standby lacks the last seconds, and some of what was settled in them."""

    async def strike(scene: Scene) -> Struck:
        return await _promote(scene, name, behind)

    return strike


async def _promote(scene: Scene, name: str, behind: bool) -> Struck:
    cluster, old = scene.cluster, scene.cluster.postgres
    number = len(list(cluster.folder.glob("standby-*")))
    new = await asyncio.to_thread(standby_of, old, cluster.folder / f"standby-{number}")
    cluster.standby = new
    cluster.point_spare_to(new)
    await in_step(old, new)
    since = time.time()
    before = await scene.settled()
    if behind:
        await cut_off(old, new)

        async def is_ahead() -> bool:
            return len(await scene.settled()) > len(before) + 20

        await scene.until(is_ahead, "something to be settled that the standby lacks")
    epochs = await scene.epochs()
    # While it follows: as soon as it takes writes it is settled again what it lacks.
    lacking = await ask(old, CHARGED) - await ask(new, CHARGED)
    began = time.time()
    await asyncio.to_thread(old.kill)
    killed = time.time()
    await promote(new)
    cluster.postgres, cluster.standby = new, old
    rebuilt = await scene.rebuilt(epochs)
    untouched = await _comes_back(scene, old)
    cluster.standby = None
    loss = Loss("postgres", since, killed)
    detail = {"settled_again": lacking, "rebuilt": rebuilt, "old primary untouched": untouched}
    bit = rebuilt and untouched and (lacking > 0 or not behind)
    return Struck(name, began, time.time(), bit, detail, loss)


async def _comes_back(scene: Scene, old: EmbeddedPostgres) -> bool:
    """The old primary takes writes beside the new one until more was settled there; whether nobody
    of ours has written to it.
    """
    await asyncio.to_thread(old.start)
    try:
        written = await _read(old)
        base = len(await scene.settled())

        async def goes_on() -> bool:
            return len(await scene.settled()) > base + COMES_BACK_EVENTS

        # Each process is made to connect anew while both are there.
        scene.cluster.reset_postgres()
        await scene.until(goes_on, "settling on the promoted one", BOUND_S)
        return await _read(old) == written
    finally:
        await asyncio.to_thread(old.kill)


async def _read(server: EmbeddedPostgres) -> _Written:
    conn = await asyncpg.connect(server.url, timeout=10.0)
    try:
        row = await conn.fetchrow(
            "SELECT (SELECT sum(seq + epoch) FROM taximeter.watermarks),"
            " (SELECT count(*) FROM taximeter.charged_requests),"
            " (SELECT count(*) FROM taximeter.account_entries),"
            " (SELECT count(*) FROM org_billing_history)"
        )
    finally:
        await conn.close()
    assert row is not None
    return _Written(*(int(figure or 0) for figure in row))


FAULTS = {
    "postgres_promotion": postgres_promotion("postgres_promotion", behind=False),
    "postgres_promotion_behind": postgres_promotion("postgres_promotion_behind", behind=True),
}

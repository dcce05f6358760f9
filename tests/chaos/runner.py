"""One run: start, spend, break, heal, wait, prove. The seed draws faults and what gateways do."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos import (
    faults_of_answers,
    faults_of_clocks,
    faults_of_clusters,
    faults_of_credit,
    faults_of_data,
    faults_of_failover,
    faults_of_holds,
    faults_of_networks,
    faults_of_postgres,
    faults_of_processes,
    faults_of_promotion,
    faults_of_redis,
)
from chaos.admin import Admin
from chaos.books import prove
from chaos.checker import Judgement, judge
from chaos.cluster import Cluster, running
from chaos.history import read_attempts
from chaos.scene import Scene, Struck
from chaos.settings import CLOCK, CLUSTER, NODES, Run
from chaos.valkey import FAKETIME
from chaos.watcher import Watcher

FAULTS: Final[dict[str, Callable[[Scene], Awaitable[Struck]]]] = {
    **faults_of_processes.FAULTS,
    **faults_of_networks.FAULTS,
    **faults_of_redis.FAULTS,
    **faults_of_data.FAULTS,
    **faults_of_failover.FAULTS,
    **faults_of_postgres.FAULTS,
    **faults_of_promotion.FAULTS,
    **faults_of_answers.FAULTS,
    **faults_of_holds.FAULTS,
    **faults_of_clocks.FAULTS,
    **faults_of_clusters.FAULTS,
    **faults_of_credit.FAULTS,
}
CALLERS: Final = ("gateway", "embedded", "completions")
WARM_UP_S: Final = 1.5
LAST_CALLERS_S: Final = 60.0
LOOKS_MIN: Final = 10
TAKES_BACK: Final = frozenset(
    {
        *("kill_redis", "cut_hold", "swallow_then_flush", "swallow_then_rebuild"),
        *faults_of_credit.FAULTS,
        *faults_of_data.FAULTS,
        *faults_of_failover.FAULTS,
        *faults_of_promotion.FAULTS,
        *NODES,
    }
)
FORKS: Final = frozenset({"stale_promotion", "flap"})
_ACTION: Final = re.compile(r'"action": ?"(approved|rebuilt)"|action=(approved|rebuilt)')


@dataclass
class Outcome:
    """What a run came to. void: it proves nothing, because something did not bite."""

    seed: int
    seconds: float = 0.0
    faults: list[Struck] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    toothless: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    waited_for: str = ""

    @property
    def void(self) -> bool:
        return bool(self.toothless)

    def as_json(self) -> str:
        """All but what had been settled when, which is long."""
        document = asdict(self)
        for fault in document["faults"]:
            if fault["loss"]:
                fault["loss"]["settled"] = len(fault["loss"]["settled"])
        return json.dumps(document, indent=1, default=sorted)


async def run_chaos(
    run: Run, folder: Path, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Run it in an empty folder, which afterwards has the histories, the logs and the data."""
    outcome = Outcome(run.seed)
    started = time.monotonic()
    names = schedule(run)
    async with running(run, folder) as cluster:
        admin = Admin(cluster, run.seed)
        await admin.found()
        watcher = Watcher(cluster)
        for name in [name for name in cluster.down if name.startswith(CALLERS)]:
            cluster.down.discard(name)
        tasks = [asyncio.create_task(admin.run()), asyncio.create_task(watcher.run())]
        try:
            scene = Scene(cluster, random.Random(f"{run.seed}/faults"))
            await asyncio.sleep(WARM_UP_S)
            await scene.served(0.0)
            await _strike(scene, names, watcher, outcome, say)
            await asyncio.sleep(WARM_UP_S)
            await _heal(cluster)
            admin.stopping = True
            await _let_callers_finish(cluster)
        finally:
            admin.stopping = watcher.stopping = True
            await asyncio.gather(*tasks)
            await admin.close()
        losses = [struck.loss for struck in outcome.faults if struck.loss is not None]
        forked = any(struck.fault in FORKS for struck in outcome.faults)
        books = await prove(cluster, losses, forked)
        attempts = read_attempts(cluster.all_histories)
        times = [(struck.began, struck.ended) for struck in outcome.faults]
        judgement = judge(attempts, books.ledger, losses, times)
        outcome.violations += watcher.violations + books.violations + judgement.violations
        outcome.counts = _counts(cluster, judgement, watcher) | books.counts
        outcome.counts["rested ms"] = round(books.rested_s * 1000)
        outcome.waited_for = books.waited_for
    outcome.toothless += [f"{one.fault} did not bite" for one in outcome.faults if not one.bit]
    if watcher.looks < LOOKS_MIN:
        outcome.toothless.append(f"the stores were looked at {watcher.looks} times only")
    outcome.seconds = time.monotonic() - started
    (folder / "outcome.json").write_text(outcome.as_json())
    return outcome


def schedule(run: Run) -> list[str]:
    """The faults by name, in the order in which they come. A run in order has each of them once."""
    faults = [name for name in run.faults if FAKETIME is not None or name not in CLOCK]
    if not run.on_cluster:
        faults = [name for name in faults if name not in CLUSTER]
    if run.in_order:
        return faults
    dice = random.Random(f"{run.seed}/schedule")
    # More than there is time for; no fault comes again before all the others had their turn.
    names: list[str] = []
    while len(names) < run.seconds:
        dice.shuffle(faults)
        names += faults
    return names


async def _strike(
    scene: Scene,
    names: list[str],
    watcher: Watcher,
    outcome: Outcome,
    say: Callable[[str], None],
) -> None:
    run = scene.cluster.run
    ends = time.monotonic() + run.seconds
    for name in names:
        if time.monotonic() > ends and not run.in_order:
            return
        if name in TAKES_BACK:
            async with watcher.excused():
                struck = await FAULTS[name](scene)
        else:
            struck = await FAULTS[name](scene)
        outcome.faults.append(struck)
        took = struck.ended - struck.began
        say(
            f"  {name:22} {took:5.1f} s  {'bit' if struck.bit else 'DID NOT BITE'}  {struck.detail}"
        )
        await asyncio.sleep(scene.random.uniform(*run.rest_s))


async def _heal(cluster: Cluster) -> None:
    for proxy in cluster.links.values():
        proxy.heal()
    if cluster.replication is not None:
        cluster.replication.heal()


async def _let_callers_finish(cluster: Cluster) -> None:
    """Gateways finish what they are at; a commit that they still owe gets its chance."""
    gateways = [worker for name, worker in cluster.workers.items() if name.startswith(CALLERS)]
    cluster.down |= {worker.name for worker in gateways}
    await asyncio.gather(*(asyncio.to_thread(worker.stop, LAST_CALLERS_S) for worker in gateways))


def _counts(cluster: Cluster, judgement: Judgement, watcher: Watcher) -> dict[str, int]:
    counts: dict[str, Any] = dict(judgement.counts)
    counts |= {
        "acknowledged": judgement.acknowledged,
        "unknown for good": judgement.unknown,
        "lost": judgement.lost,
        "lost millicredits": judgement.lost_millicredits,
        "came back": cluster.came_back,
        "looks": watcher.looks,
        "stream max": watcher.stream_max,
    }
    for worker in (cluster.workers["settler-1"], cluster.workers["settler-2"]):
        for found in _ACTION.finditer(worker.log()):
            action = found[1] or found[2]
            counts[action] = counts.get(action, 0) + 1
    return counts

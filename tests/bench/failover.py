"""What callers notice when a primary of a cluster dies or hangs, and what is gone afterwards."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import asyncpg
from redis.exceptions import RedisError
from support.settlers import SettlerProcess, settler_process

from bench.harness import BenchFailed, Figure, Spread, Target
from bench.servers import Servers
from taximeter.api.embedded.cluster import ClusterNode, EmbeddedCluster
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterError, MeterSettings
from taximeter.meter.places.routed import server_of
from taximeter.meter.wire.keys import ShardKeys, shard_of
from taximeter.meter.wire.waits import Wait
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.proof.check import CheckLimits, check
from taximeter.settler.proof.reconcile import CouldNotLook
from taximeter.settler.status.lag import shard_statuses

SHARDS: Final = 12
CALLERS_PER_SHARD: Final = 2
PAUSE_S: Final = 0.02
LAG_S: Final = 0.4
BEFORE_S: Final = 1.5
AFTER_S: Final = 3.0
BOUND_S: Final = 120.0
ROUNDS_MAX: Final = 3
_ELECTED: Final = re.compile(r"(\d+ \w+ \d{4} [\d:.]+) \S Failover election won")


@dataclass(frozen=True, slots=True)
class Case:
    """How a primary comes to harm. lags: its replica lacks the last LAG_S of what it had. back_s:
    how soon after the election its shards answer, as promised.
    """

    name: str
    title: str
    hangs: bool = False
    lags: bool = False
    commit_wait: Wait = "none"
    back_s: float = 1.0


CASES: Final = (
    Case("kill", "kill -9 of a primary"),
    Case("hang", "SIGSTOP of a primary", hangs=True, back_s=2.0),
    Case("lag", f"kill -9, its replica {LAG_S} s behind", lags=True),
    Case("wait", f"kill -9, its replica {LAG_S} s behind, WAIT", lags=True, commit_wait="replica"),
)


@dataclass(slots=True)
class Call:
    """One charge of a millicredit; times of the machine's clock. `error` is its class."""

    shard: int
    request: str
    began: float
    ended: float = float("inf")
    error: str = "no answer"


@dataclass(slots=True)
class Outcome:
    """What one round came to. `shards` are those of the primary; `cut`: until when its replica had
    everything. elections: how many there were, of which one was meant. found: shards of which the
    guardian has said that something is lost.
    """

    calls: list[Call]
    shards: set[int]
    cut: float
    harmed: float
    elected: float
    elections: int
    missing: list[Call] = field(default_factory=list)
    found: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    @property
    def others_failed(self) -> Counter[str]:
        """Calls of other shards that were not answered, by what they ended with."""
        return Counter(c.error for c in self.calls if c.error and c.shard not in self.shards)

    @property
    def others_silent_s(self) -> float:
        """The longest time in which no call of another shard was answered."""
        ends = sorted(c.ended for c in self.calls if not c.error and c.shard not in self.shards)
        return max((later - one for one, later in pairwise(ends)), default=0.0)

    @property
    def back_s(self) -> float:
        """From the election until each of its shards has answered."""
        first: dict[int, float] = {}
        for call in self.calls:
            if not call.error and call.ended > self.elected:
                first[call.shard] = min(call.ended, first.get(call.shard, call.ended))
        return max(first.get(shard, float("inf")) for shard in self.shards) - self.elected

    @property
    def missing_too_early(self) -> list[Call]:
        """What is gone although its replica had it."""
        return [call for call in self.missing if call.ended < self.cut]

    @property
    def not_told(self) -> set[int]:
        """Shards that have lost something, and no guardian has said so."""
        return {call.shard for call in self.missing} - self.found


class FailoverWorld:
    """A cluster, and a settler that works on it, with an organisation on each shard."""

    def __init__(
        self, cluster: EmbeddedCluster, pool: asyncpg.Pool[asyncpg.Record], settler: SettlerProcess
    ) -> None:
        self.cluster = cluster
        self.pool = pool
        self.settler = settler
        self.url = cluster.url(*cluster.nodes)
        self.stores = Stores(pool, open_redis(SettlerSettings(redis_url=self.url)))
        names = [f"org{number}" for number in range(200)]
        self.orgs = [
            next(one for one in names if shard_of(one, SHARDS) == shard) for shard in range(SHARDS)
        ]

    async def open(self) -> None:
        """Return when every shard is open, and everybody has credits."""
        await comes(lambda: self._is_at_rest(), "the shards to be open")
        for org in self.orgs:
            for statement, *values in (
                ("organizations (id, org_name, slug, created_by) VALUES ($1, $1, $1, 'bench')",),
                ("organization_credit_pools (org_id, total_credits) VALUES ($1, $2)", 10**9),
                (
                    "user_credit_allocations (org_id, user_id, allocated_credits)"
                    " VALUES ($1, 'u', $2)",
                    10**8,
                ),
            ):
                await self.pool.execute(f"INSERT INTO {statement}", org, *values)

    async def round(self, case: Case, victim_of: int = 0) -> Outcome:
        """Harm the primary that has this shard, under charges, and say what came of it."""
        settings = MeterSettings(commit_wait=case.commit_wait, close_timeout_s=5.0)
        victim = await self._owner(victim_of)
        shards = {n for n in range(SHARDS) if await self._owner(n) is victim}
        heir = await asyncio.to_thread(self._replica_of, victim)
        calls: list[Call] = []
        said_before = len(self.settler.lines("guardian"))
        stop = asyncio.Event()
        async with await Meter.connect(
            self.url, loader=account_loader(self.pool), settings=settings
        ) as meter:
            callers = [
                asyncio.create_task(self._caller(meter, shard, calls, stop))
                for shard in range(SHARDS)
                for _ in range(CALLERS_PER_SHARD)
            ]
            try:
                await asyncio.sleep(BEFORE_S)
                began = time.time()
                cut = await asyncio.to_thread(self._harm, case, victim, heir)
                harmed = time.time()
                await comes(lambda: self._elections(began), "the election", pause_s=0.1)
                elected = (await self._elections(began))[0]
                if case.commit_wait != "none":
                    # Nothing is confirmed before there is a replica again.
                    await asyncio.to_thread(self._heal, case, victim)
                await comes(lambda: self._answers(calls, shards, elected), "its shards to answer")
                await asyncio.sleep(AFTER_S)
            finally:
                stop.set()
                await asyncio.gather(*callers)
        if case.commit_wait == "none":
            await asyncio.to_thread(self._heal, case, victim)
        await comes(lambda: self._is_at_rest(), "everything to be settled")
        outcome = Outcome(calls, shards, cut, harmed, elected, len(await self._elections(began)))
        await self._judge(outcome, said_before)
        return outcome

    async def _caller(
        self, meter: Meter, shard: int, calls: list[Call], stop: asyncio.Event
    ) -> None:
        while not stop.is_set():
            call = Call(shard, uuid.uuid4().hex, time.time())
            calls.append(call)
            try:
                await meter.charge(self.orgs[shard], "u", 1, request_id=call.request)
                call.error = ""
            except MeterError as error:
                call.error = type(error).__name__
            call.ended = time.time()
            await asyncio.sleep(PAUSE_S)

    def _harm(self, case: Case, victim: ClusterNode, heir: ClusterNode) -> float:
        """Returns until when the replica had everything, as far as that can be said."""
        cut = time.time()
        if case.lags:
            os.kill(heir.pid, signal.SIGSTOP)
            cut = time.time()
            # What is on its way would be there after it.
            victim.ask("CLIENT", "KILL", "TYPE", "replica")
            time.sleep(LAG_S)
        elif not case.hangs:
            cut -= 0.1  # Nobody waits for the replica: some milliseconds are on their way.
        if case.hangs:
            os.kill(victim.pid, signal.SIGSTOP)
        else:
            victim.kill()
        if case.lags:
            os.kill(heir.pid, signal.SIGCONT)
        return cut

    def _heal(self, case: Case, victim: ClusterNode) -> None:
        if case.hangs:
            os.kill(victim.pid, signal.SIGCONT)
        else:
            victim.start()
        self.cluster.wait_until_whole()

    async def _judge(self, outcome: Outcome, said_before: int) -> None:
        rows = await self.pool.fetch(
            "SELECT request_id, sum(credits_used)::bigint AS credits FROM credit_usage_attribution"
            " GROUP BY request_id"
        )
        charged = {row["request_id"]: row["credits"] for row in rows}
        for call in outcome.calls:
            if not call.error and call.request not in charged:
                outcome.missing.append(call)
            if charged.get(call.request, 1) != 1:
                outcome.wrong.append(f"{call.request} is charged {charged[call.request]}")
        outcome.found = {
            line["shard"]
            for line in self.settler.lines("guardian")[said_before:]
            if line["action"] == "rebuilt"
        }
        for _ in range(20):
            try:
                report = await check(self.stores, CheckLimits(loss_alarm_s=0.0))
            except CouldNotLook:
                await asyncio.sleep(0.2)
                continue
            outcome.wrong += [f"{i.name} {v}" for i in report.invariants for v in i.violations]
            break
        else:
            outcome.wrong.append("check could not look")

    async def _is_at_rest(self) -> bool:
        try:
            found = await shard_statuses(self.stores)
            for one in found:
                server = await server_of(self.stores.redis, ShardKeys("tm", one.shard).meta)
                run_id = (await server.info("server"))["run_id"]
                meta = await self.stores.redis.hget(ShardKeys("tm", one.shard).meta, "run_id")
                if one.redis_seq is None or one.unsettled_events or meta != run_id.encode():
                    return False
        except (RedisError, OSError):
            return False
        return len(found) == SHARDS

    async def _owner(self, shard: int) -> ClusterNode:
        server = await server_of(self.stores.redis, ShardKeys("tm", shard).meta)
        return self.cluster.by_port(int(server.name.rpartition(":")[2]))

    def _replica_of(self, primary: ClusterNode) -> ClusterNode:
        with primary.sync as client:
            return self.cluster.by_port(int(client.info("replication")["slave0"]["port"]))

    async def _elections(self, since: float) -> list[float]:
        """When nodes were elected since then, as they have logged it."""
        said = [
            found
            for node in self.cluster.nodes
            for found in _ELECTED.findall(node.log_path.read_text(errors="replace"))
        ]
        times = [datetime.strptime(one, "%d %b %Y %H:%M:%S.%f").timestamp() for one in said]
        return sorted(at for at in times if at >= since)

    async def _answers(self, calls: list[Call], shards: set[int], since: float) -> bool:
        back = {call.shard for call in calls if not call.error and call.ended > since}
        return shards <= back


@asynccontextmanager
async def failover_world(
    folder: Path, database_url: str, binary: Path | None = None
) -> AsyncIterator[FailoverWorld]:
    """Open, and ended with everything in it."""
    async with AsyncExitStack() as stack:
        cluster = EmbeddedCluster(folder / "cluster", binary=binary)
        stack.callback(cluster.stop)
        await asyncio.to_thread(cluster.start)
        arq = stack.enter_context(EmbeddedValkey(folder / "arq", append_only=False))
        environment = {
            "TAXIMETER_REDIS_URL": cluster.url(*cluster.nodes),
            "TAXIMETER_ARQ_REDIS_URL": arq.url,
            "TAXIMETER_DATABASE_URL": database_url,
            "TAXIMETER_SHARDS": str(SHARDS),
            "TAXIMETER_LOG_FORMAT": "json",
        }
        log = folder / "settler.log"
        settler = stack.enter_context(settler_process(environment, log))
        pool = await stack.enter_async_context(
            asyncpg.create_pool(database_url, min_size=1, max_size=4)
        )
        world = FailoverWorld(cluster, pool, settler)
        stack.push_async_callback(world.stores.redis.aclose)
        await world.open()
        yield world


async def comes(
    condition: Callable[[], Awaitable[object]], what: str, *, pause_s: float = 0.02
) -> None:
    """Wait for it. Raises BenchFailed."""
    deadline = time.monotonic() + BOUND_S
    while not await condition():
        if time.monotonic() > deadline:
            raise BenchFailed(f"waited {BOUND_S:.0f} s for {what}")
        await asyncio.sleep(pause_s)


async def run(servers: Servers) -> list[Figure]:
    """Each case in turn, on the same cluster: the primary is another one each time."""
    outcomes: dict[str, list[Outcome]] = {case.name: [] for case in CASES}
    folder = servers.data_dir / "failover"
    shutil.rmtree(folder, ignore_errors=True)  # A run that was killed leaves its data.
    async with servers.database() as database_url:
        folder.mkdir(parents=True)
        async with failover_world(folder, database_url, servers.redis_binary) as world:
            for number in range(min(ROUNDS_MAX, servers.scale.rounds)):
                for case in CASES:
                    outcomes[case.name].append(await world.round(case, number % SHARDS))
    shutil.rmtree(folder, ignore_errors=True)
    return [figure for case in CASES for figure in _figures(case, outcomes[case.name])]


def _figures(case: Case, found: list[Outcome]) -> list[Figure]:
    wrong = [one for outcome in found for one in outcome.wrong]
    if wrong:
        raise BenchFailed(f"{case.title}: {wrong[:3]}")
    answered = sum(not call.error for outcome in found for call in outcome.calls)
    too_early = sum(len(outcome.missing_too_early) for outcome in found)
    not_told = sum(len(outcome.not_told) for outcome in found)
    others = sum((outcome.others_failed for outcome in found), Counter[str]())
    meant = all(outcome.elections == 1 for outcome in found)
    note = (
        f"{sum(len(one.missing) for one in found)} of {answered:,} answered charges gone,"
        f" {too_early} that the replica had; in {not_told} shards no guardian said so; calls of"
        f" others that failed: {dict(others) or 'none'}"
        + ("" if meant else "; others were elected, too")
    )
    return [
        Figure(
            f"failover_{case.name}_others",
            f"{case.title}: longest silence of other shards",
            "s",
            Spread(tuple(one.others_silent_s for one in found)),
            target=Target(0.5, "at most", "value", "python"),
            note=note,
        ),
        Figure(
            f"failover_{case.name}_back",
            f"{case.title}: election until its shards answer",
            "s",
            Spread(tuple(one.back_s for one in found)),
            target=Target(case.back_s, "at most", "value", "python")
            if case.commit_wait == "none"
            else None,
        ),
    ]

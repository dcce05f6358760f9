"""Counts what this settler does, for its /metrics. Nothing here waits or fails."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from taximeter.settler.exports.kinds import KINDS
from taximeter.settler.exports.reading import bounds
from taximeter.settler.moves.relay import Relayed
from taximeter.settler.proof.reconcile import Totals
from taximeter.settler.settling.settle import Settled
from taximeter.settler.shards.guardian import Guarded
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.metrics import Exposition
from taximeter.settler.status.money import MoneyLook
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.sweep import Swept

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_EVENTS: Final = (1, 10, 100, 1_000, 10_000, 100_000)
_JOB_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
JOBS: Final = ("refresh", "reconcile", "daily")
STATES: Final = ("whole", "closed", "superseded", "unknown")
"""Of a shard, as its guardian has found it last: superseded by a later Postgres, or not to be
looked at.
"""
_QUIET: Final = frozenset({"nothing", "waiting"})
_CREDIT: Final = 1_000
"""Millicredits."""


class WorkMetrics:
    """Figures of one process since it began. Amounts are credits, as floats: to look at, and no
    books.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._turn_s = Histogram(
            "taximeter_settle_seconds",
            "How long it took to book the events of a shard, where there were some.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._turn_events = Histogram(
            "taximeter_settle_events",
            "How many events of a shard were booked at a time.",
            buckets=_EVENTS,
            registry=registry,
        )
        self._actions = Counter(
            "taximeter_guardian_actions",
            "What the guardian did about shards: opened, approved, rebuilt.",
            ("action",),
            registry=registry,
        )
        self._states: dict[int, str] = {}
        self._fences: dict[int, int] = {}
        self._jobs = Histogram(
            "taximeter_job_seconds",
            "How long rounds of the jobs that arq carries took, also those that failed.",
            ("loop",),
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        for job in JOBS:
            self._jobs.labels(job)
        for action in ("opened", "approved", "rebuilt"):
            self._actions.labels(action)
        self._lost = Counter(
            "taximeter_found_lost_events",
            "Events that this process found to be lost before they were booked.",
            registry=registry,
        )
        self._deliveries = Counter(
            "taximeter_notice_deliveries",
            "Tries to send a notice, by kind of receiver and what became of them.",
            ("kind", "outcome"),
            registry=registry,
        )
        for kind in ("webhook", "slack", "email"):
            for outcome in ("delivered", "failed"):
                self._deliveries.labels(kind, outcome)
        self._relayed_at = time.monotonic()
        self._applied = Counter(
            "taximeter_relayed_entries", "Entries brought to Redis.", registry=registry
        )
        self._refused = Gauge(
            "taximeter_relay_refused_accounts",
            "Accounts whose entries Redis refused when they were last brought.",
            registry=registry,
        )
        self._ended = Counter(
            "taximeter_expired_holds", "Holds ended because they were due.", registry=registry
        )
        self._uncharged = Counter(
            "taximeter_uncharged_credits",
            "Reported progress of holds that was not charged, since its server started anew.",
            registry=registry,
        )
        self._recounted = Counter(
            "taximeter_repaired_hold_counts",
            "Accounts whose count of open holds was wrong and was mended.",
            registry=registry,
        )
        self._suspected = Gauge(
            "taximeter_suspected_accounts",
            "Differences between live accounts and books in the last look.",
            registry=registry,
        )
        self._drifting = Gauge(
            "taximeter_drifting_accounts",
            "Differences that the last two looks agree on: the books or Redis are wrong.",
            registry=registry,
        )
        self._compared = Gauge(
            "taximeter_reconciled_timestamp_seconds",
            "When live accounts and books were last compared, by the clock of this machine.",
            registry=registry,
        )
        self._exported_rows = Counter(
            "taximeter_export_rows",
            "Rows that this process wrote into exports of days, by kind.",
            ("kind",),
            registry=registry,
        )
        for kind in KINDS:
            self._exported_rows.labels(kind)
        self._exported_to: datetime | None = None
        self._totals: Totals | None = None

    def settled(self, done: Settled, seconds: float) -> None:
        """A turn of settling is over."""
        self._lost.inc(done.lost)
        if events := done.settled + done.dead + done.lost:
            self._turn_s.observe(seconds)
            self._turn_events.observe(events)

    def delivered(self, kind: str, outcome: str) -> None:
        """A notice was sent, or could not be."""
        self._deliveries.labels(kind, outcome).inc()

    def exported(self, rows: Mapping[str, int]) -> None:
        """So many rows of each kind were written into the exports of a day."""
        for kind, number in rows.items():
            self._exported_rows.labels(kind).inc(number)

    def exported_to(self, last_day: date | None) -> None:
        """This is the last day that was exported, by whomever."""
        if last_day is not None:
            self._exported_to = bounds(last_day, last_day)[1]

    def guarded(self, done: Guarded) -> None:
        """The guardian has looked at a shard."""
        before = self._states.get(done.shard)
        self._lost.inc(done.lost)
        if done.usable:
            self._states[done.shard] = "whole"
        else:
            self._states[done.shard] = "superseded" if done.action == "superseded" else "closed"
        was_closed = done.action == "rebuilt" or not done.usable
        if was_closed and before not in ("closed", "superseded"):
            self._fences[done.shard] = self._fences.get(done.shard, 0) + 1
        if done.action not in _QUIET:
            self._actions.labels(done.action).inc()

    def could_not_guard(self, shard: int) -> None:
        """The guardian could not look at a shard."""
        if self._states.get(shard) != "closed":
            self._states[shard] = "unknown"

    def job_ran(self, job: str, seconds: float) -> None:
        """A round of a job is over."""
        self._jobs.labels(job).observe(seconds)

    def shards(self, number: int) -> None:
        """There are so many shards now: those above are no longer told of."""
        for known in (self._states, self._fences):
            for shard in [shard for shard in known if shard >= number]:
                del known[shard]

    def relayed(self, done: Relayed) -> None:
        """A round of the relay is over."""
        self._applied.inc(done.applied)
        self._refused.set(len(done.refused))
        if done.through and not done.refused and not done.closed_shards:
            self._relayed_at = time.monotonic()

    def swept(self, done: Swept) -> None:
        """A round of the sweep is over."""
        self._ended.inc(done.ended)
        self._uncharged.inc(done.uncharged / _CREDIT)

    def recounted(self, accounts: int) -> None:
        """Counts of so many accounts were mended."""
        self._recounted.inc(accounts)

    def reconciled(self, totals: Totals, suspected: int, drifting: int) -> None:
        """All live accounts were compared with the books."""
        self._suspected.set(suspected)
        self._drifting.set(drifting)
        self._compared.set_to_current_time()
        self._totals = totals

    def families(self) -> Iterator[Metric]:
        """Everything counted here."""
        yield from self._registry.collect()
        usable = GaugeMetricFamily(
            "taximeter_shard_usable",
            "1 when the guardian of this process last found the shard whole, 0 when it did not.",
            labels=("shard",),
        )
        guardian = GaugeMetricFamily(
            "taximeter_guardian_state",
            "1 for the state in which the guardian of this process last found the shard.",
            labels=("shard", "state"),
        )
        fences = CounterMetricFamily(
            "taximeter_fences",
            "Times that this process found the shard closed, or closed it to rebuild it.",
            labels=("shard",),
        )
        for shard, found in self._states.items():
            usable.add_metric((str(shard),), found == "whole")
            fences.add_metric((str(shard),), self._fences.get(shard, 0))
            for state in STATES:
                guardian.add_metric((str(shard), state), found == state)
        yield from (usable, guardian, fences)
        yield GaugeMetricFamily(
            "taximeter_relay_lag_seconds",
            "Time since the relay of this process last brought Redis everything that waits.",
            time.monotonic() - self._relayed_at,
        )
        if self._exported_to is not None:
            yield GaugeMetricFamily(
                "taximeter_exported_until_timestamp_seconds",
                "The end of the last day that was exported, in UTC.",
                self._exported_to.timestamp(),
            )
        if self._totals is None:
            return
        yield GaugeMetricFamily(
            "taximeter_accounts", "Accounts in the last look.", self._totals.accounts
        )
        credits = GaugeMetricFamily(
            "taximeter_account_credits",
            "Credits of all accounts in the last look, by what they are.",
            labels=("state",),
        )
        credits.add_metric(("available",), (self._totals.live - self._totals.held) / _CREDIT)
        credits.add_metric(("held",), self._totals.held / _CREDIT)
        yield credits


def settler_exposition(
    health: HealthCheck, work: WorkMetrics, activity: LoopActivity, money: MoneyLook
) -> Exposition:
    """Everything that a settler tells."""
    exposition = Exposition("settler", health)
    exposition.add(work.families)
    exposition.add(lambda: _loop_families(activity))
    exposition.add(money.families)
    exposition.look_first(money.refresh)
    return exposition


def _loop_families(activity: LoopActivity) -> Iterator[Metric]:
    """How the loops and jobs of this process are."""
    idle = GaugeMetricFamily(
        "taximeter_loop_idle_seconds", "Time since the loop's last sign of life.", labels=("loop",)
    )
    failing = GaugeMetricFamily(
        "taximeter_loop_failing", "1 when the loop's last try failed.", labels=("loop",)
    )
    for name, idle_s, _, trouble in activity.signs():
        idle.add_metric((name,), idle_s)
        failing.add_metric((name,), trouble is not None)
    period = GaugeMetricFamily(
        "taximeter_loop_period_seconds", "Time between two rounds of the loop.", labels=("loop",)
    )
    pieces = CounterMetricFamily(
        "taximeter_loop_work",
        "Pieces of work, a round or the part of one shard, by whether they succeeded.",
        labels=("loop", "outcome"),
    )
    for name, every_s, done, failed in activity.counts():
        period.add_metric((name,), every_s)
        pieces.add_metric((name, "done"), done)
        pieces.add_metric((name, "failed"), failed)
    yield from (idle, failing, period, pieces)

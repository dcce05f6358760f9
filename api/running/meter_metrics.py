"""Tells for /metrics what operations of this process came to, what they held and charged, how long
they took and waited for their shard. Labels name operations, shards and limits, and nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from taximeter.api.web.histograms import buckets_of
from taximeter.meter import Meter
from taximeter.meter.lanes.pressure import WAIT_BUCKETS_S
from taximeter.meter.lanes.tally import LATENCY_BUCKETS_S, Tally
from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT

_BOUNDS: Final = (*(f"{bound:g}" for bound in WAIT_BUCKETS_S), "+Inf")
_LATENCY_BOUNDS: Final = (*(f"{bound:g}" for bound in LATENCY_BUCKETS_S), "+Inf")
_CHARGES: Final = ("commit", "charge", "expire")
_OTHERS: Final = tuple(code for code in Code if code not in (Code.OK, Code.GAP, Code.ELSEWHERE))
"""What an operation can come to besides being done."""


def meter_families(meter: Meter | None) -> Iterator[Metric]:
    """The figures of every shard, and how many operations were reported as overdrafts. Nothing
    before there is a meter.
    """
    if meter is None:
        return
    waiting = GaugeMetricFamily(
        "taximeter_waiting_operations",
        "Operations in this process that wait for the shard.",
        labels=("shard",),
    )
    waits = HistogramMetricFamily(
        "taximeter_wait_seconds",
        "How long operations waited, each as long as the first of its call.",
        labels=("shard",),
    )
    refused = CounterMetricFamily(
        "taximeter_busy_refusals",
        "Refused because too many wait, by whose they are.",
        labels=("shard", "limit"),
    )
    unconfirmed = CounterMetricFamily(
        "taximeter_unconfirmed_answers",
        "Done, and not confirmed by disks or replicas in time.",
        labels=("shard",),
    )
    missing = CounterMetricFamily(
        "taximeter_missing_calls",
        "Calls that a server had acknowledged here and has lost.",
        labels=("shard",),
    )
    for shard, count, pressure in meter.pressure():
        of = (str(shard),)
        waiting.add_metric(of, count)
        waits.add_metric(of, buckets_of(_BOUNDS, pressure.waits), pressure.waits_sum_s)
        for limit, number in pressure.refused.items():
            refused.add_metric((str(shard), limit), number)
        unconfirmed.add_metric(of, pressure.unconfirmed)
        missing.add_metric(of, pressure.missing)
    yield from (waiting, waits, refused, unconfirmed, missing)
    yield CounterMetricFamily(
        "taximeter_overdrafts",
        "Operations that left an account below the reported overdraft.",
        meter.overdrafts,
    )
    connections = GaugeMetricFamily(
        "taximeter_redis_connections",
        "Connections of this process to Redis: of lanes, which carry operations, and of look-ups.",
        labels=("state",),
    )
    for state, number in meter.connections.items():
        connections.add_metric((state,), number)
    yield connections
    yield from _credit_families(meter)
    yield from _operation_families(meter.tally)


def _credit_families(meter: Meter) -> Iterator[Metric]:
    if (figures := meter.on_credit) is None:
        return
    opened, due, outstanding, limit = figures
    requests = GaugeMetricFamily(
        "taximeter_credit_line_requests",
        "Requests that were admitted while Redis was away: open, and ended but not charged yet.",
        labels=("state",),
    )
    requests.add_metric(("open",), opened)
    requests.add_metric(("due",), due)
    credits = GaugeMetricFamily(
        "taximeter_credit_line_credits",
        "Credits that those come to, and the most that all lines of this process may.",
        labels=("state",),
    )
    credits.add_metric(("outstanding",), outstanding / MILLICREDITS_PER_CREDIT)
    credits.add_metric(("max",), limit / MILLICREDITS_PER_CREDIT)
    yield from (requests, credits)


def _operation_families(tally: Tally) -> Iterator[Metric]:
    """Every series from the beginning, so that the first of its kind is seen as an increase."""
    operations = CounterMetricFamily(
        "taximeter_operations",
        "Answers of Redis to operations of this process, by what became of them.",
        labels=("operation", "outcome"),
    )
    held = CounterMetricFamily(
        "taximeter_held_credits", "Credits that reserves of this process held.", labels=()
    )
    charged = CounterMetricFamily(
        "taximeter_charged_credits",
        "Credits that were charged through this process; expire: holds on a credit line.",
        labels=("operation",),
    )
    times = HistogramMetricFamily(
        "taximeter_operation_seconds",
        "From being asked for to the answer, of the first operation of each call to Redis.",
        labels=("operation",),
    )
    for operation, figures in tally.by_operation.items():
        operations.add_metric((operation, "done"), figures.done)
        for code in _OTHERS:
            operations.add_metric((operation, code.name.lower()), figures.others[code])
        found = tally.exemplars.get(operation)
        counts = buckets_of(_LATENCY_BOUNDS, figures.buckets, found)
        times.add_metric((operation,), counts, figures.seconds)
        if operation in _CHARGES:
            charged.add_metric((operation,), figures.amount / MILLICREDITS_PER_CREDIT)
    held.add_metric((), tally.by_operation["reserve"].amount / MILLICREDITS_PER_CREDIT)
    yield from (operations, held, charged, times)

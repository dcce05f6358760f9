"""Tells what the settler's last look at the books has found: for /metrics and for the status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric

_HEAD_BYTES: Final = 6
"""Of the chain's head: as much as a metric can say exactly."""


def checked_families(row: Any) -> Iterator[Metric]:
    """What a row of `last_look` says; nothing before the first look."""
    if row is None or row["checked_at"] is None:
        return

    def gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"taximeter_check_{name}", what, value)

    yield gauge(
        "timestamp_seconds",
        "When a settler last looked at the whole of the books, by the clock of Postgres.",
        row["checked_at"],
    )
    yield gauge(
        "proved_timestamp_seconds",
        "When such a look last proved all of it right; 0 when none did.",
        row["proved_at"] or 0,
    )
    yield gauge("seconds", "How long the last look at the books took.", row["seconds"])
    yield gauge("violations", "What the last look found wrong with the books.", row["violations"])
    broken = GaugeMetricFamily(
        "taximeter_check_violated",
        "1 for each invariant that does not hold, as `taximeter check` names it.",
        labels=("invariant",),
    )
    for name in row["violated"]:
        broken.add_metric((name,), 1)
    yield broken
    yield gauge(
        "rows_new", "Rows that the last look read, since no seal has them.", row["rows_new"]
    )
    yield gauge("rows_sealed", "Rows that seals stand for.", row["rows_sealed"])
    yield gauge(
        "sealed_until_timestamp_seconds",
        "Every row from before is sealed; 0 while nothing is.",
        row["sealed_until"] or 0,
    )
    yield gauge(
        "round_timestamp_seconds",
        "When all sealed rows had been read again, day by day; 0 when they never were.",
        row["round_ended_at"] or 0,
    )
    yield gauge("seals", "Seals in the chain.", row["seal_n"])
    yield gauge(
        "seal_head",
        f"The first {_HEAD_BYTES} bytes of the chain's last link, as a number: it belongs to the"
        " number of seals, and no other one ever does.",
        int((row["seal_head"] or "0")[: _HEAD_BYTES * 2], 16),
    )

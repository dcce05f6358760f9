"""Tells for /metrics who was refused: by surface, and by the row of the tables of refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, Metric

from taximeter.meter.wire.http_refusals import HTTP_REFUSALS
from taximeter.meter.wire.refusals import REFUSALS

Surface = Literal["admin", "llm", "sidecar", "gate"]

REASONS: Final[dict[Surface, tuple[str, ...]]] = {
    surface: tuple(
        sorted(
            cause
            for table in (REFUSALS, HTTP_REFUSALS)
            for cause, row in table.items()
            if getattr(row, surface) is not None
        )
    )
    for surface in ("admin", "llm", "sidecar", "gate")
}
"""What each surface can refuse for."""


def refusal_families(counts: Mapping[tuple[str, str], int], *surfaces: Surface) -> Iterator[Metric]:
    """Every reason of these surfaces from the beginning, so that the first refusal is seen as an
    increase.
    """
    refusals = CounterMetricFamily(
        "taximeter_refusals",
        "Requests, and operations of batches, that were refused, by surface and reason.",
        labels=("surface", "reason"),
    )
    series: dict[tuple[str, str], int] = {
        (surface, reason): 0 for surface in surfaces for reason in REASONS[surface]
    }
    for of, number in {**series, **counts}.items():
        refusals.add_metric(of, number)
    yield refusals

"""Counts requests and how long they took, for /metrics: by method, route and status, and by nothing
that a caller can make up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from taximeter.api.web.histograms import buckets_of
from taximeter.meter.wire.exemplars import Exemplars

OTHER: Final = "other"
"""The method or route of a request whose own is none of ours."""
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
_BOUNDS: Final = (*(f"{bound:g}" for bound in _BUCKETS_S), "+Inf")


class RequestTimes:
    """Plain numbers, so that noting one costs about as much as a look into a dictionary.

    `trace_id` says which trace what is noted belongs to, or 0; None where nothing is traced.
    """

    def __init__(self) -> None:
        self.trace_id: Callable[[], int] | None = None
        self._exemplars: dict[tuple[str, str], Exemplars] = {}
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._buckets: dict[tuple[str, str], list[int]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has ended; a status of 0 says that its caller left before an answer began."""
        if method not in METHODS:
            method = OTHER
        which = (method, route)
        buckets = self._buckets.get(which)
        if buckets is None:
            buckets = self._buckets[which] = [0] * len(_BOUNDS)
            self._sums[which] = 0.0
        buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._sums[which] += seconds
        self._answers[method, route, status] += 1
        if self.trace_id is not None and (trace_id := self.trace_id()):
            if which not in self._exemplars:
                self._exemplars[which] = Exemplars(_BUCKETS_S)
            self._exemplars[which].keep(trace_id, seconds)

    def families(self) -> Iterator[Metric]:
        """Everything noted since this process began."""
        answers = CounterMetricFamily(
            "taximeter_http_requests",
            "Requests that ended, by status; 0: the caller left before an answer began.",
            labels=("method", "route", "status"),
        )
        for (method, route, status), number in self._answers.items():
            answers.add_metric((method, route, str(status)), number)
        yield answers
        times = HistogramMetricFamily(
            "taximeter_http_request_seconds",
            "How long requests took, from their head to the end of their answer.",
            labels=("method", "route"),
        )
        for which, buckets in self._buckets.items():
            counts = buckets_of(_BOUNDS, buckets, self._exemplars.get(which))
            times.add_metric(which, counts, self._sums[which])
        yield times

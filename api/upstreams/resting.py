"""Rests an upstream or a Redis that is not there, so that not every request waits for it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Final

from taximeter.api.web.errors import from_meter
from taximeter.meter import MeterError, NotConfirmed, OutcomeUnknown, StoreUnavailable

STORE_REST_S: Final = 0.5


class Rest:
    """Counts failures in a row. After `failures_max` of them the upstream rests for `rest_s`; then
    one request tries it, and all others go on without it until that one has ended.
    """

    def __init__(
        self,
        failures_max: int,
        rest_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_max = failures_max
        self._rest_s = rest_s
        self._clock = clock
        self._failures = 0
        self._until = 0.0

    @property
    def is_resting(self) -> bool:
        """Whether to leave it alone now. Asking after the rest takes the one trial, which counts as
        failed until it is known to be better.
        """
        if self._failures < self._failures_max:
            return False
        now = self._clock()
        if now < self._until:
            return True
        self._until = now + self._rest_s
        return False

    @property
    def rests(self) -> bool:
        """The same for those who only look: no trial is taken."""
        return self._failures >= self._failures_max and self._clock() < self._until

    def failed(self) -> None:
        """It could not be reached."""
        self._failures += 1
        if self._failures >= self._failures_max:
            self._until = self._clock() + self._rest_s

    def answered(self) -> None:
        """It is there, whatever it answered."""
        self._failures = 0


class StoreRest:
    """Refuses at once what would wait for a Redis that has just not answered. One request in each
    STORE_REST_S still tries, so that the first one after an outage goes through.

    Organisations with a credit line are let through: they go on without Redis.
    """

    def __init__(self, with_credit_line: Container[str]) -> None:
        self._rest = Rest(1, STORE_REST_S)
        self._with_credit_line = with_credit_line

    def check(self, org_id: str) -> None:
        """Raises ApiError 503."""
        if org_id not in self._with_credit_line and self._rest.is_resting:
            raise from_meter(StoreUnavailable("Redis has not answered a moment ago"))

    def note(self, error: MeterError | None) -> None:
        """How a call to the meter went."""
        is_away = isinstance(error, StoreUnavailable | OutcomeUnknown)
        if is_away and not isinstance(error, NotConfirmed):
            self._rest.failed()
        else:
            self._rest.answered()

"""What the meter refuses is said with its reason, and none of them is a failure of ours."""

from __future__ import annotations

import pytest

from taximeter.api.web.errors import from_meter
from taximeter.meter import (
    AdmissionPaused,
    MeterError,
    OutcomeUnknown,
    Overloaded,
    ShardFenced,
    StoreOutOfMemory,
    StoreUnavailable,
    TooManyForAccount,
    TooManyHolds,
)

REASONS: list[tuple[MeterError, int, str]] = [
    (AdmissionPaused("backlog"), 503, "backlog"),
    (AdmissionPaused("drain"), 503, "maintenance"),
    (ShardFenced("fenced"), 503, "fenced"),
    (StoreOutOfMemory("x"), 503, "store_out_of_memory"),
    (StoreUnavailable("x"), 503, "store_unavailable"),
    (OutcomeUnknown("x"), 503, "outcome_unknown"),
    (Overloaded("x"), 503, "overloaded"),
    (TooManyForAccount("account", 5), 429, "too_many_waiting"),
    (TooManyForAccount("organization", 5), 429, "too_many_waiting"),
    (TooManyHolds(5), 429, "too_many_holds"),
]


@pytest.mark.parametrize(("error", "status", "reason"), REASONS, ids=lambda one: str(one)[:30])
def test_a_refusal_names_its_reason_and_when_to_come_again(
    error: MeterError, status: int, reason: str
) -> None:
    refusal = from_meter(error)
    assert (refusal.status, refusal.details["reason"]) == (status, reason)
    assert refusal.headers["Retry-After"] == "1"

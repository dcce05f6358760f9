"""Every surface answers a refusal of the meter as the one table says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.errors_page import page

from taximeter.api.web.errors import from_meter
from taximeter.meter.sidecar.answers import refusal_of
from taximeter.meter.wire import errors
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.refusals import REFUSALS, Cause, RefusalRow, cause_of

RECEIPT = Receipt("r1", "open", 10, 0, 90, 10)
EVERY: list[tuple[errors.MeterError, Cause]] = [
    (errors.InsufficientCredits(10, 5, 4), "insufficient_credits"),
    (errors.InsufficientCredits(10, 5, 5), "holds_in_the_way"),
    (errors.AccountNotFound("o", "u"), "account_not_found"),
    (errors.RequestReplayed(RECEIPT), "replayed"),
    (errors.RequestConflict(RECEIPT), "conflict"),
    (errors.UnknownHold("r1"), "unknown_hold"),
    (errors.NotAllowed("r1", "opener"), "not_allowed"),
    (errors.InvalidRequest("ttl_s", "at least 1"), "invalid_request"),
    (errors.TooManyForAccount("account", 5), "too_many_waiting"),
    (errors.TooManyHolds(5), "too_many_holds"),
    (errors.Overloaded("x"), "overloaded"),
    (errors.ShardFenced("fenced"), "fenced"),
    (errors.ShardsChanged(0, 2, 1), "fenced"),
    (errors.AdmissionPaused("backlog"), "backlog"),
    (errors.AdmissionPaused("drain"), "maintenance"),
    (errors.StoreOutOfMemory("x"), "out_of_memory"),
    (errors.NotConfirmed("disk", "1 of 2 disks"), "not_confirmed"),
    (errors.OutcomeUnknown("x"), "outcome_unknown"),
    (errors.StoreUnavailable("x"), "unavailable"),
    (errors.UnsafeServer(["x"]), "unexpected"),
    (errors.StoreError("x"), "unexpected"),
]


@pytest.mark.parametrize(("error", "cause"), EVERY, ids=lambda one: str(one)[:30])
def test_the_surfaces_answer_as_the_table_says(error: errors.MeterError, cause: Cause) -> None:
    assert cause_of(error) == cause
    row = REFUSALS[cause]
    api, sidecar = from_meter(error), refusal_of(error)
    assert (api.status, api.code) == row.llm[:2]
    assert api.details.get("reason", "") == row.llm.reason
    assert ("Retry-After" in api.headers) is row.retry
    assert (sidecar.status, sidecar.code, sidecar.retry) == (*row.sidecar[:2], row.retry)
    assert "{" not in api.message + sidecar.message


def kinds(kind: type[errors.MeterError]) -> Iterator[type[errors.MeterError]]:
    for one in kind.__subclasses__():
        yield one
        yield from kinds(one)


def test_every_error_of_the_meter_has_a_row() -> None:
    public = {kind for kind in kinds(errors.MeterError) if kind.__module__ == errors.__name__}
    assert {type(error) for error, _ in EVERY} == public
    assert {cause for _, cause in EVERY} == set(REFUSALS)


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS)
def test_what_differs_has_a_reason(row: RefusalRow) -> None:
    answers = [said for said in (row.admin, row.llm, row.sidecar, row.gate) if said is not None]
    assert bool(row.why) is (len({said[:2] for said in answers}) > 1)
    assert row.retry is (row.llm.status in (429, 503))


def test_the_page_is_of_the_table() -> None:
    path = Path(__file__).parents[2] / "docs" / "errors.md"
    if os.environ.get("WRITE_DOCS"):
        path.write_text(page(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == page()

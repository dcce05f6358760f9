"""Every surface refuses as the one table says, and nothing that is not in it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.errors_page import page
from support.sources import sources

from taximeter.api.web.errors import ApiError, from_meter
from taximeter.meter.sidecar.answers import http_refusal, refusal_of
from taximeter.meter.wire import errors
from taximeter.meter.wire.http_refusals import HTTP_REFUSALS, HttpCause, HttpRefusal
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.refusals import REFUSALS, Cause, RefusalRow, cause_of

ROOT = Path(__file__).parents[2]
RECEIPT = Receipt("r1", "open", 10, 0, 90, 10)
FIGURES = (
    *(
        "field",
        "limit",
        "why",
        "allow",
        "bytes_max",
        "model",
        "count",
        "kind",
        "window_s",
        "wait_s",
    ),
    *("unit", "whose", "message", "most"),
)
"""Whatever a sentence of the table has a place for."""
NO_CODES = (
    "refuse_with",
    "service_tier",
    "TAXIMETER_LLM_BODY_BYTES_MAX",
    "TAXIMETER_LLM_BODY_VALUES_MAX",
)
"""Words of those pages that look like codes."""
EVERY: list[tuple[errors.MeterError, Cause]] = [
    (errors.InsufficientCredits(10, 5, 4), "insufficient_credits"),
    (errors.InsufficientCredits(10, 5, 5), "holds_in_the_way"),
    (errors.AccountNotFound("o", "u"), "account_not_found"),
    (errors.WrongCell("o", "b", "https://b", "https://s.b"), "wrong_cell"),
    (errors.CellUnknown("o"), "cell_unknown"),
    (errors.OrganizationMoves("o"), "moving"),
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


@pytest.mark.parametrize("row", [*REFUSALS.values(), *HTTP_REFUSALS.values()])
def test_what_differs_has_a_reason(row: RefusalRow | HttpRefusal) -> None:
    answers = [said for said in (row.admin, row.llm, row.sidecar, row.gate) if said is not None]
    assert bool(row.why) is (len({said[:2] for said in answers}) > 1)
    if isinstance(row, RefusalRow):
        assert row.retry is (row.llm.status in (429, 503))


@pytest.mark.parametrize(("cause", "row"), HTTP_REFUSALS.items())
def test_what_never_comes_to_the_meter_is_answered_as_the_table_says(
    cause: HttpCause, row: HttpRefusal
) -> None:
    figures = dict.fromkeys(FIGURES, "7")
    if row.admin is not None and row.llm is not None:
        assert (*row.admin[:2], row.admin.reason) == (*row.llm[:2], row.llm.reason)
    assert row.gate in (None, row.sidecar), "forward auth is answered by the sidecar"
    if said := row.llm or row.admin:
        api = ApiError.of(cause, **figures)
        assert (api.status, api.code, api.details.get("reason", "")) == (*said[:2], said.reason)
        assert ("Retry-After" in api.headers) is row.retry
        assert "{" not in api.message
    if row.sidecar is not None:
        sidecar = http_refusal(cause, **figures)
        assert (sidecar.status, sidecar.code, sidecar.retry) == (*row.sidecar[:2], row.retry)
        assert "{" not in sidecar.message


def test_no_refusal_is_made_up_beside_the_table() -> None:
    """A status has the code that the table has for it, and what has a code of its own is a row."""
    causes = set(HTTP_REFUSALS)
    statuses = {said.status for row in HTTP_REFUSALS.values() if (said := row.admin) is not None}
    for package in ("api", "meter"):
        for path in sources(ROOT / package, ".py"):
            if path.name in ("answers.py", "errors.py"):
                continue  # These make refusals of the table.
            for call in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(call, ast.Call):
                    continue
                where = f"{path.relative_to(ROOT)}:{call.lineno}"
                made = ast.unparse(call.func)
                if made in ("ApiError.of", "UpstreamFailure.of", "http_refusal"):
                    assert isinstance(call.args[0], ast.Name) or (
                        isinstance(call.args[0], ast.Constant) and call.args[0].value in causes
                    ), where
                assert made not in ("Refusal", "UpstreamFailure"), where
                if made == "ApiError" and isinstance(call.args[0], ast.Constant):
                    assert call.args[0].value in statuses, where
                    assert not any(
                        word.arg == "code" or "'reason'" in ast.unparse(word.value)
                        for word in call.keywords
                    ), where


@pytest.mark.parametrize(
    ("name", "heading", "surface"),
    [
        ("sidecar", "Refusals", "sidecar"),
        ("forward-auth", "Answers", "gate"),
        ("llm-route", "Errors", "llm"),
    ],
)
def test_what_a_page_says_of_refusals_is_in_the_table(
    name: str, heading: str, surface: str
) -> None:
    """A page says what to do about a refusal: with the status and the code that it has there."""
    said = [getattr(row, surface) for row in (*REFUSALS.values(), *HTTP_REFUSALS.values())]
    answers = [one for one in said if one is not None]
    known = {(one.status, word) for one in answers for word in (one.code, one.reason) if word}
    # Of the provider's own status, and of the sidecar's besides 200.
    known |= (
        {(status, "UPSTREAM_REFUSED") for status in (404, 413, 422)} if surface == "llm" else set()
    )
    text = (ROOT / "docs" / f"{name}.md").read_text("utf-8").partition(f"\n## {heading}\n")[2]
    text = re.sub(r"```.*?```|\]\([^)]*\)", "", text.partition("\n## ")[0], flags=re.DOTALL)
    statuses: set[int] = set()
    found = 0
    for bold, plain, word in re.findall(
        r"\*\*([\d, ]+)\*\*|\b([45]\d\d)\b|`([A-Z]{3,}_?[A-Z_]+|[a-z]+_[a-z_]+)`", text
    ):
        if word:
            if any(word in one for one in known):
                found += 1
                assert any((status, word) in known for status in statuses), (name, statuses, word)
            else:
                assert word in NO_CODES, f"{name}.md: {word} is no code of the table"
            continue
        here = {int(one) for one in re.findall(r"\d+", bold or plain)}
        statuses = here if bold else statuses | here
        assert here <= {one.status for one in answers}, (name, here)
    assert statuses
    assert found >= {"sidecar": 10, "gate": 0, "llm": 4}[surface]


def test_the_page_is_of_the_table() -> None:
    path = ROOT / "docs" / "errors.md"
    if os.environ.get("WRITE_DOCS"):
        path.write_text(page(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == page()

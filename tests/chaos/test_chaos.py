"""The runs of the table: everything held, every fault bit, and what is to happen sometimes did."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from chaos.again import VoidRun, run_until_it_shows
from chaos.checker import judge
from chaos.embedded import CANCELLED
from chaos.history import Attempt
from chaos.runner import FAULTS, Outcome, schedule
from chaos.scene import Loss
from chaos.settings import CI_RUNS, CLOCK, EVERYTHING, Ci, Run
from chaos.valkey import FAKETIME
from chaos.watcher import left_by_refusals


def marks_of(ci: Ci) -> list[pytest.MarkDecorator]:
    """Nobody waits for a node that hangs longer than production would."""
    marks = [pytest.mark.long] if ci.long else []
    return [*marks, pytest.mark.timeouts()] if ci.run.on_cluster else marks


# A socket that a fault cut in the middle of a connect is closed by whoever collects it.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
    "default::chaos.again.VoidRun",
)
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "ci",
    [pytest.param(ci, marks=marks_of(ci)) for ci in CI_RUNS],
    ids=lambda ci: ci.name.replace(" ", "_"),
)
async def test_run(ci: Ci, tmp_path: Path) -> None:
    if FAKETIME is None and set(ci.run.faults) <= set(CLOCK):
        pytest.skip("Debian's package libfaketime is missing: no clock can be moved")
    outcome, shows_nothing = await run_until_it_shows(ci, tmp_path)
    assert outcome.violations == []
    assert shows_nothing == [], "void twice"


def outcome_of(toothless: list[str], violations: list[str], **counts: int) -> Outcome:
    return Outcome(1, toothless=toothless, violations=violations, counts=counts)


NO_BITE, GOOD = outcome_of(["reset did not bite"], [], late=1), outcome_of([], [], late=1)
NEVER, WRONG = outcome_of([], []), outcome_of(["reset did not bite"], ["I5 twice"])


@pytest.mark.parametrize(
    ("runs", "made", "violations", "reasons"),
    [
        ([GOOD], 1, [], []),
        ([NO_BITE, GOOD], 2, [], []),
        ([NEVER, GOOD], 2, [], []),
        ([NO_BITE, NEVER], 2, [], ["run 1: reset did not bite", "run 2: 'late' never happened"]),
        ([WRONG], 1, ["I5 twice"], []),
        ([NO_BITE, WRONG], 2, ["I5 twice"], []),
    ],
)
async def test_a_void_run_is_made_once_more_and_a_violation_is_not(
    runs: list[Outcome], made: int, violations: list[str], reasons: list[str], tmp_path: Path
) -> None:
    folders: list[Path] = []

    async def run(_: Run, folder: Path) -> Outcome:
        folders.append(folder)
        return runs[len(folders) - 1]

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome, shows_nothing = await run_until_it_shows(
            Ci("any", Run(1, 1.0, ()), ("late",)), tmp_path, run
        )
    assert (outcome.violations, shows_nothing) == (violations, reasons)
    assert len(folders) == made
    assert [one.category for one in warned] == [VoidRun] * (made - 1)


def test_every_fault_is_in_a_run_and_every_name_is_a_fault() -> None:
    in_runs = {name for ci in CI_RUNS for name in ci.run.faults}
    assert set(EVERYTHING) == set(FAULTS)
    assert in_runs <= set(FAULTS)
    assert set(EVERYTHING) - in_runs <= {
        # Their likes are in a run; a longer one draws them too.
        "kill_scheduler_redis", "pause_api", "pause_gateway", "restart_api",
        # Those that take long.
        "freeze_settler", "freeze_settlers", "older_postgres_written", "replica_away",
        "swallow_then_rebuild", "cut_hold",
    }  # fmt: skip


def test_the_page_lists_every_fault() -> None:
    page = (Path(__file__).parents[2] / "docs/chaos.md").read_text()
    listed = re.findall(r"`(\w+)`", page.partition("## The faults")[2])
    assert listed == list(dict.fromkeys(listed))
    assert set(listed) == set(FAULTS)


def test_the_same_seed_gives_the_same_faults() -> None:
    run = Run(7, 60.0, EVERYTHING)
    assert schedule(run) == schedule(run)
    assert schedule(run) != schedule(Run(8, 60.0, EVERYTHING))


def attempt(
    op: str, outcome: str, amount: int = 10, charged: int | None = None, code: str = ""
) -> Attempt:
    receipt = None
    if charged is not None:
        receipt = {"state": "committed", "charged_millicredits": charged, "replayed": False,
                   "late": False, "available_millicredits": 1}  # fmt: skip
    return Attempt("acme", "r1", op, amount, 100.0, outcome, 101.0, code, receipt)


LOSS = Loss("redis", since=100.5, until=100.5)


@pytest.mark.parametrize(
    ("attempts", "charged", "losses", "wrong"),
    [
        ([attempt("charge", "ok", charged=10)], 10, [], None),
        ([attempt("charge", "ok", charged=10)], None, [], "was told 10"),
        ([attempt("charge", "ok", charged=10)], 20, [], "only [10] was ever sent"),
        ([attempt("charge", "ok", charged=10)], None, [LOSS], None),
        ([attempt("charge", "ok", charged=10)], 20, [LOSS], "only [10] was ever sent"),
        ([attempt("charge", "unknown")], None, [], None),
        ([attempt("charge", "unknown")], 10, [], None),
        ([attempt("charge", "refused")], 10, [], "only [] was ever sent"),
        ([attempt("charge", "refused", charged=10, code="REPLAYED")], 10, [], None),
        ([attempt("charge", "refused", charged=10, code="REPLAYED")], None, [], "was told 10"),
        ([attempt("charge", "failed")], 10, [], "only [] was ever sent"),
        ([attempt("complete", "unknown", 0)], 17, [], None),
        ([attempt("complete", "ok", 0, 17)], 17, [], None),
        ([attempt("complete", "ok", 0, 17)], None, [], "was told 17"),
        ([attempt("complete", "ok", 0, 17)], 20, [], "only [17] was ever sent"),
        ([attempt("complete", "refused", 0)], 17, [], "only [] was ever sent"),
        ([attempt("complete", "failed", 0)], 17, [], "only [] was ever sent"),
        ([], 10, [], "nobody asked for it"),
        ([attempt("touch", "ok", 4), attempt("commit", "ok", charged=10)], 4, [], "was told 10"),
        ([attempt("touch", "ok", 4), attempt("commit", "ok", charged=10)], 4, [LOSS], None),
        ([attempt("touch", "ok", 4)], 4, [], None),
        ([attempt("touch", "ok", 4)], None, [], "reported 4 and was left"),
        ([attempt("touch", "ok", 4), attempt("release", "refused", 0)], None, [], "and was left"),
        ([attempt("lookup", "ok", 0, 0)], None, [], None),
        ([attempt("touch", "ok", 4), attempt("lookup", "ok", 0, 4)], 4, [], None),
        ([attempt("touch", "unknown", 4), attempt("lookup", "ok", 0, 4)], None, [], "was told 4"),
        ([attempt("touch", "ok", 4), attempt("touch", "ok", 9)], 4, [], "reported 9 and was left"),
        ([attempt("touch", "ok", 4)], None, [LOSS], None),
        ([attempt("touch", "unknown", 4)], None, [], None),
        ([attempt("touch", "ok", 40), attempt("commit", "ok", charged=10)], 40, [LOSS], "invented"),
        ([attempt("touch", "ok", 40), attempt("release", "ok", 0, 0)], 40, [LOSS], "invented"),
        ([attempt("commit", "refused"), attempt("touch", "ok", 4)], 4, [], None),
        (
            [attempt("charge", "ok", charged=10)],
            None,
            [Loss("redis", since=101.5, until=102.0)],
            "was told 10",
        ),
        (
            [attempt("charge", "ok", charged=10)],
            None,
            [Loss("redis", since=0.0, until=99.0)],
            "was told 10",
        ),
        (
            [attempt("charge", "ok", charged=10)],
            None,
            [Loss("redis", 0.0, 200.0, {("acme", "r1"): 10})],
            "was told 10",
        ),
        (
            [attempt("touch", "ok", 4), attempt("commit", "ok", charged=10)],
            4,
            [Loss("redis", 0.0, 200.0, {("acme", "r1"): 4})],
            None,
        ),
    ],
)
def test_the_judge(
    attempts: list[Attempt], charged: int | None, losses: list[Loss], wrong: str | None
) -> None:
    """What it must object to, and what it must not."""
    ledger = {} if charged is None else {("acme", "r1"): charged}
    violations = judge(attempts, ledger, losses).violations
    if wrong is None:
        assert violations == []
    else:
        assert len(violations) == 1
        assert wrong in violations[0]


@pytest.mark.parametrize(
    ("asked_at", "losses", "wrong"),
    [
        (102.0, [], False),
        (140.0, [], True),
        (140.0, [LOSS], False),
        (140.0, [Loss("redis", 0.0, 99.0)], True),
        (140.0, [Loss("redis", 141.0, 142.0)], True),
        (140.0, [Loss("start", 0.0, 200.0)], True),
    ],
)
def test_what_a_caller_left_is_given_back(
    asked_at: float, losses: list[Loss], *, wrong: bool
) -> None:
    left = attempt("reserve", "unknown", code=CANCELLED)
    again = attempt("reserve", "refused", code="REPLAYED")
    again.answered_at = asked_at
    assert bool(judge([left, again], {}, losses).violations) == wrong


@pytest.mark.parametrize(
    ("faults", "is_doubtful"),
    [([], False), ([(101.0, 105.0)], True), ([(101.0, 102.0)], False), ([(150.0, 200.0)], False)],
)
def test_a_hold_is_open_for_longer_while_faults_keep_the_sweep_from_it(
    faults: list[tuple[float, float]], is_doubtful: bool
) -> None:
    losses = [Loss("start", since=110.0, until=111.0)]
    found = judge([attempt("touch", "ok", 4)], {}, losses, faults).violations
    assert bool(found) != is_doubtful


@pytest.mark.parametrize(
    ("attempts", "wrong"),
    [
        ([attempt("reserve", "refused")], 1),
        ([attempt("reserve", "failed"), attempt("reserve", "refused")], 1),
        ([attempt("reserve", "unknown"), attempt("reserve", "refused")], 0),
        ([attempt("reserve", "failed"), attempt("reserve", "ok")], 0),
        ([attempt("reserve", "refused", charged=0, code="REPLAYED")], 0),
    ],
)
def test_a_hold_that_was_refused_and_is_open(attempts: list[Attempt], wrong: int) -> None:
    accused: set[tuple[str, str]] = set()
    asked = {("acme", "r1"): attempts}
    # Before the answer came nothing had been told.
    assert left_by_refusals(asked, 100.5, accused) == []
    assert len(left_by_refusals(asked, 102.0, accused)) == wrong
    assert left_by_refusals(asked, 103.0, accused) == [], "each once"

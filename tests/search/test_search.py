"""Every small world: nothing that was told is wrong, and what is wrong is found."""

from __future__ import annotations

import logging

import pytest

from search.explore import explore
from search.planted import BUGS, EXPIRED, LEFT_BEHIND, OVERTAKEN, Bug
from search.world import Rules

pytestmark = pytest.mark.timeout(300)

DEPTH = 4
LIVES = {
    "processes and lost replies": {"lost": 1, "unsent": 1, "restart": 1, "drain": 1},
    "losses and rebuilds": {"loss": 1, "rebuild": 1, "restart": 1},
    "deductions by SQL": {"deduct": 1, "lost": 1, "rebuild": 1},
    "replies lost before a loss": {"lost": 1, "loss": 1},
    "replies lost before a rebuild": {"lost": 1, "rebuild": 1, "oom": 1},
    "replies lost before memory runs out": {"lost": 2, "oom": 1, "drain": 1},
    "one loss after another": {"loss": 2},
    "holds on credit": {"lost": 1, "loss": 1, "credit": 1},
    "what comes late": {"lost": 1, "late": 1, "restart": 1, "loss": 1, "rebuild": 1},
    "entries and accounts that are compared later": {"deduct": 1, "loss": 1, "walk": 1, "dies": 1},
    "a lagging replica that takes over and is taken over": {"flap": 1, "lost": 1, "late": 1},
    "a copy that takes over and is taken over": {"fork": 1, "swap": 2, "lost": 1},
}
"""What may happen in one life, and how often: all at once would be too many for the suite."""
LARGE = ("what comes late", "processes and lost replies")
"""Of these, for `make test-whole`."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "life",
    [
        pytest.param(life, id=name, marks=[pytest.mark.whole] if name in LARGE else [])
        for name, life in LIVES.items()
    ],
)
def test_nothing_that_was_told_is_wrong(life: dict[str, int]) -> None:
    found = explore(Rules(budgets={**dict.fromkeys(Rules().budgets, 0), **life}), DEPTH)
    assert found.depth == DEPTH
    assert found.worlds > 500
    assert not found.violations, str(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        ("hold: reserve 60, ok", "a copy is made"),
        # The reply to a late commit is lost with the server, and it is made again on the copy.
        (*EXPIRED, "hold: commit 60, lost", "the other one takes over"),
        # Everything is lost, and the commit comes after it.
        (*EXPIRED, "settle", "FLUSHALL"),
    ],
    ids=["an open hold", "a commit that is sent again", "an expiry that is forgotten"],
)
def test_a_hold_that_ends_in_two_histories_is_charged_as_it_was_told(
    first: tuple[str, ...],
) -> None:
    budgets = {**dict.fromkeys(Rules().budgets, 0), "fork": 1, "swap": 2, "lost": 1}
    budgets["loss"] = first.count("FLUSHALL")
    found = explore(Rules(budgets=budgets, first=first), DEPTH)
    assert found.depth == DEPTH
    assert found.worlds > 150
    assert not found.violations, str(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "budgets"),
    [
        pytest.param(("deduct", "relay"), {"flap": 2, "frozen": 1, "dies": 1}, id="a flap"),
        pytest.param(
            ("deduct", "the relay freezes"),
            {"flap": 1, "frozen": 1, "loss": 1},
            id="a relay that wakes",
            marks=pytest.mark.whole,
        ),
        pytest.param(
            OVERTAKEN,
            {"flap": 2},
            id="a walk that another start overtakes",
            marks=pytest.mark.whole,
        ),
    ],
)
def test_an_entry_reaches_the_live_balance_once(
    first: tuple[str, ...], budgets: dict[str, int]
) -> None:
    nothing = dict.fromkeys(Rules().budgets, 0)
    found = explore(Rules(budgets={**nothing, "deduct": 1, "walk": 1, **budgets}, first=first), 5)
    assert found.depth == 5
    assert found.worlds > 500
    assert not found.violations, str(found)


def test_a_heartbeat_that_comes_after_a_lost_release_charges_nothing() -> None:
    budgets = {**dict.fromkeys(Rules().budgets, 0), "lost": 1, "late": 1, "loss": 1, "rebuild": 1}
    found = explore(Rules(budgets=budgets, first=LEFT_BEHIND), DEPTH + 1)
    assert found.depth == DEPTH + 1
    assert not found.violations, str(found)


def test_who_cannot_load_is_not_told_that_there_is_nothing() -> None:
    """A client without a database, whose account a rebuild or FLUSHALL took away."""
    budgets = {**dict.fromkeys(Rules().budgets, 0), "loss": 1, "rebuild": 1, "lost": 1}
    found = explore(Rules(has_loader=False, budgets=budgets), DEPTH)
    assert found.depth == DEPTH
    assert not found.violations, str(found)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_planted_bug_is_found(bug: Bug) -> None:
    found = explore(
        bug.rules(), bug.depth, enough=lambda found: any(bug.word in w for w in found.violations)
    )
    assert any(bug.word in what for what in found.violations), str(found)


def test_a_depth_that_time_did_not_allow_is_not_claimed() -> None:
    assert explore(Rules(), 50, seconds=0.0).depth == 0


def test_whoever_runs_afterwards_hears_the_log_of_the_clients() -> None:
    log = logging.getLogger("taximeter.meter")
    before = log.level
    explore(Rules(), 1)
    assert log.level == before
    assert log.isEnabledFor(logging.WARNING)

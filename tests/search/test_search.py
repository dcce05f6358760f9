"""Every small world: nothing that was told is wrong, and what is wrong is found."""

from __future__ import annotations

import pytest

from search.explore import explore
from search.planted import BUGS, Bug
from search.world import Rules

pytestmark = pytest.mark.timeout(300)

DEPTH = 4
LIVES = {
    "processes and lost replies": {"lost": 1, "unsent": 1, "restart": 1, "drain": 1},
}
"""What may happen in one life, and how often: all at once would be too many for the suite."""


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_nothing_that_was_told_is_wrong(life: dict[str, int]) -> None:
    found = explore(Rules(budgets={**dict.fromkeys(Rules().budgets, 0), **life}), DEPTH)
    assert found.depth == DEPTH
    assert found.worlds > 500
    assert not found.violations, str(found)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_planted_bug_is_found(bug: Bug) -> None:
    found = explore(
        bug.rules(), bug.depth, enough=lambda found: any(bug.word in w for w in found.violations)
    )
    assert any(bug.word in what for what in found.violations), str(found)


def test_a_depth_that_time_did_not_allow_is_not_claimed() -> None:
    assert explore(Rules(), 50, seconds=0.0).depth == 0

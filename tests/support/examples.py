"""Which examples Hypothesis makes: the same ones in every run, or new ones in `make properties`.

A run of CI that failed on examples of its own could be repeated by nobody, and said more about its
luck than about the change. So the suite takes fixed seeds; PROPERTY_SEED=random, or a number, takes
others, and PROPERTY_EXAMPLES=N more of them.
"""

from __future__ import annotations

import os
import random
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import engine

SUITE_SEED: Final = 20261130
"""Of the state machines. The other tests derive theirs from what they are."""
SHRINK_S: Final = 30
"""How long one failure of the suite is made smaller, where Hypothesis would take five minutes."""

_ASKED: Final = os.environ.get("PROPERTY_SEED", "")
_EXAMPLES: Final = os.environ.get("PROPERTY_EXAMPLES", "")
EXPLORES: Final = bool(_ASKED)

# How long an example takes, or takes to make, is the machine's affair and no property of ours.
_ANY_MACHINE: Final = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, database=None
)


def seed_of_machines() -> int:
    """The seed of a state machine, which prints it."""
    if _ASKED == "random":
        return random.SystemRandom().randrange(2**32)
    return int(_ASKED or SUITE_SEED)


def examples_or(usual: int) -> int:
    """How many examples are made where the suite makes `usual` ones."""
    return int(_EXAMPLES or usual)


def load_profile() -> None:
    """Set what every test of this process starts from; before any of them is imported."""
    settings.register_profile("suite", _ANY_MACHINE, derandomize=True)
    settings.register_profile(
        "explore", _ANY_MACHINE, max_examples=examples_or(_ANY_MACHINE.max_examples)
    )
    settings.load_profile("explore" if EXPLORES else "suite")
    if not EXPLORES:
        engine.MAX_SHRINKING_SECONDS = SHRINK_S

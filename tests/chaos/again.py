"""The rule of `make test` for a run that shows nothing.

A run is void when a fault did not bite, or when what is to happen sometimes in it never did. It has
found nothing wrong and proves nothing, mostly since the machine was too slow for it. It is made
once more, and a warning says so and why; void twice fails. A run with a violation is never made
again: that fails at once, also when it was void besides.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from chaos.runner import Outcome, run_chaos
from chaos.settings import Ci, Run

FIRST_MAX_S: Final = 400.0
"""A first run that took longer leaves no time for a second one within the limit of the test."""


class VoidRun(UserWarning):
    """A run showed nothing and is made once more."""


def shows_nothing(ci: Ci, outcome: Outcome) -> list[str]:
    """Why the run proves nothing; empty when it does prove something."""
    missed = [what for what in ci.sometimes if not outcome.counts.get(what)]
    return outcome.toothless + [f"{what!r} never happened" for what in missed]


async def run_until_it_shows(
    ci: Ci, folder: Path, run: Callable[[Run, Path], Awaitable[Outcome]] = run_chaos
) -> tuple[Outcome, list[str]]:
    """The run that counts, and why it proves nothing, if that is so even of the second one."""
    reasons: list[str] = []
    for number in (1, 2):
        place = folder / str(number)
        place.mkdir()
        started = time.monotonic()
        outcome = await run(ci.run, place)
        print(outcome.as_json())
        void = shows_nothing(ci, outcome)
        if outcome.violations or not void:
            return outcome, []
        reasons += [f"run {number}: {reason}" for reason in void]
        if number == 1 and time.monotonic() - started > FIRST_MAX_S:
            reasons.append("no time was left for a second run")
            return outcome, reasons
        if number == 1:
            warnings.warn(
                f"chaos run '{ci.name}' was VOID and is made once more: {'; '.join(void)}",
                VoidRun,
                stacklevel=2,
            )
    return outcome, reasons

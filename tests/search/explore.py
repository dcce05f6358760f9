"""Breadth first through every small world, each once, and the judge's word on each."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from search.judge import at_rest, violations
from search.world import Rules, World


@dataclass
class Found:
    """What a search came to. `violations`: the shortest way to each, by what is wrong."""

    depth: int = 0
    steps: int = 0
    worlds: int = 0
    script_calls: int = 0
    took_s: float = 0.0
    violations: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"depth {self.depth}: {self.steps:,} steps, {self.worlds:,} worlds, "
            f"{self.script_calls:,} script calls in {self.took_s:.1f} s"
        ]
        for what, path in self.violations.items():
            lines += [f"VIOLATION {what}", *(f"    {step}" for step in path)]
        return "\n".join(lines)


def explore(
    rules: Rules,
    depth: int,
    *,
    seconds: float = float("inf"),
    say: Callable[[Found], None] = lambda found: None,
    enough: Callable[[Found], bool] = lambda found: False,
) -> Found:
    """Every sequence of up to `depth` steps, as far as `seconds` go; a depth that was not finished
    is not counted in `depth`. Ends early when `enough` says so.
    """
    with _quiet(logging.getLogger("taximeter.meter")):
        return _explore(rules, depth, seconds, say, enough)


@contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    """Clients say in their log what a server has lost; here that is every other world. Whoever
    runs next in this process hears it again. Nor is there anything to collect in worlds that are
    all kept: to look through them again and again would take most of the time.
    """
    before, collects = log.level, gc.isenabled()
    log.setLevel(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        log.setLevel(before)
        if collects:
            gc.enable()


def _explore(
    rules: Rules,
    depth: int,
    seconds: float,
    say: Callable[[Found], None],
    enough: Callable[[Found], bool],
) -> Found:
    found, started = Found(), time.monotonic()
    first = World(rules)
    for name in rules.first:
        first = next(made for made in first.steps() if made.path[-1] == name)
    seen: set[object] = {first.key()}
    edge = [first]
    for level in range(1, depth + 1):
        after: list[World] = []
        for world in edge:
            for made in world.steps():
                found.steps += 1
                key = made.key()
                if key in seen:
                    continue
                seen.add(key)
                after.append(made)
                for what in violations(at_rest(made)):
                    found.violations.setdefault(what, made.path)
            if time.monotonic() - started > seconds or enough(found):
                break
        else:
            found.depth = level
        found.worlds, found.took_s = len(seen), time.monotonic() - started
        found.script_calls = rules.scripts.runs
        say(found)
        if found.depth < level:
            break
        edge = after
    return found

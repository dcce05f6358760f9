"""`make mutants`: plant each bug in a copy of the tree, run its tests, and write docs/mutants.md.

Exits 1 when a bug went unnoticed within its time, or its place is not to be found any more; the
page is left alone then. What was noticed is kept, so a run that was broken off goes on where it
was, and several may run side by side: a bug is planted again when it, the file that it is planted
in, or a file of its tests has changed, or with --again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from textwrap import wrap
from typing import Final

from support.memory import memory_folder

from mutants.bug import Bug
from mutants.bugs import BUGS
from mutants.kept import Kept
from mutants.planting import ROOT, Found, Tree

PAGE: Final = ROOT / "docs" / "mutants.md"
KEPT: Final = ROOT / ".data" / "mutants.jsonl"
HEAD: Final = """# Planted bugs

What the tests notice. Each is a bug that `make mutants` plants in a copy of the tree, alone, with
the file that it is planted in, and the first test that failed with it, passed without it and failed
with it again. Some stand for a bug of others. Made by that command.

"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--only", default="", help="numbers of bugs, 3,5-7: only these")
    parser.add_argument(
        "--again", action="store_true", help="also those that were noticed as they are now"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many at once, 2 unless you say so")
    parser.add_argument("--limit-s", type=float, default=300.0, help="time for one run of tests")
    options = parser.parse_args()
    chosen = numbers(options.only) if options.only else list(range(1, len(BUGS) + 1))
    kept = Kept(KEPT)
    asked = [one for one in chosen if options.again or not kept.found(BUGS[one - 1])]
    started = time.monotonic()
    finds = {one: Found(kept.found(BUGS[one - 1])) for one in chosen}
    with ExitStack() as stack:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for _ in range(min(options.jobs, len(asked))):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="taximeter-mutants-"))
            tree = Tree(Path(folder), stack.enter_context(memory_folder()))
            stack.enter_context(tree.postgres)
            trees.put(tree)
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))

        def look(number: int) -> Found:
            bug, tree = BUGS[number - 1], trees.get()
            try:
                found = tree.look(bug, options.limit_s)
            finally:
                trees.put(tree)
            kept.keep(bug, found.by)
            print(f"{number:3} {bug.name}: {found.by or found.trouble}", flush=True)
            return found

        finds |= dict(zip(asked, pool.map(look, asked), strict=True))
    noticed = [number for number, found in finds.items() if found.by]
    if len(noticed) == len(BUGS):
        PAGE.write_text(page(finds), encoding="utf-8")
    print(
        f"{len(noticed)} of {len(finds)} noticed, {len(finds) - len(asked)} of them before,"
        f" in {time.monotonic() - started:.0f} s"
    )
    return 0 if len(noticed) == len(finds) else 1


def numbers(text: str) -> list[int]:
    """`3,5-7` as 3, 5, 6, 7."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def page(finds: dict[int, Found]) -> str:
    """The page of a run in which every bug was noticed."""
    return HEAD + "".join(row(number, bug, finds[number].by) for number, bug in enumerate(BUGS, 1))


def row(number: int, bug: Bug, by: str) -> str:
    """A line for each thing that is said of a bug, so that none gets long."""
    file, _, test = by.partition("::")
    stands_for = f" (stands for {bug.item})" if bug.item else ""
    said = (f"{bug.name}{stands_for}", f"`{bug.file}`", f"`{file}`", f"`{test}`")
    lines = [
        line
        for one in said
        for line in wrap(one, 94, break_long_words=False, break_on_hyphens=False)
    ]
    lead = f"{number}. "
    return lead + f"\n{' ' * len(lead)}".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

"""`make search`: every small world, as deep as the time allows. Exit code 1 when one is wrong."""

from __future__ import annotations

import argparse
import sys

from search.explore import Found, explore
from search.planted import BUGS
from search.world import Rules


def main() -> int:
    parser = argparse.ArgumentParser(prog="search", description=__doc__)
    parser.add_argument("--steps", type=int, default=50, help="how long a sequence may be")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the search may take")
    parser.add_argument("--planted", choices=sorted(BUGS), help="search with this bug in it")
    parser.add_argument(
        "--budget", action="append", default=[], metavar="NAME=TIMES",
        help=f"how often something may happen in one life: {', '.join(Rules().budgets)}",
    )  # fmt: skip
    options = parser.parse_args()
    rules = BUGS[options.planted].rules() if options.planted else Rules()
    for budget in options.budget:
        name, _, times = budget.partition("=")
        if name not in rules.budgets or not times.isdigit():
            parser.error(f"--budget {budget}: one of {', '.join(rules.budgets)}, and a number")
        rules.budgets[name] = int(times)  # type: ignore[index]

    def say(found: Found) -> None:
        print(str(found).splitlines()[0], flush=True)

    found = explore(rules, options.steps, seconds=60 * options.minutes, say=say)
    print(found)
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make mutants`: plant each bug in a copy of the tree, run its tests, and write docs/mutants.md.

Exits 1 when a bug went unnoticed or its text is not to be found any more.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants.bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "lua", "meter", "migrations", "settler")
TIMEOUT_S = 300
PAGE = ROOT / "docs" / "mutants.md"
HEAD = """# Planted bugs

What the tests notice. Each line is a bug that `make mutants` plants in a copy of the tree, alone,
and the first test that failed because of it. Made by that command.

| # | bug | planted in | noticed by |
|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--only", type=int, help="number of one bug; the page is not written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taximeter-mutants-") as folder:
        tree = Path(folder)
        # Postgres may run as another user, who has to walk through here.
        tree.chmod(0o755)
        copy_tree(tree)
        rows, missed = [], []
        for number, bug in enumerate(BUGS, 1):
            if options.only not in (None, number):
                continue
            noticed = plant_and_test(tree, bug)
            print(f"{number:3} {bug.name}: {noticed or 'NOT NOTICED'}", flush=True)
            rows.append(f"| {number} | {bug.name} | `{bug.file}` | `{noticed}` |")
            if not noticed:
                missed.append(bug.name)
    if options.only is None and not missed:
        PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{len(rows) - len(missed)} of {len(rows)} noticed")
    return 1 if missed else 0


def copy_tree(tree: Path) -> None:
    """What the tests need, and links under which the packages are imported from the copy."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "tests", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    links = tree / "path" / "taximeter"
    links.mkdir(parents=True)
    for name in PACKAGES:
        (links / name).symlink_to(tree / name)


def plant_and_test(tree: Path, bug: Bug) -> str:
    """The first test that failed with the bug in the tree; empty when none did."""
    file = tree / bug.file
    text = file.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise SystemExit(f"{bug.name}: {text.count(bug.old)} such places in {bug.file}")
    file.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
    try:
        return first_failure(tree, bug.tests)
    finally:
        file.write_text(text, encoding="utf-8")


def first_failure(tree: Path, tests: str) -> str:
    # Without bytecode: a file that is changed twice within a second would keep its old one.
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "path"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=no"]
    names = [str(tree / "tests" / name) for name in tests.split()]
    finished = subprocess.run(
        [*command, *names],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    found = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", finished.stdout, re.MULTILINE)
    if finished.returncode not in (0, 1):
        raise SystemExit(finished.stdout[-3000:] + finished.stderr[-1000:])
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main())

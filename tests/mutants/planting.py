"""A copy of the tree in which one bug at a time is planted and looked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from mutants.bug import Bug
from taximeter.api.embedded.postgres import EmbeddedPostgres

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("api", "lua", "meter", "migrations", "settler")
PYTEST: Final = (
    *(sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider"),
    *("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
)
NOT_NOTICED: Final = "NOT NOTICED"
ROUNDS_MAX: Final = 3


class Found(NamedTuple):
    """`by`: the first test that failed; empty when none did, and then `trouble` says so."""

    by: str
    trouble: str = ""


class Tree:
    """The copy. A test that is run in it imports our packages from it and from nowhere else.

    Its Postgres serves all the runs, each of which migrates databases of its own; it keeps them in
    `memory`, where there is room. It waits for the disk like any other: our processes refuse one
    that does not.
    """

    def __init__(self, folder: Path, memory: Path | None) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(memory or folder / "postgres")
        # Postgres may run as another user, who has to walk through here.
        folder.chmod(0o755)
        for name in (*PACKAGES, "tests", "docs"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", folder)
        links = folder / "path" / "taximeter"
        links.mkdir(parents=True)
        for name in PACKAGES:
            (links / name).symlink_to(folder / name)

    def look(self, bug: Bug, limit_s: float) -> Found:
        """The first of its tests that notices the bug within `limit_s` a run: one that fails with
        it, passes without it, and fails with it again. One that does not is told by nothing but
        luck, and others are asked.
        """
        text = (self.folder / bug.file).read_text(encoding="utf-8")
        if (places := at_work(text).count(bug.old)) != 1:
            return Found("", f"its place is there {places} times in {bug.file}")
        unsteady: list[str] = []
        for _ in range(ROUNDS_MAX):
            found = self._with(bug, bug.tests.split(), unsteady, limit_s)
            if not found.by:
                break
            without = self.run([found.by], (), limit_s)
            if without.trouble == NOT_NOTICED:
                again = self._with(bug, [found.by], (), limit_s)
                if again.by:
                    return again
            unsteady.append(found.by)
        why = f" (fails with or without it: {', '.join(unsteady)})" if unsteady else ""
        return Found("", f"{found.trouble or NOT_NOTICED}{why}")

    def _with(
        self, bug: Bug, tests: Iterable[str], without: Iterable[str], limit_s: float
    ) -> Found:
        file = self.folder / bug.file
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(bug.old, bug.new, 1), encoding="utf-8")
        try:
            return self.run(tests, without, limit_s)
        finally:
            file.write_text(text, encoding="utf-8")

    def run(self, tests: Iterable[str], without: Iterable[str], limit_s: float) -> Found:
        """Run tests until one fails, except those of `without`; named from below tests/."""
        names = [str(self.folder / "tests" / name) for name in tests]
        left_out = [f"--deselect=tests/{name}" for name in without]
        try:
            finished = subprocess.run(
                [*PYTEST, f"--basetemp={self.folder / 'temp'}", *left_out, *names],
                cwd=self.folder,
                env={
                    **os.environ,
                    "TAXIMETER_DATABASE_URL": self.postgres.url,
                    "PYTHONPATH": str(self.folder / "path"),
                    # A file that is changed twice within a second would keep its old bytecode.
                    "PYTHONDONTWRITEBYTECODE": "1",
                    # Plugins that nothing here asks for take most of the time of a start.
                    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                },
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Found("", f"no test has failed within {limit_s:.0f} s")
        return judge(finished.returncode, finished.stdout, finished.stderr)


def at_work(text: str) -> str:
    """What is run of a file: of a migration not the part that takes it back, which writes what it
    replaced once more.
    """
    return text.partition("\n-- migrate:down")[0]


def judge(returncode: int, output: str, errors: str) -> Found:
    """What a run of pytest says: a test that failed is a find, and nothing else is."""
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+::.+?)(?: - .*)?$", output, re.MULTILINE)
    if returncode == 1 and failed:
        return Found(failed[1])
    if returncode == 0:
        return Found("", NOT_NOTICED)
    return Found("", f"pytest ended with {returncode}: {(output + errors)[-1500:]}")

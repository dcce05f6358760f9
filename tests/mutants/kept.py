"""Which bugs were noticed before, by runs that may have been broken off."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mutants.bug import Bug
from mutants.planting import ROOT


class Kept:
    """A file with a line for each bug that was looked for. Runs side by side add to it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def found(self, bug: Bug) -> str:
        """The test that noticed it as it is now, the last time; empty when none is known."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        known = dict(json.loads(line) for line in lines)
        return str(known.get(digest(bug), ""))

    def keep(self, bug: Bug, by: str) -> None:
        """Remember what noticed it, or that nothing did."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([digest(bug), by]) + "\n")


def digest(bug: Bug) -> str:
    """Of the bug, and of what decides first of all who notices it."""
    files = [bug.file, *(f"tests/{name.partition('::')[0]}" for name in bug.tests.split())]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in files]
    return hashlib.sha256(json.dumps([bug, texts]).encode()).hexdigest()

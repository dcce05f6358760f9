"""Keeps what runs have found: a line of JSON each, beside the documents, the newest last."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.conditions import whole
from bench.harness import BenchFailed, Figure
from bench.suite import Report

ROOT: Final = Path(__file__).resolve().parents[2]
FILE: Final = ROOT / "docs" / "performance-runs.jsonl"
RUNS_MAX: Final = 200
"""So many are kept; the oldest go."""
KEPT: Final = ("cpu", "system", "python", "redis", "aof", "postgres")
"""What of the machine is written down: what it is, and not which."""
_DIGITS: Final = 5

Run = dict[str, Any]


def entry(report: Report, where: Mapping[str, str], commit: str | None) -> Run:
    """What is kept of a run: figures without their rounds, and the machine meanwhile."""
    return {
        "at": where["date"],
        "commit": commit,
        "machine": {name: where[name] for name in KEPT if name in where},
        "conditions": whole(report.spans),
        "figures": {one.name: _figure(report, one) for one in report.figures},
    }


def _figure(report: Report, figure: Figure) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "unit": figure.unit,
        "ours": _short(figure.ours.median),
        "low": _short(figure.ours.low),
        "high": _short(figure.ours.high),
    }
    if figure.ratio is not None and figure.baseline is not None:
        kept |= {
            "baseline": _short(figure.baseline.median),
            "ratio": _short(figure.ratio.median),
        }
    if figure.target is not None:
        kept["verdict"] = report.verdict(figure).word
    return kept


def _short(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def add(run: Run, file: Path = FILE) -> int:
    """Write a run at the end, and forget the oldest beyond RUNS_MAX. Returns how many there are.
    Raises BenchFailed when the file has a line that is none of ours: nothing is changed then.
    """
    runs = [*read(file), run][-RUNS_MAX:]
    text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in runs)
    made = file.with_suffix(".new")
    made.write_text(text, "utf-8")
    made.replace(file)
    return len(runs)


def read(file: Path = FILE) -> list[Run]:
    """Every run that is kept, the oldest first. Raises BenchFailed naming a line that is none."""
    if not file.exists():
        return []
    runs = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            run = json.loads(line)
            if not isinstance(run["figures"], dict) or not isinstance(run["at"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise BenchFailed(f"line {number} of {file.name} is no run of the bench") from None
        runs.append(run)
    return runs


def commit_of(folder: Path = ROOT) -> str | None:
    """The commit that is measured, with `+` when files differ from it; None outside of git."""
    found = _git(folder, "rev-parse", "--short=12", "HEAD")
    if found is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{found}+" if changed else found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def points(runs: Sequence[Run], name: str) -> list[tuple[str, float, bool]]:
    """(when, ratio or value, whether the machine was quiet) of each run that has this figure."""
    found = []
    for run in runs:
        figure = run["figures"].get(name)
        if figure is not None:
            number = figure.get("ratio", figure["ours"])
            found.append((run["at"], float(number), figure.get("verdict") != "withheld"))
    return found

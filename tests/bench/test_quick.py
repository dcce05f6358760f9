"""The benchmark still measures, and no ratio has fallen below half of its target."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import WITHHELD
from bench.suite import BENCHMARKS

TESTS = Path(__file__).resolve().parents[1]


def measure(names: Iterable[str], folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run benchmarks in their quick form, as the command line does, on the same servers: figures,
    and why others could not be measured.
    """
    only = [part for name in names for part in ("--only", name)]
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "--quick", "--json"),
            *(*only, "--data-dir", str(folder / "servers")),
        ],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = json.loads(finished.stdout or '{"figures": [], "failed": {}}')
    expected = (1,) if found["failed"] else (0, WITHHELD)
    assert finished.returncode in expected, finished.stderr
    return found["figures"], found["failed"]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The figures of all benchmarks in one run: to start servers takes longer than most of them.
    One that failed is measured by itself then, and its error is its own.
    """
    try:
        figures, failed = measure(BENCHMARKS, tmp_path_factory.mktemp("bench"))
    except (AssertionError, subprocess.TimeoutExpired) as error:
        figures, failed = [], {"all of them": str(error)}
    for name, why in failed.items():
        warnings.warn(f"{name} could not be measured: {why}", stacklevel=1)
    return figures


# Ratios that do not reach half of their targets: these floors are what a collapse would fall under.
# Measured where nothing else ran: 3.7 and 5.2. A line goes when half of its target is reached.
FLOORS = {
    "charges_100": 1.8,
    "charges_1000": 2.0,
}


def collapsed(figure: dict[str, Any]) -> bool:
    """Whether a ratio is so low that no noise explains it. Times are never judged here."""
    if figure["target"] is None or figure["target"]["of"] != "ratio":
        return False
    floor = FLOORS.get(figure["name"])
    if floor is not None:
        return bool(figure["ratio"]["median"] < floor)
    return bool(figure["collapsed"])


@pytest.mark.alone
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.slow
@pytest.mark.timeout(960)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_measures_and_no_ratio_has_collapsed(
    name: str, together: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Three tries: two cores that others use as well give a bad round now and then."""
    figures = [figure for figure in together if figure["benchmark"] == name]
    if not figures:
        figures, failed = measure([name], tmp_path / "alone")
        assert not failed
    assert figures
    fallen = {figure["name"] for figure in figures if collapsed(figure)}
    for attempt in range(2):
        if fallen:
            again, _ = measure([name], tmp_path / str(attempt))
            fallen &= {figure["name"] for figure in again if collapsed(figure)}
    assert not fallen, "not even half of the target, three times"

"""Every row of the fault matrix names tests that exist, or is listed as one that does not apply."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MATRIX = ROOT / "docs" / "fault-matrix.md"
FAILURE_MODES = ROOT / "docs" / "failure-modes.md"
NOT_HERE = "does not apply"
ROWS = 69


def rows() -> dict[int, tuple[str, str]]:
    """By number: the fault, and what shows it."""
    found = re.findall(
        r"^(\d+)\. (.+\n)((?: +(?:`.+`|does not apply)\n)+)",
        MATRIX.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {int(number): (fault.strip(), shown.strip()) for number, fault, shown in found}


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_all_rows_are_there_once() -> None:
    assert sorted(rows()) == list(range(1, ROWS + 1))
    assert len({fault for fault, _ in rows().values()}) == ROWS


@pytest.mark.parametrize("number", range(1, ROWS + 1))
def test_what_a_row_names_exists(number: int) -> None:
    fault, shown = rows()[number]
    if shown == NOT_HERE:
        listed = FAILURE_MODES.read_text(encoding="utf-8").partition("## What does not apply")[2]
        assert re.search(rf"^\| {number} \| ", listed, re.MULTILINE), f"{fault}: no reason given"
        return
    names = re.findall(r"`([^`]+)`", shown)
    assert names, fault
    for name in names:
        file, _, test = name.partition("::")
        path = ROOT / "tests" / file
        assert path.exists(), name
        test, _, case = test.partition("[")
        assert test in functions(path), name
        if case and file == "chaos/test_chaos.py":
            runs = (path.parent / "settings.py").read_text(encoding="utf-8")
            assert f'"{case[:-1].replace("_", " ")}"' in runs, name

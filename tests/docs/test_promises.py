"""Every promise names tests that exist, and there is no promise outside of the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"
ROW = re.compile(r"^\| (.+) \| ((?:`[^`]+`(?:<br>)?)+) \|$")
AROUND = re.compile(
    r"^(## In every mode|### .+|\| \| shown by \||\|---\|---\||Each line is a promise, .+\.|)$"
)


def lines() -> list[str]:
    """The section of promises that hold in every mode."""
    text = PAGE.read_text(encoding="utf-8")
    start, end = text.index("## In every mode"), text.index("## By mode")
    return text[start:end].splitlines()


PROMISES = {found[1]: found[2] for line in lines() if (found := ROW.match(line))}


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_nothing_is_promised_outside_of_a_row() -> None:
    assert [line for line in lines() if not ROW.match(line) and not AROUND.match(line)] == []
    assert len(PROMISES) > 25


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_is_one_sentence_and_names_tests_that_exist(promise: str) -> None:
    plain = re.sub(r"\(\[?[^)]*\)(\))?", "", promise)
    assert plain.rstrip().endswith("."), promise
    assert len(re.findall(r"[.!?](?=\s+[A-Z\"])", plain)) == 0, "more than one sentence"
    names = re.findall(r"`([^`]+)`", PROMISES[promise])
    assert names, promise
    for name in names:
        file, _, test = name.partition("::")
        path = ROOT / "tests" / file
        assert path.exists(), name
        test, _, case = test.partition("[")
        assert test in functions(path), name
        if case and file == "chaos/test_chaos.py":
            runs = (path.parent / "settings.py").read_text(encoding="utf-8")
            assert f'"{case[:-1].replace("_", " ")}"' in runs, name

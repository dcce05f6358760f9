"""Every promise names tests that exist, and there is no promise outside of the table."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"
TEST = r"(?:  `[^`]+`\n)"
ROW = re.compile(rf"^- ((?:.+\n)(?:  [^`\n].*\n|  `(?![\w/]+\.py::).*\n)*)({TEST}+)", re.MULTILINE)
AROUND = re.compile(r"^(## In every mode|### .+|Each line is a promise, .+|it\.|)$")


def section() -> str:
    """Promises that hold in every mode."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index("## In every mode") : text.index("## By mode")]


PROMISES = {" ".join(said.split()): tests for said, tests in ROW.findall(section())}


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_nothing_is_promised_outside_of_a_line_with_its_tests() -> None:
    rest = ROW.sub("", section()).splitlines()
    assert [line for line in rest if not AROUND.match(line)] == []
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

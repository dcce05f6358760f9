"""Pages stay readable: lines of at most 100 columns, and few enough words to be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.sources import sources

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("deploy/*.md"), *DOCS.rglob("*.md")])
COLUMNS_MAX = 100
# A line may be longer for a word that cannot be broken: the id of a test, an address, a type.
UNBREAKABLE = 60
WORDS_MAX = 25_000
# Asked for by what came after one machine; each has room of its own (decision 0091).
LATER = {
    "archives.md",
    "backups.md",
    "bench.md",
    "cells.md",
    "cluster.md",
    "console.md",
    "exports.md",
    "growth.md",
    "releases.md",
    "runbooks.md",
    "tracing.md",
    "webhooks.md",
}
LATER_WORDS_MAX = 1_500
# Made by commands or checked row by row against tests, to look something up in (docs/README.md).
TABLES = {
    "commands.md",
    "errors.md",
    "export-columns.md",
    "notices.md",
    "settings.md",
    "metrics.md",
    "mutants.md",
    "fault-matrix.md",
    "prices-diff.md",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_is_too_long(page: Path) -> None:
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if len(line) > COLUMNS_MAX:
            assert max(map(len, line.split())) >= UNBREAKABLE, f"line {number}: {line}"


def test_the_pages_to_be_read_are_few_words() -> None:
    words = {page.name: len(page.read_text("utf-8").split()) for page in DOCS.glob("*.md")}
    assert words.keys() >= TABLES
    read = sum(count for name, count in words.items() if name not in TABLES | LATER)
    assert read < WORDS_MAX, f"{read} words; cut what is said twice"
    long = {name: words[name] for name in LATER & words.keys() if words[name] > LATER_WORDS_MAX}
    assert not long, f"over {LATER_WORDS_MAX} words: {long}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_there_is_one_title_and_it_is_first(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^# .*", text, re.MULTILINE) == [text.partition("\n")[0]]


@pytest.mark.parametrize("package", ["api", "meter", "settler", "lua", "migrations"])
def test_modules_and_scripts_begin_with_what_they_do(package: str) -> None:
    """`Opens the two stores`, and not `The two stores`: the first word is a verb."""
    nouns = {"Connections", "Editions", "Logs", "Pools", "Settings"}
    wrong = []
    for path in sources(ROOT / package, ".py"):
        first = re.match(r'"""([A-Z][a-z]+s),?[ :]', path.read_text("utf-8"))
        if first is None or first[1] in nouns:
            wrong.append(str(path.relative_to(ROOT)))
    for path in sorted((ROOT / package).glob("*.lua")):
        text = path.read_text("utf-8")
        if not re.search(rf"--\[\[ {path.stem}: [a-z]+s,? ", text):
            wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []

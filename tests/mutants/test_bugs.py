"""The planted bugs still have their places, and the page is of these bugs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mutants.__main__ import HEAD, PAGE, numbers, row
from mutants.bug import LISTED, Bug
from mutants.bugs import BUGS
from mutants.kept import Kept
from mutants.planting import ROOT, at_work, judge


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "_"))
def test_its_place_is_there_once(bug: Bug) -> None:
    """Else `make mutants` could not plant it: adapt the bug to the change of the code."""
    text = (ROOT / bug.file).read_text(encoding="utf-8")
    assert at_work(text).count(bug.old) == 1
    assert bug.old != bug.new
    assert bug.tests
    for name in bug.tests.split():
        file, _, test = name.partition("::")
        tests = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in tests or not test, name


_DEFINES = re.compile(r"^CREATE (?:OR REPLACE )?FUNCTION\s+(?:\w+\.)?(\w+)", re.MULTILINE)


def test_no_function_with_a_bug_is_replaced_later() -> None:
    """A bug in what a later migration writes anew changes nothing, and nobody can notice it."""
    texts = {
        f"migrations/{file.name}": at_work(file.read_text(encoding="utf-8"))
        for file in sorted((ROOT / "migrations").glob("2*.sql"))
    }
    last = {name: file for file, text in texts.items() for name in _DEFINES.findall(text)}
    for bug in BUGS:
        if bug.file in texts:
            before = texts[bug.file].partition(bug.old)[0] + bug.old
            [*_, name] = ["", *_DEFINES.findall(before)]
            assert last.get(name, bug.file) == bug.file, bug.name


def test_each_has_a_name_of_its_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)


def test_every_listed_bug_of_others_is_planted() -> None:
    assert {bug.item for bug in BUGS if bug.item} == set(LISTED)


def test_the_page_says_who_notices_each() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    items = re.split(r"^(?=\d+\. )", text.removeprefix(HEAD), flags=re.MULTILINE)[1:]
    assert len(items) == len(BUGS)
    for number, (bug, item) in enumerate(zip(BUGS, items, strict=True), 1):
        file, test = re.findall(r"`([^`]+)`", " ".join(item.split()))[-2:]
        noticed = f"{file}::{test}"
        assert item == row(number, bug, noticed)
        among = [
            name for name in bug.tests.split() if re.match(re.escape(name) + r"(::|\[|$)", noticed)
        ]
        assert among, noticed


FAILED = "FAILED tests/lua/test_input.py::test_it - AssertionError: 1 != 2\n1 failed in 3s\n"


def test_only_a_test_that_failed_is_a_find() -> None:
    assert judge(1, FAILED, "").by == "lua/test_input.py::test_it"
    assert judge(0, "3 passed", "") == ("", "NOT NOTICED")
    # A file that cannot be imported, a name that is not there, no test at all, a crash of pytest.
    for returncode in (2, 3, 4, 5):
        found = judge(returncode, "ERROR tests/lua/test_input.py - SyntaxError\n", "and why")
        assert not found.by
        assert "and why" in found.trouble
    assert not judge(1, "ERROR tests/lua/test_input.py - SyntaxError\n", "").by


def test_some_of_them_can_be_chosen() -> None:
    assert numbers("3,5-7") == [3, 5, 6, 7]


def test_what_was_noticed_is_kept_as_long_as_it_is_the_same(tmp_path: Path) -> None:
    bug, file = BUGS[0], tmp_path / "data" / "kept"
    assert not Kept(file).found(bug)
    Kept(file).keep(bug, "a.py::test_a")
    Kept(file).keep(BUGS[1], "")
    assert Kept(file).found(bug) == "a.py::test_a"
    assert not Kept(file).found(bug._replace(new="another"))
    assert not Kept(file).found(bug._replace(tests="lua/test_input.py"))
    Kept(file).keep(bug, "")
    assert not Kept(file).found(bug), "the last word counts"

"""The planted bugs still have their places, and the page is of these bugs."""

from __future__ import annotations

import re

import pytest

from mutants.__main__ import PAGE, ROOT
from mutants.bugs import BUGS, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "_"))
def test_its_place_is_there_once(bug: Bug) -> None:
    """Else `make mutants` could not plant it: adapt the bug to the change of the code."""
    text = (ROOT / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.old) == 1
    assert bug.old != bug.new
    for name in bug.tests.split():
        assert (ROOT / "tests" / name).exists(), name


def test_the_page_says_who_notices_each() -> None:
    rows = re.findall(
        r"^\| \d+ \| ([^|]+) \| `([^`]+)` \| `([^`]+)` \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert [(name, file) for name, file, _ in rows] == [(bug.name, bug.file) for bug in BUGS]
    for bug, (_, _, noticed) in zip(BUGS, rows, strict=True):
        assert any(noticed.startswith(f"{name}::") for name in bug.tests.split()), noticed

"""docs/growth.md shows what `make growth` says today, of figures that docs/performance.md has."""

from __future__ import annotations

import os
import re
from pathlib import Path

from growth.measured import ARCHIVE_BYTES, CALL_US, ID_BYTES, OPERATION_US, ROW_BYTES, WAL_BYTES
from growth.plan import Plan
from growth.report import lines

PAGE = Path(__file__).parents[2] / "docs" / "growth.md"
BLOCK = re.compile(r"(?<=<!-- growth:begin -->\n).*?(?=<!-- growth:end -->)", re.DOTALL)


def test_the_page_shows_what_the_command_says() -> None:
    """`WRITE_DOCS=1 make test ARGS=tests/docs` writes it, as after new figures of `make bench`."""
    said = "```text\n" + "\n".join(lines(Plan())) + "\n```\n"
    page = PAGE.read_text("utf-8")
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(BLOCK.sub(lambda _: said, page), "utf-8")
    found = BLOCK.search(PAGE.read_text("utf-8"))
    assert found is not None
    assert found[0] == said


def test_the_page_names_the_figures_that_are_its_own() -> None:
    page = PAGE.read_text("utf-8")
    for figure in (CALL_US, OPERATION_US, ID_BYTES, ROW_BYTES, WAL_BYTES, ARCHIVE_BYTES):
        assert f"{figure:,.6g}" in page

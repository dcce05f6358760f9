"""The index lists every page, and every surface has one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
INDEX = (DOCS / "README.md").read_text(encoding="utf-8")


def test_the_index_lists_every_page() -> None:
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    listed = re.findall(r"\]\(([\w-]+\.md)\)", INDEX)
    assert len(listed) == len(set(listed))
    assert set(listed) == pages, "list the page in docs/README.md"


def test_the_readme_leads_to_the_index_and_to_every_surface() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    surfaces = INDEX.partition("## In front of your models")[2].partition("\n## ")[0]
    for page in ["README.md", "quickstart.md", *re.findall(r"\(([\w-]+\.md)\)", surfaces)]:
        assert f"](docs/{page})" in readme, page


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_anchors_resolve(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([\w/.-]*)#([\w-]+)\)", page.read_text("utf-8")):
        text = (page.parent / target if target else page).read_text("utf-8")
        titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
        assert anchor in anchors, f"{page.name} links to {target}#{anchor}"


def index_of_decisions() -> Iterator[str]:
    """The page that lists them, made of their first lines."""
    yield "# Decisions"
    yield ""
    yield "What was decided, why, and when to reconsider. A later decision says which earlier one"
    yield "it changes. Made from the files: `WRITE_DOCS=1 make test ARGS=tests/docs`."
    yield ""
    for page in DECISIONS:
        title = page.read_text("utf-8").partition("\n")[0].removeprefix(f"# {page.name[:4]} ")
        yield f"- [{page.name[:4]}]({page.name})"
        yield f"  {title}"


def test_the_index_of_decisions_lists_every_one_by_its_title() -> None:
    page, expected = DOCS / "decisions" / "README.md", "\n".join(index_of_decisions()) + "\n"
    if os.environ.get("WRITE_DOCS"):
        page.write_text(expected, encoding="utf-8")
    assert page.read_text("utf-8") == expected


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_begins_with_its_number_and_a_sentence(page: Path) -> None:
    title = page.read_text("utf-8").partition("\n")[0]
    assert re.fullmatch(rf"# {page.name[:4]} [A-Z`].*[^.]", title), title


def test_the_numbers_of_decisions_have_no_hole() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))

"""docs/export-columns.md has every column of every kind of export as the code has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

from taximeter.settler.exports.columns import SCHEMA_VERSION, TYPES
from taximeter.settler.exports.kinds import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "export-columns.md"
ABOUT = (
    "Every column of the [exports](exports.md), in order: its type in Parquet, what it is, and"
    " whether it may be null. Made from the code: `WRITE_DOCS=1 make test ARGS=tests/docs`. This is"
    f" schema version {SCHEMA_VERSION}, as manifests say it; it grows when a column goes or means"
    " something else, and new ones are added at the end."
)


def lines() -> Iterator[str]:
    yield "# Export columns"
    yield ""
    yield from wrapped(ABOUT)
    yield ""
    yield "In CSV they are written as:"
    yield ""
    for arrow in dict(TYPES.values()):
        written = [text for name, text in TYPES.values() if name == arrow]
        yield f"- {arrow}: {', or '.join(written)}"
    for kind in KINDS.values():
        yield from ("", f"## {kind.name}", "")
        yield from wrapped(f"{kind.about[0].upper()}{kind.about[1:]}.")
        yield ""
        for column in kind.columns:
            null = ", or null" if column.nullable else ""
            text = f"- **{column.name}**, {TYPES[column.type][0]}: {column.about}{null}"
            yield from wrapped(text, "  ")


def wrapped(text: str, indent: str = "") -> list[str]:
    return wrap(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def test_the_page_has_every_column_as_the_code_has_it() -> None:
    page = "\n".join(lines()) + "\n"
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text("utf-8") == page

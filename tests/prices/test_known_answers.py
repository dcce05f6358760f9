"""Usage in, cost out, for models of ten providers at the prices of their pages."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from support.known_answers import MILLICREDITS_PER_DOLLAR, table

from taximeter.meter.pricing import Pricer
from taximeter.meter.pricing.identity import identify
from taximeter.meter.pricing.lists import corrections

FILE = Path(__file__).parent / "known_answers.json"
PRICER = Pricer()
if os.environ.get("WRITE_ANSWERS"):
    FILE.write_text(table(), encoding="utf-8")
ROWS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


def test_the_table_is_what_the_pages_make() -> None:
    assert FILE.read_text(encoding="utf-8") == table()
    assert len(ROWS) >= 500
    assert len({row["page"] for row in ROWS}) >= 12
    for row in ROWS:
        assert Fraction(row["dollars"]) * MILLICREDITS_PER_DOLLAR <= row["millicredits"]


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['model']}-{'-'.join(row['counts'])}-{row['millicredits']}"
)
def test_cost(row: dict[str, Any]) -> None:
    price = PRICER.price(row["model"], provider=row["provider"])
    assert price.cost(row["usage"]) == row["millicredits"]


def test_corrections_are_those_that_the_table_shows() -> None:
    """A correction is there because a page says otherwise, and every such page is in the table."""
    rows = [row for row in ROWS if "list_differs" in row]
    shown = [corrections().find_alias(identify(row["model"], row["provider"])) for row in rows]
    assert None not in shown
    same = {
        "gpt-4o-mini-search-preview",  # As gpt-4o-search-preview.
        "claude-sonnet-4-0",  # Other names of claude-sonnet-4-20250514.
        "claude-4-sonnet",
        "grok-4-fast",  # Other names of grok-4-fast-reasoning.
        "grok-4-fast-non-reasoning",
    }
    assert {name for name, one in corrections().models.items() if one not in shown} <= same
    for row, one in zip(rows, shown, strict=True):
        assert one is not None
        assert (row["page"].partition(", ")[0] in one.source, row["as_of"]) == (True, one.as_of)

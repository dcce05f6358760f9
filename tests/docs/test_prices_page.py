"""docs/prices.md names every kind of token. Its commands are run by tests/pages."""

from __future__ import annotations

from pathlib import Path

from taximeter.meter.pricing import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "prices.md").read_text(encoding="utf-8")


def test_every_kind_is_described() -> None:
    for kind in KINDS:
        assert f"`{kind}`" in PAGE, kind

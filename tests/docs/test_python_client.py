"""docs/python-client.md names every error. Its program is run by tests/pages."""

from __future__ import annotations

import re
from pathlib import Path

import taximeter.meter
from taximeter.meter import MeterError

PAGE = (Path(__file__).parents[2] / "docs" / "python-client.md").read_text(encoding="utf-8")


def test_every_error_is_in_the_table() -> None:
    public = {name: getattr(taximeter.meter, name) for name in taximeter.meter.__all__}
    errors = {
        name
        for name, kind in public.items()
        if isinstance(kind, type) and issubclass(kind, MeterError) and kind is not MeterError
    }
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)) == errors

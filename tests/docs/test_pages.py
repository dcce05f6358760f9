"""Links between pages resolve, and settings are those of the code. Commands: tests/pages."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

import pytest
from pydantic_core import PydanticUndefined

from taximeter.api.settings.api import ApiSettings
from taximeter.api.settings.metering import MeteringSettings
from taximeter.api.settings.prices import PriceSettings
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.meter import MeterSettings
from taximeter.settler.books.settings import SettlerSettings, StoreSettings
from taximeter.settler.proof.invariants import TITLES

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def item(text: str) -> list[str]:
    """A line of a list, wrapped as pages are."""
    return wrap(
        text, 100, initial_indent="- ", subsequent_indent="  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def settings_page() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "Environment variables, with their defaults. Made from the code:"
    yield "`WRITE_DOCS=1 make test ARGS=tests/docs`."
    shared = set(StoreSettings.model_fields)
    metering, prices = set(MeteringSettings.model_fields), set(PriceSettings.model_fields)
    for title, model, own in (
        ("Every process", StoreSettings, shared),
        ("Settler", SettlerSettings, set(SettlerSettings.model_fields) - shared),
        ("API and sidecar", MeteringSettings, metering - shared),
        ("Prices and estimates (API and sidecar)", PriceSettings, prices - shared),
        ("API", ApiSettings, set(ApiSettings.model_fields) - metering - prices),
        ("Sidecar", SidecarSettings, set(SidecarSettings.model_fields) - metering - prices),
    ):
        yield f"\n## {title}\n"
        for name, info in model.model_fields.items():
            if name in own:
                default = info.default
                shown = "" if default in (None, PydanticUndefined) else f" (`{default}`)"
                yield from item(f"`TAXIMETER_{name.upper()}`{shown}: {info.description or ''}")
    yield "\n## Meter (constructor of the client: `MeterSettings`)\n"
    for each in dataclasses.fields(MeterSettings):
        yield f"- `{each.name}` (`{each.default}`)"


def test_settings_page_is_that_of_the_code() -> None:
    page, expected = ROOT / "docs" / "settings.md", "\n".join(settings_page()) + "\n"
    if os.environ.get("WRITE_DOCS"):
        page.write_text(expected, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == expected


def test_every_invariant_that_is_checked_is_described() -> None:
    text = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
    for name in TITLES:
        assert f"| {name} |" in text


def test_the_two_commands_of_the_readme_are_targets() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()

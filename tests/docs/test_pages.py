"""Links between pages resolve, and settings are those of the code. Commands: tests/pages."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

import pytest
from pydantic_core import PydanticUndefined
from support.sources import sources

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


def sentences() -> set[str]:
    """Every text of the code as a pattern, with anything where it puts something in."""
    found = set()
    for package in ("api", "meter"):
        for path in sources(ROOT / package, ".py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(re.sub(r"\\\{\w*\\\}", ".+", re.escape(node.value)))
                elif isinstance(node, ast.JoinedStr):
                    parts = (
                        re.escape(part.value) if isinstance(part, ast.Constant) else ".+"
                        for part in node.values
                    )  # fmt: skip
                    found.add("".join(parts))
    return {pattern for pattern in found if len(pattern) > 15}


def test_refusals_on_pages_say_what_the_code_says() -> None:
    """So whoever changes a sentence is told which page has it."""
    known = sentences()
    said = [
        (page.name, message)
        for page in PAGES
        for block in re.findall(r"^```json\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
        for message in re.findall(r'"message": "([^"]+)"', block)
        if message != "..."
    ]
    assert len(said) >= 3
    for name, message in said:
        assert any(re.fullmatch(one, message) for one in known), f"{name}: {message}"


def test_the_picture_of_packages_has_the_rows_that_are_enforced() -> None:
    """Each folder once, in the order of `[tool.importlinter]`, which nothing imports upwards."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = page.partition("\n## Packages\n")[2].partition("```text\n")[2].partition("```")[0]
    parts: dict[str, list[list[str]]] = {}
    for line in picture.partition("\n  lua ")[0].splitlines():
        if package := line[:13].strip(" │▼"):
            parts[package] = []
        if names := line[13:44].split():
            parts[next(reversed(parts))].append(names)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    layered = [one for one in contracts["contracts"] if one["type"] == "layers"]
    assert {one["containers"][0].rpartition(".")[2] for one in layered} == parts.keys()
    for one in layered:
        drawn = parts[one["containers"][0].rpartition(".")[2]]
        order = [name for row in drawn for name in row]
        expected = [
            name
            for layer in one["layers"]
            for name in layer.split(" | ")
            if name not in ("__main__", "cli")
        ]
        assert sorted(order) == sorted(expected)
        at = {name: number for number, row in enumerate(drawn) for name in row}
        floors = [
            [at[name] for name in layer.split(" | ") if name in at] for layer in one["layers"]
        ]
        for upper, lower in pairwise(floor for floor in floors if floor):
            assert max(upper) <= min(lower), one["id"]


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

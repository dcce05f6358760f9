"""HTTP speaks credits and millicredits by one rule (docs/architecture.md, "Units in HTTP"): the
documents of both servers are walked, and every number in them has to be something that it knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taximeter.api.app import create_app
from taximeter.api.settings.api import ApiSettings
from taximeter.meter.sidecar.app import openapi_document

NAMED_BY_THE_GUIDE = {"avg_cost_per_request", "cost_incurred", "monthly_refresh_amount"}
"""Credits, although their names do not say so."""
DOLLARS = {
    *("amount", "monthly_price", "mrr", "new_price", "old_price", "outstanding_balance"),
    *("proration", "purchase_amount", "refund_amount", "total_arr", "total_mrr"),
}
NO_MONEY = re.compile(r".*percentage|.*_s(_ago)?|seconds|n|images|status")
CREDITS = re.compile(r"(.*_)?credits(_.*)?")
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"

Numbers = dict[str, set[str]]


def numbers_of(document: dict[str, Any]) -> Numbers:
    """The JSON types of every property and parameter that may be a number."""

    def types(schema: dict[str, Any]) -> Iterator[str]:
        while "$ref" in schema:
            found: Any = document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        said = schema.get("type", ())
        yield from [said] if isinstance(said, str) else said
        for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from types(inner)
        if "items" in schema:
            yield from types(schema["items"])

    def fields(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, dict):
            if isinstance(node.get("properties"), dict):
                yield from node["properties"].items()
            if "name" in node and "schema" in node and "in" in node:
                yield node["name"], node["schema"]
        for inner in node.values() if isinstance(node, dict) else node:
            if isinstance(inner, (dict, list)):
                yield from fields(inner)

    numbers: Numbers = {}
    for name, schema in fields(document):
        if found := {"number", "integer"} & set(types(schema)):
            numbers.setdefault(name, set()).update(found)
    return numbers


@pytest.fixture(scope="module")
def of_api(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    folder = tmp_path_factory.mktemp("units")
    return numbers_of(create_app(ApiSettings(dev_mode=True, data_dir=folder)).openapi())


@pytest.fixture(scope="module")
def of_sidecar() -> Numbers:
    return numbers_of(json.loads(openapi_document()))


def test_the_api_speaks_credits_and_dollars_as_decimal_numbers(of_api: Numbers) -> None:
    money = {name for name, kinds in of_api.items() if "number" in kinds}
    money = {name for name in money if not NO_MONEY.fullmatch(name)}
    credits = {name for name in money if CREDITS.fullmatch(name)} | NAMED_BY_THE_GUIDE
    assert len(credits) > 15, "the walk finds them"
    assert not credits & DOLLARS
    assert money == credits | DOLLARS, "a name says its unit, or stands in this list"
    for name, kinds in of_api.items():
        assert "millicredits" not in name, name
        assert kinds == {"number"} or not CREDITS.fullmatch(name), name


def test_the_sidecar_speaks_whole_millicredits_and_says_so(of_sidecar: Numbers) -> None:
    money = {name: kinds for name, kinds in of_sidecar.items() if not NO_MONEY.fullmatch(name)}
    millicredits = {name for name in money if name.endswith("_millicredits")}
    assert len(millicredits) > 4, "the walk finds them"
    assert all(money[name] == {"integer"} for name in millicredits)
    others = {name for name in money if name not in millicredits and not is_count(name)}
    assert others == {"amount_credits"}, "no amount goes without its unit"


def is_count(name: str) -> bool:
    """A figure of usage, of time, or of a price in dollars."""
    return re.search(r"(?i)token|_ms$|usd", name) is not None


def test_the_rule_lists_what_the_guide_named(of_api: Numbers) -> None:
    rule = PAGE.read_text("utf-8").partition("## Units in HTTP")[2].partition("\n## ")[0]
    for name in NAMED_BY_THE_GUIDE | DOLLARS:
        assert f"`{name}`" in rule, name
        assert name in of_api, "nobody says it any more"

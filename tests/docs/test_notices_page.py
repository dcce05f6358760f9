"""docs/notices.md and docs/notices.json have every type of notice as the code has it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

import jsonschema

from taximeter.settler.notices.catalogue import KINDS

DOCS = Path(__file__).parents[2] / "docs"
PAGE, SCHEMAS = DOCS / "notices.md", DOCS / "notices.json"
ABOUT = (
    "Every type that [webhooks](webhooks.md) send, when, and the fields of its `data`; as JSON"
    " schemas in [notices.json](notices.json). Made from the code: `WRITE_DOCS=1 make test"
    " ARGS=tests/docs`. Those of `system` are for receivers of the installation alone. A type may"
    " get more fields; what it has stays."
)


def schemas() -> dict[str, Any]:
    """By type. Whoever checks by them goes on when there are more fields."""
    found = {}
    for name, kind in KINDS.items():
        schema = without(kind.data.model_json_schema(), {"title", "additionalProperties"})
        found[name] = {**schema, "description": kind.when}
    return found


def without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(one, names) for key, one in value.items() if key not in names}
    return [without(one, names) for one in value] if isinstance(value, list) else value


def lines() -> Iterator[str]:
    yield "# Notices"
    yield ""
    yield from wrap(ABOUT, 100, break_long_words=False, break_on_hyphens=False)
    group = ""
    for name, schema in schemas().items():
        if name.partition(".")[0] != group:
            group = name.partition(".")[0]
            yield from ("", f"## {group}", "")
        fields = "; ".join(f"`{field}`, {of(one)}" for field, one in schema["properties"].items())
        text = f"- **{name}**: {schema['description']} {fields}"
        yield from wrap(text, 100, subsequent_indent="  ", break_long_words=False,
                        break_on_hyphens=False)  # fmt: skip


def of(field: dict[str, Any]) -> str:
    """The type of a field in words, and what it is."""
    if "anyOf" in field:
        said = " or ".join(of(one) for one in field["anyOf"])
    elif field.get("type") == "array":
        said = f"list of {of(field['items'])}"
    elif "enum" in field:
        said = "/".join(map(str, field["enum"]))
    else:
        said = field.get("format") or field["type"]
    what = field.get("description")
    return said if what is None else f"{said} ({what[0].lower()}{what[1:]})"


def test_the_page_has_every_type_as_the_code_has_it() -> None:
    page = "\n".join(lines()) + "\n"
    found = json.dumps(schemas(), indent=1) + "\n"
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
        SCHEMAS.write_text(found, encoding="utf-8")
    assert PAGE.read_text("utf-8") == page
    assert SCHEMAS.read_text("utf-8") == found


def test_each_is_a_schema() -> None:
    for name, schema in json.loads(SCHEMAS.read_text("utf-8")).items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(schema["properties"]) == set(KINDS[name].data.model_fields)

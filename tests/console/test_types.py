"""The console's types are those of the API as it is; `npm run types` in api/console makes them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from taximeter.api.app import create_app
from taximeter.api.settings.api import ApiSettings

CONSOLE: Final = Path(__file__).parents[2] / "api" / "console"
TYPES: Final = CONSOLE / "src" / "api" / "schema.d.ts"
ASKED: Final = "/api/v1/"
WORDS: Final = {"description", "summary", "examples", "example", "title"}
NAMED: Final = {"properties", "schemas", "paths"}


def _without_words(part: Any, *, named: bool = False) -> Any:
    """Drop what says nothing about shapes; `named`: the keys are names of ours, not OpenAPI's."""
    if isinstance(part, list):
        return [_without_words(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _without_words(one, named=key in NAMED and not named)
        for key, one in part.items()
        if named or (key not in WORDS and not (key.isdigit() and int(key) >= 400))
    }


def shapes_of(document: dict[str, Any]) -> dict[str, Any]:
    """The admin API's paths with their shapes; without words, and without refusals, whose one
    shape is api/refusal.ts.
    """
    document = _without_words(document)
    paths = document["paths"]
    document["paths"] = {
        path: one
        for path, one in paths.items()
        if path.startswith(ASKED) and not path.startswith(f"{ASKED}llm")
    }
    return document


def test_generated_types_are_those_of_the_api() -> None:
    shapes = shapes_of(create_app(ApiSettings(dev_mode=True)).openapi())
    text = json.dumps(shapes, sort_keys=True)
    first = f"// Made by `npm run types` of OpenAPI {hashlib.sha256(text.encode()).hexdigest()}\n"
    if os.environ.get("WRITE_TYPES"):
        made = subprocess.run(
            ["node_modules/.bin/openapi-typescript"],
            input=text,
            cwd=CONSOLE,
            capture_output=True,
            text=True,
            check=True,
        )
        TYPES.write_text(first + made.stdout)
    with TYPES.open() as kept:
        assert kept.readline() == first, "run `npm run types` in api/console"

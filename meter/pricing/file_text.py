"""Writes a price file, in TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal


def price_file_text(models: Mapping[str, Mapping[str, object]], title: str) -> str:
    """The price file, in TOML: a line a model."""
    lines = [f"# {title}", "", "[models]"]
    lines += [f"{_quoted(name)} = {_inline(table)}" for name, table in models.items()]
    return "\n".join(lines) + "\n"


def _inline(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        pairs = (f"{_key(name)} = {_inline(one)}" for name, one in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, Decimal):
        # Text where it has an exponent otherwise; TOML would take that for a float, exactly too.
        return f"{value.normalize():f}"
    return _quoted(value) if isinstance(value, str) else str(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text)

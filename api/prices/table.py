"""Writes the prices that a comparison found as a table that a later one is held against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from taximeter.meter.pricing.sheet import Rate, Sheet

Figures = Mapping[str, str]
"""`kind` or `service tier/kind` -> dollars, with those above each context size behind it."""
Table = Mapping[str, Mapping[str, Figures]]
"""Model of the map -> `list` and `map` -> its figures."""
BYTES_MAX: Final = 64_000_000


class TableError(ValueError):
    """A file that is no such table."""


def figures_of(sheet: Sheet) -> dict[str, str]:
    """All prices of a sheet, as text."""
    found = {kind: _rate_text(rate) for kind, rate in sheet.rates.items()}
    for mode, rates in sheet.modes.items():
        found |= {f"{mode}/{kind}": _rate_text(rate) for kind, rate in rates.items()}
    return found


def _rate_text(rate: Rate) -> str:
    steps = [f"{rate.base.normalize():f}"]
    steps += [f"{price.normalize():f} above {start}" for start, price in rate.tiers]
    return ", ".join(steps)


def write_table(path: Path, table: Table) -> None:
    """Write it whole, or not at all. Raises OSError."""
    made = path.with_name(f".{path.name}.new")
    made.write_text(json.dumps(table, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    made.replace(path)


def read_table(path: Path) -> Table:
    """Read what `write_table` wrote. Raises TableError."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise TableError(f"{path.name} must have at most {BYTES_MAX} bytes")
        found: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise TableError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(found, dict) or not all(
        isinstance(sides, dict) and all(isinstance(side, dict) for side in sides.values())
        for sides in found.values()
    ):
        raise TableError(f"{path.name} is no table of prices; --save writes one")
    return found


def changes(old: Table, new: Table) -> Iterator[str]:
    """What is new, gone or has another price, a line each, by model."""
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            yield f"{name}: new"
        elif name not in new:
            yield f"{name}: gone"
        else:
            for side in ("list", "map"):
                yield from _changed(name, side, old[name].get(side, {}), new[name].get(side, {}))


def _changed(name: str, side: str, old: Figures, new: Figures) -> Iterator[str]:
    for kind in sorted(old.keys() | new.keys()):
        before, after = old.get(kind, "none"), new.get(kind, "none")
        if before != after:
            yield f"{name}: {kind} of the {side} {before} -> {after}"

"""Price files: an operator's own prices, in TOML or JSON, read whole or refused with every mistake
named by its line, model and field. `docs/prices.md` describes the format.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from taximeter.meter.pricing.file_reader import Entry, FileReader

FILE_BYTES_MAX: Final = 32_000_000
PROBLEMS_SHOWN: Final = 20


class PriceFileError(ValueError):
    """A price file that cannot be used; each problem says where it is. Nothing of it was taken."""

    def __init__(self, problems: list[str]) -> None:
        shown = problems[:PROBLEMS_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        super().__init__("\n".join(shown))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class PriceFile:
    """What a file says. `version` is its name with its own version, or with a digest of it."""

    version: str
    models: Mapping[str, Entry]
    patterns: tuple[tuple[str, Entry], ...] = field(default=())

    def find(self, model: str, provider: str | None) -> Entry | None:
        """The entry for a model: `provider/model` before `model`, and names before patterns that
        end in `*`, of which the longest counts.
        """
        name = model.lower()
        names = (name,) if provider is None else (f"{provider.lower()}/{name}", name)
        for one in names:
            if self._fits(self.models.get(one), provider):
                return self.models[one]
        for prefix, entry in self.patterns:
            if any(one.startswith(prefix) for one in names) and self._fits(entry, provider):
                return entry
        return None

    @staticmethod
    def _fits(entry: Entry | None, provider: str | None) -> bool:
        if entry is None:
            return False
        return provider is None or entry.provider in ("", provider)


def read_price_file(path: Path) -> PriceFile:
    """Read a file. Raises PriceFileError, also for a file that cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PriceFileError([f"{path.name} cannot be read: {error.strerror}"]) from None
    return parse_price_file(content, path.name)


def parse_price_file(content: bytes, name: str) -> PriceFile:
    """Parse a file; JSON when its name says so, else TOML. Raises PriceFileError."""
    if len(content) > FILE_BYTES_MAX:
        raise PriceFileError([f"{name} must have at most {FILE_BYTES_MAX} bytes"])
    try:
        text = content.decode()
        document = (
            json.loads(text, parse_float=Decimal, object_pairs_hook=_once)
            if name.endswith(".json")
            else tomllib.loads(text, parse_float=Decimal)
        )
    except RecursionError:
        raise PriceFileError([f"{name} is nested too deeply"]) from None
    except (ValueError, ArithmeticError) as error:  # Both parsers name the line themselves.
        raise PriceFileError([f"{name}: {error}"]) from None
    reader = FileReader(name, text)
    found = reader.read(document)
    if reader.problems:
        raise PriceFileError(reader.problems)
    given = document.get("version")
    digest = sha256(content).hexdigest()[:12]
    patterns = sorted(
        ((name[:-1], entry) for name, entry in found.items() if name.endswith("*")),
        key=lambda one: -len(one[0]),
    )
    return PriceFile(
        f"{name} {given or digest}",
        {name: entry for name, entry in found.items() if not name.endswith("*")},
        tuple(patterns),
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return found

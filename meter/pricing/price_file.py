"""Reads price files, an operator's own prices in TOML or JSON, whole, or refuses them with every
mistake named by its line, model and field. `docs/prices.md` describes the format.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from taximeter.meter.pricing.file_reader import Entry, FileReader, day_of
from taximeter.meter.pricing.identity import Identity, host_of, identify
from taximeter.meter.pricing.matching import is_alias

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
    """What a file says. `version` is its name with its own version, or with a digest of it; `dated`
    the day of which its prices are, if it says so.
    """

    version: str
    models: Mapping[str, Entry]
    patterns: tuple[tuple[str, Entry], ...] = field(default=())
    dated: date | None = None
    _identities: Mapping[Identity, Entry] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found: dict[Identity, Entry] = {}
        for name, entry in self.models.items():
            found.setdefault(identify(name, entry.provider), entry)
        object.__setattr__(self, "_identities", found)

    def find(self, name: str, of: Identity, host: str | None = None) -> Entry | None:
        """The entry for a model that was asked for as `name`, at `host` if one was given: that of
        the same model at the same host, however it is written, then one that speaks of no host.
        Names go before patterns that end in `*`, of which the longest counts.
        """
        asked = name.strip().lower()
        whole = f"{host.strip().lower()}/{asked}" if host else asked
        if (entry := self.models.get(whole)) is not None and _fits(entry, of):
            return entry
        as_written = self.models.get(asked)
        same = self._identities.get(of)
        hostless = self._identities.get(of._replace(provider=""))
        # A name that tells the host itself is the most that can be said of it.
        first = (as_written, same) if identify(asked) == of else (same, as_written)
        for entry in (*first, hostless):
            if entry is not None and _fits(entry, of):
                return entry
        names = (asked, str(of), str(of._replace(provider="")))
        for prefix, entry in self.patterns:
            if any(one.startswith(prefix) for one in names) and _fits(entry, of):
                return entry
        return None

    def hosts(self) -> frozenset[str]:
        """Hosts that an entry speaks of."""
        found = {known.provider for known in self._identities}
        found |= {host_of(entry.provider) for entry in self.models.values() if entry.provider}
        # A host of the operator's own stands in front of its models, as `house/small`.
        names = (*self.models, *(prefix for prefix, _ in self.patterns))
        found |= {name.partition("/")[0] for name in names if "/" in name}
        return frozenset(found - {""})

    def find_alias(self, of: Identity) -> Entry | None:
        """The entry of a host's model by its name without the date or version behind it; the
        longest counts.
        """
        found = [
            (len(known.model), entry)
            for known, entry in self._identities.items()
            if of.provider in ("", known.provider) and is_alias(of.model, known.model)
        ]
        return max(found, key=lambda one: one[0])[1] if found else None


def _fits(entry: Entry, of: Identity) -> bool:
    return not entry.provider or not of.provider or host_of(entry.provider) == of.provider


def read_price_file(path: Path) -> PriceFile:
    """Read a file. Raises PriceFileError, also for a file that cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PriceFileError([f"{path.name} cannot be read: {error.strerror}"]) from None
    return parse_price_file(content, path.name)


def parse_price_file(content: bytes, name: str, *, sourced: bool = False) -> PriceFile:
    """Parse a file; JSON when its name says so, else TOML. With `sourced` one of our own, in which
    each model names its source. Raises PriceFileError.
    """
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
    reader = FileReader(name, text, sourced=sourced)
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
        day_of(document.get("dated")),
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return found

"""The price lists: the operator's file first, then corrections, then the published list."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

from taximeter.meter.pricing.amendments import amended
from taximeter.meter.pricing.file_reader import Entry
from taximeter.meter.pricing.files import PriceFile, parse_price_file, read_price_file
from taximeter.meter.pricing.identity import Identity, host_of
from taximeter.meter.pricing.published import (
    Found,
    Listed,
    PublishedPrices,
    in_its_zone,
    names_of,
    zone_factor,
)
from taximeter.meter.pricing.sheet import Sheet


class PriceLists:
    """All lists that there are. Raises PriceFileError when the operator's file cannot be used."""

    def __init__(self, price_file: Path | None) -> None:
        self._path = price_file
        self._seen = None if price_file is None else _stamp(price_file)
        self._file = None if price_file is None else read_price_file(price_file)
        self._corrections = corrections()
        self._published = _published_prices()

    @property
    def published_version(self) -> str:
        """Which published list is in use; `none` without one."""
        return "none" if self._published is None else self._published.version

    @property
    def file_version(self) -> str:
        """Which operator's file is in use; empty without one."""
        return "" if self._file is None else self._file.version

    def find(self, name: str, of: Identity, host: str | None = None) -> Listed | None:
        """What the first list that has the model says of it; `name` is how it was asked for, and
        `host` what was said beside it.

        A name without a host means the maker's own model, so that all spellings of a model cost the
        same.
        """
        found = None if self._published is None else self._published.resolve(of)
        maker = of if of.provider or found is None else of._replace(provider=found[0].id)
        if self._file is not None:
            entry = self._file.find(name, of, host) or self._file.find(name, maker)
            if entry is not None:
                return _listed(entry, "override", self._file, maker, entry.sheet)
        entry = self._correction(of, found)
        if entry is not None:
            listed = maker if found is None else Identity(found[0].id, found[1].id.lower())
            sheet = in_its_zone(amended(entry.sheet, *names_of(maker, listed)), maker)
            return _listed(entry, "corrections", self._corrections, maker, sheet)
        if self._published is None or found is None:
            return None
        return self._published.listed(of, *found)

    def names_near(self, of: Identity) -> list[str]:
        """Models of the published list that are called nearly so."""
        return [] if self._published is None else self._published.names_near(of)

    def _correction(self, of: Identity, found: Found | None) -> Entry | None:
        """By the name that was asked for, or by the one that the list has for it; also for a host
        that sells the model for its maker's price.
        """
        if zone_factor(of) is None:
            return None
        if found is None:
            return self._corrections.find_alias(of)
        seller, model = found
        for one in (
            of,
            Identity(seller.id, of.model),
            Identity(seller.id, model.id.lower()),
        ):
            if one.provider and (entry := self._corrections.find_alias(one)) is not None:
                return entry
        return None

    def reload(self) -> bool:
        """Read the operator's file again if it has changed; returns whether it was read.

        Raises PriceFileError when it cannot be used: it stays as it was, and the same file is not
        read again.
        """
        if self._path is None:
            return False
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return False
        self._seen = stamp
        self._file = read_price_file(self._path)
        return True


@cache
def corrections() -> PriceFile:
    """Where the published list of the package is known to be wrong: a file of the same format."""
    name = "corrections.toml"
    return parse_price_file(files("taximeter.meter.pricing").joinpath(name).read_bytes(), name)


@cache
def _published_prices() -> PublishedPrices | None:
    try:
        return PublishedPrices()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "genai_prices":
            raise
        return None


def _listed(entry: Entry, source: str, file: PriceFile, of: Identity, sheet: Sheet) -> Listed:
    identity = of if of.provider else of._replace(provider=host_of(entry.provider))
    return Listed(identity.provider, source, file.version, ((None, sheet),), str(identity))


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does; all zeros when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)

"""Looks a model up in the price lists: the operator's file first, then corrections, then the
published list.

An edition that is in force takes the place of the published list of the installed package; one
that is a price file goes before corrections and package, which stay for what it does not name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from taximeter.meter.pricing.amendments import amended
from taximeter.meter.pricing.editions import Edition
from taximeter.meter.pricing.file_reader import Entry
from taximeter.meter.pricing.identity import HOSTS, Identity, host_of
from taximeter.meter.pricing.price_file import PriceFile, parse_price_file, read_price_file
from taximeter.meter.pricing.published import (
    Found,
    IsActive,
    Listed,
    PublishedPrices,
    in_its_zone,
    names_of,
    zone_factor,
)
from taximeter.meter.pricing.sheet import Sheet

CHECKED_PACKAGE: Final = "genai-prices 0.2.3"
"""The list that the corrections were compared with, on the day that is their version: that is the
day of which its prices are, since it does not tell one itself.
"""


class PriceLists:
    """All lists that there are. Raises PriceFileError when the operator's file cannot be used.

    edition: what is in force instead of the installed package; None for that.
    """

    edition: Edition | None = None

    def __init__(self, price_file: Path | None) -> None:
        self._path = price_file
        self._seen = None if price_file is None else _stamp(price_file)
        self._file = None if price_file is None else read_price_file(price_file)
        self._corrections = corrections()
        self._installed = _published_prices()

    @property
    def version(self) -> str:
        """Which list is in force, besides the operator's own; `none` without one."""
        if self.edition is not None:
            return self.edition.label
        return "none" if self._installed is None else self._installed.version

    @property
    def dated(self) -> date | None:
        """The day of which its prices are; None where that is not known."""
        if self.edition is not None:
            return self.edition.dated
        return self._installed_on

    @property
    def _installed_on(self) -> date | None:
        """The day of which the prices of the installed package are, where we know it."""
        if self._installed is None or self._installed.version != CHECKED_PACKAGE:
            return None
        return _corrected_on()

    @property
    def _published(self) -> PublishedPrices | None:
        edition = self.edition
        if edition is None or not isinstance(edition.prices, PublishedPrices):
            return self._installed
        return edition.prices

    @property
    def _listed_file(self) -> PriceFile | None:
        """The edition in force, where it is a price file."""
        edition = self.edition
        if edition is None or not isinstance(edition.prices, PriceFile):
            return None
        return edition.prices

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
        published = self._published
        found = None if published is None else published.resolve(of)
        maker = of if of.provider or found is None else of._replace(provider=found[0].id)
        if self._file is not None:
            entry = self._file.find(name, of, host) or self._file.find(name, maker)
            if entry is not None:
                price = _listed(entry, "override", self._file.version, maker)
                return replace(price, dated=_in_words(self._file.dated))
        day = _in_words(self.dated)
        listed_file = self._listed_file
        if listed_file is not None:
            entry = listed_file.find(name, of, host) or listed_file.find(name, maker)
            if entry is not None:
                price = _listed(entry, "list", self.version, maker)
                return replace(price, dated=day)
        entry = self._correction(of, found)
        if entry is not None:
            listed = maker if found is None else Identity(found[0].id, found[1].id.lower())
            names = names_of(maker, listed)
            price = _listed(entry, "corrections", self._corrections.version, maker)
            sheets = tuple(
                (when, in_its_zone(amended(sheet, *names), maker)) for when, sheet in price.sheets
            )
            return replace(price, sheets=sheets, dated=_in_words(_corrected_on()))
        if published is None or found is None:
            return None
        named = published.listed(of, *found)
        if named is None:
            return None
        if published is self._installed:
            return replace(named, dated=_in_words(self._installed_on))
        # What is amended in it stands behind its version.
        version = named.version.replace(published.version, self.version, 1)
        return replace(named, version=version, dated=day)

    def names(self) -> Iterable[str]:
        """Every model of the list in force, as host/name; those of the package also where a file is
        in force, since it is asked for what that does not name.
        """
        listed = self._listed_file
        found = dict.fromkeys(listed.models if listed is not None else ())
        if self._published is not None:
            for one in self._published.providers():
                found |= dict.fromkeys(f"{one.id}/{model.id}" for model in one.models)
        return list(found)

    def own_names(self) -> Iterable[str]:
        """Every model that the operator's own file names."""
        return () if self._file is None else list(self._file.models)

    def hosts(self) -> frozenset[str]:
        """Hosts that a price of any list is of."""
        found = set(HOSTS)
        if self._published is not None:
            found |= {one.id for one in self._published.providers()}
        for file in (self._file, self._listed_file):
            if file is not None:
                found |= file.hosts()
        return frozenset(found)

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
    """Where the published list of the package is known to be wrong: a file of the same format, in
    which each model has its source.
    """
    name = "corrections.toml"
    content = files("taximeter.meter.pricing").joinpath(name).read_bytes()
    return parse_price_file(content, name, sourced=True)


@cache
def _published_prices() -> PublishedPrices | None:
    try:
        return PublishedPrices()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "genai_prices":
            raise
        return None


def _corrected_on() -> date | None:
    """The day that the corrections are of; None if their version is none."""
    try:
        return date.fromisoformat(corrections().version.rpartition(" ")[2])
    except ValueError:
        return None


def _in_words(day: date | None) -> str:
    return "" if day is None else day.isoformat()


def _listed(entry: Entry, source: str, version: str, of: Identity) -> Listed:
    identity = of if of.provider else of._replace(provider=host_of(entry.provider))
    sheets: tuple[tuple[IsActive | None, Sheet], ...] = ((None, entry.sheet),)
    if entry.off_peak is not None:
        when, lower = entry.off_peak
        sheets = (*sheets, (when.holds, lower))
    return Listed(identity.provider, source, version, sheets, str(identity))


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does; all zeros when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)

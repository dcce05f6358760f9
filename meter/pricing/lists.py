"""The price lists: the operator's file first, then corrections, then the published list."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

from taximeter.meter.pricing.file_reader import Entry
from taximeter.meter.pricing.files import PriceFile, parse_price_file, read_price_file
from taximeter.meter.pricing.published import Listed, PublishedPrices


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

    def find(self, model: str, provider: str | None) -> Listed | None:
        """What the first list that has the model says of it."""
        for source, one in (("override", self._file), ("corrections", self._corrections)):
            entry = None if one is None else one.find(model, provider)
            if entry is not None and one is not None:
                return _listed(entry, source, one, provider)
        return None if self._published is None else self._published.find(model, provider)

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


def _listed(entry: Entry, source: str, file: PriceFile, provider: str | None) -> Listed:
    return Listed(entry.provider or provider or "", source, file.version, ((None, entry.sheet),))


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does; all zeros when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)

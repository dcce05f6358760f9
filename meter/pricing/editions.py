"""Finds the price list that is in force: editions were taken over one after the other, each from a
moment on, and take the place of the list that the installed package has.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from math import inf
from typing import Final, Literal

from taximeter.meter.pricing.package_list import read_list
from taximeter.meter.pricing.price_file import (
    FILE_BYTES_MAX,
    PriceFile,
    PriceFileError,
    parse_price_file,
)
from taximeter.meter.pricing.published import PublishedPrices

Kind = Literal["package", "file"]
"""`package`: a list of genai-prices. `file`: a price file of ours."""
VERSION_LENGTH_MAX: Final = 128


class PricesNotKnown(Exception):
    """Which prices are in force has not been read yet: nothing can be priced until then."""

    def __init__(self) -> None:
        super().__init__("Which price list is in force is not known here yet")


@dataclass(frozen=True, slots=True)
class Edition:
    """A list, and from when on it holds.

    number: in the order in which they were taken over. starts_at: seconds since 1970. dated: the
    day of which its prices are. digest: what it is told apart by.
    """

    number: int
    version: str
    dated: date
    starts_at: float
    digest: str
    prices: PublishedPrices | PriceFile

    @property
    def label(self) -> str:
        """How a charge names it."""
        return f"list {self.number}, {self.version}"


def edition_at(editions: Sequence[Edition], now: float) -> tuple[Edition | None, float]:
    """The edition that is in force, and when the next one begins. None before the first one: what
    the installed package has.
    """
    started = [one for one in editions if one.starts_at <= now]
    later = [one.starts_at for one in editions if one.starts_at > now]
    last = max(started, key=lambda one: (one.starts_at, one.number), default=None)
    return last, min(later, default=inf)


def digest_of(content: bytes) -> str:
    """What a list is told apart by: SHA-256 of what stands in it, in hex."""
    return sha256(content).hexdigest()


def packed(content: bytes) -> bytes:
    """As lists are kept."""
    return zlib.compress(content, 9)


def unpacked(kept: bytes, digest: str) -> bytes:
    """What was packed. Raises PriceFileError when it is not what it was."""
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(kept, FILE_BYTES_MAX)
    except zlib.error:
        content = b""
    if digest_of(content) != digest:
        raise PriceFileError(["a price list is damaged: it does not have its digest"])
    return content


def read_edition(kind: str, version: str, content: bytes) -> PublishedPrices | PriceFile:
    """The prices of a list. Raises PriceFileError when it is none."""
    if kind == "package":
        return PublishedPrices(read_list(content), version)
    # As text for both parsers: JSON begins with a brace, TOML never does.
    is_json = content.lstrip()[:1] == b"{"
    return parse_price_file(content, "list.json" if is_json else "list.toml")

"""Reads a price list from the installed package, a file of three forms, or those kept."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import click

from taximeter.api.commands.price_list_options import today
from taximeter.api.prices.editions import NewList
from taximeter.api.sql import PRICES
from taximeter.meter.pricing import PriceFileError, read_price_file
from taximeter.meter.pricing.editions import (
    VERSION_LENGTH_MAX,
    digest_of,
    read_edition,
    unpacked,
)
from taximeter.meter.pricing.file_text import price_file_text
from taximeter.meter.pricing.lists import CHECKED_PACKAGE, PriceLists
from taximeter.meter.pricing.litellm_map import read_map
from taximeter.meter.pricing.package_list import list_text, read_list
from taximeter.meter.pricing.price_file import FILE_BYTES_MAX, parse_price_file
from taximeter.meter.pricing.published import PublishedPrices
from taximeter.settler.books.stores import Pool

DIGEST_SHOWN: Final = 12


def from_package(dated: date | None) -> NewList:
    """The list of the installed package. Raises click.UsageError where nobody knows its day."""
    prices = PublishedPrices()
    lists = PriceLists(None)
    known = lists.dated if prices.version == CHECKED_PACKAGE else None
    if dated is None and known is None:
        raise click.UsageError(
            f"{prices.version} does not say of which day its prices are: give --dated, the day on "
            "which it was published"
        )
    providers = list(prices.providers())
    content = list_text(providers)
    day = dated or known
    assert day is not None, "one of them was given"
    return NewList(
        "package",
        prices.version,
        "installed package",
        digest_of(content),
        content,
        sum(len(one.models) for one in providers),
        day,
        prices,
    )


def from_file(path: Path, dated: date | None) -> NewList:
    """A file in any of the three forms. Raises PriceFileError."""
    try:
        content = path.read_bytes()
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    except OSError as error:
        raise PriceFileError([f"{path.name} cannot be read: {error.strerror}"]) from None
    if len(content) > FILE_BYTES_MAX:
        raise PriceFileError([f"{path.name} must have at most {FILE_BYTES_MAX} bytes"])
    source = path.name[:256]
    digest = digest_of(content)
    name = f"{path.name[:64]} {digest[:DIGEST_SHOWN]}"
    is_list = path.suffix == ".json" and content.lstrip()[:1] == b"["
    if is_list:
        providers = read_list(content)
        count = sum(len(one.models) for one in providers)
        version = f"genai-prices {name}"
        prices = PublishedPrices(providers, version)
        day = _day_of(path, dated, None, written)
        return NewList("package", version, source, digest, content, count, day, prices)
    imported = None
    if path.suffix == ".json" and not _is_ours(content):
        imported = read_map(content)
        if not imported.models:
            raise PriceFileError([f"{path.name} has no model that could be priced"])
        title = f"Imported from {path.name}; dollars, see docs/prices.md."
        content = price_file_text(imported.models, title).encode()
        file = parse_price_file(content, "list.toml")
        version = name
    else:
        file = read_price_file(path)
        version = file.version[:VERSION_LENGTH_MAX]
    count = len(file.models) + len(file.patterns)
    if not count:
        raise PriceFileError([f"{path.name} has no models"])
    digest, day = digest_of(content), _day_of(path, dated, file.dated, written)
    return NewList("file", version, source, digest, content, count, day, file, imported)


def _day_of(path: Path, given: date | None, told: date | None, written: date) -> date:
    """What was given, else what the list tells, else when it was written. Raises PriceFileError."""
    day = given or told or written
    if day > today():
        how = "is dated" if told else "was written on"
        raise PriceFileError([f"{path.name} {how} {day}, which has not come yet: give --dated"])
    return day


def _is_ours(content: bytes) -> bool:
    """Whether a JSON file is a price file of ours: those have their models in a table."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return True  # Whoever reads it says what is wrong.
    return isinstance(document, dict) and set(document) <= {"version", "models"}


async def kept_list(pool: Pool, number: int) -> NewList | None:
    """The list of this number as it was taken over, or None. Raises PriceFileError."""
    rows = await pool.fetch(PRICES["history"])
    row = next((one for one in rows if one["id"] == number), None)
    if row is None:
        return None
    kept = await pool.fetchrow(PRICES["content"], number)
    assert kept is not None, "lists are never deleted"
    content = unpacked(kept["content"], row["digest"])
    prices = read_edition(row["kind"], row["version"], content)
    return NewList(
        row["kind"],
        row["version"],
        row["source"],
        row["digest"],
        content,
        row["models"],
        row["dated"],
        prices,
    )

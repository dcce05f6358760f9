"""Keeps the editions of the price list: in Postgres, and in a file for processes without.

`docs/decisions/0074-price-lists-are-editions.md` says why.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from taximeter.api.billing.audit import write_audit
from taximeter.api.sql import PRICES
from taximeter.meter.pricing import PriceFile, PriceFileError
from taximeter.meter.pricing.editions import Edition, Kind, packed, read_edition, unpacked
from taximeter.meter.pricing.litellm_map import Imported
from taximeter.meter.pricing.published import PublishedPrices
from taximeter.settler.books.stores import Connection, Pool

FILE_BYTES_MAX: Final = 256_000_000
_FIELDS: Final = ("number", "kind", "version", "digest", "dated", "starts_at", "content")


@dataclass(frozen=True, slots=True)
class NewList:
    """A list before it is taken over. `content` is as it was read. `imported`: what came of
    LiteLLM's map, where it is one.
    """

    kind: Kind
    version: str
    source: str
    digest: str
    content: bytes
    models: int
    dated: date
    prices: PublishedPrices | PriceFile
    imported: Imported | None = None


class Editions:
    """Reads the editions again and again; each list is parsed once, in a thread.

    From `file` if there is one, else from Postgres if there is that, else there are none.
    """

    def __init__(self, pool: Pool | None, file: Path | None) -> None:
        self._pool = pool
        self._file = file
        self._parsed: dict[tuple[int, str], PublishedPrices | PriceFile] = {}

    @property
    def are_kept(self) -> bool:
        """Whether there is a place that could have some."""
        return self._pool is not None or self._file is not None

    @property
    def are_in_a_file(self) -> bool:
        """Whether that is a file."""
        return self._file is not None

    async def read(self) -> list[Edition]:
        """Those in force and to come. Raises PriceFileError for what is damaged, OSError and
        asyncpg errors when they cannot be read.
        """
        if self._file is not None:
            return await asyncio.to_thread(self._of_file, self._file)
        return [] if self._pool is None else await self._of_postgres(self._pool)

    async def _of_postgres(self, pool: Pool) -> list[Edition]:
        try:
            rows = await pool.fetch(PRICES["editions"])
        except asyncpg.UndefinedTableError:
            return []  # A database of before, which can have none.
        found = []
        for row in rows:
            key = row["id"], row["digest"]
            if key not in self._parsed:
                kept = await pool.fetchrow(PRICES["content"], row["id"])
                assert kept is not None, "lists are never deleted"
                self._parsed[key] = await asyncio.to_thread(
                    _parse, kept["kind"], kept["version"], kept["digest"], kept["content"]
                )
            found.append(
                Edition(
                    row["id"],
                    row["version"],
                    row["dated"],
                    row["starts_at"].timestamp(),
                    row["digest"],
                    self._parsed[key],
                )
            )
        self._forget(found)
        return found

    def _of_file(self, path: Path) -> list[Edition]:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise PriceFileError([f"{path.name} must have at most {FILE_BYTES_MAX} bytes"])
        try:
            document = json.loads(path.read_bytes())
            lists = document["lists"]
            found = []
            for one in lists:
                number, kind, version, digest, dated, starts_at, content = (
                    one[name] for name in _FIELDS
                )
                moment = datetime.fromisoformat(starts_at)
                if type(number) is not int or moment.tzinfo is None:
                    raise ValueError("number or starts_at")
                key = number, str(digest)
                if key not in self._parsed:
                    kept = b64decode(content, validate=True)
                    self._parsed[key] = _parse(kind, version, digest, kept)
                found.append(
                    Edition(
                        number,
                        str(version),
                        date.fromisoformat(dated),
                        moment.timestamp(),
                        str(digest),
                        self._parsed[key],
                    )
                )
        except PriceFileError as error:
            raise PriceFileError([f"{path.name}: {one}" for one in error.problems]) from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise PriceFileError(
                [f"{path.name} is none of what `taximeter prices export` writes"]
            ) from None
        self._forget(found)
        return found

    def _forget(self, found: list[Edition]) -> None:
        kept = {one.number for one in found}
        self._parsed = {key: one for key, one in self._parsed.items() if key[0] in kept}


def _parse(kind: str, version: str, digest: str, content: bytes) -> PublishedPrices | PriceFile:
    return read_edition(kind, version, unpacked(content, digest))


async def export_text(conn: Connection) -> str:
    """The editions in force and to come, for a process that has no database. Raises asyncpg
    errors.
    """
    lists = []
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        for row in await conn.fetch(PRICES["editions"]):
            content = await conn.fetchrow(PRICES["content"], row["id"])
            assert content is not None, "lists are never deleted"
            lists.append(
                {
                    "number": row["id"],
                    "kind": row["kind"],
                    "version": row["version"],
                    "digest": row["digest"],
                    "dated": row["dated"].isoformat(),
                    "starts_at": row["starts_at"].astimezone(UTC).isoformat(),
                    "content": b64encode(content["content"]).decode(),
                }
            )
    return json.dumps({"lists": lists}, indent=1) + "\n"


async def take_over(
    conn: Connection, new: NewList, *, starts_at: datetime | None, by: str, back_to: int | None
) -> tuple[int, datetime]:
    """Write down that this list is in force from then on (None: from now on), with a row in the
    audit log. Returns its number and its moment; both are durable then. Raises asyncpg errors, a
    CheckViolationError for a moment that has passed.
    """
    async with conn.transaction():
        before = await conn.fetch(PRICES["history"])
        in_force = next((row for row in before if row["in_force"]), None)
        row = await conn.fetchrow(
            PRICES["take_over"],
            new.kind,
            new.version,
            new.source,
            new.digest,
            packed(new.content),
            new.models,
            new.dated,
            starts_at,
            back_to,
            by,
        )
        assert row is not None, "an INSERT returns its row"
        after: dict[str, Any] = {
            "version": new.version,
            "source": new.source,
            "digest": new.digest,
            "models": new.models,
            "dated": new.dated,
            "starts_at": row["starts_at"].isoformat(),
        }
        if back_to is not None:
            after["back_to"] = back_to
        was = None
        if in_force is not None:
            was = {name: in_force[name] for name in ("id", "version", "digest")}
        await write_audit(
            conn,
            actor=by,
            action="prices.list.taken_over",
            org_id=None,
            target=f"list {row['id']}",
            before=was,
            after=after,
        )
    return row["id"], row["starts_at"]


async def withdraw(conn: Connection, number: int, *, by: str) -> str | None:
    """Do not begin with a list that has not begun, with a row in the audit log. Returns its
    version, or None when there is no such list to come.
    """
    async with conn.transaction():
        row = await conn.fetchrow(PRICES["withdraw"], number, by)
        if row is None:
            return None
        await write_audit(
            conn,
            actor=by,
            action="prices.list.withdrawn",
            org_id=None,
            target=f"list {number}",
            before={"version": row["version"], "starts_at": row["starts_at"].isoformat()},
        )
    version: str = row["version"]
    return version

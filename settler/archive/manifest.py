"""Describes one archived part of a month: which files, what is in them, and what they come to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from hashlib import sha256
from typing import Any, Final

from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, Place
from taximeter.settler.archive.rows import COLUMNS, SCHEMA_VERSION, Tally

FORMAT: Final = "taximeter-archive"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a month as Postgres knows it. The first has what the month held; a later one, what
    came after that was archived. `sha256`: of the manifest; None while it is not archived.
    """

    month: date
    part: int
    token: str
    sha256: str | None = None
    requests: int = 0
    credits_used: int = 0

    @property
    def folder(self) -> str:
        """Where its files lie."""
        return f"{self.month:%Y-%m}"

    @property
    def prefix(self) -> str:
        """How all of its files begin. The token is its own, so that no part overwrites another."""
        return f"{self.folder}/{self.part:02d}-{self.token}"

    @property
    def manifest(self) -> str:
        """The name of its manifest."""
        return f"{self.prefix}.json"

    def __str__(self) -> str:
        return self.folder if self.part == 1 else f"{self.folder} (part {self.part})"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One Parquet file. `first` and `last` are its first and last row: organisation, created_at
    (ISO 8601) and id, by organisation and then the newest first.
    """

    name: str
    rows: int
    credits_used: int
    bytes: int
    sha256: str
    first: tuple[str, str, int]
    last: tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was written. `ledger`: where Postgres and the watermarks stood when it was read."""

    month: str
    part: int
    rows: int
    credits_used: int
    digest: int
    id_min: int | None
    id_max: int | None
    files: tuple[FileEntry, ...]
    written_at: str
    ledger: dict[str, Any] = field(default_factory=dict)

    @property
    def tally(self) -> Tally:
        """What all rows come to."""
        return Tally(self.rows, self.credits_used, self.digest, self.id_min, self.id_max)

    def as_bytes(self) -> bytes:
        """The JSON that is written."""
        head = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "table": "public.credit_usage_attribution",
            "columns": COLUMNS,
        }
        # A digest is longer than what some readers of JSON take for a whole number.
        said = asdict(self) | {"digest": str(self.digest)}
        return json.dumps(head | said, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, name: str, content: bytes) -> Manifest:
        """Raises ArchiveError for what is none, ArchiveUnread for one of a newer release."""
        try:
            found = said_in(name, content, FORMAT, SCHEMA_VERSION)
            del found["table"], found["columns"]
            files = tuple(
                FileEntry(**one | {"first": tuple(one["first"]), "last": tuple(one["last"])})
                for one in found.pop("files")
            )
            made = cls(**found | {"files": files, "digest": int(found["digest"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(f"{name} is not a manifest of an archive") from error
        return made


def said_in(name: str, content: bytes, form: str, version: int) -> dict[str, Any]:
    """What a manifest of this form says, without its head. Raises ArchiveUnread for one of another
    version; ValueError, KeyError, TypeError or AttributeError for what is none.
    """
    found: dict[str, Any] = json.loads(content)
    if found.pop("format") != form:
        raise ValueError
    has = found.pop("schema_version")
    if has != version:
        raise ArchiveUnread(f"{name} has schema version {has}, and this release reads {version}")
    return found


def digest_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return sha256(content).hexdigest()


def read_manifest(place: Place, part: Part) -> Manifest:
    """The manifest of an archived part, as Postgres knows it. Raises ArchiveError."""
    content = place.read(part.manifest)
    if part.sha256 is not None and digest_of(content) != part.sha256:
        raise ArchiveError(f"{part.manifest} is not what was written: its digest differs")
    return Manifest.parse(part.manifest, content)


def read_file(place: Place, entry: FileEntry) -> bytes:
    """A file of an archive, byte for byte as it was written. Raises ArchiveError."""
    content = place.read(entry.name)
    if digest_of(content) != entry.sha256:
        raise ArchiveError(f"{entry.name} is not what was written: its digest differs")
    return content


def moment(text: str) -> datetime:
    """The time of `first` and `last`."""
    return datetime.fromisoformat(text)

"""Describes the exports of a day: which files, what is in them, what they come to, and how often
the day was written.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Final

from taximeter.settler.archive.manifest import said_in
from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, Place
from taximeter.settler.exports.columns import SCHEMA_VERSION, TYPES
from taximeter.settler.exports.kinds import KINDS
from taximeter.settler.exports.reading import Sums

FORMAT: Final = "taximeter-export"
FOLDER: Final = "manifests"
_NAME: Final = re.compile(rf"{FOLDER}/(\d{{4}}-\d\d-\d\d)\.json")
REVISIONS_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One file. `sha256` in hexadecimal."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportedKind:
    """What a kind had that day. `facts_sha256`: of its rows as CSV, whatever the files are."""

    rows: int
    millicredits: int
    facts_sha256: str
    files: dict[str, ExportFile]

    @property
    def sums(self) -> Sums:
        """What its rows come to."""
        return Sums(self.rows, self.millicredits)


@dataclass(frozen=True, slots=True)
class DayManifest:
    """A day, written for the `revision`th time. `ledger`: where Postgres and the watermarks stood
    when it was read. `earlier`: revisions before it, the newest first, with their sums.
    """

    day: date
    revision: int
    written_at: str
    kinds: dict[str, ExportedKind]
    ledger: dict[str, Any] = field(default_factory=dict)
    earlier: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Where it lies."""
        return manifest_name(self.day)

    def said(self) -> dict[str, Any]:
        """Of this revision, for the list of earlier ones."""
        sums = {
            name: {"rows": one.rows, "millicredits": one.millicredits, "facts": one.facts_sha256}
            for name, one in self.kinds.items()
        }
        return {"revision": self.revision, "written_at": self.written_at, "kinds": sums}

    def as_bytes(self) -> bytes:
        """The JSON that is written."""
        made = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(self)}
        made["day"] = self.day.isoformat()
        for name, one in made["kinds"].items():
            one["columns"] = {column.name: TYPES[column.type][0] for column in KINDS[name].columns}
        return json.dumps(made, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, name: str, content: bytes) -> DayManifest:
        """Raises ArchiveError for what is none, ArchiveUnread for one of a newer release."""
        try:
            found = said_in(name, content, FORMAT, SCHEMA_VERSION)
            kinds = {}
            for kind, one in found.pop("kinds").items():
                if kind not in KINDS:
                    raise ArchiveUnread(
                        f"{name} has the kind {kind}, which this release does not know"
                    )
                del one["columns"]
                files = {form: ExportFile(**file) for form, file in one.pop("files").items()}
                kinds[kind] = ExportedKind(files=files, **one)
            day = date.fromisoformat(found.pop("day"))
            earlier = tuple(found.pop("earlier"))
            made = cls(day=day, kinds=kinds, earlier=earlier, **found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(f"{name} is not a manifest of exports") from error
        if manifest_name(made.day) != name:
            raise ArchiveError(f"{name} is the manifest of another day, {made.day}")
        return made


def manifest_name(day: date) -> str:
    """Where the manifest of a day lies."""
    return f"{FOLDER}/{day.isoformat()}.json"


def file_name(kind: str, form: str, day: date) -> str:
    """Where a file lies: the folders are what DuckDB, Spark and Athena take for a column `date`."""
    return f"{form}/{kind}/date={day.isoformat()}/{kind}.{form}"


def exported_days(place: Place) -> list[date]:
    """Days that have a manifest, the earliest first. Raises ArchiveError."""
    names = (_NAME.fullmatch(name) for name in place.names(FOLDER))
    return sorted(date.fromisoformat(found[1]) for found in names if found is not None)


def read_manifest(place: Place, day: date) -> DayManifest:
    """Raises ArchiveError."""
    name = manifest_name(day)
    return DayManifest.parse(name, place.read(name))

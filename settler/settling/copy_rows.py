"""Turns runs of well-formed lines straight into text for COPY: a column at a time, and without an
object for each event.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from taximeter.meter.wire.limits import AMOUNT_MAX
from taximeter.settler.books.accounts import Account
from taximeter.settler.settling.events import (
    ACCOUNT,
    DIGITS_MAX,
    FLAGS,
    KINDS,
    PHASE_CHARGE,
    PHASE_REST,
    REQUEST_CHARACTERS,
    REQUEST_MAX,
    parse_time,
)
from taximeter.settler.settling.payloads import read_payload, split_payload
from taximeter.settler.settling.stream import Numbered, Run

_KINDS_AFTER: Final = frozenset("\n" + kind for kind in KINDS)
_PHASES: Final = {flag: PHASE_REST if flag == "rest" else PHASE_CHARGE for flag in FLAGS}
# All kinds but the first of an entry still have their newline.
_BY_EXPIRY: Final = {
    mark + kind: "t" if kind == "expire" else "f" for kind in KINDS for mark in ("", "\n")
}
_LATE: Final = {flag: "f" if flag == "-" else "t" for flag in FLAGS}
_REQUEST_BYTES: Final = REQUEST_CHARACTERS.encode()
# Any digit as 0 and any sign as +, so that a long exponent can be found without a pattern.
_EXPONENTS: Final = bytes.maketrans(b"123456789E-", b"000000000e+")
_NESTING_MAX: Final = 200
_CACHED: Final = 65_536
_ROWS_AT_ONCE: Final = 200


class _Known(NamedTuple):
    """What is the same for every line of an account."""

    account: Account
    request_prefix: str
    org_column: str
    user_column: str


@dataclass(slots=True)
class CopyRows:
    """A run as COPY takes it, in which every line is well-formed. Amounts in millicredits.

    Postgres judges what is only its to judge (a request charged before, the JSON of the metadata);
    when it refuses, the run is read again line by line.
    """

    events: int = 0
    amounts: defaultdict[Account, int] = field(default_factory=lambda: defaultdict(int))
    charged: list[str] = field(default_factory=list)
    attribution: defaultdict[Account, list[str]] = field(default_factory=lambda: defaultdict(list))
    first: datetime | None = None
    last: datetime | None = None
    """When the first and the last of them happened, in UTC."""

    @property
    def month(self) -> str | None:
        """The one month that all of them are of, as YYYY_MM; None when they are of several."""
        if self.first is None or self.last is None:
            return None
        months = {f"{time:%Y_%m}" for time in (self.first, self.last)}
        return months.pop() if len(months) == 1 else None

    async def charged_text(self) -> AsyncIterator[bytes]:
        """Rows for CHARGED_COLUMNS, in the order of their key: neighbours share the pages of the
        index, which costs less than taking them as they came.
        """
        rows = sorted(self.charged)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            yield "".join(rows[start : start + _ROWS_AT_ONCE]).encode()

    async def attribution_text(self) -> AsyncIterator[bytes]:
        """Rows for ATTRIBUTION_COLUMNS: account by account for the same reason, and those of an
        account as they came.
        """
        rows: list[str] = []
        for account in sorted(self.attribution):
            rows += self.attribution[account]
            if len(rows) >= _ROWS_AT_ONCE:
                yield "".join(rows).encode()
                rows.clear()
        yield "".join(rows).encode()


async def read_copy_rows(shard: int, run: Run) -> CopyRows | None:
    """The run as COPY text, or None when one of its lines needs a closer look.

    Lets others run after each entry, since the next run is prepared while Postgres is fed this one.
    """
    rows = CopyRows()
    now = datetime.now(UTC)
    for entry in run.entries:
        if not _add_entry(rows, shard, run.epoch, entry, now):
            return None
        await asyncio.sleep(0)
    return rows


def _add_entry(rows: CopyRows, shard: int, epoch: int, entry: Numbered, now: datetime) -> bool:
    """Add the lines of one entry; False, and `rows` is of no use any more, when one is not
    well-formed.
    """
    raw = entry.fields.get(b"v1")
    # Postgres ends lines at a carriage return as well.
    if raw is None or b"\r" in raw:
        return False
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return False
    # Every newline now begins a field: the shape is right when each seventh field is a kind and all
    # newlines are theirs.
    cells = text.replace("\\", "\\\\").replace("\n", "\t\n").split("\t")
    kinds = cells[0::7]
    lines = len(kinds)
    if (
        len(cells) != 7 * lines
        or lines != entry.lines
        or kinds[0] not in KINDS
        or not _KINDS_AFTER.issuperset(kinds[1:])
        or text.count("\n") != lines - 1
        or lines != entry.last_seq - entry.first_seq + 1
    ):
        return False
    amounts, reserved, flags = _amounts(cells[3::7]), _amounts(cells[4::7]), cells[5::7]
    known = [one for account in cells[1::7] if (one := _account(account)) is not None]
    if amounts is None or reserved is None or len(known) < lines or not FLAGS.issuperset(flags):
        return False
    requests = _request_ids(cells[2::7], known)
    if requests is None:
        return False
    time_ms = parse_time(entry.fields.get(b"t", b""))
    time = now if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)
    rows.first = time if rows.first is None else min(rows.first, time)
    rows.last = time if rows.last is None else max(rows.last, time)
    end = f"\t{shard}\t{epoch}\t{time.isoformat()}\n"
    purposes = _purposes(cells[6::7])
    sums, add_charged, attribution = rows.amounts, rows.charged.append, rows.attribution
    for seq, kind, one, request, amount, held, flag, purpose in zip(
        range(entry.first_seq, entry.last_seq + 1),
        kinds, known, requests, amounts, reserved, flags, purposes,
        strict=True,
    ):  # fmt: skip
        account, _, org_id, user_id = one
        sums[account] += amount
        add_charged(
            f"{org_id}\t{request}\t{_PHASES[flag]}\t{user_id}\t{amount}\t{seq}"
            f"\t{_BY_EXPIRY[kind]}{end}"
        )
        attribution[account].append(
            f"{org_id}\t{user_id}\t{request}\t{amount}\t{seq}\t{held}\t{_LATE[flag]}"
            f"\t{purpose}{end}"
        )
    rows.events += lines
    return True


def _amounts(texts: list[str]) -> list[int] | None:
    """All as millicredits; None when one is not only ASCII digits or beyond the limit."""
    joined = "".join(texts)
    if not (joined.isascii() and joined.isdigit()) or "" in texts:
        return None
    if len(max(texts, key=len)) > DIGITS_MAX:
        return None
    amounts = list(map(int, texts))
    return amounts if max(amounts) <= AMOUNT_MAX else None


def _request_ids(requests: list[str], known: list[_Known]) -> list[str] | None:
    """The ids without their organisation; None when one is malformed or belongs to another
    organisation than the account.
    """
    ids = []
    for request, one in zip(requests, known, strict=True):
        if not request.startswith(one.request_prefix):
            return None
        ids.append(request[len(one.request_prefix) :])
    joined = "".join(ids)
    if not joined.isascii() or joined.encode().translate(None, _REQUEST_BYTES):
        return None
    return None if "" in ids or len(max(ids, key=len)) > REQUEST_MAX else ids


def _purposes(payloads: list[str]) -> list[str]:
    """Type, name and metadata of each payload as COPY text.

    The shape of our own clients passes through as it is: whether its metadata is JSON is for
    Postgres to judge. What Postgres takes but we do not (numbers that fill pages, nesting that
    readers choke on) could be in few payloads, and those are read in full.
    """
    joined = "".join(payloads)
    exponents = joined.encode().translate(_EXPONENTS)
    doubtful = b"e0000" in exponents or b"e+0000" in exponents
    if len(max(payloads, key=len)) > _NESTING_MAX:
        doubtful |= any(one.count("{") + one.count("[") > _NESTING_MAX for one in payloads)
    if doubtful:
        return [_purpose_in_full(payload) for payload in payloads]
    purposes = []
    for payload in payloads:
        parts = split_payload(payload)
        if parts is None:
            purposes.append(_purpose_in_full(payload))
        else:
            (service_type, service_name), metadata = parts
            purposes.append(f"{service_type}\t{service_name}\t{metadata}")
    return purposes


def _purpose_in_full(payload: str) -> str:
    return "\t".join(map(_copy_text, read_payload(payload.replace("\\\\", "\\"))))


def _copy_text(value: str) -> str:
    """A value as COPY takes it."""
    escaped = value.replace("\\", "\\\\").replace("\t", "\\t")
    return escaped.replace("\n", "\\n").replace("\r", "\\r")


@lru_cache(_CACHED)
def _account(account: str) -> _Known | None:
    """An account by its COPY text; None when it is malformed. Remembered: the same ones come
    again.
    """
    found = ACCOUNT.fullmatch(account.replace("\\\\", "\\"))
    if found is None:
        return None
    org_id, user_id = found.groups()
    return _Known((org_id, user_id), org_id + "/", org_id, _copy_text(user_id))

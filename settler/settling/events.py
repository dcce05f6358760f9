"""Parses stream entries into events, and keeps what cannot be read as bad lines. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from taximeter.meter.wire.limits import AMOUNT_MAX

KINDS: Final = frozenset({"commit", "charge", "expire"})
FLAGS: Final = frozenset({"-", "late", "rest"})
PHASE_CHARGE: Final = 0
PHASE_REST: Final = 1

_ORG_ID = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}"
ACCOUNT = re.compile(rf"({_ORG_ID})/([^\x00-\x1f\x7f]{{1,255}})")
REQUEST_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"
REQUEST_MAX: Final = 128
DIGITS_MAX: Final = 15
_REQUEST = re.compile(rf"({_ORG_ID})/([{REQUEST_CHARACTERS}]{{1,{REQUEST_MAX}}})")
_DIGITS = re.compile(rf"[0-9]{{1,{DIGITS_MAX}}}")

# Entries say when Redis wrote them; anything outside these years is a damaged field and not a time.
_TIME_MS_MIN: Final = 946_684_800_000
_TIME_MS_MAX: Final = 4_102_444_800_000

Reason = Literal[
    "unreadable_line",
    "cross_tenant",
    "unknown_organization",
    "duplicate",
    "refused_by_database",
]


class Event(NamedTuple):
    """One charged amount. amount and reserved: millicredits. time_ms: Redis time of its entry, None
    if damaged.

    A named tuple, since a settler makes tens of thousands of them a second and a frozen dataclass
    costs three times more.
    """

    seq: int
    time_ms: int | None
    kind: str
    org_id: str
    user_id: str
    request_id: str
    amount: int
    reserved: int
    flags: str
    payload: str
    line: bytes

    @property
    def phase(self) -> int:
        """0 for the charge of a request, 1 for the rest that follows a charge by expiry."""
        return PHASE_REST if self.flags == "rest" else PHASE_CHARGE


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot become a charge. Account and amount are kept where they could be read, so
    that what the script took from the live balance can be given back.
    """

    seq: int
    reason: Reason
    detail: str
    line: bytes
    org_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One stream entry: its events have the seqs first_seq..last_seq, one line each."""

    epoch: int
    first_seq: int
    last_seq: int
    items: tuple[Event | BadLine, ...]


def parse_id(entry_id: bytes | str) -> tuple[int, int]:
    """(epoch, seq) of a stream id. Redis itself guarantees the two numbers."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    epoch, _, seq = text.partition("-")
    return int(epoch), int(seq)


def parse_entry(
    entry_id: bytes | str, fields: Mapping[bytes, bytes], after_seq: int = 0
) -> StreamEntry:
    """Parse one entry; never raises for its content.

    An entry without lines counts as one unreadable line. One with more lines than there are numbers
    after `after_seq` keeps only the last of them as numbered events; the surplus joins the first
    line as unreadable.
    """
    epoch, last_seq = parse_id(entry_id)
    time_ms = parse_time(fields.get(b"t", b""))
    text = fields.get(b"v1")
    if text is None:
        raw = b"\n".join(key + b"=" + value for key, value in fields.items())
        bad = BadLine(last_seq, "unreadable_line", "the entry has no field v1", raw)
        return StreamEntry(epoch, last_seq, last_seq, (bad,))
    lines = text.split(b"\n")
    surplus = len(lines) - (last_seq - after_seq)
    if surplus > 0:
        first = b"\n".join(lines[: surplus + 1])
        detail = f"{surplus} more lines than the id has numbers"
        head: list[Event | BadLine] = [
            BadLine(last_seq - len(lines) + surplus + 1, "unreadable_line", detail, first)
        ]
        lines = lines[surplus + 1 :]
    else:
        head = []
    start = last_seq - len(lines) + 1
    items = head + [parse_line(line, start + i, time_ms) for i, line in enumerate(lines)]
    return StreamEntry(epoch, last_seq - len(items) + 1, last_seq, tuple(items))


def parse_line(line: bytes, seq: int, time_ms: int | None) -> Event | BadLine:
    """Parse one line; never raises. The payload is left as text: an unreadable one must not lose
    its charge.
    """
    try:
        kind_b, account_b, request_b, amount_b, reserved_b, flags_b, payload_b = line.split(
            b"\t", 6
        )
        kind, account, request = kind_b.decode(), account_b.decode(), request_b.decode()
        amount_text, reserved_text, flags = amount_b.decode(), reserved_b.decode(), flags_b.decode()
    except ValueError:
        return _bad_line(line, seq, "not seven fields of UTF-8")
    account_found, request_found = ACCOUNT.fullmatch(account), _REQUEST.fullmatch(request)
    amount, reserved = _parse_amount(amount_text), _parse_amount(reserved_text)
    if account_found is None:
        return _bad_line(line, seq, "account")
    if request_found is None:
        return _bad_line(line, seq, "request")
    if amount is None:
        return _bad_line(line, seq, "amount")
    org_id, user_id = account_found.groups()
    request_org, request_id = request_found.groups()
    if request_org != org_id:
        detail = "the request belongs to another organisation than the account"
        return BadLine(seq, "cross_tenant", detail, line, org_id, user_id, request_id, amount)
    if kind not in KINDS or reserved is None or flags not in FLAGS:
        field = "kind" if kind not in KINDS else "reserved" if reserved is None else "flags"
        return BadLine(seq, "unreadable_line", field, line, org_id, user_id, request_id, amount)
    payload = payload_b.decode("utf-8", "backslashreplace")
    return Event(
        seq, time_ms, kind, org_id, user_id, request_id, amount, reserved, flags, payload, line
    )


def _bad_line(line: bytes, seq: int, detail: str) -> BadLine:
    """Keep what can be read of a damaged line: the account and the amount decide whether it can be
    given back.
    """
    parts = line.split(b"\t", 6)
    texts: Sequence[str] = [part.decode("utf-8", "replace") for part in parts]
    account = ACCOUNT.fullmatch(texts[1]) if len(texts) > 1 else None
    request = _REQUEST.fullmatch(texts[2]) if len(texts) > 2 else None
    amount = _parse_amount(texts[3]) if len(texts) > 3 else None
    intact = account is not None and "\ufffd" not in texts[1]
    return BadLine(
        seq,
        "unreadable_line",
        detail,
        line,
        account.group(1) if account is not None and intact else None,
        account.group(2) if account is not None and intact else None,
        request.group(2) if request is not None else None,
        amount,
    )


def _parse_amount(text: str) -> int | None:
    """Millicredits, or None. Only ASCII digits: int() alone would take signs, spaces and other
    scripts' digits.
    """
    if _DIGITS.fullmatch(text) is None:
        return None
    amount = int(text)
    return amount if amount <= AMOUNT_MAX else None


def parse_time(text: bytes) -> int | None:
    """Redis time of an entry in ms, None when the field is damaged."""
    if not text.isdigit() or len(text) > DIGITS_MAX:
        return None
    time_ms = int(text)
    return time_ms if _TIME_MS_MIN <= time_ms <= _TIME_MS_MAX else None

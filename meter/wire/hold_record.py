"""Reads what Redis keeps of an open hold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import check_opener
from taximeter.meter.wire.payload_codes import plain

_MARK: Final = re.compile(r"(?:(\d+)S)?([a-z0-9]*)(?:O([A-Za-z0-9]+))?")


class HoldRecord(NamedTuple):
    """An open hold. Amounts are millicredits.

    start: the number of the server start under which it was last heard of; None when a release
    wrote it that knew of no starts. owner: the token of the call that reserved it. opener: who that
    was (an API key, a process), empty when nobody was named. payload: plain JSON, also where Redis
    has it with codes.
    """

    amount: int
    account: str
    progress: int
    start: int | None
    owner: str
    opener: str
    payload: str

    @classmethod
    def parse(cls, record: bytes | str) -> HoldRecord:
        """Raises ValueError for a record that cannot be read."""
        text = record.decode() if isinstance(record, bytes) else record
        amount, account, progress, mark, payload = text.split("\t", 4)
        found = _MARK.fullmatch(mark)
        if not found or not account:
            raise ValueError(f"not the record of a hold: {text!r:.100}")
        start, owner, opener = found.groups()
        return cls(
            _digits(amount),
            account,
            _digits(progress),
            None if start is None else int(start),
            owner,
            opener or "",
            plain(payload),
        )

    def text(self) -> str:
        """The record as every release reads it: its payload has no codes."""
        mark = owner_of(self.owner, self.opener)
        if self.start is not None:
            mark = f"{self.start}S{mark}"
        return f"{self.amount}\t{self.account}\t{self.progress}\t{mark}\t{self.payload}"


def _digits(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"not a number: {text!r:.40}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for an operation, where that is a key and not one of our own processes.

    It ends and touches holds that were opened under its own name. `may_charge`: also beyond what
    was held, and without a hold. `any_hold`: also holds of others.
    """

    name: str
    may_charge: bool = False
    any_hold: bool = False
    mark: str = field(init=False, repr=False)
    """As the scripts read it."""

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidRequest("asker", "named by 1 to 32 letters and digits")
        rights = ("c" if self.may_charge else "") + ("a" if self.any_hold else "")
        object.__setattr__(self, "mark", f"{rights}O{check_opener(self.name)}")


def owner_of(call: str, opener: str) -> str:
    """The argument `owner` of a reserve: the token of this call, and who opens the hold, where that
    is known. Other operations have the mark of their asker there.
    """
    return f"{call}O{opener}" if opener else call

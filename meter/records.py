"""Reads what Redis keeps of an open hold."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_MARK: Final = re.compile(r"(?:(\d+)S)?([a-z0-9]*)(?:O([A-Za-z0-9]+))?")


class HoldRecord(NamedTuple):
    """An open hold. Amounts are millicredits.

    start: the number of the server start under which it was last heard of; None when a release
    wrote it that knew of no starts. owner: the token of the call that reserved it. opener: who that
    was (an API key, a process), empty when nobody was named.
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
            payload,
        )

    def text(self) -> str:
        """The record as Redis keeps it."""
        mark = owner_of(self.owner, self.opener)
        if self.start is not None:
            mark = f"{self.start}S{mark}"
        return f"{self.amount}\t{self.account}\t{self.progress}\t{mark}\t{self.payload}"


def _digits(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"not a number: {text!r:.40}")
    return int(text)


def owner_of(call: str, opener: str) -> str:
    """The argument `owner` of an operation: the token of this call of reserve (empty for all other
    operations), and who asks, where that is known.
    """
    return f"{call}O{opener}" if opener else call

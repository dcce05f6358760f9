"""Fail-open, bounded: while Redis cannot be reached, an organisation may go on, on credit.

Off unless an organisation is given a line. What is admitted here is in a journal on disk before the
caller goes on; commits wait there for Redis and are made under their request ids when it is back,
so that each is charged once, also when this process dies in between. A balance may go below zero
by that: the line is what the operator is willing to risk, per organisation and process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taximeter.meter.credit_entries import (
    Entry,
    check_rights,
    deadline_of,
    due_line,
    ended_line,
    marked,
    opened_line,
    org_of,
    receipt_of,
)
from taximeter.meter.errors import (
    AccountNotFound,
    InsufficientCredits,
    MeterError,
    RequestConflict,
    RequestReplayed,
    StoreError,
)
from taximeter.meter.journal import Journal, Line
from taximeter.meter.limits import AMOUNT_MAX, check_org_id
from taximeter.meter.models import Loader, Receipt
from taximeter.meter.operations import Operation

log: Final = logging.getLogger("taximeter.meter")


@dataclass(frozen=True, slots=True)
class CreditLines:
    """Millicredits per organisation that may be outstanding, and the file that keeps track."""

    limits: Mapping[str, int]
    journal: Path

    def __post_init__(self) -> None:
        for org_id, limit in self.limits.items():
            check_org_id(org_id)
            if not 0 < limit <= AMOUNT_MAX:
                raise ValueError(f"the line of {org_id} must be 1 to {AMOUNT_MAX} millicredits")


class CreditDesk:
    """Keeps who was admitted on credit. Everything it answers is on disk."""

    def __init__(self, lines: CreditLines, loader: Loader | None) -> None:
        self._limits = lines.limits
        self._loader = loader
        self._entries: dict[str, Entry] = {}
        self._outstanding: dict[str, int] = {}
        self._journal, found = Journal.open(lines.journal)
        for line in found:
            self._remember(line)
        for entry in list(self._entries.values()):
            if entry.due is None:
                self._end(entry)  # Whoever held it is gone.
        self._journal.replace(
            line
            for entry in self.due
            if entry.due
            for line in (opened_line(entry), due_line(entry.due))
        )

    def has_line(self, org_id: str) -> bool:
        return org_id in self._limits

    def entry(self, key: str) -> Entry | None:
        """The request `org/request`, if it was admitted on credit and is not charged yet."""
        return self._entries.get(key)

    @property
    def due(self) -> list[Entry]:
        """What waits to be charged."""
        return [entry for entry in self._entries.values() if entry.due is not None]

    async def admit(self, operation: Operation, trouble: StoreError) -> Receipt:
        """Admit a reserve, or a charge, which is due at once.

        Raises `trouble` when the line is used up, InsufficientCredits or AccountNotFound when
        Postgres can be asked and says so, RequestReplayed, RequestConflict.
        """
        known = self._entries.get(operation.key)
        if known is not None:
            return self._again(known, operation)
        org_id, _, user_id = operation.account.partition("/")
        await self._ask_postgres(operation, org_id, user_id)
        if known := self._entries.get(operation.key):  # Postgres took its time.
            return self._again(known, operation)
        if self._outstanding.get(org_id, 0) + operation.amount > self._limits[org_id]:
            raise trouble
        entry = Entry(operation, deadline_of(operation))
        if operation.op == "charge":
            entry.due = _charge(operation, marked(operation.payload))
        self._add(entry)
        try:
            await self._write(opened_line(entry))
            if entry.due is not None:
                await self._write(due_line(entry.due))
        except StoreError:
            self._remove(entry)
            raise
        return receipt_of(entry)

    def _again(self, known: Entry, operation: Operation) -> Receipt:
        """What a repeat of an id is told. Raises RequestReplayed, RequestConflict."""
        receipt = receipt_of(known)
        if known.operation.op != operation.op or known.operation.amount != operation.amount:
            raise RequestConflict(receipt)
        if operation.op == "charge":
            return receipt._replace(replayed=True)
        if known.operation.owner == operation.owner and known.due is None:
            return receipt
        raise RequestReplayed(receipt)

    async def finish(self, entry: Entry, operation: Operation) -> Receipt:
        """Commit or release. Raises RequestConflict when it ended another way, NotAllowed."""
        check_rights(entry, operation)
        if entry.due is not None:
            if entry.due.amount == operation.amount and operation.op == "commit":
                return receipt_of(entry)._replace(replayed=True)
            raise RequestConflict(receipt_of(entry))
        if operation.op == "release":
            await self.forget(entry)
            return Receipt(operation.request_id, "released", entry.operation.amount, 0, 0, 0)
        payload = operation.payload or entry.operation.payload
        due = _charge(operation, marked(payload))
        self._set_due(entry, due)
        await self._write(due_line(due))
        return receipt_of(entry)

    async def touch(self, entry: Entry, operation: Operation) -> Receipt:
        """Note the progress, and wait longer. Raises RequestConflict when it has ended,
        NotAllowed.
        """
        check_rights(entry, operation)
        if entry.due is not None:
            raise RequestConflict(receipt_of(entry))
        entry.progress = max(entry.progress, operation.amount)
        entry.deadline = deadline_of(operation)
        await self._write({"do": "touch", "key": operation.key, "progress": entry.progress})
        return receipt_of(entry)

    async def expire(self) -> None:
        """End what is past its deadline, as any hold: what was reported is charged."""
        now = asyncio.get_running_loop().time()
        for entry in list(self._entries.values()):
            if entry.due is None and entry.deadline <= now:
                await self._write(self._end(entry))

    async def refused(self, entry: Entry, why: MeterError) -> None:
        """Redis will never take it: set it aside for a person, and forget it."""
        try:
            await self._journal.set_aside({**opened_line(entry), "why": str(why)})
        except OSError as error:
            raise StoreError(f"the journal of the credit line: {error}") from error
        await self.forget(entry)

    async def aclose(self) -> None:
        """Leave what is open for the next process, which charges what was reported."""
        await self._journal.aclose()

    async def _ask_postgres(self, operation: Operation, org_id: str, user_id: str) -> None:
        """Refuse whom Postgres would refuse, as far as it can be asked: it does not know of the
        last seconds.
        """
        loader = self._loader
        if loader is None:
            return
        with suppress(TimeoutError, OSError, StoreError):
            async with asyncio.timeout(1.0):
                try:
                    account = await loader(org_id, user_id)
                except MeterError:
                    raise
                except Exception as error:
                    raise StoreError(str(error)) from error
            if account is None:
                raise AccountNotFound(org_id, user_id)
            owed = sum(
                entry.outstanding
                for entry in self._entries.values()
                if entry.operation.account == operation.account
            )
            if account.available - owed < operation.amount:
                raise InsufficientCredits(operation.amount, account.available - owed, owed)

    async def forget(self, entry: Entry) -> None:
        """It is in Redis now, or given back."""
        await self._write(ended_line(entry))
        self._remove(entry)

    async def _write(self, line: Line) -> None:
        try:
            await self._journal.append(line)
        except OSError as error:
            raise StoreError(f"the journal of the credit line: {error}") from error

    def _add(self, entry: Entry) -> None:
        self._entries[entry.operation.key] = entry
        org_id = org_of(entry.operation)
        self._outstanding[org_id] = self._outstanding.get(org_id, 0) + entry.outstanding

    def _remove(self, entry: Entry) -> None:
        if self._entries.pop(entry.operation.key, None) is not None:
            self._outstanding[org_of(entry.operation)] -= entry.outstanding

    def _set_due(self, entry: Entry, due: Operation) -> None:
        self._outstanding[org_of(due)] += due.amount - entry.outstanding
        entry.due = due

    def _end(self, entry: Entry) -> Line:
        """Charge what was reported; forget it when that is nothing. Returns what to write down."""
        if entry.progress == 0:
            self._remove(entry)
            return ended_line(entry)
        payload = marked(entry.operation.payload)
        due = _charge(entry.operation, payload)._replace(amount=entry.progress)
        self._set_due(entry, due)
        return due_line(due)

    def _remember(self, line: Line) -> None:
        """Take up one line of the journal, in its order."""
        match line:
            case {"do": "open", "operation": [*fields]} if len(fields) == len(Operation._fields):
                self._add(Entry(Operation(*fields), deadline=0.0))
            case {"do": "due", "operation": [*fields]} if len(fields) == len(Operation._fields):
                due = Operation(*fields)
                entry = self._entries.get(due.key)
                if entry is not None:
                    self._set_due(entry, due)
            case {"do": "touch", "key": str(key), "progress": int(progress)}:
                if key in self._entries:
                    self._entries[key].progress = progress
            case {"do": "end", "key": str(key)}:
                if key in self._entries:
                    self._remove(self._entries[key])
            case _:
                log.error("taximeter: a line of the credit journal is not understood: %r", line)


def _charge(operation: Operation, payload: str) -> Operation:
    """What is sent to Redis in the end. It is ours to charge now, whoever asked for it."""
    return operation._replace(op="commit", owner="", payload=payload)

"""Admits requests on credit while Redis cannot be reached, up to the line of their organisation.

Off unless an organisation is given a line. What is admitted here is in a journal on disk before the
caller goes on; commits wait there for Redis and are made under their request ids when it is back,
so that each is charged once, also when this process dies in between. A balance may go below zero
by that: the line is what the operator is willing to risk, per organisation and process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taximeter.meter.credit_line.admitted import (
    Entry,
    check_rights,
    due_line,
    ended_line,
    marked,
    opened_line,
    org_of,
    receipt_of,
    touched_line,
)
from taximeter.meter.credit_line.journal import Journal, Line, LineInDoubt
from taximeter.meter.wire.balance import Loader
from taximeter.meter.wire.errors import (
    AccountNotFound,
    InsufficientCredits,
    MeterError,
    OutcomeUnknown,
    RequestConflict,
    RequestReplayed,
    StoreError,
    TooManyHolds,
)
from taximeter.meter.wire.limits import AMOUNT_MAX, FREE_HOLD_TTL_MS, check_org_id
from taximeter.meter.wire.operations import Operation
from taximeter.meter.wire.payload_codes import plain
from taximeter.meter.wire.receipt import Receipt

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
        self._of_account: Counter[str] = Counter()
        self._journal, found = Journal.open(lines.journal)
        for line in found:
            self._remember(line)
        # Whoever holds an open one may be alive, behind a sidecar: it has until its deadline.
        self._journal.replace(line for entry in self._entries.values() for line in _lines_of(entry))

    def has_line(self, org_id: str) -> bool:
        """Whether an organisation may go on without Redis at all."""
        return org_id in self._limits

    def entry(self, key: str) -> Entry | None:
        """The request `org/request`, if it was admitted on credit and is not charged yet."""
        return self._entries.get(key)

    @property
    def due(self) -> list[Entry]:
        """What waits to be charged."""
        return [entry for entry in self._entries.values() if entry.due is not None]

    @property
    def figures(self) -> tuple[int, int, int, int]:
        """Requests that are open and that are due, millicredits of both, and of all lines."""
        due, outstanding = len(self.due), sum(self._outstanding.values())
        return len(self._entries) - due, due, outstanding, sum(self._limits.values())

    async def admit(self, operation: Operation, trouble: StoreError, account_max: int) -> Receipt:
        """Admit a reserve, or a charge, which is due at once. An account has at most `account_max`
        here, charges included, of which those of nothing use up no line.

        Raises `trouble` when the line is used up, TooManyHolds, InsufficientCredits or
        AccountNotFound when Postgres can be asked and says so, RequestReplayed, RequestConflict.
        """
        if known := await self._known(operation):
            return self._again(known, operation)
        org_id, _, user_id = operation.account.partition("/")
        await self._ask_postgres(operation, org_id, user_id)
        if known := await self._known(operation):  # Postgres took its time.
            return self._again(known, operation)
        if self._of_account[operation.account] >= account_max:
            raise TooManyHolds(account_max)
        if self._outstanding.get(org_id, 0) + operation.amount > self._limits[org_id]:
            raise trouble
        if operation.amount == 0:
            operation = operation._replace(ttl_ms=_life_of(operation, operation.ttl_ms))
        operation = operation._replace(payload=plain(operation.payload))
        entry = Entry.opened(operation)
        lines, due = [opened_line(entry)], None
        if operation.op == "charge":
            due = _charge(operation, marked(operation.payload))
            lines.append(due_line(due))
        self._add(entry)
        async with entry.lock:
            try:
                await self._write(*lines)
            except StoreError:
                self._remove(entry)
                raise
            # Not before it is on disk: what is due is charged, also what is refused here.
            entry.due = due
        return receipt_of(entry)

    async def _known(self, operation: Operation) -> Entry | None:
        """What the id stands for here, once that is on disk."""
        while (known := self._entries.get(operation.key)) is not None:
            async with known.lock:
                if self._has(known):
                    return known
        return None

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

    async def finish(self, entry: Entry, operation: Operation) -> Receipt | None:
        """Commit or release; None when Redis has it by now, and is to be asked. Raises
        RequestConflict when it ended another way, NotAllowed, StoreError (then nothing was done),
        or OutcomeUnknown.
        """
        check_rights(entry, operation)
        async with entry.lock:
            if not self._has(entry):
                return None
            due = entry.due
            if due is not None and due.op == "expire":
                return await self._finish_late(entry, due, operation)
            if due is not None:
                if due.amount == operation.amount and operation.op == "commit":
                    return receipt_of(entry)._replace(replayed=True)
                raise RequestConflict(receipt_of(entry))
            if operation.op == "release":
                await self._forget(entry)
                return Receipt(operation.request_id, "released", entry.operation.amount, 0, 0, 0)
            await self._become_due(entry, operation)
            return receipt_of(entry)

    async def _finish_late(self, entry: Entry, due: Operation, operation: Operation) -> Receipt:
        """As on the live side: a commit after the end of its hold adds what that did not charge."""
        if operation.op == "release":
            return receipt_of(entry)._replace(replayed=True)
        if operation.amount > due.amount:
            await self._become_due(entry, operation)
        return receipt_of(entry)._replace(state="committed", late=True)

    async def _become_due(self, entry: Entry, operation: Operation) -> None:
        payload = operation.payload or entry.operation.payload
        due = _charge(operation, marked(payload))
        await self._write(due_line(due))
        self._set_due(entry, due)

    async def touch(self, entry: Entry, operation: Operation) -> Receipt | None:
        """Note the progress, and wait longer; None when Redis has it by now. Raises RequestConflict
        when it has ended, NotAllowed, StoreError (then nothing was noted), or OutcomeUnknown.
        """
        check_rights(entry, operation)
        async with entry.lock:
            if not self._has(entry):
                return None
            if entry.due is not None:
                raise RequestConflict(receipt_of(entry))
            progress = max(entry.progress, operation.amount)
            ttl_ms = _life_of(entry.operation, operation.ttl_ms)
            await self._write(touched_line(entry, progress, ttl_ms))
            entry.touched(progress, ttl_ms)
            return receipt_of(entry)

    async def expire(self) -> None:
        """End what is past its deadline, as any hold: what was reported is charged."""
        now = asyncio.get_running_loop().time()
        for entry in list(self._entries.values()):
            if _is_over(entry, now):
                async with entry.lock:
                    if self._has(entry) and _is_over(entry, now):
                        await self._end(entry)

    async def charged(self, entry: Entry, due: Operation) -> None:
        """It is in Redis now: forget it, unless a late commit has made more of it due meanwhile."""
        async with entry.lock:
            if self._has(entry) and entry.due is due:
                await self._forget(entry)

    async def refused(self, entry: Entry, due: Operation, why: MeterError) -> None:
        """Redis will never take it: set it aside for a person, once, and forget it."""
        async with entry.lock:
            if not self._has(entry) or entry.due is not due:
                return
            if not entry.is_aside:
                line = {**opened_line(entry), "due": list(due), "why": str(why)}
                try:
                    await self._journal.set_aside(line)
                except OSError as error:
                    raise _trouble(error) from error
                entry.is_aside = True
            await self._forget(entry)

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

    def _has(self, entry: Entry) -> bool:
        return self._entries.get(entry.operation.key) is entry

    async def _forget(self, entry: Entry) -> None:
        await self._write(ended_line(entry))
        self._remove(entry)

    async def _write(self, *lines: Line) -> None:
        """Raises StoreError when they are not on disk and will not be, OutcomeUnknown when that is
        not sure.
        """
        try:
            await self._journal.append(*lines)
        except LineInDoubt as error:
            raise OutcomeUnknown(str(_trouble(error))) from error
        except OSError as error:
            raise _trouble(error) from error

    def _add(self, entry: Entry) -> None:
        self._entries[entry.operation.key] = entry
        self._of_account[entry.operation.account] += 1
        org_id = org_of(entry.operation)
        self._outstanding[org_id] = self._outstanding.get(org_id, 0) + entry.outstanding

    def _remove(self, entry: Entry) -> None:
        if self._entries.pop(entry.operation.key, None) is not None:
            self._outstanding[org_of(entry.operation)] -= entry.outstanding
            account = entry.operation.account
            self._of_account[account] -= 1
            if not self._of_account[account]:
                del self._of_account[account]

    def _set_due(self, entry: Entry, due: Operation) -> None:
        self._outstanding[org_of(due)] += due.amount - entry.outstanding
        entry.due = due

    async def _end(self, entry: Entry) -> None:
        """Charge what was reported; forget it when that is nothing."""
        if entry.progress == 0:
            await self._forget(entry)
            return
        operation = entry.operation
        due = operation._replace(
            op="expire",
            amount=entry.progress,
            ttl_ms=0,
            owner="",
            payload=marked(operation.payload),
        )
        await self._write(due_line(due))
        self._set_due(entry, due)

    def _remember(self, line: Line) -> None:
        """Take up one line of the journal, in its order."""
        match line:
            case {"do": "open", "operation": [*fields]} if len(fields) == len(Operation._fields):
                operation = Operation(*fields)
                self._add(Entry.opened(operation))
            case {"do": "due", "operation": [*fields]} if len(fields) == len(Operation._fields):
                due = Operation(*fields)
                entry = self._entries.get(due.key)
                if entry is not None:
                    self._set_due(entry, due)
            case {"do": "touch", "key": str(key), "progress": int(progress)}:
                entry = self._entries.get(key)
                if entry is not None:
                    # What an older release wrote does not say for how long.
                    entry.touched(progress, line.get("ttl_ms", entry.operation.ttl_ms))
            case {"do": "end", "key": str(key)}:
                if key in self._entries:
                    self._remove(self._entries[key])
            case _:
                log.error("taximeter: a line of the credit journal is not understood: %r", line)


def _charge(operation: Operation, payload: str) -> Operation:
    """What is sent to Redis in the end. It is ours to charge now, whoever asked for it."""
    return operation._replace(op="commit", owner="", payload=payload)


def _life_of(opened: Operation, ttl_ms: int) -> int:
    """As the scripts do: a hold of nothing lives shortly."""
    return ttl_ms if opened.amount else min(ttl_ms, FREE_HOLD_TTL_MS)


def _is_over(entry: Entry, now: float) -> bool:
    return entry.due is None and entry.deadline <= now


def _lines_of(entry: Entry) -> list[Line]:
    """What the journal must say to bring it back."""
    lines = [opened_line(entry)]
    if entry.progress or entry.ttl_ms != entry.operation.ttl_ms:
        # Else every restart but the first would end it after the time that its reserve asked for.
        lines.append(touched_line(entry, entry.progress, entry.ttl_ms))
    if entry.due is not None:
        lines.append(due_line(entry.due))
    return lines


def _trouble(error: OSError) -> StoreError:
    return StoreError(f"the journal of the credit line: {error}")

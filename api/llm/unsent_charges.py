"""Charges that the meter could not take yet: kept on disk, and made under their ids when it can,
also by the next process if this one dies first.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from taximeter.meter import (
    AdmissionPaused,
    CellUnknown,
    Meter,
    MeterError,
    NotConfirmed,
    OrganizationMoves,
    Overloaded,
    StoreError,
    Usage,
    WrongCell,
)
from taximeter.meter.credit_line.journal import Journal, JournalInUse, Line
from taximeter.meter.wire.credits import text_of_credits
from taximeter.settler.books.directory import Directory

logger = logging.getLogger("taximeter.api")

RETRY_S: Final = 0.5
AT_ONCE: Final = 100
_NAME: Final = "charges-{}.jsonl"
LATER: Final = (StoreError, Overloaded, AdmissionPaused, OrganizationMoves, CellUnknown)
"""What a charge is kept for: the meter, or the directory of cells, may take it later."""


class Due(NamedTuple):
    """A charge that is owed, in millicredits. `is_final`: its request has ended; one that has not
    is only charged when the process that ran it is gone.
    """

    org_id: str
    user_id: str
    request_id: str
    amount: int
    payload: str
    is_final: bool = True

    @property
    def key(self) -> tuple[str, str]:
        return self.org_id, self.request_id


class PendingCharges:
    """What is owed and not in Redis, in a file of this process alone, in a folder that processes of
    one installation may share: files of dead ones are taken over at the start.

    On return of `keep` a charge survives this process, if the disk does what it says. Without a
    usable folder charges are kept in memory alone, and each is logged.
    """

    def __init__(
        self,
        folder: Path,
        meter: Callable[[], Awaitable[Meter]],
        directory: Directory | None = None,
    ) -> None:
        self._directory = directory
        self._folder = folder
        self._meter = meter
        self._journal: Journal | None = None
        self._path: Path | None = None
        self._due: dict[tuple[str, str], Due] = {}
        self._running: dict[tuple[str, str], Due] = {}
        self._booking: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[bool]] = set()
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Take over what dead processes have left in the folder. Never raises: what cannot be read
        is logged, and left.
        """
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob(_NAME.format("*"))):
            try:
                await self._take_over(path)
            except (OSError, StoreError) as error:
                if not isinstance(error, JournalInUse):
                    logger.error("pending charges in %s cannot be read: %s", path, error)
        if self._due:
            logger.warning("%d charges of processes before this one are pending", len(self._due))
            self._book()

    def find(self, org_id: str, request_id: str) -> Due | None:
        """The charge of this request, if it is pending here."""
        return self._due.get((org_id, request_id))

    def __len__(self) -> int:
        return len(self._due)

    async def keep(self, due: Due) -> bool:
        """Keep a charge until it is made; returns whether it is on disk. Goes on when the caller is
        cancelled.
        """
        return await asyncio.shield(self.keep_soon(due))

    def keep_soon(self, due: Due) -> asyncio.Task[bool]:
        """The same, for callers who cannot wait; `aclose` does."""
        if due.is_final:
            self._due[due.key] = due
            self._running.pop(due.key, None)
            self._book()
        else:
            self._running[due.key] = due
        task = asyncio.get_running_loop().create_task(self._write({"do": "due", "due": list(due)}))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def ended(self, org_id: str, request_id: str) -> None:
        """The request was charged after all: what was noted while it ran is void."""
        if self._running.pop((org_id, request_id), None) is not None:
            await self._write({"do": "end", "key": [org_id, request_id]})

    async def aclose(self) -> None:
        """Stop, with everything that is still owed on disk and in the log."""
        if self._booking is not None:
            self._booking.cancel()
            await asyncio.gather(self._booking, return_exceptions=True)
        await asyncio.gather(*self._writing, return_exceptions=True)
        for due in self._due.values():
            _log_left(due, self._path)
        if self._journal is not None:
            await self._journal.aclose()
            if not self._due and not self._running and self._path is not None:
                _remove(self._path)

    async def _take_over(self, path: Path) -> None:
        journal, lines = await asyncio.to_thread(Journal.open, path)
        left: dict[tuple[str, str], Due] = {}
        for line in lines:
            match line:
                case {"do": "due", "due": [str(), str(), str(), int(), str(), bool()] as fields}:
                    due = Due(*fields)._replace(is_final=True)  # Whoever ran it is gone.
                    left[due.key] = due
                case {"do": "end", "key": [str(org_id), str(request_id)]}:
                    left.pop((org_id, request_id), None)
                case _:
                    logger.error("a line of %s is not understood: %r", path, line)
        self._due.update(left)
        if self._journal is None and left:
            # The file becomes this process's own: nothing is copied that could be lost on the way.
            self._journal, self._path = journal, path
            return
        written = [await self._write({"do": "due", "due": list(due)}) for due in left.values()]
        await journal.aclose()
        if all(written):
            _remove(path)

    async def _write(self, line: Line) -> bool:
        try:
            journal = await self._opened()
            await journal.append(line)
        except (OSError, StoreError) as error:
            logger.error("%s: a pending charge is not on disk: %s: %r", self._folder, error, line)
            return False
        return True

    async def _opened(self) -> Journal:
        async with self._opening:
            if self._journal is not None:
                return self._journal
            self._path = self._folder / _NAME.format(os.urandom(8).hex())
            opened, _ = await asyncio.to_thread(Journal.open, self._path)
            self._journal = opened
            return opened

    def _book(self) -> None:
        if self._booking is None:
            self._booking = asyncio.get_running_loop().create_task(self._keep_booking())

    async def _keep_booking(self) -> None:
        try:
            while self._due:
                made: bool | None = False
                for due in list(self._due.values())[:AT_ONCE]:
                    made = await self._make(due)
                    if made is None:
                        break
                    if not made:
                        # It waits for its organisation alone: behind the others.
                        self._due[due.key] = self._due.pop(due.key)
                if not made:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._booking = None

    async def _make(self, due: Due) -> bool | None:
        """Commit under the id: if that was done before, the meter or the ledger knows. False: its
        organisation is on its way; None: the meter takes nothing now.
        """
        try:
            meter = await self._meter()
            await meter.commit(
                due.org_id,
                due.user_id,
                due.request_id,
                due.amount,
                usage=Usage.of_payload(due.payload),
            )
        except NotConfirmed as error:
            # It is done, and needs no hand unless the server is lost; others wait behind it.
            logger.error("charge applied and not confirmed: %s: %s", _words(due), error)
        except (OrganizationMoves, CellUnknown):
            return False
        except LATER:
            return None
        except WrongCell as error:
            if self._directory is None:
                await self._set_aside(due, error)
            elif not await self._hand_over(self._directory, due):
                return False
        except MeterError as error:
            # The meter answered, and will answer the same next time. A person has to look.
            await self._set_aside(due, error)
        self._due.pop(due.key, None)
        await self._write({"do": "end", "key": list(due.key)})
        return True

    async def _set_aside(self, due: Due, error: MeterError) -> None:
        logger.error("charge not applied: %s error=%r", _words(due), error)
        with suppress(OSError, StoreError):
            line = {"do": "due", "due": list(due), "why": str(error)}
            await (await self._opened()).set_aside(line)

    async def _hand_over(self, directory: Directory, due: Due) -> bool:
        """Leave it to the cell to which its organisation has moved; False while that cannot be."""
        try:
            await directory.hand_over(
                due.org_id, due.user_id, due.request_id, due.amount, due.payload
            )
        except CellUnknown:
            return False
        logger.info("charge left for another cell: %s", _words(due))
        return True


def _words(due: Due) -> str:
    return (
        f"org={due.org_id} user={due.user_id} request={due.request_id} "
        f"credits={text_of_credits(due.amount)}"
    )


def _log_left(due: Due, path: Path | None) -> None:
    logger.error("charge left pending in %s: %s", path or "memory alone", _words(due))


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
        path.with_suffix(path.suffix + ".lock").unlink()

"""Puts lines on disk before anybody is answered, for what cannot be in Redis yet."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from taximeter.meter.wire.errors import StoreError

Line = Mapping[str, Any]
_NEWLINE: Final = b"\n"


class JournalInUse(StoreError):
    """Another process writes this journal: each needs one of its own."""


class LineInDoubt(OSError):
    """A line could not be written whole, and not be taken back either: whoever opens the journal
    next may find it.
    """


class Journal:
    """JSON lines, appended and synced in groups: all that wait while one sync runs share the next.

    On return of `append` the line survives loss of power, if the disk does what it says. A crash in
    the middle of a write leaves at most one incomplete last line, which `open` leaves out.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        self._torn = False
        self._open_file()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, path: Path) -> tuple[Journal, list[Line]]:
        """Open or make the file; returns what is in it. Raises JournalInUse, OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock is a file of its own: `replace` puts another one in the place of the first.
        lock = os.open(path.with_suffix(path.suffix + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise JournalInUse(f"{path} is in use by another process") from error
        path.touch(mode=0o600)
        lines = list(_complete(path.read_bytes().split(_NEWLINE)))
        return cls(path, lock), lines

    async def append(self, *lines: Line) -> None:
        """Write lines and wait until they are on disk. Raises OSError: none of them is there then,
        and none will be; or LineInDoubt.

        Goes on when the caller is cancelled.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((b"".join(map(_packed, lines)), future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(future)

    def replace(self, lines: Iterable[Line]) -> None:
        """Have nothing but these lines, whatever happens on the way; before the first `append`
        only, since it waits for the disk. Raises OSError.
        """
        fresh = self._path.with_suffix(self._path.suffix + ".new")
        _write_synced(fresh, b"".join(map(_packed, lines)), "wb")
        fresh.replace(self._path)
        self._file.close()
        self._open_file()

    async def set_aside(self, line: Line) -> None:
        """Append a line to the file `<journal>.refused`, for people. Raises OSError."""
        path = self._path.with_suffix(self._path.suffix + ".refused")
        await asyncio.to_thread(_write_synced, path, _packed(line), "ab")

    async def aclose(self) -> None:
        """Finish what is being written, and let others have the file."""
        if self._writer is not None:
            with suppress(OSError):
                await self._writer
        self._file.close()
        os.close(self._lock)

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._sync, b"".join(line for line, _ in group))
            except OSError as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
            else:
                for _, future in group:
                    if not future.done():
                        future.set_result(None)

    def _open_file(self) -> None:
        # Without a buffer, which would keep what could not be written and write it with the next.
        self._file = self._path.open("ab", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def _sync(self, text: bytes) -> None:
        if self._torn:
            self._take_back()
        try:
            left = memoryview(text)
            while left:
                left = left[self._file.write(left) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._torn = True
            try:
                self._take_back()
            except OSError:
                raise LineInDoubt(*error.args) from error
            raise
        self._size += len(text)

    def _take_back(self) -> None:
        """Cut off what was not written whole, so that nobody finds what was refused."""
        os.ftruncate(self._file.fileno(), self._size)
        os.fsync(self._file.fileno())
        self._torn = False


def _write_synced(path: Path, text: bytes, mode: str) -> None:
    with path.open(mode) as file:
        path.chmod(0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _packed(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + _NEWLINE


def _complete(lines: Iterable[bytes]) -> Iterable[Line]:
    """The last line may be torn; so may be one before it, when a write failed and others came."""
    for text in lines:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line

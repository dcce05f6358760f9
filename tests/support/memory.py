"""Where the servers of tests keep their data: in memory, where there is room for it.

A test proves nothing about the disk of the machine it runs on, and copying a database there costs a
tenth of what it costs on one. Settings stay as they are: fsync is on, and returns at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "taximeter-tests"
_FREE_MIN = 2 * 1024**3
"""Bytes that must be free there and in the machine. One server takes at most a tenth of them."""


@contextmanager
def memory_folder() -> Iterator[Path | None]:
    """An empty folder in memory, removed at the end; None where there is no room for it."""
    if not _has_room():
        yield None
        return
    _remove_left()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-", dir=_SHARED_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_room() -> bool:
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return False
    writable = os.access(_SHARED_MEMORY, os.W_OK)
    return writable and min(free, psutil.virtual_memory().available) > _FREE_MIN


def _remove_left() -> None:
    """What a killed process has left there would take memory for ever."""
    for folder in _SHARED_MEMORY.glob(f"{_PREFIX}-*"):
        pid = folder.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)

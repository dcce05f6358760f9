"""Claims the folder that a command keeps its servers in, and deletes nothing outside of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from taximeter.api.access.dev_tokens import KEY_FILE_NAME
from taximeter.api.embedded.machine import locked_within

MARKER = ".taximeter-folder"
"""Says which command a folder belongs to. Locked while that command runs."""
SERVERS_END_WITHIN_S = 10.0
"""How long servers are waited for whose parent was killed a moment ago."""
_OF_DEV = frozenset(("arq", KEY_FILE_NAME, "logs", "postgres", "valkey"))


class FolderRefused(RuntimeError):
    """The folder may not be used, or not be emptied; nothing in it was touched."""


@contextlib.contextmanager
def own_folder(path: Path, owner: str, *, empty: bool = False) -> Iterator[Path]:
    """Keep the folder of `owner` (demo, dev or bench) for as long as the block runs; it is made if
    there is none, and emptied with `empty`.

    Taken are a new or empty folder, and one with this command's own marker that no process uses.
    Raises FolderRefused for every other.
    """
    folder = path.resolve()
    _claim(folder, owner)
    with _locked(folder / MARKER, folder, owner):
        if empty:
            _wait_for_servers(folder)
            for one in folder.iterdir():
                if one.name != MARKER:
                    _remove(one)
        yield folder


def _claim(folder: Path, owner: str) -> None:
    """Make the marker, or find that it is ours."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(one.name for one in folder.iterdir())
        if not found:
            with contextlib.suppress(FileExistsError), (folder / MARKER).open("x") as marker:
                marker.write(f"{owner}\n")
        elif owner == "dev" and {"valkey", "postgres"} <= set(found) <= _OF_DEV:
            # Made by the first release, which knew no marker. It is only gone on with.
            (folder / MARKER).write_text(f"{owner}\n", encoding="utf-8")
        elif MARKER not in found:
            raise FolderRefused(
                f"{folder} is not empty and was not made by {owner} ({found[0]} is in "
                f"it; {MARKER} is not): name another folder, or remove it yourself"
            )
        whose = (folder / MARKER).read_text(encoding="utf-8", errors="replace")[:80].strip()
    except OSError as error:
        raise FolderRefused(f"{folder} cannot be used: {error.strerror or error}") from error
    if whose != owner:
        raise FolderRefused(f"{folder} belongs to {whose!r}, not to {owner!r}: name another folder")


@contextlib.contextmanager
def _locked(marker: Path, folder: Path, owner: str) -> Iterator[None]:
    try:
        lock = os.open(marker, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise FolderRefused(f"{marker} cannot be used: {error.strerror or error}") from error
    try:
        if not locked_within(lock, 0):
            raise FolderRefused(
                f"{folder} is in use by another {owner}: stop it, or name another one"
            )
        yield
    finally:
        os.close(lock)


def _wait_for_servers(folder: Path) -> None:
    """Every embedded server keeps its own folder locked, also when its parent is gone."""
    end = time.monotonic() + SERVERS_END_WITHIN_S
    for lock_path in folder.glob("*/lock"):
        with lock_path.open("rb") as lock:
            if not locked_within(lock.fileno(), end - time.monotonic()):
                raise FolderRefused(f"a server still runs on {lock_path.parent}: stop it first")


def _remove(one: Path) -> None:
    try:
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()
    except OSError as error:
        raise FolderRefused(f"{one} cannot be removed: {error.strerror or error}") from error

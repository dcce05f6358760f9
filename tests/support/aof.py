"""Reads the append-only file of a Redis, as far as cutting it needs."""

from __future__ import annotations

import shutil
from pathlib import Path


def incremental_file(data_dir: Path) -> Path:
    """The file that writes are appended to."""
    return sorted((data_dir / "appendonlydir").glob("*.incr.aof"))[-1]


def command_ends(data: bytes) -> list[int]:
    """The offset after each whole command; 0 comes first. A torn end is left out."""
    ends = [0]
    at = 0
    while at < len(data):
        if data[at : at + 1] == b"#":  # A comment, such as a timestamp.
            end = data.find(b"\r\n", at)
            at = end + 2
            ends.append(at)
            continue
        end = data.find(b"\r\n", at)
        if end < 0:
            break
        count, at = int(data[at + 1 : end]), end + 2
        for _ in range(count):
            end = data.find(b"\r\n", at)
            if end < 0:
                return ends
            at = end + 2 + int(data[at + 1 : end]) + 2
        if at > len(data):
            break
        ends.append(at)
    return ends


def copy_cut(data_dir: Path, to: Path, size: int) -> None:
    """Copy the files of a server that is down, the last `size` bytes of writes kept: a power
    loss.
    """
    to.mkdir(parents=True)
    shutil.copytree(data_dir / "appendonlydir", to / "appendonlydir")
    with incremental_file(to).open("r+b") as file:
        file.truncate(size)

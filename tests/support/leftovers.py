"""What a test must not leave to those after it: open connections, and a process with less than it
had. Whoever does fails, and not somebody else of the same process an hour later.
"""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path
from typing import Final

from taximeter.api.embedded.machine import CLAIM

_LIMITS: Final = ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_NPROC")
_DESCRIPTORS: Final = Path("/proc/self/fd")
_UNIX_SOCKETS: Final = Path("/proc/net/unix")


def limits() -> dict[str, tuple[int, int]]:
    """The (soft, hard) limits of this process."""
    return {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS}


def lowered(before: dict[str, tuple[int, int]]) -> list[str]:
    """Which limits are lower than they were. The code under test may raise its own."""

    def room(limit: int) -> float:
        return float("inf") if limit == resource.RLIM_INFINITY else limit

    return [
        f"{name} is {now}, and was {before[name]}"
        for name, now in limits().items()
        if any(room(new) < room(old) for new, old in zip(now, before[name], strict=True))
    ]


def sockets() -> set[str]:
    """The open sockets of this process, but for those that claim a port until it ends; none where
    there is no /proc.
    """
    found: set[str] = set()
    if _DESCRIPTORS.is_dir():
        for name in os.listdir(_DESCRIPTORS):
            try:
                target = os.readlink(_DESCRIPTORS / name)
            except OSError:
                continue  # That of the listing itself.
            if target.startswith("socket:"):
                found.add(target)
    if found:
        # "…: 2 0 0 2 1 12345 @name": 12345 is what the target of a descriptor names.
        lines = (
            line.split() for line in _UNIX_SOCKETS.read_text(errors="replace").splitlines()[1:]
        )
        found -= {f"socket:[{line[6]}]" for line in lines if line[-1].startswith(f"@{CLAIM}")}
    return found


def left_open(before: set[str]) -> set[str]:
    """The sockets that are new and stay. What nobody holds any more is collected first, so that the
    warnings about it come here and now.
    """
    if sockets() - before:
        gc.collect()
    return sockets() - before

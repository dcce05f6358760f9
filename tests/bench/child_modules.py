"""Runs a module of the bench as a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from signal import SIGKILL
from types import ModuleType
from typing import IO, Final

from taximeter.api.embedded.spawn import Child, spawn

_TESTS: Final = Path(__file__).resolve().parents[1]


def spawn_module(module: ModuleType, *arguments: object, log: IO[bytes]) -> Child:
    """Start `python -m <module> <arguments>`; it is killed when this process ends."""
    return spawn(
        [sys.executable, "-m", module.__name__, *map(str, arguments)],
        log=log,
        death_signal=SIGKILL,
        environment={
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(_TESTS),
            "LC_ALL": "C",
            "TZ": "UTC",
        },
    )

"""Marks that are worked out, so that nobody keeps a list: who needs no server, who a Redis."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

REDIS: Final = frozenset({"session_redis_url", "valkey_server"})
SERVERS: Final = frozenset({*REDIS, "session_cluster", "session_database_url", "migrated_postgres"})
ASKED: Final = {"whole and not alone and not long": "whole", "alone and not floods": "alone"}
"""What `.ci/test --whole` asks for, and the mark that a file must name to be read for it."""
_STARTS: Final = re.compile(
    r"\bsubprocess\b|create_subprocess|\bspawn\(|Embedded\w+\(|\bserving\(|\bserved\(|\bnpm\b|\bForked\b"
)
"""What a file says that starts a process or opens a port by itself."""


def mark(item: pytest.Item) -> None:
    """Mark a test `fast` when neither its fixtures nor its file start anything and it is not marked
    slow, and `redis` when it asks for a Redis. Fails for one that .ci/test would never run.
    """
    for name in ASKED.values():
        if item.get_closest_marker(name) is not None:
            assert has_mark(item.path, name), (
                f"{item.path}: say pytest.mark.{name} in the file itself"
            )
    fixtures = set(getattr(item, "fixturenames", ()))
    if fixtures & REDIS:
        item.add_marker(pytest.mark.redis)
    slow = any(item.get_closest_marker(name) for name in ("slow", "alone", "whole"))
    module = getattr(item, "module", None)
    if not slow and not fixtures & SERVERS and module is not None and not _starts(module):
        item.add_marker(pytest.mark.fast)


def starts_by_itself(file: Path) -> bool:
    """Whether no test of a file can be `fast`, as far as its text says."""
    return bool(_STARTS.search(file.read_text(encoding="utf-8")))


@cache
def has_mark(file: Path, name: str) -> bool:
    """Whether a test of a file is marked so, as far as its text says."""
    return f"mark.{name}" in file.read_text(encoding="utf-8")


@cache
def _starts(module: ModuleType) -> bool:
    """Whether a file, or one of the tests' own that it takes something from, starts anything."""
    if _STARTS.search(inspect.getsource(module)):
        return True
    names = {
        getattr(one, "__module__", "") for one in vars(module).values() if not inspect.ismodule(one)
    }
    helpers = (sys.modules[name] for name in names if name in sys.modules)
    return any(_starts(helper) for helper in helpers if helper is not module and _is_ours(helper))


def _is_ours(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] in {
        "bench",
        "support",
        "settler_world",
        "settler_kill",
    }

"""Finds source files of the project, and none of what npm has put beside the console's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def sources(folder: Path, ending: str) -> Iterator[Path]:
    """All files below a folder whose names end so, in order."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if one not in ("node_modules", "__pycache__"))
        yield from (Path(where) / name for name in sorted(names) if name.endswith(ending))

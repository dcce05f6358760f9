"""Loads the named blocks of the .sql files in sql/."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)$", re.MULTILINE)


@cache
def load_queries(name: str, package: str = "taximeter.settler") -> MappingProxyType[str, str]:
    """Every block of the package's `sql/<name>.sql` by its name, in the order of the file.

    A block starts with `-- name: x` and ends where the next one starts. Raises FileNotFoundError,
    or ValueError when the file has no block or the same name twice.
    """
    text = files(package).joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    names, bodies = parts[1::2], parts[2::2]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"sql/{name}.sql needs named blocks, each name once")
    return MappingProxyType({n: body.strip() for n, body in zip(names, bodies, strict=True)})

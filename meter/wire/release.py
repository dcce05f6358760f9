"""Says which release this is, and what it was built from."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def release() -> str:
    """The version of the package; `unknown` where it is not installed."""
    try:
        return version("taximeter")
    except PackageNotFoundError:
        return "unknown"


@cache
def build() -> str:
    """The commit that it was built from, as `make release` and the image write it down; `unknown`
    in a clone.
    """
    try:
        return Path(__file__).with_name("build.txt").read_text("ascii").strip()
    except (OSError, ValueError):
        return "unknown"

"""The certificates of the world, read once: httpx reads them for every client that it makes, which
costs a test more than most of its requests, and no test calls anybody by https but who says how.
"""

from __future__ import annotations

from functools import cache

from httpx._transports import default


def read_once() -> None:
    """Let all httpx clients of this process that ask for the same certificates share a context."""
    default.create_ssl_context = cache(default.create_ssl_context)

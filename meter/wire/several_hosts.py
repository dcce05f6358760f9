"""Takes a URL apart that names several hosts. Newer Pythons (3.14) refuse such a netloc as a whole
where one of its later hosts is an IPv6 address, so each is given to them by itself.
"""

from __future__ import annotations

import re
from typing import Final

_PARTS: Final = re.compile(r"(\w+://)([^/?#]*)(.*)", re.DOTALL)


def split_hosts(url: str) -> list[tuple[str, str]]:
    """(host, its URL) of each, in order: `redis://me@a:1,[::1]:2/0` has `a:1` with
    `redis://me@a:1/0`, and `[::1]:2`. Nothing for what is no URL. Judges none of them.
    """
    found = _PARTS.fullmatch(url)
    if found is None:
        return []
    scheme, netloc, rest = found.groups()
    login, at, hosts = netloc.rpartition("@")
    return [(host, f"{scheme}{login}{at}{host}{rest}") for host in hosts.split(",")]

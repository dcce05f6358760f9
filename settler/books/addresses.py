"""Takes the address of a Postgres apart that names several servers: a primary and its standbys."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from taximeter.meter.wire.several_hosts import split_hosts

_WANTED: Final = "target_session_attrs"
_TAKES_WRITES: Final = ("read-write", "primary")


def one_by_one(url: str) -> list[str]:
    """The address of each of its servers, in order. Which of them is used is decided by who
    connects, so what the address says about it is left out.
    """
    urls = [one for name, one in split_hosts(url) if name]
    if len(urls) < 2:
        return [url]
    every = [urlsplit(one) for one in urls]
    query = urlencode([one for one in parse_qsl(every[0].query) if one[0] != _WANTED])
    return [one._replace(query=query).geturl() for one in every]


def check_address(url: str) -> str:
    """Return `url`, or raise ValueError saying what is wrong with it."""
    if not url.startswith(("postgres://", "postgresql://")):
        raise ValueError("must start with postgresql://")
    first = next((one for _, one in split_hosts(url)), url)
    wanted = dict(parse_qsl(urlsplit(first).query)).get(_WANTED, _TAKES_WRITES[0])
    if wanted not in _TAKES_WRITES:
        raise ValueError(f"{_WANTED} must be read-write: credits are never kept on a standby")
    return url

"""Takes the address of a Postgres apart that names several servers: a primary and its standbys."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

_WANTED: Final = "target_session_attrs"
_TAKES_WRITES: Final = ("read-write", "primary")


def one_by_one(url: str) -> list[str]:
    """The address of each of its servers, in order. Which of them is used is decided by who
    connects, so what the address says about it is left out.
    """
    parts = urlsplit(url)
    login, at, places = parts.netloc.rpartition("@")
    names = [name for name in places.split(",") if name]
    if len(names) < 2:
        return [url]
    query = urlencode([one for one in parse_qsl(parts.query) if one[0] != _WANTED])
    return [parts._replace(netloc=f"{login}{at}{name}", query=query).geturl() for name in names]


def check_address(url: str) -> str:
    """Return `url`, or raise ValueError saying what is wrong with it."""
    if not url.startswith(("postgres://", "postgresql://")):
        raise ValueError("must start with postgresql://")
    wanted = dict(parse_qsl(urlsplit(url).query)).get(_WANTED, _TAKES_WRITES[0])
    if wanted not in _TAKES_WRITES:
        raise ValueError(f"{_WANTED} must be read-write: credits are never kept on a standby")
    return url

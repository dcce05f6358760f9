"""Reads the URL of Redis: one server, or several hosts of which any may be asked first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio.connection import Connection, parse_url

from taximeter.meter.places.cancelable import cancelable
from taximeter.meter.wire.several_hosts import split_hosts

DEFAULT_PORT: Final = 6379
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Seeds:
    """Whom to ask first, and how to connect: `options` are what redis-py's pools take, without an
    address. `addresses` is empty for a unix socket, whose path is in the options then.
    """

    addresses: tuple[Address, ...]
    options: Mapping[str, Any]
    service_name: str | None = None
    """Which primary, where a Sentinel watches several."""
    sentinel_login: Mapping[str, str] = field(default_factory=dict)
    """`username` and `password` of the Sentinels, where they have one of their own."""

    @property
    def database(self) -> int:
        """The number of the logical database; 0 where the URL names none."""
        return int(self.options.get("db") or 0)

    def at(self, address: Address | None, **options: Any) -> dict[str, Any]:
        """What a pool of that server takes, `options` before those of the URL."""
        where = {} if address is None else {"host": address[0], "port": address[1]}
        return {**self.options, **where, **options}


def read_seeds(url: str, **options: Any) -> Seeds:
    """Take apart `redis://user:password@host:port,host:port/0?service_name=...`, with what redis-py
    knows of such a URL; `sentinel_username` and `sentinel_password` are ours. What the URL says
    counts before `options`. Raises ValueError.
    """
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    addresses: list[Address] = []
    found: dict[str, Any] = {}
    urls = split_hosts(url)
    for host, one in reversed(urls):
        # Each by itself, so that redis-py reads it as it reads a URL of one.
        found = dict(parse_url(one))
        where = (found.pop("host", "localhost"), int(found.pop("port", DEFAULT_PORT)))
        if url.startswith("unix://"):
            continue
        if not host and len(urls) > 1:
            raise ValueError("names an empty host among several")
        addresses.insert(0, where)
    service_name = found.pop("service_name", None)
    sentinel_login = {
        name: found.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in found
    }
    if "username" in sentinel_login and "password" not in sentinel_login:
        raise ValueError("names a sentinel_username without a sentinel_password")
    addresses = list(dict.fromkeys(addresses))
    found["connection_class"] = cancelable(found.get("connection_class", Connection))
    return Seeds(tuple(addresses), {**options, **found}, service_name, sentinel_login)

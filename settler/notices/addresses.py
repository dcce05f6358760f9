"""Keeps webhooks away from inner networks: what a URL may be, and where a name may lead."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

URL_LENGTH_MAX: Final = 2_000
MAILTO: Final = "mailto:"
_LOOKUPS_MAX: Final = 64
_EMAIL: Final = re.compile(r"[!-~]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_NOT_IN_EMAILS: Final = frozenset('"(),:;<>[]\\%?&')
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = IPv6Network("::/96")


class ForbiddenAddress(OSError):
    """The webhook's name has an address that nobody outside could reach, or has none."""


def check_url(url: str, *, anywhere: bool = False) -> str:
    """Return a URL that webhooks may have, or raise ValueError saying what is wrong with it.
    `anywhere`: also http and inner addresses, for development.
    """
    if len(url) > URL_LENGTH_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"must be at most {URL_LENGTH_MAX:,} printable characters of ASCII")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError("must have a port between 1 and 65535, or none") from error
    if parts.scheme != "https" and not (anywhere and parts.scheme == "http"):
        raise ValueError("must begin with https://")
    if not parts.hostname or port == 0 or "\\" in url:
        raise ValueError("must name a host, such as https://example.com/hooks")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or a password")
    if parts.fragment:
        raise ValueError("must not have a fragment (#)")
    if anywhere:
        return url
    literal = literal_address(parts.hostname)
    if literal is not None and not is_outside(literal):
        raise ValueError("must not be an address of an inner network")
    if literal is None and "." not in parts.hostname.strip("."):
        raise ValueError("must name a host with a domain, such as https://example.com/hooks")
    return url


def check_mailto(url: str) -> str:
    """Return `mailto:` with one plain address, or raise ValueError."""
    address = url.removeprefix(MAILTO)
    if (
        not url.startswith(MAILTO)
        or len(address) > 254
        or not _EMAIL.fullmatch(address)
        or address.count("@") != 1
        or _NOT_IN_EMAILS & set(address)
    ):
        raise ValueError("must be mailto: and one address, such as mailto:ann@example.com")
    return url


def literal_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is, in any spelling that sockets know (127.1, 0x7f000001); None for a
    name.
    """
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_outside(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the Internet, and so are those inside of it: of IPv4 in IPv6,
    and of tunnels.
    """
    return all(
        one.is_global
        and not (one.is_multicast or one.is_reserved or one.is_unspecified or one.is_link_local)
        for one in _with_inner(address)
    )


def _with_inner(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    yield address
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _NAT64 or address in _NAT64_LOCAL or address in _COMPATIBLE:
        yield IPv4Address(int(address) & 0xFFFFFFFF)


class ThreadsResolver(AbstractResolver):
    """Asks the system, in threads of its own: names whose servers never answer hold up nobody else
    of the process.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS_MAX, "taximeter-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Every address of a host. Raises OSError for one that is not there."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Wait for no look-up that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedResolver(AbstractResolver):
    """Resolves a name once and checks every address: with one inner address among them, none is
    connected to. The connection is made to the very addresses that were checked, whatever the name
    says a moment later. Raises ForbiddenAddress, and OSError for a name that is not there.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of a host that may be connected to."""
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            if not is_outside(ip_address(one["host"].partition("%")[0])):
                raise ForbiddenAddress(f"{host} has an address of an inner network")
        if not found:
            raise ForbiddenAddress(f"{host} has no address")
        return found

    async def close(self) -> None:
        """Let go of what the resolver has."""
        await self._resolver.close()

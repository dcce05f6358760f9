"""Knows the server that owns a key: the one that there is, the primary behind Sentinel, or the
primary of the key's slot in a cluster. Replicas are never asked for anything but the map.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from taximeter.meter.places.asking import asking
from taximeter.meter.places.deadline import altogether
from taximeter.meter.places.redirects import redirect_of
from taximeter.meter.places.seeds import Address, Seeds
from taximeter.meter.places.slot_map import SLOTS, SlotMap
from taximeter.meter.wire.errors import StoreError
from taximeter.meter.wire.replies import text_of

LOOK_PAUSE_S: Final = 0.1
"""Least time between two looks at a cluster; as much again at random, so that the processes that a
failover has met do not ask in step."""
LOOK_TIMEOUT_S = 0.5
"""How long one node is waited for before the next is asked."""

log: Final = logging.getLogger("taximeter.meter")


class Node(Redis):
    """A client of one server, which has a name where there are several. With `deadline_s` no
    command takes longer altogether.
    """

    def __init__(self, pool: Any, name: str = "", deadline_s: float | None = None) -> None:
        super().__init__(connection_pool=pool)
        self.name = name
        self._deadline_s = deadline_s

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with altogether(self._deadline_s):
            call: Any = super().execute_command
            return await call(*args, **options)


def name_of(redis: Any) -> str:
    """`host:port` of a server of a cluster; empty where there is one server alone."""
    return redis.name if isinstance(redis, Node) else ""


class Places(Protocol):
    """Where keys live. The clients that it hands out are its own and have no retries."""

    def of(self, key: str | None, error: BaseException | None = None) -> Any:
        """The server that owns the key, or the one that `error`, the answer to the last call, sends
        this one call to; any primary where there is no key. Raises ResponseError while there is
        none.
        """

    def heed(self, error: BaseException) -> None:
        """A call failed like this: look again, in the background, where that may help."""

    async def aclose(self) -> None:
        """Disconnect."""


class OneServer:
    """One server, or the primary that Sentinel names: redis-py's pool knows which."""

    def __init__(self, pool: Any, deadline_s: float | None = None) -> None:
        self.redis = Node(pool, deadline_s=deadline_s)

    def of(self, key: str | None, error: BaseException | None = None) -> Any:
        return self.redis

    def heed(self, error: BaseException) -> None:
        """A new connection asks anew."""

    async def aclose(self) -> None:
        await self.redis.aclose()
        await self.redis.connection_pool.disconnect()


class SentinelServer(OneServer):
    """The primary that the Sentinels agree on, asked with every new connection."""

    def __init__(
        self,
        seeds: Seeds,
        service_name: str,
        sentinel_login: dict[str, Any],
        deadline_s: float | None = None,
    ) -> None:
        options = dict(seeds.options)
        made_by = options.pop("connection_class", Connection)
        encrypted = issubclass(made_by, SSLConnection)
        for_sentinels = {
            name: value
            for name, value in options.items()
            if name not in ("db", "username", "password")
        }
        sentinel: Any = Sentinel
        pool: Any = SentinelConnectionPool
        self._sentinel = sentinel(
            list(seeds.addresses),
            sentinel_kwargs={**for_sentinels, **sentinel_login, "ssl": encrypted},
        )
        super().__init__(
            pool(service_name, self._sentinel, ssl=encrypted, **options),
            deadline_s,
        )

    async def aclose(self) -> None:
        await super().aclose()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class ClusterPlaces:
    """The primary of each slot, as the node said that was asked last.

    One node is asked at a time, at random, and one that says itself that the cluster is not whole
    is not believed. What a node says of a slot (MOVED) counts at once.
    """

    def __init__(self, seeds: Seeds, deadline_s: float | None = None) -> None:
        self._seeds = seeds
        self._deadline_s = deadline_s
        self._map = SlotMap()
        self._nodes: dict[Address, Node] = {}
        self._askers: dict[Address, Node] = {}
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> ClusterPlaces:
        """Read the first map. Raises what redis-py raises when no node has one."""
        trouble = await self._look()
        if trouble is not None:
            raise trouble
        return self

    def of(self, key: str | None, error: BaseException | None = None) -> Any:
        redirect = redirect_of(error)
        if redirect is not None and redirect.kind == "ASK" and redirect.host:
            return self._node((redirect.host, redirect.port), asks=True)
        slot = random.randrange(SLOTS) if key is None else key_slot(key.encode())
        owner = self._map.owner(slot)
        if owner is None:
            raise ResponseError(f"CLUSTERDOWN no primary has slot {slot}")
        return self._node(owner)

    def heed(self, error: BaseException) -> None:
        redirect = redirect_of(error)
        if redirect is not None and redirect.kind == "ASK":
            return
        if redirect is not None and redirect.host:
            self._map.move(redirect.slot, (redirect.host, redirect.port))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_once(), name="meter-places-look")

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for node in (*self._nodes.values(), *self._askers.values()):
            await node.aclose()
            await node.connection_pool.disconnect()

    async def _look_once(self) -> None:
        try:
            trouble = await self._look()
            if trouble is not None:
                log.warning("taximeter: no node says where the slots are: %s", trouble)
            # Whoever asks meanwhile has to do with what was found just now.
            await asyncio.sleep(LOOK_PAUSE_S * (1 + random.random()))
        finally:
            self._looking = None

    async def _look(self) -> Exception | None:
        """Take the map of the first node that has a whole one; what was wrong when none has."""
        known = list(dict.fromkeys((*self._map.nodes, *self._seeds.addresses)))
        trouble: Exception | None = None
        for address in random.sample(known, len(known)):
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    self._map = await self._read_map(address)
            except (RedisError, OSError, ValueError) as error:
                trouble = error if isinstance(error, RedisError) else _away(address, error)
            else:
                await self._forget_gone()
                return None
        return trouble

    async def _read_map(self, address: Address) -> SlotMap:
        # On a connection of its own: a pool may be waiting for a node that hangs.
        pool: Any = ConnectionPool(**self._seeds.at(address))
        connection = pool.make_connection()
        try:
            await connection.connect()
            await connection.send_command("CLUSTER", "INFO")
            info = text_of(await connection.read_response(disable_decoding=True))
            if "cluster_state:ok" not in info:
                raise ResponseError(
                    f"CLUSTERDOWN {address[0]}:{address[1]} says cluster_state:fail"
                )
            await connection.send_command("CLUSTER", "SLOTS")
            return SlotMap.read(await connection.read_response(disable_decoding=True), address)
        finally:
            await connection.disconnect(nowait=True)

    async def _forget_gone(self) -> None:
        for nodes in (self._nodes, self._askers):
            for address in nodes.keys() - set(self._map.nodes):
                with suppress(RedisError, OSError):
                    await nodes.pop(address).connection_pool.disconnect()

    def _node(self, address: Address, *, asks: bool = False) -> Node:
        nodes = self._askers if asks else self._nodes
        if address not in nodes:
            options = self._seeds.at(address)
            if asks:
                options["connection_class"] = asking(options.get("connection_class", Connection))
            nodes[address] = Node(ConnectionPool(**options), _name(address), self._deadline_s)
        return nodes[address]


async def find_places(seeds: Seeds, pool: Any = None, deadline_s: float | None = None) -> Places:
    """Ask which kind of server there is, one host after the other. `pool` is used where it is one
    server; `deadline_s` is that of a command to one of the servers.

    Raises what redis-py raises when nobody answers; StoreError when the URL does not fit what is
    there.
    """
    trouble: BaseException | None = None
    for address in seeds.addresses or (None,):
        try:
            mode, sentinel_login, services = await _ask_kind(seeds, address)
        except (RedisError, OSError) as error:
            trouble = trouble or error
            continue
        if mode == "cluster":
            if seeds.database:
                raise StoreError(
                    f"a cluster has database 0 alone, and the URL names {seeds.database}"
                )
            return await ClusterPlaces(seeds, deadline_s).open()
        if mode == "sentinel":
            return SentinelServer(seeds, _service(seeds, services), sentinel_login, deadline_s)
        if len(seeds.addresses) > 1:
            raise StoreError(
                "several hosts are for a cluster or for Sentinel, and "
                f"{_name(address)} is a single server"
            )
        return OneServer(pool or ConnectionPool(**seeds.at(address)), deadline_s)
    assert trouble is not None, "somebody was asked"
    raise trouble


async def _ask_kind(seeds: Seeds, address: Address | None) -> tuple[str, dict[str, Any], list[str]]:
    """Mode of the server; for a Sentinel also how one logs in there, and what it watches."""
    login = {
        name: seeds.options[name] for name in ("username", "password") if name in seeds.options
    }
    try:
        return await _ask_kind_as(seeds, address, login)
    except (AuthenticationError, RedisConnectionError) as error:
        # The login is that of the servers; a Sentinel may have none.
        if not login or not isinstance(error.__cause__ or error, AuthenticationError):
            raise
        with suppress(RedisError, OSError):
            found = await _ask_kind_as(seeds, address, {})
            if found[0] == "sentinel":
                return found
        raise


async def _ask_kind_as(
    seeds: Seeds, address: Address | None, login: dict[str, Any]
) -> tuple[str, dict[str, Any], list[str]]:
    options = seeds.at(address)
    for name in ("db", "username", "password"):
        options.pop(name, None)  # Neither a Sentinel nor a cluster knows SELECT.
    pool: Any = ConnectionPool(**options, **login)
    connection = pool.make_connection()
    try:
        await connection.connect()
        await connection.send_command("INFO", "server")
        info = text_of(await connection.read_response(disable_decoding=True))
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        mode = fields.get("redis_mode") or fields.get("server_mode") or "standalone"
        services: list[str] = []
        if mode == "sentinel":
            await connection.send_command("SENTINEL", "MASTERS")
            for one in await connection.read_response(disable_decoding=True):
                pairs = (
                    one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True))
                )
                services.append(text_of(pairs[b"name"]))
        return mode, login, services
    finally:
        await connection.disconnect(nowait=True)


def _service(seeds: Seeds, services: list[str]) -> str:
    if seeds.service_name is not None:
        if seeds.service_name not in services:
            known = ", ".join(sorted(services)) or "none"
            raise StoreError(
                f"the Sentinel does not watch service_name {seeds.service_name!r}, but {known}"
            )
        return seeds.service_name
    if len(services) != 1:
        raise StoreError(
            f"the Sentinel watches {len(services)} primaries: name one in the URL, with "
            "?service_name="
        )
    return services[0]


def _name(address: Address | None) -> str:
    return "it" if address is None else f"{address[0]}:{address[1]}"


def _away(address: Address, error: BaseException) -> RedisConnectionError:
    return RedisConnectionError(f"{_name(address)}: {type(error).__name__} {error}".rstrip())

"""Knows the server that owns a key: the one that there is, the primary behind Sentinel, or the
primary of the key's slot in a cluster. Replicas are never asked for anything but the map.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from taximeter.meter.places.asking import asking
from taximeter.meter.places.cancelable import cancelable
from taximeter.meter.places.deadline import altogether
from taximeter.meter.places.redirects import redirect_of
from taximeter.meter.places.seeds import Address, Seeds
from taximeter.meter.places.slot_map import SLOTS, SlotMap
from taximeter.meter.places.standing import Standing, agreed
from taximeter.meter.wire.errors import StoreError
from taximeter.meter.wire.replies import text_of

LOOK_PAUSE_S: Final = 0.1
"""Least time between two looks at a cluster; as much again at random, so that the processes that a
failover has met do not ask in step."""
LOOK_TIMEOUT_S = 0.5
"""How long one node is waited for before the next is asked."""

log: Final = logging.getLogger("taximeter.meter")


class Node(Redis):
    """A client of one server, which has a name and an address where there are several. With
    `deadline_s` no command takes longer altogether.
    """

    standing: Standing
    """Whether what it answers counts; set by the places that it is one of."""

    def __init__(
        self,
        pool: Any,
        address: Address | None = None,
        deadline_s: float | None = None,
        *,
        asks: bool = False,
    ) -> None:
        super().__init__(connection_pool=pool)
        self.address = address
        self.name = "" if address is None else _name(address)
        self.asks = asks
        self._deadline_s = deadline_s

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with altogether(self._deadline_s):
            call: Any = super().execute_command
            return await call(*args, **options)


def name_of(redis: Any) -> str:
    """`host:port` of a server of a cluster; empty where there is one server alone."""
    return redis.name if isinstance(redis, Node) else ""


def asks(redis: Any) -> bool:
    """Whether each call has an ASKING before it: a slot is on its way to this server."""
    return isinstance(redis, Node) and redis.asks


def pooled(clients: list[Any]) -> tuple[int, int]:
    """Connections of these clients' pools: those in use, and those that wait. redis-py counts them
    under names of its own.
    """
    used = idle = 0
    for client in clients:
        pool = client.connection_pool
        used += len(getattr(pool, "_in_use_connections", ()))
        idle += len(getattr(pool, "_available_connections", ()))
    return used, idle


class Places(Protocol):
    """Where keys live. The clients that it hands out are its own and have no retries."""

    def of(self, key: str | None, error: BaseException | None = None) -> Any:
        """The server that owns the key, or the one that `error`, the answer to the last call, sends
        this one call to; any primary where there is no key. Raises ResponseError while there is
        none.
        """

    def heed(self, error: BaseException) -> None:
        """A call failed like this: look again, in the background, where that may help."""

    def watch(self, told: Callable[[], None]) -> None:
        """Call this whenever keys may live elsewhere than before."""

    def clients(self) -> list[Any]:
        """Every client that it has handed out, and has not closed."""

    async def vouch(self, peer: Address) -> bool:
        """Whether others say that the server at this address is a primary still; False also when
        too few of them answer in time.
        """

    async def aclose(self) -> None:
        """Disconnect."""


class OneServer:
    """One server, or the primary that Sentinel names: redis-py's pool knows which."""

    replaces = False
    """Whether another server may be put in the place of one: see `standing`."""

    def __init__(self, pool: Any, deadline_s: float | None = None) -> None:
        self.redis = Node(pool, deadline_s=deadline_s)
        self.redis.standing = Standing(self, proves=self.replaces)

    def of(self, key: str | None, error: BaseException | None = None) -> Any:
        return self.redis

    def heed(self, error: BaseException) -> None:
        """A new connection asks anew."""

    def watch(self, told: Callable[[], None]) -> None:
        """It stays the same one."""

    def clients(self) -> list[Any]:
        return [self.redis]

    async def vouch(self, peer: Address) -> bool:
        """There is no other one."""
        return True

    async def aclose(self) -> None:
        await self.redis.aclose()
        await self.redis.connection_pool.disconnect()


class SentinelServer(OneServer):
    """The primary that the Sentinels agree on, asked with every new connection."""

    replaces = True

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
        for one in self._sentinel.sentinels:
            one.connection_pool.connection_class = made_by
        managed = SentinelManagedSSLConnection if encrypted else SentinelManagedConnection
        super().__init__(
            pool(
                service_name,
                self._sentinel,
                ssl=encrypted,
                connection_class=cancelable(managed),
                **options,
            ),
            deadline_s,
        )
        self._service_name = service_name

    async def vouch(self, peer: Address) -> bool:
        """Most of the Sentinels have it for the primary, and none has another one."""

        async def says(sentinel: Any) -> bool:
            async with asyncio.timeout(2 * LOOK_TIMEOUT_S):
                found = await sentinel.sentinel_get_master_addr_by_name(self._service_name)
            return bool(found) and (text_of(found[0]), int(found[1])) == peer

        sentinels: list[Any] = self._sentinel.sentinels
        return await agreed(map(says, sentinels), len(sentinels) // 2 + 1)

    async def aclose(self) -> None:
        await super().aclose()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class ClusterPlaces:
    """The primary of each slot, as the node said that was asked last.

    One node is asked at a time, at random, and one that says itself that the cluster is not whole
    is not believed. What a node says of a slot (MOVED) counts at once.
    """

    replaces = True

    def __init__(self, seeds: Seeds, deadline_s: float | None = None) -> None:
        self._seeds = seeds
        self._deadline_s = deadline_s
        self._map = SlotMap()
        self._nodes: dict[Address, Node] = {}
        self._askers: dict[Address, Node] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._is_heeded = False
        """Whether a call has failed since the last look was over."""
        self._silent: set[Address] = set()
        """Who has let a look wait, and has not answered one since: asked last."""
        self._watchers: list[Callable[[], None]] = []

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

    def clients(self) -> list[Any]:
        return [*self._nodes.values(), *self._askers.values()]

    async def vouch(self, peer: Address) -> bool:
        """As many primaries say so as make a majority with it: one that votes in an election is
        among them. Who was replaced has lost all its slots; of one that moved it says so itself.
        """
        known = self._map

        async def says(other: Address) -> bool:
            async with asyncio.timeout(2 * LOOK_TIMEOUT_S):
                found = await self._read_map(other)
            return found.has_slots(found.same(known, peer))

        others = [one for one in known.primaries if one != peer]
        is_said = await agreed(
            map(says, random.sample(others, len(others))), (len(others) + 1) // 2
        )
        if not is_said:
            self._begin_look()
        return is_said

    def nodes(self) -> dict[Node, bool]:
        """All that are known, replicas too, and whether each has slots."""
        return {self._node(one): self._map.has_slots(one) for one in self._map.nodes}

    def heed(self, error: BaseException) -> None:
        redirect = redirect_of(error)
        if redirect is not None and redirect.kind == "ASK":
            return
        if redirect is not None and redirect.host:
            self._map.move(redirect.slot, (redirect.host, redirect.port))
            self._tell()
        self._begin_look()

    async def look(self, patience_s: float) -> None:
        """Have the map read anew, and wait for that so long at most: who is about to ask for keys
        need not learn from a node that is busy that they have moved.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._looking is not None and self._looked.is_set():
                    await asyncio.wait((self._looking,))  # The pause after the last look.
                self._begin_look()
                await self._looked.wait()

    def _begin_look(self) -> None:
        if self._looking is not None:
            self._is_heeded = self._looked.is_set()
        else:
            self._is_heeded = False
            self._looked.clear()
            self._looking = asyncio.create_task(self._look_once(), name="meter-places-look")

    def watch(self, told: Callable[[], None]) -> None:
        self._watchers.append(told)

    def _tell(self) -> None:
        for told in self._watchers:
            told()

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for node in self.clients():
            await node.aclose()
            await node.connection_pool.disconnect()

    async def _look_once(self) -> None:
        try:
            trouble = await self._look()
            if trouble is not None:
                log.warning("taximeter: no node says where the slots are: %s", trouble)
            self._looked.set()
            # Whoever asks meanwhile has to do with what was found just now, and has another soon.
            await asyncio.sleep(LOOK_PAUSE_S * (1 + random.random()))
        finally:
            self._looking = None
            self._looked.set()
        if self._is_heeded:
            self._begin_look()

    async def _look(self) -> Exception | None:
        """Take the map of the first node that has a whole one; what was wrong when none has."""
        known = list(dict.fromkeys((*self._map.nodes, *self._seeds.addresses)))
        trouble: Exception | None = None
        self._silent.intersection_update(known)
        for address in sorted(random.sample(known, len(known)), key=self._silent.__contains__):
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    self._map = await self._read_map(address)
            except (RedisError, OSError, ValueError) as error:
                trouble = error if isinstance(error, RedisError) else _away(address, error)
                self._silent.add(address)
            else:
                self._silent.discard(address)
                self._tell()
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
            pool: Any = ConnectionPool(**options)
            node = nodes[address] = Node(pool, address, self._deadline_s, asks=asks)
            # One that has no slot yet, and is sent its first one, others do not know for a primary.
            node.standing = Standing(self, proves=self.replaces and not asks)
        return nodes[address]


async def find_places(seeds: Seeds, pool: Any = None, deadline_s: float | None = None) -> Places:
    """Ask which kind of server there is, one host after the other, of several none for longer than
    LOOK_TIMEOUT_S. `pool` is used where it is one server; `deadline_s` is that of a command to one
    of the servers.

    Raises what redis-py raises when nobody answers; StoreError when the URL does not fit what is
    there.
    """
    trouble: BaseException | None = None
    for address in seeds.addresses or (None,):
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S if len(seeds.addresses) > 1 else None):
                mode, sentinel_login, services = await _ask_kind(seeds, address)
        except (RedisError, OSError) as error:
            trouble = trouble or error
            continue
        if seeds.sentinel_login and mode != "sentinel":
            raise StoreError(
                f"the URL has a login of Sentinels (sentinel_password), and {_name(address)} is "
                "none"
            )
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
    login = dict(seeds.sentinel_login) or {
        name: seeds.options[name] for name in ("username", "password") if name in seeds.options
    }
    try:
        return await _ask_kind_as(seeds, address, login)
    except (AuthenticationError, RedisConnectionError) as error:
        refused = isinstance(error.__cause__ or error, AuthenticationError)
        if seeds.sentinel_login or not login or not refused:
            raise
        # The login is that of the servers; a Sentinel may have none.
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

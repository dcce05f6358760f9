"""Servers that speak TLS alone, as a cluster and behind a Sentinel that has a login of its own.

They are Debian's: Valkey in the wheel was built without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest
import redis
from redis.exceptions import RedisError
from settler_world import World
from support.certificates import make_certificate
from support.cluster import SHARDS, fail_over, organisations, settings_of
from support.debian import REDIS

from taximeter.api.embedded.cluster import PATIENCE_S, ClusterNode, EmbeddedCluster, until
from taximeter.api.embedded.machine import LOOPBACK
from taximeter.meter import Meter, StoreError
from taximeter.meter.places.places import ClusterPlaces, SentinelServer
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.shards.guardian import guard

pytestmark = pytest.mark.skipif(
    not REDIS.exists(), reason=f"{REDIS} is missing: install Debian's package redis-server"
)


class TlsNode(ClusterNode):
    """Speaks TLS alone; its certificate is in the folder above its own."""

    login: Mapping[str, str] = MappingProxyType({})

    @property
    def certificate(self) -> Path:
        return self.data_dir.parent / "server.crt"

    @property
    def sync(self) -> Any:
        return redis.Redis(
            host=LOOPBACK,
            port=self.port,
            socket_timeout=PATIENCE_S,
            ssl=True,
            ssl_ca_certs=str(self.certificate),
            **self.login,
        )

    def command(self) -> list[str]:
        plain = super().command()
        at = plain.index("--port")
        return [*plain[:at], *plain[at + 2 :], *(f"{word}" for word in self.options("--"))]

    def options(self, before: str = "") -> list[str]:
        """Names and values, in turn."""
        settings = {
            "port": "0",
            "tls-port": str(self.port),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.certificate.with_suffix(".key")),
            "tls-ca-cert-file": str(self.certificate),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
        }
        return [part for name, value in settings.items() for part in (before + name, value)]

    def answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.sync as client:
            return bool(client.info("server")["process_id"] == self.pid)
        return False


class TlsCluster(EmbeddedCluster):
    node_class = TlsNode


class TlsSentinel(TlsNode):
    """Watches one primary, for a user of its own alone."""

    login = MappingProxyType({"username": "watcher", "password": "of-sentinels"})

    def __init__(self, folder: Path, primary: TlsNode) -> None:
        super().__init__(folder, binary=REDIS)
        self._primary = primary

    def command(self) -> list[str]:
        words = iter(self.options())
        config = self.data_dir / "sentinel.conf"
        config.write_text(
            "".join(f"{name} {next(words)}\n" for name in words)
            + "user default off\n"
            + f"user watcher on >{self.login['password']} ~* &* +@all\n"
            + f"sentinel monitor main {LOOPBACK} {self._primary.port} 1\n"
            + f"sentinel auth-pass main {self._primary.login['password']}\n"
        )
        return [str(REDIS), str(config), "--sentinel"]


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate for whoever has a folder in there."""
    return make_certificate(tmp_path) / "server.crt"


async def open_shards(pool: asyncpg.Pool, url: str) -> World:
    """With an organisation on each."""
    world = World(Stores(pool, open_redis(settings_of(url))))
    await world.start(SHARDS)
    for org in organisations(SHARDS):
        await world.organization(org, u=1000)
    return world


async def charge_everywhere(meter: Meter, world: World, request: str) -> None:
    """Whatever server a shard is on by then."""
    charges = [meter.charge(org, "u", 10, request_id=request) for org in organisations(SHARDS)]
    charging = asyncio.gather(*charges)
    while not charging.done():
        for shard in range(SHARDS):
            with contextlib.suppress(RedisError):  # Old connections are cut, soon.
                await guard(world.stores, shard, SHARDS)
        await asyncio.sleep(0.02)
    assert [receipt.charged for receipt in await charging] == [10] * SHARDS


async def test_a_cluster(pool: asyncpg.Pool, authority: Path, tmp_path: Path) -> None:
    arguments = ("--tls-cluster", "yes")
    with TlsCluster(tmp_path, binary=REDIS, node_timeout_ms=60_000, arguments=arguments) as cluster:
        url = cluster.url(*cluster.nodes).replace("redis://", "rediss://")
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            await Meter.connect(url)
        url += f"?ssl_ca_certs={authority}"
        world = await open_shards(pool, url)
        assert isinstance(await world.stores.redis.places(), ClusterPlaces)
        async with await Meter.connect(url, loader=account_loader(pool)) as meter:
            await charge_everywhere(meter, world, "before")
            await world.settle()
            heir = cluster.nodes[3]
            heir.ask("CLUSTER FAILOVER", "TAKEOVER")
            until(heir.is_primary)
            cluster.wait_until_whole()
            await charge_everywhere(meter, world, "after")
            await world.assert_books()
        await world.stores.redis.aclose()


async def test_behind_sentinels_with_a_login(
    pool: asyncpg.Pool, authority: Path, tmp_path: Path
) -> None:
    login = {"password": "of-servers"}
    secret = ("--requirepass", "of-servers", "--masterauth", "of-servers")
    first = TlsNode(tmp_path / "first", secret, binary=REDIS)
    second = TlsNode(tmp_path / "second", secret, binary=REDIS)
    first.login = second.login = login
    with first, second, TlsSentinel(tmp_path / "sentinel", first) as sentinel:
        second.ask("REPLICAOF", LOOPBACK, first.port)
        hosts = f"rediss://:of-servers@{sentinel.name}/0?ssl_ca_certs={authority}"
        with pytest.raises(StoreError, match=r"(?i)auth|pass"):
            await Meter.connect(hosts)
        with pytest.raises(StoreError, match=r"(?i)pass"):
            await Meter.connect(f"{hosts}&sentinel_username=watcher&sentinel_password=wrong")
        no_sentinel = hosts.replace(sentinel.name, first.name)
        with pytest.raises(StoreError, match=f"login of Sentinels .* {first.name} is none"):
            await Meter.connect(f"{no_sentinel}&sentinel_password=of-servers")
        url = f"{hosts}&sentinel_username=watcher&sentinel_password=of-sentinels"
        world = await open_shards(pool, url)
        assert isinstance(await world.stores.redis.places(), SentinelServer)
        async with await Meter.connect(url, loader=account_loader(pool)) as meter:
            await charge_everywhere(meter, world, "before")
            await world.settle()

            def watched() -> Any:
                with sentinel.sync as client:
                    return client.sentinel_masters()["main"]

            until(lambda: watched()["num-slaves"] == 1)
            fail_over(sentinel.ask)
            until(lambda: bool(watched()["port"] == second.port))
            until(second.is_primary)
            await charge_everywhere(meter, world, "after")
            await world.assert_books()
        await world.stores.redis.aclose()

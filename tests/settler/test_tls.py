"""Encrypted connections to both stores, with the server's certificate checked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from settler_world import World
from support.certificates import make_certificate
from support.taking import Taking, closed

from taximeter.meter import Meter, StoreError
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import open_pool, open_redis, open_stores


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class TlsProxy:
    """Speaks TLS to clients and plainly to a server: those of the tests were built without it."""

    def __init__(self, url: str, certificate: Path) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._postgres = parts.scheme == "postgresql"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate / "server.crt", certificate / "server.key")
        self._taking = Taking(self._serve, tls=None if self._postgres else self._context)

    async def __aenter__(self) -> TlsProxy:
        await self._taking.__aenter__()
        self.port = self._taking.port
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._taking.__aexit__(*error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._postgres:
            # A client asks for TLS in eight bytes of its own and waits for an S.
            await reader.readexactly(8)
            writer.write(b"S")
            await writer.start_tls(self._context)
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        pumps = [
            asyncio.ensure_future(_pump(*pair))
            for pair in ((reader, up_writer), (up_reader, writer))
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for side in (writer, up_writer):
                side.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)
            await closed(up_writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.fixture
async def secure_redis(redis_url: str, certificate: Path) -> AsyncIterator[str]:
    """`rediss://` address of the tests' server."""
    async with TlsProxy(redis_url, certificate) as proxy:
        yield f"rediss://127.0.0.1:{proxy.port}{urlsplit(redis_url).path}"


async def test_the_meter_and_the_settler_work_over_tls(
    secure_redis: str, certificate: Path, database_url: str, key_prefix: str
) -> None:
    url = f"{secure_redis}?ssl_ca_certs={certificate / 'server.crt'}"
    settings = StoreSettings(redis_url=url, database_url=database_url, key_prefix=key_prefix)
    async with open_stores(settings) as stores:
        world = World(stores)
        await world.start()
        await world.organization(ann=100)
        async with await Meter.connect(
            url, key_prefix=key_prefix, loader=account_loader(stores.pool)
        ) as meter:
            assert (await meter.charge("acme", "ann", 5)).available == 95
        await world.assert_books()


async def test_a_server_that_nobody_vouches_for_is_refused(secure_redis: str) -> None:
    with pytest.raises(StoreError, match=r"(?i)certificate"):
        await Meter.connect(secure_redis)
    redis: Redis = open_redis(StoreSettings(redis_url=secure_redis))
    with pytest.raises(RedisConnectionError, match=r"(?i)certificate"):
        await redis.ping()
    await redis.aclose()


async def test_postgres_is_verified_in_full(
    database_url: str, certificate: Path, tmp_path: Path
) -> None:
    parts = urlsplit(database_url)
    async with TlsProxy(database_url, certificate) as proxy:
        login, _, _ = parts.netloc.rpartition("@")
        netloc = f"{login}@127.0.0.1:{proxy.port}"
        url = f"postgresql://{netloc}{parts.path}?sslmode=verify-full&sslrootcert="
        trusted = StoreSettings(database_url=f"{url}{certificate / 'server.crt'}")
        async with await open_pool(trusted) as pool:
            assert await pool.fetchval("SELECT 1") == 1
        stranger = make_certificate(tmp_path) / "server.crt"
        with pytest.raises(ssl.SSLCertVerificationError):
            await open_pool(StoreSettings(database_url=f"{url}{stranger}"))

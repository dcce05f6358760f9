"""Debian's own redis-server and postgresql, as its packages configure them, on ports of ours."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT

import pytest

from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.spawn import Child, Identity, spawn

REDIS = Path("/usr/bin/redis-server")
REDIS_CONFIG = Path("/etc/redis/redis.conf")
MAKE_CLUSTER = Path("/usr/bin/pg_createcluster")
CLUSTER = "pages"
READY_S_MAX = 60.0


@dataclass(frozen=True)
class Debian:
    """Both servers, empty. `tools` is a folder to put first on PATH: `sudo` and `redis-cli` as a
    reader has them, who knows nothing of our ports.
    """

    redis_port: int
    postgres_port: int
    sockets: Path
    tools: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes programs find Postgres where they would look by themselves."""
        return {"PGHOST": str(self.sockets), "PGPORT": str(self.postgres_port)}

    def sql(self, statements: str) -> str:
        """Run it as Debian's superuser, and return what psql printed."""
        return self.ran("sudo", "-u", "postgres", "psql", "-XqAt", "-c", statements)

    def ran(self, *command: str) -> str:
        finished = subprocess.run(
            [str(self.tools / command[0]), *command[1:]],
            env={"PATH": os.defpath, **self.environment},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def emptied(self) -> None:
        """As the packages leave them: no database, no role and no key of anybody's."""
        self.ran("redis-cli", "FLUSHALL")
        for user in self.ran("redis-cli", "ACL", "USERS").split():
            if user != "default":
                self.ran("redis-cli", "ACL", "DELUSER", user)
        for name in self.sql("SELECT datname FROM pg_database WHERE oid >= 16384").split():
            self.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
        for name in self.sql("SELECT rolname FROM pg_roles WHERE oid >= 16384").split():
            self.sql(f'DROP ROLE "{name}"')


def _missing() -> list[str]:
    found = {
        "redis-server": REDIS.exists() and REDIS_CONFIG.exists(),
        "postgresql": MAKE_CLUSTER.exists() and postgres_versions() != [],
        "curl": shutil.which("curl") is not None,
    }
    return [package for package, is_there in found.items() if not is_there]


def postgres_versions() -> list[int]:
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return sorted(int(one.parts[-3]) for one in folders if one.parts[-3].isdigit())


def server_account(name: str) -> Identity:
    """Servers of Debian run as users of their own; whoever is not root runs them alone."""
    if os.geteuid() != 0:
        return Identity()
    account = pwd.getpwnam(name)
    return Identity(account.pw_uid, account.pw_gid)


def own_folder(folder: Path, who: Identity) -> Path:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if who.uid != -1:
        os.chown(folder, who.uid, who.gid)
    return folder


@contextmanager
def debian_servers(folder: Path) -> Iterator[Debian]:
    """Both, from the newest packages that are installed, in an empty folder that all may enter.
    Skips, and says why, where they are missing.
    """
    if missing := _missing():
        pytest.skip(f"NOT TESTED: install Debian's packages {', '.join(missing)}")
    redis_port, postgres_port = free_port(), free_port()
    sockets = folder / "postgres"
    debian = Debian(redis_port, postgres_port, sockets, _tools(folder, redis_port))
    started: list[tuple[Child, int]] = []
    try:
        started.append((_start_redis(folder / "redis", redis_port), SIGKILL))
        started.append((_start_postgres(sockets, postgres_port), SIGINT))
        for port in (redis_port, postgres_port):
            wait_for_port(port)
        yield debian
    finally:
        for child, number in started:
            if child.poll() is None:
                child.send_signal(number)
        for child, _ in started:
            child.wait(30)


def _tools(folder: Path, redis_port: int) -> Path:
    tools = folder / "tools"
    tools.mkdir()
    # Who runs this may be anybody by right, or is the owner of the servers already.
    become = 'user=$2; shift 2; exec setpriv --reuid="$user" --regid="$user" --init-groups'
    scripts = {
        "sudo": f'[ "$1" = -u ] || exec "$@"\n{become} "$@"'
        if os.geteuid() == 0
        else '[ "$1" = -u ] && shift 2\nexec "$@"',
        "redis-cli": f'exec /usr/bin/redis-cli -p {redis_port} "$@"',
    }
    for name, text in scripts.items():
        path = tools / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return tools


def _start_redis(folder: Path, port: int) -> Child:
    """With a copy of the package's file, in which its places and its port are ours."""
    who = server_account("redis")
    own_folder(folder, who)
    text = REDIS_CONFIG.read_text()
    for name, value in {
        "port": str(port),
        "dir": str(folder),
        "pidfile": str(folder / "pid"),
        "logfile": '""',
        "daemonize": "no",
    }.items():
        text, changed = re.subn(rf"^{name} .*$", f"{name} {value}", text, flags=re.MULTILINE)
        assert changed == 1, name
    config = folder / "redis.conf"
    config.write_text(text)
    if who.uid != -1:
        os.chown(config, who.uid, who.gid)
    with (folder / "log").open("wb") as log:
        return spawn([str(REDIS), str(config)], log=log, death_signal=SIGKILL, identity=who)


def _start_postgres(folder: Path, port: int) -> Child:
    """Made by the package's own program: its configuration, and who may log in how."""
    who = server_account("postgres")
    own_folder(folder, who)
    version = str(postgres_versions()[-1])
    places = {
        "PATH": os.defpath,
        "LC_ALL": "C.UTF-8",
        "PG_CLUSTER_CONF_ROOT": str(own_folder(folder / "etc", who)),
    }
    data = folder / "data"
    with (folder / "made").open("wb") as log:
        made = spawn(
            [
                *(str(MAKE_CLUSTER), version, CLUSTER, "--start-conf=manual"),
                *(f"--datadir={data}", f"--socketdir={folder}", f"--logfile={folder / 'log'}"),
                *(f"--port={port}", "--", "--no-sync"),
            ],
            log=log,
            death_signal=SIGKILL,
            identity=who,
            environment=places,
        )
        assert made.wait(120) == 0, (folder / "made").read_text()
    config = folder / "etc" / version / CLUSTER / "postgresql.conf"
    program = f"/usr/lib/postgresql/{version}/bin/postgres"
    with (folder / "log").open("ab") as log:
        return spawn(
            [program, "-D", str(data), "-c", f"config_file={config}"],
            log=log,
            death_signal=SIGQUIT,
            identity=who,
            environment=places,
        )


def wait_for_port(port: int) -> None:
    end = time.monotonic() + READY_S_MAX
    while True:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, f"nothing listens on {port}"
            time.sleep(0.05)
        else:
            return

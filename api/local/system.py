"""Starts Redis and Postgres (or takes those named in the environment), migrates, and runs the rest.

The processes are those of docker-compose.yml with the same commands and settings; only ports and
folders are chosen here.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from taximeter.api.embedded.cluster import EmbeddedCluster
from taximeter.api.embedded.machine import LOOPBACK, is_free, kept_port
from taximeter.api.embedded.postgres import DATABASE, EmbeddedPostgres
from taximeter.api.embedded.server import EmbeddedServer
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.local.process import LocalProcess, ProcessFailed
from taximeter.api.processes.migrate import migrate

READY_TIMEOUT_S = 60.0
REDIS_URL, ARQ_REDIS_URL, DATABASE_URL, MIGRATE_DATABASE_URL = (
    "TAXIMETER_REDIS_URL",
    "TAXIMETER_ARQ_REDIS_URL",
    "TAXIMETER_DATABASE_URL",
    "TAXIMETER_MIGRATE_DATABASE_URL",
)
Progress = Callable[[str], None]


@dataclass(slots=True)
class LocalSystem:
    """A running system. `processes` are ours, in the order in which they were started; `servers`
    are those that run for it alone.

    `database_url` is that of the owner, who migrates; on an embedded Postgres each process of
    `logins` has a URL of its own. `cluster` is what `redis_url` names, where it is one of ours.
    """

    redis_url: str
    arq_redis_url: str
    database_url: str
    api_url: str
    upstream_url: str
    data_dir: Path
    sidecar_url: str | None = None
    logins: Mapping[str, str] = field(default_factory=dict)
    servers: Sequence[EmbeddedServer] = ()
    cluster: EmbeddedCluster | None = None
    processes: list[LocalProcess] = field(default_factory=list)

    def environment(self, process_name: str) -> dict[str, str]:
        """Settings of a process; all but the database's user are the same for every one."""
        return {
            REDIS_URL: self.redis_url,
            ARQ_REDIS_URL: self.arq_redis_url,
            DATABASE_URL: self.logins.get(process_name, self.database_url),
            "TAXIMETER_UPSTREAM_BASE_URL": self.upstream_url,
            "TAXIMETER_UPSTREAM_NAME": "simulated",
            "TAXIMETER_DATA_DIR": str(self.data_dir),
            "TAXIMETER_DEV_MODE": "1",
        }

    def check_alive(self) -> None:
        """Raise ProcessFailed, in one line, when a process or a server has ended by itself."""
        for server in self.servers:
            if not server.running:
                raise ProcessFailed(
                    f"{server.name} has ended by itself; its log: {server.log_path}"
                )
        for process in self.processes:
            process.check_alive()


@contextmanager
def local_system(
    data_dir: Path,
    *,
    api_port: int | None = None,
    with_sidecar: bool = False,
    with_cluster: bool = False,
    settings: Mapping[str, str] | None = None,
    progress: Progress = lambda message: None,
) -> Iterator[LocalSystem]:
    """Run everything until the block ends. Raises ProcessFailed or ServerFailed with a log's tail,
    and PortRefused, before anything starts, for an `api_port` that somebody else listens on.

    Ports are those of the last time, unless somebody else has them by now. `settings` are further
    environment variables for our processes. What is in `data_dir` stays there for the next time,
    but for the data of a cluster, which is made anew (`with_cluster`).
    """
    data_dir = data_dir.resolve()
    if api_port is not None and not is_free(api_port):
        raise PortRefused(
            f"port {api_port} of {LOOPBACK} is taken by another program: choose one with --port"
        )
    with ExitStack() as stack:
        servers: list[EmbeddedServer] = []
        cluster = _cluster(stack, servers, data_dir, progress) if with_cluster else None
        redis_url = None if cluster is None else cluster.url(*cluster.nodes)
        redis_url, arq_redis_url = _redis_servers(stack, servers, data_dir, progress, redis_url)
        database_url, logins = _database(stack, servers, data_dir, progress)
        simulator_port = kept_port(data_dir / "simulator.port")
        api_port = api_port or kept_port(data_dir / "api.port")
        sidecar_port = kept_port(data_dir / "sidecar.port") if with_sidecar else None
        system = LocalSystem(
            redis_url,
            arq_redis_url,
            database_url,
            api_url=f"http://{LOOPBACK}:{api_port}",
            upstream_url=f"http://{LOOPBACK}:{simulator_port}/v1",
            data_dir=data_dir,
            sidecar_url=None if sidecar_port is None else f"http://{LOOPBACK}:{sidecar_port}",
            logins=logins,
            servers=servers,
            cluster=cluster,
        )
        commands = [
            ("simulator", ["simulator", "--port", str(simulator_port)]),
            ("settler", ["settler"]),
            ("api", ["api", "--host", LOOPBACK, "--port", str(api_port)]),
        ]
        if sidecar_port is not None:
            arguments = ["sidecar", "--host", LOOPBACK, "--port", str(sidecar_port)]
            commands.insert(2, ("sidecar", arguments))
        for name, arguments in commands:
            progress(f"starting the {name}")
            environment = {**system.environment(name), **(settings or {})}
            log_path = data_dir / "logs" / f"{name}.log"
            process = LocalProcess(name, arguments, environment, log_path)
            process.start()
            # The last one started stops first: the API hands over its charges, then the settler.
            stack.callback(process.stop)
            system.processes.append(process)
        progress("waiting for the API to be ready")
        _wait_until_ready(system)
        yield system


class PortRefused(RuntimeError):
    """Somebody else listens on the port that was asked for."""


def _cluster(
    stack: ExitStack, servers: list[EmbeddedServer], data_dir: Path, progress: Progress
) -> EmbeddedCluster:
    progress("starting a cluster of Valkey")
    shutil.rmtree(data_dir / "cluster", ignore_errors=True)
    cluster = stack.enter_context(EmbeddedCluster(data_dir / "cluster"))
    servers.extend(cluster.nodes)
    return cluster


def _redis_servers(
    stack: ExitStack,
    servers: list[EmbeddedServer],
    data_dir: Path,
    progress: Progress,
    redis_url: str | None,
) -> tuple[str, str]:
    """URLs of Redis and arq's Redis; what neither the caller nor the environment names starts
    here.
    """
    redis_url = redis_url or os.environ.get(REDIS_URL)
    arq_redis_url = os.environ.get(ARQ_REDIS_URL)
    if redis_url is None:
        progress("starting Valkey")
        valkey = stack.enter_context(EmbeddedValkey(data_dir / "valkey"))
        servers.append(valkey)
        redis_url = valkey.url
    if arq_redis_url is None:
        progress("starting arq's Valkey")
        arq = EmbeddedValkey(data_dir / "arq", append_only=False)
        arq_redis_url = stack.enter_context(arq).url
        servers.append(arq)
    return redis_url, arq_redis_url


def _database(
    stack: ExitStack, servers: list[EmbeddedServer], data_dir: Path, progress: Progress
) -> tuple[str, Mapping[str, str]]:
    """URL of the migrated Postgres, and those of the processes that log in as users of their own:
    none on a server of the environment's, whose users are not ours to make.
    """
    database_url = os.environ.get(DATABASE_URL)
    if database_url is not None:
        progress("migrating the database")
        migrate(os.environ.get(MIGRATE_DATABASE_URL, database_url))
        return database_url, {}
    progress("starting Postgres")
    server = stack.enter_context(EmbeddedPostgres(data_dir / "postgres"))
    servers.append(server)
    progress("migrating the database")
    migrate(server.url)
    server.make_logins()
    return server.url, {
        name: server.url_of(DATABASE, name) for name in ("api", "settler", "sidecar")
    }


def _wait_until_ready(system: LocalSystem) -> None:
    end = time.monotonic() + READY_TIMEOUT_S
    answer = "no answer yet"
    with httpx.Client(timeout=5.0) as client:
        while time.monotonic() < end:
            try:
                system.check_alive()
            except ProcessFailed as error:
                tails = [process.log_tail() for process in system.processes if process.has_ended]
                raise ProcessFailed("\n".join([str(error), *tails])) from None
            try:
                response = client.get(f"{system.api_url}/api/v1/system/status")
            except httpx.TransportError as error:
                answer = type(error).__name__
            else:
                if response.status_code == 200:
                    return
                answer = response.text
            time.sleep(0.1)
    api = system.processes[-1]
    raise ProcessFailed(
        f"the API is not ready after {READY_TIMEOUT_S:.0f} s: {answer}\n{api.log_tail()}"
    )

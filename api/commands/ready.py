"""Asks the process beside it whether it is ready, as health check of containers: `taximeter ready`.

It imports next to nothing: it is run every few seconds for as long as the process lives.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import click

PATH: Final = "/readyz"
TIMEOUT_S: Final = 4.0
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # nosec B104


@dataclass(frozen=True, slots=True)
class Where:
    """The settings that say where a process listens, without the prefix, and their defaults."""

    host: str
    port: str
    default_port: int | None
    socket: str | None = None


PROCESSES: Final[Mapping[str, Where]] = {
    "api": Where("HOST", "PORT", 8084),
    "sidecar": Where("SIDECAR_HOST", "SIDECAR_PORT", 8086, "SIDECAR_SOCKET"),
    "settler": Where("SETTLER_HOST", "SETTLER_PORT", None),
}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


@click.command(
    help="Ask a process on this machine whether it is ready, where the settings say that it "
    "listens: the health check of containers. Exits 1 when it is not."
)
@click.argument("process", type=click.Choice(sorted(PROCESSES)))
def command(process: str) -> None:
    """Say `ready`, or in one line why not."""
    where = PROCESSES[process]
    connection, place = _connection(where)
    try:
        connection.request("GET", PATH, headers={"Connection": "close"})
        with connection.getresponse() as answer:
            said = answer.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"{place} does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        line = " ".join(said.split())
        raise click.ClickException(f"{place} is not ready: {answer.status} {line}")
    click.echo("ready")


def _connection(where: Where) -> tuple[http.client.HTTPConnection, str]:
    path = _setting(where.socket) if where.socket else None
    if path:
        return _UnixConnection(path), path
    port = _setting(where.port) or where.default_port
    if port is None:
        raise click.ClickException(f"TAXIMETER_{where.port}: not set, so it serves no health")
    host = _setting(where.host) or ""
    host = _ANYWHERE.get(host, host)
    try:
        return http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S), f"{host}:{port}"
    except ValueError:
        raise click.ClickException(f"TAXIMETER_{where.port}: {port!r} is no port") from None


def _setting(name: str) -> str | None:
    return os.environ.get(f"TAXIMETER_{name}")

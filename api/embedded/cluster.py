"""Runs a Valkey cluster as child processes: primaries with one replica each, on loopback alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from taximeter.api.embedded.machine import LOOPBACK, POLL_S, ServerFailed, free_port
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter.places.slot_map import SLOTS
from taximeter.meter.wire.replies import text_of

PRIMARIES: Final = 3
NODE_TIMEOUT_MS: Final = 5_000
AT_ONCE_SINCE: Final = 9
"""The first Valkey that moves a slot at once."""
PATIENCE_S: Final = 60.0
_PORT: Final = "--cluster-port"
_ENDED: Final = ("success", "failed", "cancelled", "canceled")


class ClusterNode(EmbeddedValkey):
    """One server of it."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """`host:port`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def sync(self) -> Any:
        """A client for looking at it, and for leading it; closed by `close`."""
        return redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=PATIENCE_S)

    def ask(self, *command: str | int) -> Any:
        """Raises redis errors."""
        with self.sync as client:
            return client.execute_command(*command)

    @property
    def node_id(self) -> str:
        return str(self.ask("CLUSTER MYID").decode())

    @property
    def cluster_port(self) -> int:
        """Where the other nodes reach it."""
        return int(self.extra_args[self.extra_args.index(_PORT) + 1])

    def is_primary(self) -> bool:
        with self.sync as client:
            return bool(client.info("replication")["role"] == "master")


class EmbeddedCluster:
    """Set up as docs/cluster.md says. `nodes` are the primaries first, as they were made, then a
    replica of each.

    It is made anew on every start, so `folder` has no earlier one. `binary` is another server, such
    as Debian's redis-server; `arguments` are given to each node.
    """

    node_class: type[ClusterNode] = ClusterNode

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = PRIMARIES,
        binary: Path | None = None,
        node_timeout_ms: int = NODE_TIMEOUT_MS,
        arguments: Sequence[str] = (),
    ) -> None:
        self._primaries = primaries
        self.edges = [round(number * SLOTS / primaries) for number in range(primaries + 1)]
        self.nodes = [
            self.node_class(
                folder / f"node{number}",
                (
                    *("--cluster-enabled", "yes", _PORT, str(free_port())),
                    *("--cluster-node-timeout", str(node_timeout_ms)),
                    *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
                    *arguments,
                ),
                binary=binary,
            )
            for number in range(2 * primaries)
        ]

    def start(self) -> Self:
        """Returns when every node lives, agrees and has its replica; else raises ServerFailed."""
        try:
            with ThreadPoolExecutor(len(self.nodes)) as starting:
                list(starting.map(ClusterNode.start, self.nodes))
            self._form()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """What it had is of no use to anybody afterwards."""
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def primaries(self) -> list[ClusterNode]:
        """The first nodes, whatever they are by now."""
        return self.nodes[: self._primaries]

    def url(self, *nodes: ClusterNode) -> str:
        """Of these as seeds, in this order; the first primary when none is named."""
        hosts = ",".join(node.name for node in nodes or self.nodes[:1])
        return f"redis://{hosts}/0"

    def by_port(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.port == port)

    def owner(self, slot: int) -> ClusterNode:
        """The primary of a slot, as the first node knows it that runs."""
        asked = next(node for node in self.nodes if node.running)
        for low, high, (_, port, *_), *_ in asked.ask("CLUSTER SLOTS"):
            if low <= slot <= high:
                return self.by_port(port)
        raise LookupError(f"no node has slot {slot}")

    def moves_at_once(self) -> bool:
        """Whether the engine has `migrate`."""
        with self.nodes[0].sync as client:
            version = client.info("server").get("valkey_version", "0")
        return int(str(version).partition(".")[0]) >= AT_ONCE_SINCE

    def migrate(self, slot: int, to: ClusterNode) -> None:
        """Move a slot as the engine does from Valkey 9 on, whole and at once, and return when `to`
        has it. Raises ServerFailed when the engine says that it did not.
        """
        source = self.owner(slot)
        source.ask("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.node_id)
        until(lambda: _last_migration(source)["state"] in _ENDED)
        done = _last_migration(source)
        if done["state"] != "success":
            raise ServerFailed(f"slot {slot} did not move: {done['message'].strip()}")

    def wait_until_whole(self) -> None:
        """Every node lives and agrees, and each replica follows its primary."""
        until(lambda: all(self._is_well(node) for node in self.nodes))
        until(lambda: len({self._view(node) for node in self.nodes}) == 1)

    def _form(self) -> None:
        for number, node in enumerate(self.primaries):
            node.ask("CLUSTER ADDSLOTSRANGE", self.edges[number], self.edges[number + 1] - 1)
        for number, node in enumerate(self.nodes, 1):
            node.ask("CLUSTER SET-CONFIG-EPOCH", number)
        first, *others = self.nodes
        for node in others:
            node.ask("CLUSTER MEET", LOOPBACK, first.port, first.cluster_port)
        until(lambda: all(self._known(node) == len(self.nodes) for node in self.nodes))
        for primary, replica in zip(self.primaries, self.nodes[self._primaries :], strict=True):
            replica.ask("CLUSTER REPLICATE", primary.node_id)
        self.wait_until_whole()

    def _known(self, node: ClusterNode) -> int:
        known = node.ask("CLUSTER NODES").values()
        return sum("handshake" not in one["flags"] for one in known)

    def _is_well(self, node: ClusterNode) -> bool:
        try:
            if node.ask("CLUSTER INFO")["cluster_state"] != "ok":
                return False
            with node.sync as client:
                state = client.info("replication")
        except redis.RedisError:
            return False
        return bool(state["role"] == "master" or state["master_link_status"] == "up")

    def _view(self, node: ClusterNode) -> tuple[object, ...]:
        """Who has what as this node sees it; of its own where a replica is missing."""
        found = node.ask("CLUSTER SLOTS")
        if any(len(servers) < 2 for _, _, *servers in found):
            return (node.name,)
        ranges = (
            (low, high, first[1], *sorted(one[1] for one in others))
            for low, high, first, *others in found
        )
        return tuple(sorted(ranges))


def _last_migration(source: ClusterNode) -> dict[str, str]:
    job = source.ask("CLUSTER GETSLOTMIGRATIONS")[0]
    pairs = job.items() if isinstance(job, dict) else zip(job[::2], job[1::2], strict=True)
    return {text_of(name): text_of(value) for name, value in pairs}


def until(condition: Callable[[], bool]) -> None:
    """Look again and again, since no server wakes us. Raises ServerFailed."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise ServerFailed(f"the cluster does not come to it within {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)

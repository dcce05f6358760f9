"""docs/cluster.md as it is written: its settings, its commands, and what comes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from redis.crc import key_slot
from support.cluster import until
from support.pages import blocks, moved

from taximeter.api.embedded.cluster import AT_ONCE_SINCE, NODE_TIMEOUT_MS, ClusterNode
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.shards.guardian import ensure_shards, guard
from taximeter.settler.status.nodes import look_at_nodes

PAGE = (Path(__file__).parents[2] / "docs/cluster.md").read_text("utf-8")
SETTINGS, VARIABLES = (one.text for one in blocks(PAGE) if one.language == "text")
SETTING_UP, MOVING = (one.text for one in blocks(PAGE) if one.language == "console")
PASSWORD = "of-all-nodes"
ROLES = ("meter", "api", "settler")


class PageNode(ClusterNode):
    """Has its settings in a file, as the page has them."""

    def command(self) -> list[str]:
        program, *_ = super().command()
        config = self.data_dir / "node.conf"
        if not config.exists():
            config.write_text(
                f"{SETTINGS}\nbind {LOOPBACK}\nport {self.port}\ndir {self.data_dir}\n"
                f"cluster-port {self.cluster_port}\nrepl-diskless-sync-delay 0\n"
                f"requirepass {PASSWORD}\nmasterauth {PASSWORD}\n"
            )
        return [program, str(config)]

    @property
    def sync(self) -> Any:
        return redis.Redis(port=self.port, password=PASSWORD, socket_timeout=60.0)

    def answers(self) -> bool:
        try:
            with self.sync as client:
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError:
            return False


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[PageNode]]:
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is missing: install Debian's redis-tools")
    made = [
        PageNode(tmp_path / f"node{number}", ("--cluster-port", str(free_port())))
        for number in range(6)
    ]
    try:
        with ThreadPoolExecutor(len(made)) as starting:
            list(starting.map(PageNode.start, made))
        yield made
    finally:
        for node in made:
            node.kill()


def typed(text: str, folder: Path, places: dict[str, str]) -> str:
    """What a shell says to it, which stops at the first command that fails."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REDISCLI_AUTH": PASSWORD,
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(
        ["bash", "-ec", moved(text, places)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_the_page(nodes: list[PageNode], pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Who types it has a cluster on which a settler finds nothing to say, and moves a slot of it
    that a guardian then lets clients in on.
    """
    places = {f"10.0.0.{number}:6379": node.name for number, node in enumerate(nodes, 1)}
    for role in ROLES:
        (tmp_path / f"{role}.password").write_text(f"secret-{role}\n")
    typed(SETTING_UP, tmp_path, places)
    # The command ends when the nodes agree on the slots; each says a moment later that it serves.
    until(lambda: all(node.ask("CLUSTER INFO")["cluster_state"] == "ok" for node in nodes))
    variables = dict(line.split("=", 1) for line in VARIABLES.splitlines())
    url = moved(variables["TAXIMETER_REDIS_URL"], places).replace("PASSWORD", "secret-settler")
    shards = int(variables["TAXIMETER_SHARDS"])
    settings = SettlerSettings(redis_url=url, redis_timeout_s=60.0, shards=shards)
    client = open_redis(settings)
    stores = Stores(pool, client, durability="everysec")
    await ensure_shards(stores, shards)
    while await look_at_nodes(stores, shards):
        pass  # The last replica may still be on its way to its primary.
    assert (await guard(stores, 5, shards)).action == "opened"
    if moves_at_once(nodes[0]):
        # In a shell of its own, hence the names again.
        typed(SETTING_UP.partition("\n")[0] + "\n" + MOVING, tmp_path, places)
        slot = key_slot(stores.keys(5).meta.encode())
        until(lambda: owner(nodes[2], slot) == nodes[2].port)
        assert (await guard(stores, 5, shards)).action == "approved"
    await client.aclose()


def moves_at_once(node: PageNode) -> bool:
    with node.sync as client:
        version = str(client.info("server").get("valkey_version", "0"))
    return int(version.partition(".")[0]) >= AT_ONCE_SINCE


def owner(asked: PageNode, slot: int) -> int:
    ranges = asked.ask("CLUSTER SLOTS")
    return next(int(first[1]) for low, high, first, *_ in ranges if low <= slot <= high)


def test_the_embedded_cluster_is_as_the_page_says() -> None:
    assert f"cluster-node-timeout {NODE_TIMEOUT_MS}\n" in SETTINGS

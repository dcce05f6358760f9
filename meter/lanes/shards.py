"""Keeps a client for each shard of the system, whose number may change while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from taximeter.meter.lanes.shard import ShardClient
from taximeter.meter.places.places import Places
from taximeter.meter.server.connect import Vetted
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import ShardsChanged
from taximeter.meter.wire.keys import ShardKeys, shard_of_account


class Shards:
    """A client per shard, and `keys`: both lists are changed in place, so that whoever has one
    always sees the shards that there are.
    """

    def __init__(self, places: Places, vetted: Vetted, count: int, settings: MeterSettings) -> None:
        self._places = places
        self._vetted = vetted
        self._settings = settings
        self._retiring: set[asyncio.Task[None]] = set()
        self.keys: list[ShardKeys] = []
        self.clients: list[ShardClient] = []
        self.resize(count)

    def resize(self, count: int) -> None:
        """There are `count` shards now: what waits for the old ones goes to the new ones."""
        if count == len(self.clients):
            return
        old = list(self.clients)
        self.keys[:] = [ShardKeys(self._settings.key_prefix, shard) for shard in range(count)]
        self.clients[:] = [
            ShardClient(
                self._places,
                self._vetted,
                keys,
                partial(self.check, keys.shard, count),
                self._settings,
            )
            for keys in self.keys
        ]
        for client in old:
            self._retiring.add(task := asyncio.create_task(self._move(client)))
            task.add_done_callback(self._retiring.discard)

    def check(self, shard: int, believed: int, found: str) -> None:
        """Compare the number of shards that Redis names with the one that an asker believes in;
        adapt and raise ShardsChanged when it is another.
        """
        if found.isdigit() and int(found) != believed:
            self.resize(int(found))
            raise ShardsChanged(shard, int(found), believed)

    async def aclose(self, deadline: float) -> None:
        """Finish what is queued before the deadline, a time of the loop, then stop."""
        if self._retiring:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(self._retiring, timeout=left_s)
        closing: list[Awaitable[None]] = [client.aclose(deadline) for client in self.clients]
        await asyncio.gather(*closing)

    async def _move(self, old: ShardClient) -> None:
        for pending in await old.retire():
            account = pending.operation.account
            self.clients[shard_of_account(account, len(self.clients))].adopt(pending)

"""Keeps a queue for each shard of the system, whose number may change while it runs, and lanes for
each server that has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any

from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.server_lanes import ServerLanes
from taximeter.meter.lanes.shard import ShardClient
from taximeter.meter.lanes.tally import Tally
from taximeter.meter.places.places import Places, asks
from taximeter.meter.server.connect import Vetted
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.errors import ShardsChanged
from taximeter.meter.wire.keys import ShardKeys, shard_of_account


class Shards:
    """A client per shard, and `keys`: both lists are changed in place, so that whoever has one
    always sees the shards that there are. `tally` is of all of them.
    """

    def __init__(self, places: Places, vetted: Vetted, count: int, settings: MeterSettings) -> None:
        self._places = places
        self._vetted = vetted
        self._settings = settings
        self._retiring: set[asyncio.Task[None]] = set()
        self._servers: dict[int, ServerLanes] = {}
        self._running: set[ServerLanes] = set()
        self.tally = Tally()
        self.keys: list[ShardKeys] = []
        self.clients: list[ShardClient] = []
        places.watch(self._find_homes)
        self.resize(count)

    @property
    def connections(self) -> int:
        """How many all lanes have."""
        return sum(server.connections for server in self._running)

    def resize(self, count: int) -> None:
        """There are `count` shards now: what waits for the old ones goes to the new ones."""
        if count == len(self.clients):
            return
        old = list(self.clients)
        self.keys[:] = [ShardKeys(self._settings.key_prefix, shard) for shard in range(count)]
        self.clients[:] = [
            ShardClient(
                self._places,
                self._server_of,
                keys,
                partial(self.check, keys.shard, count),
                self._settings,
                self.tally,
            )
            for keys in self.keys
        ]
        for client in old:
            self._retiring.add(task := asyncio.create_task(client.retire(self._adopt)))
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
        draining: list[Awaitable[None]] = [client.drain(deadline) for client in self.clients]
        await asyncio.gather(*draining)
        await asyncio.gather(*(server.stop() for server in self._running))
        await asyncio.gather(*(client.retire(Pending.give_up) for client in self.clients))

    def _adopt(self, pending: Pending) -> None:
        account = pending.operation.account
        self.clients[shard_of_account(account, len(self.clients))].adopt(pending)

    def _server_of(self, keys: ShardKeys, error: BaseException | None) -> ServerLanes:
        place = self._places.of(keys.meta, error)
        found = self._servers.get(id(place))
        if found is None:
            found = ServerLanes(
                place, self._places, self._vetted, self._settings, self._ended, once=asks(place)
            )
            self._servers[id(place)] = found
            self._running.add(found)
        return found

    def _find_homes(self) -> None:
        """The map has changed. Lanes of a server without shards end."""
        for client in self.clients:
            client.find_home()
        homes: set[Any] = {client.home for client in self.clients}
        for server in [*self._servers.values()]:
            if server not in homes and not asks(server.place):
                del self._servers[id(server.place)]
                server.leave()

    def _ended(self, server: ServerLanes) -> None:
        """It takes nothing any more."""
        if server.is_over:
            self._running.discard(server)
        if self._servers.get(id(server.place)) is server:
            del self._servers[id(server.place)]

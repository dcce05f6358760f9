"""Knows whether a server that has answered was still the one to ask when it did.

A primary that was frozen for long wakes up and answers what waits in its sockets before it hears
that its replica has taken its place; what it says that it has done is gone then. How long a reply
took does not tell: the question may have come a moment before it woke. But nobody is elected in the
place of a server that answered a moment ago. So a reply counts at once when the server has answered
something that was asked within the last TRUSTED_S; else only after others have said that it is a
primary still, asked once the reply was there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from math import inf
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from taximeter.meter.wire.errors import StoreUnavailable

TRUSTED_S: Final = 2.0
"""Well below the shortest time in which another server is elected (`cluster-node-timeout`,
`down-after-milliseconds`): that begins when a server says nothing any more.
"""


class Standing:
    """That of one server in this process. `places` asks the others; without `proves` everything
    counts.
    """

    def __init__(self, places: Any, *, proves: bool) -> None:
        self._places = places
        self._asking = asyncio.Lock()
        self._until = -inf if proves else inf

    def covers(self, sent_at: float) -> bool:
        """Whether the replies that are here now to what was sent then, a monotonic time, count:
        nobody can have taken the server's place. If not, `prove` it before anybody hears of them.
        """
        if self._until == inf:
            return True
        if monotonic() > self._until:
            return False
        self._until = max(self._until, sent_at + TRUSTED_S)
        return True

    async def prove(self, sent_at: float, peer: tuple[str, int]) -> None:
        """Return when they count: others say that the server, at the address `peer`, is a primary
        still. Raises StoreUnavailable when it is none, or when that is not known in time.
        """
        async with self._asking:
            if self.covers(sent_at):
                return
            if not await self._places.vouch(peer):
                host, port = peer
                raise StoreUnavailable(
                    f"{host}:{port} has answered after a silence, and others do not say that it is"
                    " still the primary: what it has answered may be lost"
                )
            self._until = sent_at + TRUSTED_S


async def agreed(asking: Iterable[Awaitable[bool]], needed: int) -> bool:
    """Whether so many of those that are asked say yes before one says no; an error is neither."""
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        for said in asyncio.as_completed(tasks) if needed > 0 else ():
            try:
                if not await said:
                    return False
            except (RedisError, OSError, ValueError):
                continue
            needed -= 1
            if not needed:
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return needed <= 0

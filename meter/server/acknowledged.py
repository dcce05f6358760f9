"""Notices that a server has lost calls which it had acknowledged to this process.

A server that lost its newest second, or that was filled from an older replica, may fit its numbers
of events: reserves and releases leave none, and later events take the numbers of lost ones. Every
script call that changes a shard moves one number, and is answered with it. Whoever was told of a
higher one than the server has now knows that acknowledged calls are missing, and how many.
"""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import call_script, load_script

log: Final = logging.getLogger("taximeter.meter")


class Told(NamedTuple):
    """What was known when something was sent: its answer must say no less."""

    losses: int
    epoch: str
    writes: int
    start: str = ""
    """Of the server, as the guardian counts them; `run_id` and `greeted` are what it was, and how
    many calls it had, when that was read.
    """
    run_id: str = ""
    greeted: int = 0


class Acknowledged:
    """The highest number that a server has told this process, for one shard and its epoch.
    `missing` counts the calls that were found missing since this process began.
    """

    def __init__(self, keys: ShardKeys) -> None:
        self._keys = keys
        self._told = Told(0, "", 0)
        self.missing = 0
        self._unreported: tuple[str, int, int] | None = None

    @property
    def told(self) -> Told:
        """To be kept while a question is under way, and given to `note` with its answer."""
        return self._told

    def note(self, before: Told, epoch: str, found: int) -> bool:
        """A server says `found`; False when it has lost some of what was known before it was asked,
        unless somebody has noticed meanwhile.
        """
        now = self._told
        if epoch == before.epoch and found < before.writes:
            if before.losses == now.losses:
                self._lose(before, found)
            return False
        if epoch != now.epoch or (found > now.writes and before.losses == now.losses):
            self._told = now._replace(epoch=epoch, writes=found)
        return True

    def greet(
        self, before: Told, epoch: str, found: int, run_id: str, start: str, start_writes: int
    ) -> None:
        """As `note`, on a new connection. Where the server began again since, what it began with
        counts: others may have gone on meanwhile, past what it had lost.
        """
        if epoch == before.epoch and start != before.start:
            known = before
            if run_id == before.run_id:
                # A process that was another one's replica in between: a connection that was idle
                # is still open, and what was answered on it since may be of the new start.
                known = before._replace(writes=min(before.writes, before.greeted))
            self.note(known, epoch, min(found, start_writes))
        self.note(before, epoch, found)
        self._told = self._told._replace(start=start, run_id=run_id, greeted=found)

    async def report(self, connection: Any) -> None:
        """Leave a record for the guardian, who rebuilds the shard. Raises what redis-py raises, and
        is to be tried again then.
        """
        if self._unreported is not None:
            epoch, told, found = self._unreported
            if epoch == self._told.epoch:
                arguments = [1, self._keys.meta, epoch, str(told), str(found)]
                await call_script(connection, load_script("report"), arguments)
            self._unreported = None

    @property
    def has_news(self) -> bool:
        """Whether there is something to `report`."""
        return self._unreported is not None

    def _lose(self, before: Told, found: int) -> None:
        losses, epoch, writes, *_ = before
        lost = writes - found
        self.missing += lost
        self._told = before._replace(losses=losses + 1, writes=found)
        self._unreported = (epoch, writes, found)
        log.error(
            "taximeter: shard %d has lost %d calls that it had acknowledged (it was at %d in epoch "
            "%s and is at %d): the settler's guardian is told, and rebuilds it",
            self._keys.shard,
            lost,
            writes,
            epoch,
            found,
        )

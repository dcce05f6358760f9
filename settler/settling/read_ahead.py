"""Reads the next run of a shard while Postgres still books the one before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import NamedTuple

from taximeter.settler.books.fingerprint import check_approved, check_settled
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark
from taximeter.settler.settling.copy_rows import CopyRows, read_copy_rows
from taximeter.settler.settling.stream import Run, read_run


class Prepared(NamedTuple):
    """A run and its COPY text, which is None when a line needs a closer look."""

    run: Run
    rows: CopyRows | None


class Reader:
    """Reads runs of one shard, at most one ahead: memory stays near two runs.

    What is read without the lock may come from a server that has lost it since. It is only handed
    out under a lock that finds the watermark just where the run begins and the same server trusted
    as under the lock that it was read for. The guardian writes the server down under that lock
    before it lets anybody append to a restarted one, so a run that it has passed by is read again.
    `closed`: the guardian itself asks, for a shard that it has closed and knows the history of.
    """

    def __init__(
        self, stores: Stores, shard: int, events_max: int, *, closed: bool = False
    ) -> None:
        self._stores = stores
        self._closed = closed
        self._shard = shard
        self._events_max = events_max
        self._next: tuple[Mark, asyncio.Task[Prepared]] | None = None

    async def take(self, mark: Mark) -> Prepared:
        """The run after a watermark that the caller has locked. Raises redis errors, StreamChanged
        and SupersededPostgres.
        """
        if self._next is not None and self._next[0] == mark:
            # A run that is asked for again, since its transaction was undone, is still the next.
            return await self._next[1]
        await self.close()
        return await self._read(mark)

    def read_next(self, mark: Mark, run: Run) -> None:
        """Begin to read what follows `run`, under the lock of `mark`."""
        after = replace(mark, seq=run.last_seq, settled_entry=run.fingerprint)
        self._next = (after, asyncio.create_task(self._read(after)))

    async def close(self) -> None:
        """Stop reading and forget what was read."""
        if self._next is not None:
            task, self._next = self._next[1], None
            task.cancel()
            # Whatever came of it is of no interest, a failure neither: it would happen again.
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self, mark: Mark) -> Prepared:
        keys = self._stores.keys(self._shard)
        redis = self._stores.redis
        run = await read_run(redis, keys, mark.epoch, mark.seq, self._events_max)
        if not run.empty:
            # After it: a server that has changed since would have something else there by now.
            await check_settled(redis, keys, mark.epoch, mark.seq, mark.settled_entry)
            if not self._closed:
                await check_approved(redis, keys, mark.run_id, mark.history)
        return Prepared(run, await read_copy_rows(self._shard, run))

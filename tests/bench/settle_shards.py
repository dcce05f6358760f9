"""How much faster settling is with several shards at once: each has a lock and a stream of its own,
and all have one Postgres.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from bench.books import Books, funded_books
from bench.fill import charges, fill
from bench.harness import BenchFailed, Figure, Spread, take_turns
from bench.machine import own_processor_s
from bench.servers import Servers
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.settling.settle import settle_shard

COUNTS: Final = (1, 2, 4)
_BATCH: Final[int] = SettlerSettings.model_fields["settle_batch_events"].default
_FOREVER_S: Final = 3_600.0


class Rounds:
    """Settles the same number of events in all, whatever the number of shards."""

    def __init__(self, books: Books, events: int) -> None:
        self._books, self._events, self._round = books, events, 0
        self.processor: list[float] = []
        """Microseconds an event, of each round."""

    async def settle(self, _: float) -> float:
        """Events a second, from the first shard's stream to the last one's commit."""
        books = self._books
        self._round += 1
        await fill(books.live, charges(books.live.accounts, self._events, f"r{self._round}"))
        processor, started = own_processor_s(), time.perf_counter()
        done = await asyncio.gather(
            *(
                settle_shard(books.stores, shard, batch_events=_BATCH, budget_s=_FOREVER_S)
                for shard in range(books.live.shards)
            )
        )
        seconds = time.perf_counter() - started
        self.processor.append((own_processor_s() - processor) / self._events * 1e6)
        settled = sum(one.settled for one in done)
        if settled != self._events or any(one.dead or one.lost for one in done):
            raise BenchFailed(f"settling {self._events} events came to {done}")
        return self._events / seconds


async def run(servers: Servers) -> list[Figure]:
    """In turn, each with its own database and Redis, which the others leave alone meanwhile."""
    scale = servers.scale
    async with AsyncExitStack() as stack:
        sides = {
            count: Rounds(
                await stack.enter_async_context(funded_books(servers, count)), scale.settle_events
            )
            for count in COUNTS
        }
        seen = await take_turns(
            {str(count): side.settle for count, side in sides.items()},
            rounds=scale.rounds,
            seconds=scale.round_s,
            warm_up_s=scale.warm_up_s,
        )
    one = Spread(tuple(sides[1].processor[1:]))
    figures = []
    for count in COUNTS[1:]:
        processor = Spread(tuple(sides[count].processor[1:]))
        figures += [
            Figure(
                f"settle_shards_{count}",
                f"settle, {count} shards at once",
                "/s",
                seen[str(count)],
                seen["1"],
                "one shard",
            ),
            Figure(
                f"settle_shards_{count}_processor",
                f"processor an event, {count} shards at once: settler, Redis and Postgres",
                "us",
                processor,
                one,
                "one shard",
            ),
        ]
    return figures

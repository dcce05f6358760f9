"""Live shards without a settler: opened and filled by the scripts that the settler uses, and proved
after every round.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.harness import BenchFailed
from taximeter.meter.places.routed import server_of
from taximeter.meter.wire.keys import ShardKeys, account_field, shard_of
from taximeter.meter.wire.scripts import load_script

AVAILABLE = 10**9
"""Millicredits of every account: more than any run can spend."""
_PAGE = 1_000
FREED_S_MAX = 60.0

Account = tuple[str, str]


def make_accounts(users: int, organisations: int) -> list[Account]:
    """(org_id, user_id) of as many users, spread evenly over the organisations."""
    return list(each_account(users, organisations))


def each_account(users: int, organisations: int) -> Iterator[Account]:
    """The same, one after the other, for more of them than should be in memory."""
    for user in range(users):
        yield f"bench-org-{user % organisations:03}", f"user-{user:07}"


def request_ids(label: str) -> Iterator[str]:
    """Ids that no other round of this run uses."""
    return (f"{label}-{number:08x}" for number in itertools.count())


@dataclass(slots=True)
class LiveShards:
    """The shards of one prefix on one server, or on a cluster where `redis` is a RoutedRedis. It is
    a client with replies as bytes.
    """

    redis: Any
    prefix: str
    accounts: Sequence[Account]
    shards: int = 1

    def keys(self, shard: int) -> ShardKeys:
        return ShardKeys(self.prefix, shard)

    async def reset(self) -> None:
        """Start afresh: empty shards at epoch 1, every account with AVAILABLE."""
        await self.remove()
        for shard in range(self.shards):
            server = await server_of(self.redis, self.keys(shard).meta)
            run_id = (await server.info("server"))["run_id"]
            # Known beforehand on all sides, so that no round pays for telling the server.
            await server.script_load(load_script("operate").text)
            opened = await load_script("open").call(
                self.redis, self.keys(shard).batch(), [1, self.shards, run_id, "", 1, 0]
            )
            assert opened == b"OK", opened
            # Some rounds leave a hundred thousand holds open.
            await self.redis.hset(self.keys(shard).meta, "open_holds_max", 1_000_000)
        await self.load(self.accounts)

    async def remove(self) -> None:
        """Remove our keys, and no others. They are freed before this returns, not while something
        is timed.
        """
        for shard in range(self.shards):
            await delete(self.redis, *self.keys(shard).batch())

    async def load(self, accounts: Iterable[Account], applied: int = 0) -> None:
        """Write accounts that are not there yet, page by page; so many entries are in each."""
        waiting: list[list[str]] = [[] for _ in range(self.shards)]
        for org_id, user_id in accounts:
            shard = shard_of(org_id, self.shards)
            names = waiting[shard]
            names.append(account_field(org_id, user_id))
            if len(names) == _PAGE:
                await self._write(shard, names, applied)
                names.clear()
        for shard, names in enumerate(waiting):
            if names:
                await self._write(shard, names, applied)

    async def _write(self, shard: int, names: Sequence[str], applied: int) -> None:
        keys, arguments = self.keys(shard), list[str | int]([1])
        for name in names:
            arguments += (name, AVAILABLE, applied)
        await load_script("load").call(self.redis, [keys.accounts, keys.meta], arguments)

    async def operate(self, operations: Sequence[Sequence[Any]], shard: int = 0) -> list[bytes]:
        """One script call with these operations, each the seven arguments of `operate`."""
        arguments = [argument for operation in operations for argument in operation]
        replies: list[bytes] = await load_script("operate").call(
            self.redis, self.keys(shard).batch(), ["1", *arguments]
        )
        return replies[:-1]

    async def prove(self, charges: int, amount: int, open_holds: int = 0) -> None:
        """Raise BenchFailed unless exactly `charges` charges of `amount` were made since the last
        reset and so many holds are open.
        """
        spent, events, holds = 0, 0, 0
        for shard in range(self.shards):
            keys = self.keys(shard)
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.hvals(keys.accounts)
                pipe.hget(keys.meta, "seq")
                pipe.hlen(keys.holds)
                records, seq, still_open = await pipe.execute()
            spent += sum(AVAILABLE - sum(map(int, record.split()[:2])) for record in records)
            events += int(seq)
            holds += still_open
        if (spent, events, holds) != (charges * amount, charges, open_holds):
            raise BenchFailed(
                f"{charges} charges of {amount} were answered, but {spent} millicredits are spent, "
                f"{events} events written and {holds} holds open"
            )


async def delete(redis: Any, *names: str) -> None:
    """Delete keys and wait until their memory is free, which Valkey sees to in the background."""
    await redis.delete(*names)
    end = time.monotonic() + FREED_S_MAX
    while int((await redis.info("memory")).get("lazyfree_pending_objects", 0)):
        if time.monotonic() > end:
            raise BenchFailed(f"deleted keys were not free after {FREED_S_MAX:.0f} s")
        await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class ScriptTime:
    """What a Redis has spent in EVALSHA so far, by its own count."""

    calls: int
    microseconds: int

    def __sub__(self, before: ScriptTime) -> ScriptTime:
        return ScriptTime(self.calls - before.calls, self.microseconds - before.microseconds)


async def script_time(redis: Any) -> ScriptTime:
    """Read the count. Differences are what is measured, so nobody's statistics are reset."""
    stats = (await redis.info("commandstats")).get("cmdstat_evalsha", {"calls": 0, "usec": 0})
    return ScriptTime(int(stats["calls"]), int(stats["usec"]))

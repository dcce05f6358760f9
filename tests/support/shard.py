"""A shard that tests call scripts on directly, as any client of the server could."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script

FULL = 1
"""A `maxmemory` in bytes that any server is above. Some use less than a megabyte in all."""


def op(
    kind: str,
    request: str,
    amount: object = 0,
    *,
    user: str = "org/u",
    ttl_ms: object = None,
    owner: str = "",
    payload: str = "",
    key: str | None = None,
) -> list[Any]:
    """The seven arguments of one operation; a reserve or touch lives a minute unless said
    otherwise.
    """
    if ttl_ms is None:
        ttl_ms = 60_000 if kind in ("reserve", "touch") else 0
    org = user.partition("/")[0]
    return [kind, user, key or f"{org}/{request}", amount, ttl_ms, owner, payload]


@dataclass
class ScriptedShard:
    """One open shard with decoded replies."""

    redis: Redis
    keys: ShardKeys
    epoch: int = 1
    writes: str = "0"
    """How many calls had changed the shard, as the last batch was told."""

    async def open(
        self,
        epoch: int = 1,
        shards: int = 1,
        run_id: str | None = None,
        *,
        start: int = 1,
        whole: bool = False,
        accounts: Mapping[str, tuple[int, int]] | None = None,
    ) -> str:
        """`accounts`: what is left of those with open holds, and their last entry."""
        flat = [part for name, two in (accounts or {}).items() for part in (name, *two)]
        self.epoch = epoch
        if run_id is None:
            run_id = (await self.redis.info("server"))["run_id"]
        return text(
            await load_script("open").call(
                self.redis,
                self.keys.batch(),
                [epoch, shards, run_id, "", start, int(whole), *flat],
            )
        )

    async def settler_was_there(self) -> None:
        """As if a settler had just said that no account is missing, now and for a long time."""
        await self.redis.hset(self.keys.meta, "complete_ms", 10**14)

    async def load(self, account: str, available: int, applied: int = 1) -> str:
        replies = await load_script("load").call(
            self.redis,
            [self.keys.accounts, self.keys.meta],
            [self.epoch, account, available, applied],
        )
        return text(replies[0])

    async def batch(self, *operations: list[Any], script: str = "operate") -> list[str]:
        arguments = [argument for operation in operations for argument in operation]
        replies = await load_script(script).call(
            self.redis, self.keys.batch(), [self.epoch, *arguments]
        )
        *answers, self.writes = map(text, replies)
        return answers

    async def one(self, *arguments: Any, script: str = "operate", **named: Any) -> str:
        return (await self.batch(op(*arguments, **named), script=script))[0]

    async def apply(
        self, *entries: tuple[str, object, object] | tuple[str, object, object, str]
    ) -> list[str]:
        """(account, n, delta) and, where it ends one, the key of a hold."""
        keys = self.keys
        arguments = [argument for entry in entries for argument in (*entry, "")[:4]]
        replies = await load_script("apply").call(
            self.redis,
            keys.applying(),
            [self.epoch, *arguments],
        )
        return [text(reply) for reply in replies]

    async def sweep(self, limit: int = 100) -> list[int]:
        """Holds that ended, events, holds still due."""
        return (await self.sweep_fully(limit))[:3]

    async def sweep_fully(self, limit: int = 100) -> list[int]:
        """The same, then holds whose progress was not charged, and that progress."""
        keys = self.keys
        reply = await load_script("sweep").call(self.redis, keys.sweeping(), [self.epoch, limit])
        return [int(count) for count in reply]

    async def rotate(self, window_ms: int = 1000) -> int:
        names = [self.keys.outcomes, self.keys.outcomes_old, self.keys.meta]
        reply: int = await load_script("rotate").call(self.redis, names, [self.epoch, window_ms])
        return reply

    async def snapshot(self, *accounts: str, holds_limit: int = 1000) -> list[Any]:
        keys = self.keys
        reply: list[Any] = await load_script("snapshot").call(
            self.redis,
            [keys.accounts, keys.holds, keys.deadlines, keys.meta, keys.open_holds],
            [self.epoch, holds_limit, *accounts],
        )
        return reply

    async def account(self, account: str = "org/u") -> tuple[int, int, int]:
        """(available, held, applied) as stored."""
        record = await self.redis.hget(self.keys.accounts, account)
        available, held, applied = text(record).split(" ")
        return int(available), int(held), int(applied)

    async def events(self) -> list[list[str]]:
        """Every event as [id of its entry, fields...]."""
        lines = []
        for entry_id, fields in await self.redis.xrange(self.keys.events):
            written = text(fields[b"v1"]).split("\n")
            lines.extend([text(entry_id), *line.split("\t")] for line in written)
        return lines

    async def overdue(self, request: str, org: str = "org") -> None:
        """Move the deadline of a hold into the past, so that no test waits for a clock."""
        await self.redis.zadd(self.keys.deadlines, {f"{org}/{request}": 1}, xx=True)

    async def state(self) -> dict[str, Any]:
        """Everything stored in the shard, to compare before and after what must change nothing."""
        keys = self.keys
        return {
            "accounts": await self.redis.hgetall(keys.accounts),
            "holds": await self.redis.hgetall(keys.holds),
            "deadlines": await self.redis.zrange(keys.deadlines, 0, -1, withscores=True),
            "outcomes": await self.redis.hgetall(keys.outcomes),
            "outcomes_old": await self.redis.hgetall(keys.outcomes_old),
            "meta": await self.redis.hgetall(keys.meta),
            "events": await self.redis.xrange(keys.events),
            "open_holds": await self.redis.hgetall(keys.open_holds),
        }


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

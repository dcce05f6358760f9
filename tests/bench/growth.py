"""Target 8: what an operation costs, and what Redis holds, when there is a lot of everything."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from redis.asyncio import Redis

from bench.fill import ESTIMATE, PER_CALL, charges, fill, reserves
from bench.harness import (
    Figure,
    Side,
    Target,
    open_loop,
    percentile,
    take_turns,
    value,
)
from bench.histogram import Histogram
from bench.latency import PINGS_PER_SECOND
from bench.live import Account, LiveShards, delete, make_accounts, script_time
from bench.peers import AMOUNT, PAYLOADS
from bench.server_time import batches, redis_time
from bench.servers import Servers
from taximeter.meter.wire.keys import shard_of
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.settings import SettlerSettings

COST_GROWS: Final = 1.15
ACCOUNT_BYTES, HOLD_BYTES, EVENT_BYTES = 150.0, 220.0, 130.0
ORGANISATIONS: Final = 1_000
LONE_EVENTS: Final = 20_000
SHARDS: Final = 64
ORGANISATIONS_A_SHARD: Final = 8
STALL_MS: Final = 20.0
SWEEP_LIMIT: Final[int] = SettlerSettings.model_fields["sweep_limit"].default
EXPIRY_S_MAX: Final = 60.0
"""So long is swept at most: enough to see the longest call, also on a machine that is busy."""

Fill = Callable[[LiveShards], Awaitable[list[Figure]]]


async def run(servers: Servers) -> list[Figure]:
    """Each kind of growth on its own, beside a small shard on the same server, round by round."""
    scale = servers.scale
    few = make_accounts(scale.users, scale.organisations)
    many = make_accounts(scale.grown_accounts, ORGANISATIONS)
    figures: list[Figure] = []
    async with servers.redis() as (url, redis):
        small = LiveShards(redis, f"{servers.prefix}small", few)
        for name, title, accounts, grow in (
            ("accounts", f"{scale.grown_accounts:,} accounts", many, _no_more),
            ("events", f"{scale.grown_events:,} unsettled events", few, _events(servers)),
            ("holds", f"{scale.grown_holds:,} open holds", few, _holds(servers)),
        ):
            grown = LiveShards(redis, f"{servers.prefix}grown", accounts)
            before = await used_memory(redis)
            await grown.reset()
            if name == "accounts":
                figures.append(
                    _memory(
                        "account",
                        (await used_memory(redis) - before) / len(accounts),
                        ACCOUNT_BYTES,
                    )
                )
            figures += await grow(grown)
            seen = await take_turns(
                {"small": cost(small, few, fresh=True), "grown": cost(grown, accounts)},
                rounds=scale.rounds,
                seconds=scale.round_s / 2,
                warm_up_s=scale.warm_up_s,
            )
            figures.append(
                Figure(
                    f"growth_{name}",
                    f"Redis time of an operation with {title}",
                    "µs",
                    seen["grown"],
                    seen["small"],
                    f"{len(few):,} accounts, nothing else",
                    Target(COST_GROWS, "at most"),
                    number=8,
                )
            )
            await grown.remove()
        figures.append(await _shards(servers, redis, small))
        await small.remove()
        figures += await _expiry(servers, url, redis)
    return figures


async def _shards(servers: Servers, redis: Any, one: LiveShards) -> Figure:
    """What an operation costs Redis where each shard has keys of its own, call after call in
    another of them.
    """
    scale = servers.scale
    accounts = make_accounts(scale.users * SHARDS, SHARDS * ORGANISATIONS_A_SHARD)
    many = LiveShards(redis, f"{servers.prefix}shards", accounts, SHARDS)
    await many.reset()
    seen = await take_turns(
        {"small": cost(one, one.accounts, fresh=True), "shards": _cost_of_shards(many)},
        rounds=scale.rounds,
        seconds=scale.round_s / 2,
        warm_up_s=scale.warm_up_s,
    )
    await many.remove()
    return Figure(
        "growth_shards",
        f"Redis time of an operation with {SHARDS} shards",
        "µs",
        seen["shards"],
        seen["small"],
        "one shard",
        Target(COST_GROWS, "at most"),
        number=8,
    )


def _cost_of_shards(live: LiveShards) -> Side:
    """Microseconds an operation, each call of 100 in the next shard."""
    by_shard: list[list[Account]] = [[] for _ in range(live.shards)]
    for account in live.accounts:
        by_shard[shard_of(account[0], live.shards)].append(account)
    started = 0

    async def side(seconds: float) -> float:
        nonlocal started
        started += 1
        calls = itertools.cycle(
            [
                (shard, batches(accounts, PER_CALL, f"cost-{started}"))
                for shard, accounts in enumerate(by_shard)
                if accounts
            ]
        )

        async def step() -> int:
            shard, of_shard = next(calls)
            operations = next(of_shard)
            for reply in await live.operate(operations, shard):
                assert reply.startswith(b"1 "), reply
            return len(operations)

        return await redis_time(live.redis, step, seconds)

    return side


async def _expiry(servers: Servers, url: str, redis: Any) -> list[Figure]:
    """Holds that all expire at once, ended by the script as the settler calls it, while somebody
    asks PING each millisecond.
    """
    scale = servers.scale
    live = LiveShards(
        redis, f"{servers.prefix}expiry", make_accounts(scale.users, scale.organisations)
    )
    await live.reset()
    count = scale.expiring_holds
    await fill(live, reserves(live.accounts, count, "expiring", ESTIMATE, ttl_ms=1))
    swept = Swept(redis, live.keys(0).sweeping())
    pings: list[float] = []
    async with Redis.from_url(url, socket_timeout=120.0) as connection:

        async def ping(due: float) -> None:
            await connection.ping()
            pings.append(time.perf_counter() - due)

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(
                open_loop(ping, per_second=PINGS_PER_SECOND, seconds=2 * EXPIRY_S_MAX)
            )
            began = time.perf_counter()
            while swept.due and time.perf_counter() - began < EXPIRY_S_MAX:
                await swept.step()
            took = time.perf_counter() - began
            asking.cancel()
    await live.prove(0, AMOUNT, count - swept.ended)
    await live.remove()
    title = f"{count:,} holds expire at once"
    return [
        Figure(
            "expiry_stall",
            f"{title}: longest call of the sweep, by Redis' own count",
            "ms",
            value(max(swept.calls_ms)),
            target=Target(STALL_MS, "at most", "value", "redis"),
            note=f"{swept.ended:,} in {len(swept.calls_ms):,} calls, {swept.ended / took:,.0f}/s; "
            f"{max(swept.undisturbed_ms, default=math.nan):.1f} ms while Redis did not rewrite its "
            "append-only file",
            number=8,
        ),
        Figure(
            "expiry_ping",
            f"{title}: a PING meanwhile, p99.9",
            "ms",
            value(percentile(pings, 0.999) * 1000),
            note=f"longest {max(pings) * 1000:.1f} ms, p50 {percentile(pings, 0.5) * 1000:.2f} ms",
            number=8,
            times=(Histogram.of("a PING while holds expire", pings),),
        ),
    ]


@dataclass(slots=True)
class Swept:
    """Calls of the sweep script, and what Redis says that each of them took."""

    redis: Any
    keys: Sequence[str]
    ended: int = 0
    due: bool = True
    calls_ms: list[float] = field(default_factory=list)
    undisturbed_ms: list[float] = field(default_factory=list)
    """Those of them at whose beginning and end no child of Redis wrote its file anew."""

    async def step(self) -> None:
        """End as many holds as the settler does in a call."""
        was_rewriting = await is_rewriting(self.redis)
        before = await script_time(self.redis)
        counts = await load_script("sweep").call(self.redis, list(self.keys), [1, SWEEP_LIMIT])
        took = await script_time(self.redis) - before
        self.calls_ms.append(took.microseconds / 1000)
        if not was_rewriting and not await is_rewriting(self.redis):
            self.undisturbed_ms.append(took.microseconds / 1000)
        self.ended += int(counts[0])
        self.due = int(counts[2]) > 0


async def is_rewriting(redis: Any) -> bool:
    """Whether a child of Redis writes its append-only file anew: what it has copied until then is
    copied once more by who changes it, and it wants a core.
    """
    return bool((await redis.info("persistence"))["aof_rewrite_in_progress"])


async def used_memory(redis: Any) -> int:
    """Bytes of data, without the buffers of clients and of the append-only file."""
    info = await redis.info("memory")
    buffers = ("mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer")
    return int(info["used_memory"]) - sum(int(info.get(name, 0)) for name in buffers)


def cost(live: LiveShards, accounts: Sequence[Account], *, fresh: bool = False) -> Side:
    """Microseconds an operation of these accounts, 100 a call. Unless it is to be fresh, the shard
    stays as it is from round to round.
    """
    started = 0

    async def side(seconds: float) -> float:
        nonlocal started
        started += 1
        if fresh:
            await live.reset()
        calls = batches(accounts, PER_CALL, f"cost-{started}")

        async def step() -> int:
            operations = next(calls)
            for reply in await live.operate(operations):
                assert reply.startswith(b"1 "), reply
            return len(operations)

        return await redis_time(live.redis, step, seconds)

    return side


async def _no_more(_: LiveShards) -> list[Figure]:
    return []


def _events(servers: Servers) -> Fill:
    """Unsettled events: a few with an entry each, and then the many, with an entry a hundred."""

    async def grow(live: LiveShards) -> list[Figure]:
        lone = await _event_bytes(live, LONE_EVENTS, 1)
        await live.reset()
        many = await _event_bytes(live, servers.scale.grown_events, PER_CALL)
        what = "unsettled event beyond its payload"
        return [
            _memory(what, many.event, EVENT_BYTES, f"{PER_CALL} a call"),
            _memory(what, lone.event, None, "one a call"),
            _memory("remembered outcome", many.outcome, None, "for one to two windows"),
        ]

    return grow


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of an event without its payload, and of the outcome that its request leaves."""

    event: float
    outcome: float


async def _event_bytes(live: LiveShards, count: int, per_call: int) -> Sizes:
    """Measured on the whole; the outcomes are then taken away, since they are forgotten by time."""
    before = await used_memory(live.redis)
    await fill(live, charges(live.accounts, count, f"e{per_call}"), per_call)
    both = await used_memory(live.redis)
    await delete(live.redis, live.keys(0).outcomes)
    events = await used_memory(live.redis)
    return Sizes((events - before) / count - fmean(map(len, PAYLOADS)), (both - events) / count)


def _holds(servers: Servers) -> Fill:
    """Open holds, first without a payload and then with what the LLM route writes into them."""

    async def grow(live: LiveShards) -> list[Figure]:
        count = servers.scale.grown_holds
        sizes = []
        for payload in ("", ESTIMATE):
            await live.reset()
            before = await used_memory(live.redis)
            await fill(live, reserves(live.accounts, count, "hold", payload))
            sizes.append((await used_memory(live.redis) - before) / count)
        return [
            _memory("open hold", sizes[1], HOLD_BYTES, f"with a payload of {len(ESTIMATE)} B"),
            _memory("open hold", sizes[0], None, "without a payload"),
        ]

    return grow


def _memory(what: str, size: float, bound: float | None, note: str = "") -> Figure:
    name = next(one for one in ("account", "event", "hold", "outcome") if one in what)
    target = None if bound is None else Target(bound, "at most", "value")
    suffix = "" if bound is not None else "_other"
    title = f"memory of Redis per {what}"
    return Figure(
        f"memory_{name}{suffix}", title, "B", value(size), target=target, note=note, number=8
    )

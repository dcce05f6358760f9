"""Target 8: what an operation costs, and what Redis holds, when there is a lot of everything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from bench.fill import ESTIMATE, PER_CALL, charges, fill, reserves
from bench.harness import Figure, Side, Target, take_turns, value
from bench.live import LiveShards, delete, make_accounts
from bench.peers import PAYLOADS
from bench.server_time import batches, redis_time
from bench.servers import Servers

COST_GROWS: Final = 1.15
ACCOUNT_BYTES, HOLD_BYTES, EVENT_BYTES = 150.0, 250.0, 130.0
ORGANISATIONS: Final = 1_000
LONE_EVENTS: Final = 20_000

Fill = Callable[[LiveShards], Awaitable[list[Figure]]]


async def run(servers: Servers) -> list[Figure]:
    """Each kind of growth on its own, beside a small shard on the same server, round by round."""
    scale = servers.scale
    few = make_accounts(scale.users, scale.organisations)
    many = make_accounts(scale.grown_accounts, ORGANISATIONS)
    figures: list[Figure] = []
    async with servers.redis() as (_, redis):
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
                {"small": _cost(small, fresh=True), "grown": _cost(grown, fresh=False)},
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
        await small.remove()
    return figures


async def used_memory(redis: Any) -> int:
    """Bytes of data, without the buffers of clients and of the append-only file."""
    info = await redis.info("memory")
    buffers = ("mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer")
    return int(info["used_memory"]) - sum(int(info.get(name, 0)) for name in buffers)


def _cost(live: LiveShards, *, fresh: bool) -> Side:
    """Microseconds an operation, 100 a call. The grown shard stays as it is from round to round."""
    started = 0

    async def side(seconds: float) -> float:
        nonlocal started
        started += 1
        if fresh:
            await live.reset()
        calls = batches(live, PER_CALL, f"cost-{started}")

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

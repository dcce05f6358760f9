"""Target 7: what the LLM route adds to a call of its upstream, and how many it can take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from bench.gateway import Gateway, Maker, running_gateway
from bench.harness import Figure, Side, Spread, Target, percentile, take_turns, value
from bench.histogram import Histogram
from bench.http_load import Load, drive, drive_open
from bench.latency import PARTS, every
from bench.litellm import litellm_proxy
from bench.scale import Scale
from bench.servers import Servers
from bench.worker import cpu_seconds

CALLERS: Final = 20
ROUND_TRIPS: Final = 2.0
OVER_LITELLM: Final = 15.0
ADDED_MS: Final = 0.5
HALF_P99_MS: Final = 10.0


async def run(servers: Servers) -> list[Figure]:
    """Holds, charges and settlement are on, the upstream is a real HTTP hop away."""
    scale = servers.scale
    figures: list[Figure] = []
    async with running_gateway(servers) as gateway, _rival(servers) as rival:
        await _drive(gateway.api_url, gateway.routed(stream=False), CALLERS, scale.warm_up_s)
        for stream in (False, True):
            kind = "streamed" if stream else "not streamed"
            per_core: list[float] = []
            alone: dict[str, list[list[float]]] = {"direct": [], "routed": []}
            sides: dict[str, Side] = {
                "direct, alone": _time_alone(
                    gateway.upstream_url, gateway.direct(stream=stream), alone["direct"]
                ),
                "routed, alone": _time_alone(
                    gateway.api_url, gateway.routed(stream=stream), alone["routed"]
                ),
                "direct": _rate(gateway.upstream_url, gateway.direct(stream=stream)),
                "routed": _rate_and_core(gateway, gateway.routed(stream=stream), per_core),
            }
            if rival is not None and not stream:
                sides["LiteLLM"] = _rate(*rival)
            seen = await take_turns(
                sides, rounds=scale.rounds, seconds=scale.round_s, warm_up_s=scale.warm_up_s
            )
            name = "stream" if stream else "plain"
            figures += _figures(kind, name, seen, per_core)
            figures += _times(
                f"llm_{name}_alone", f"LLM route, {kind}, one caller", alone, scale.rounds
            )
            half = seen["routed"].median / 2
            figures += _times(
                f"llm_{name}_half",
                f"LLM route, {kind}, half of the maximum, {half:,.0f}/s",
                await _at_half(gateway, stream, half, scale),
                scale.rounds,
                {"p99": Target(HALF_P99_MS, "at most", "value", "python")},
            )
            if "LiteLLM" in seen:
                figures.append(
                    Figure(
                        "llm_over_litellm",
                        f"LLM route, {kind}, {CALLERS} callers",
                        "/s",
                        seen["routed"],
                        seen["LiteLLM"],
                        "LiteLLM proxy, one worker, mock response",
                        Target(OVER_LITELLM, "at least"),
                        number=7,
                    )
                )
        figures.append(
            Figure(
                "llm_round_trips",
                "round trips to Redis per request of a lone caller",
                "",
                value(await _round_trips(gateway, scale.round_s)),
                target=Target(ROUND_TRIPS, "at most", "value"),
                number=7,
            )
        )
    return figures


def _figures(kind: str, name: str, seen: dict[str, Spread], per_core: list[float]) -> list[Figure]:
    added = zip(seen["routed, alone"].rounds, seen["direct, alone"].rounds, strict=True)
    return [
        Figure(
            f"llm_{name}_added",
            f"LLM route, {kind}, one caller: time added, p50",
            "ms",
            Spread(tuple(routed - direct for routed, direct in added)),
            target=None if name == "stream" else Target(ADDED_MS, "at most", "value", "python"),
            note=f"{seen['routed, alone'].median:.2f} ms through the route, "
            f"{seen['direct, alone'].median:.2f} ms directly",
            number=7,
        ),
        Figure(
            f"llm_{name}_rate",
            f"LLM route, {kind}, {CALLERS} callers, one process",
            "/s",
            seen["routed"],
            seen["direct"],
            "the upstream directly",
            number=7,
        ),
        Figure(
            f"llm_{name}_per_core",
            f"LLM route, {kind}, per core of the API's own processor time",
            "/s",
            Spread(tuple(per_core[-len(seen["routed"].rounds) :])),
            number=7,
        ),
    ]


def _times(
    name: str,
    title: str,
    rounds: dict[str, list[list[float]]],
    count: int,
    targets: Mapping[str, Target] | None = None,
) -> Iterator[Figure]:
    """What the client saw, beside the same requests to the upstream; the last rounds count."""
    routed, direct = rounds["routed"][-count:], rounds["direct"][-count:]
    for part, share in PARTS.items():
        times: tuple[Histogram, ...] = ()
        if share == max(PARTS.values()):
            times = (Histogram.of(title, every(routed)), Histogram.of("directly", every(direct)))
        yield Figure(
            f"{name}_{part.replace('.', '')}",
            f"{title}: {part}",
            "ms",
            Spread(tuple(percentile(one, share) * 1000 for one in routed)),
            Spread(tuple(percentile(one, share) * 1000 for one in direct)),
            "the upstream directly",
            (targets or {}).get(part),
            number=7,
            times=times,
        )


async def _at_half(
    gateway: Gateway, stream: bool, rate: float, scale: Scale
) -> dict[str, list[list[float]]]:
    """Times of every round, when requests come by a schedule, in turn with the upstream alone."""
    seen: dict[str, list[list[float]]] = {"direct": [], "routed": []}

    def side(name: str, url: str, makers: list[Maker]) -> Side:
        async def run(seconds: float) -> float:
            load: Load = await drive_open(url, makers, per_second=rate, seconds=seconds)
            seen[name].append(load.times)
            return load.per_second

        return run

    await take_turns(
        {
            "direct": side("direct", gateway.upstream_url, gateway.direct(stream=stream)),
            "routed": side("routed", gateway.api_url, gateway.routed(stream=stream)),
        },
        rounds=scale.rounds,
        seconds=scale.round_s,
        warm_up_s=scale.warm_up_s,
    )
    return seen


@asynccontextmanager
async def _rival(servers: Servers) -> AsyncIterator[tuple[str, list[Maker]] | None]:
    """LiteLLM's URL and requests, when it was asked for."""
    if not servers.litellm:
        yield None
        return
    async with litellm_proxy(servers.data_dir) as rival:
        yield rival


async def _drive(url: str, makers: list[Maker], connections: int, seconds: float) -> Any:
    return await drive(url, makers, connections=connections, seconds=seconds)


def _rate(url: str, makers: list[Maker]) -> Side:
    """Answers a second."""

    async def side(seconds: float) -> float:
        rate: float = (await _drive(url, makers, CALLERS, seconds)).per_second
        return rate

    return side


def _time_alone(url: str, makers: list[Maker], seen: list[list[float]]) -> Side:
    """Median milliseconds of one caller; all of them are added to `seen`."""

    async def side(seconds: float) -> float:
        load = await _drive(url, makers, 1, seconds / 2)
        seen.append(load.times)
        return percentile(load.times, 0.5) * 1000

    return side


def _rate_and_core(gateway: Gateway, makers: list[Maker], per_core: list[float]) -> Side:
    async def side(seconds: float) -> float:
        before = cpu_seconds(gateway.api_pid)
        load = await _drive(gateway.api_url, makers, CALLERS, seconds)
        per_core.append(len(load.times) / (cpu_seconds(gateway.api_pid) - before))
        rate: float = load.per_second
        return rate

    return side


async def _round_trips(gateway: Gateway, seconds: float) -> float:
    """Reads from clients a request, by Redis' own count, with the settler stopped. (Its count of
    commands has those inside scripts in it.)
    """

    async def reads() -> int:
        return int((await gateway.redis.info("stats"))["total_reads_processed"])

    await asyncio.to_thread(gateway.settler.stop)
    before = await reads()
    load = await _drive(gateway.api_url, gateway.routed(stream=False), 1, seconds)
    # The answer that came too late to count, and this question itself.
    return (await reads() - before - 1) / (len(load.times) + 1)

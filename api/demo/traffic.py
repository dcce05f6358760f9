"""Sends requests with the official `openai` package, streamed and not, many at once."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from openai import APIStatusError, AsyncOpenAI
from rich.progress import Progress

from taximeter.api.demo.scenario import Ask, Person

CONCURRENCY = 50


@dataclass(slots=True)
class Traffic:
    """What the clients saw. Costs in credits, times of the hold in milliseconds."""

    answered: int = 0
    streamed: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    cost: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    requests: Counter[str] = field(default_factory=Counter)
    hold_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0


async def run_traffic(
    api_url: str,
    asks: list[Ask],
    tokens: Mapping[str, str],
    progress: Progress,
    under_way: asyncio.Event,
) -> Traffic:
    """Ask everything, CONCURRENCY at a time, and say what came back. Nothing is retried. A third of
    it is over when `under_way` is set.
    """
    traffic = Traffic()
    task = progress.add_task("chat completions", total=len(asks), refused=0)
    waiting = iter(asks)
    loop = asyncio.get_running_loop()
    started = loop.time()
    client = AsyncOpenAI(base_url=f"{api_url}/v1", api_key="per request", max_retries=0)
    async with client:

        async def worker() -> None:
            for ask in waiting:
                await _ask(client, ask, tokens[ask.person.user_id], traffic)
                progress.update(task, advance=1, refused=sum(traffic.refused.values()))
                if progress.tasks[task].completed >= len(asks) / 3:
                    under_way.set()

        await asyncio.gather(*[worker() for _ in range(CONCURRENCY)])
    traffic.seconds = loop.time() - started
    return traffic


async def _ask(client: AsyncOpenAI, ask: Ask, token: str, traffic: Traffic) -> None:
    # One client for all users, since a connection pool each would measure the clients instead.
    options: dict[str, Any] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": ask.prompt}],
        "max_tokens": ask.max_tokens,
        "extra_headers": {"Authorization": f"Bearer {token}", "X-Org-Id": ask.person.org_id},
    }
    create = client.chat.completions.with_raw_response.create
    try:
        if ask.stream:
            raw = await create(stream=True, stream_options={"include_usage": True}, **options)
            cost: object = None
            async for chunk in raw.parse():
                if chunk.usage is not None:
                    cost = (chunk.usage.model_extra or {}).get("cost_incurred")
            traffic.streamed += 1
        else:
            raw = await create(**options)
            raw.parse()
            cost = raw.headers["X-Cost-Incurred"]
    except APIStatusError as error:
        traffic.refused[error.status_code] += 1
        if error.status_code not in (402, 429):
            traffic.failures.append(f"{error.status_code}: {error.message}")
        return
    except Exception as error:
        traffic.failures.append(f"{type(error).__name__}: {error}")
        return
    if cost is None:
        traffic.failures.append(f"no cost in the answer to {ask.person.user_id}")
        return
    traffic.answered += 1
    traffic.requests[ask.person.user_id] += 1
    traffic.cost[ask.person.user_id] += Decimal(str(cost))
    traffic.hold_ms.extend(_server_timing(raw.headers.get("Server-Timing", ""), "hold"))


def _server_timing(header: str, name: str) -> Iterator[float]:
    for part in header.split(","):
        metric, *parameters = [word.strip() for word in part.split(";")]
        if metric == name:
            yield from (float(p[4:]) for p in parameters if p.startswith("dur="))


def users_by_organisation(people: list[Person]) -> dict[str, list[Person]]:
    """People in their organisations, both in the order of the scenario."""
    grouped: dict[str, list[Person]] = {}
    for person in people:
        grouped.setdefault(person.org_id, []).append(person)
    return grouped

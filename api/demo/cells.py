"""Moves an organisation from one cell to another while its users ask models."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

import asyncpg
import httpx
from rich.console import Console

from taximeter.api.access.dev_tokens import DevKey
from taximeter.api.demo.admin import Admin, DemoFailed
from taximeter.api.demo.settled import wait_until_settled
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_stores

_SQL = load_queries("directory")
CELLS = ("a", "b")
USERS = 4
ASKS_AFTER = 10
"""So many requests each user makes at the new address before the story ends."""
TOKEN_TTL_S = 3600
PATIENCE_S = 120.0


class Place(Protocol):
    """A cell that runs on this machine."""

    api_url: str
    database_url: str
    redis_url: str


class Moved(Protocol):
    """What a move came to, as far as it is told here."""

    rows: int
    holds: int
    paused_s: float


Mover = Callable[[str], Awaitable[Moved]]
"""Moves an organisation from cell a to cell b."""
Prove = Callable[[Stores], Awaitable[bool]]
"""Shows the books of a cell and says whether they hold."""


@dataclass(slots=True)
class Told:
    """What the users met. begun: one of them has an answer. cost: credits that answers said; again:
    requests that were answered 503 and repeated under the same key; redirected: users that were
    answered 421.
    """

    answers: int = 0
    cost: Decimal = Decimal(0)
    again: int = 0
    redirected: int = 0
    answers_there: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)


async def register_cells(directory_url: str, systems: Mapping[str, Place]) -> None:
    """Write both cells into the directory; here nobody asks a sidecar."""
    conn = await asyncpg.connect(directory_url)
    try:
        for name, system in systems.items():
            await conn.execute(_SQL["put_cell"], name, system.api_url, system.api_url)
    finally:
        await conn.close()


async def move_between(
    console: Console, systems: Mapping[str, Place], key: DevKey, mover: Mover, prove: Prove
) -> list[str]:
    """The story of the move; returns what is off at its end. Raises DemoFailed."""
    org_id = f"demo-mover-{uuid.uuid4().hex[:6]}"
    users = [f"{org_id}-user-{number}" for number in range(USERS)]
    here, there = (systems[name] for name in CELLS)
    root = key.mint("demo-root", ttl_s=TOKEN_TTL_S, roles=("system_admin",))
    async with (
        httpx.AsyncClient(base_url=here.api_url, timeout=30.0) as client,
        httpx.AsyncClient(base_url=there.api_url, timeout=30.0) as client_there,
        open_stores(_settings(here)) as stores,
        open_stores(_settings(there)) as stores_there,
    ):
        admin = Admin(client, root)
        await admin.subscribe(org_id, org_id, Decimal(1_000), f"{org_id}-owner")
        for user in users:
            await admin.add_member(org_id, user)
            await admin.allocate(org_id, user, Decimal(200))
        told, moved = Told(), asyncio.Event()
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for user in users:
                token = key.mint(user, ttl_s=TOKEN_TTL_S)
                group.create_task(_user(here.api_url, org_id, token, told, moved))
            await told.begun.wait()
            done = await mover(org_id)
            moved.set()
        _say(console, org_id, told, done)
        refused = await client.get(
            f"/api/v1/org-billing/credits/{org_id}", headers={"Authorization": f"Bearer {root}"}
        )
        off = []
        for name, one in zip(CELLS, (stores, stores_there), strict=True):
            await wait_until_settled(one)
            console.print(f"  the books of cell {name}", highlight=False)
            if not await prove(one):
                off.append(f"an invariant of the books of cell {name} is violated")
        pool = await Admin(client_there, root).pool(org_id)
        used = Decimal(str(pool["used_credits"]))
        if used != told.cost:
            off.append(f"the answers cost {told.cost} credits, the books say {used}")
        if refused.status_code != 421:
            off.append(f"cell a answers {refused.status_code} for who has left, and not 421")
        return off


async def _user(url: str, org_id: str, token: str, told: Told, moved: asyncio.Event) -> None:
    """One user: asks on and on, first here and then there, where the answer has said so."""
    left, number = ASKS_AFTER, 0
    async with httpx.AsyncClient(timeout=30.0) as client:
        address = url
        while left:
            number += 1
            headers = {
                "Authorization": f"Bearer {token}",
                "X-Org-Id": org_id,
                "Idempotency-Key": f"ask-{number}",
            }
            body = {
                "model": "gpt-4o-mini",
                "messages": [{"role": "user", "content": f"Tell me about moving, take {number}."}],
            }
            while True:
                response = await client.post(
                    f"{address}/api/v1/llm/chat/completions", headers=headers, json=body
                )
                if response.status_code == 503:
                    told.again += 1
                    await asyncio.sleep(0.05)
                elif response.status_code == 421:
                    told.redirected += 1
                    address = response.json()["error"]["details"]["address"]
                else:
                    break
            if response.status_code != 200:
                raise DemoFailed(f"a request was answered {response.status_code}: {response.text}")
            told.answers += 1
            told.begun.set()
            told.cost += Decimal(response.headers["X-Cost-Incurred"])
            if address != url:
                told.answers_there += 1
                left -= moved.is_set()


def _settings(system: Place) -> SettlerSettings:
    return SettlerSettings(database_url=system.database_url, redis_url=system.redis_url)


def _say(console: Console, org_id: str, told: Told, done: Moved) -> None:
    def line(what: str, outcome: str) -> None:
        console.print(f"  [green]✓[/] {what:<13} {outcome}", highlight=False)

    console.print("[bold]4. An organisation moves to cell b[/], while its users ask models")
    line("moved", f"{org_id}: {done.rows} rows, the same on both sides, {done.holds} open holds")
    line("paused", f"{done.paused_s:.2f} s; {told.again} requests were repeated under their keys")
    line("redirected", f"{told.redirected} users were answered 421 with the address of cell b")
    line("answers", f"{told.answers - told.answers_there} in cell a, {told.answers_there} in b")

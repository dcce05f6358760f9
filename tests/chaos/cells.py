"""`make chaos FAULTS=cell_move`: organisations move between two cells on servers of their own, the
command that moves them is killed with SIGKILL again and again, Redis is too, and callers go on.

Judged: every credit that was answered is in the books of one cell, once; each organisation lives in
one cell; the books of both hold.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

from cells_world import Cells
from settler_world import World, settling
from support.forked import Forked

from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.processes.migrate import migrate
from taximeter.meter import Meter, MeterError, RequestReplayed, WrongCell
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import open_stores

USERS: Final = 5
KILLS_A_MOVE_MAX: Final = 6
KILLED_WITHIN_S: Final = 5.0
PATIENCE_S: Final = 240.0
T = TypeVar("T")


@dataclass
class Outcome:
    """What a run came to. left: in which state a killed command had left its move. refused: what it
    ended with by itself, such as a Redis that was away.
    """

    seed: int
    moves: int = 0
    kills: int = 0
    redis_kills: int = 0
    charged: int = 0
    left: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def bit(self) -> bool:
        """Whether a kill came in the middle of a move."""
        return bool(self.left.keys() - {"none", "done", "undone"})


async def run(seed: int, seconds: float, folder: Path, moves_max: int | None = None) -> Outcome:
    """Move one organisation after the other until the time is over."""
    outcome, dice = Outcome(seed), random.Random(seed)
    end = time.monotonic() + seconds
    async with _two_cells(folder) as (cells, servers):
        while not outcome.moves or time.monotonic() < end:
            if outcome.moves == moves_max:
                break
            await _one_move(cells, servers, dice, outcome, folder)
        for name, world in (("a", cells.a), ("b", cells.b)):
            try:
                await world.assert_books()
            except AssertionError as error:
                outcome.violations.append(f"the books of cell {name}: {error}")
    return outcome


async def _one_move(
    cells: Cells,
    servers: list[EmbeddedValkey],
    dice: random.Random,
    outcome: Outcome,
    folder: Path,
) -> None:
    org_id = f"org{outcome.moves}"
    await cells.organization(org_id, **{f"user{number}": 10**6 for number in range(USERS)})
    charged: Counter[str] = Counter()
    moved = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        meters = []
        for world, server in zip((cells.a, cells.b), servers, strict=True):
            meter = await _connected(server.url, world)
            meters.append(await stack.enter_async_context(meter))
        async with asyncio.TaskGroup() as group:
            for number in range(USERS):
                group.create_task(_caller(org_id, f"user{number}", meters, charged, moved))
            breaking = group.create_task(_break(servers, dice, outcome))
            await _move(cells, servers, org_id, dice, outcome, folder)
            breaking.cancel()
            moved.set()
    outcome.moves += 1
    outcome.charged += charged.total()
    lives_in = await cells.lives_in(org_id)
    if lives_in != ["b"]:
        outcome.violations.append(f"{org_id} lives in {lives_in}")
    for world in (cells.a, cells.b):
        await world.settle()
    rows = await cells.b.pool.fetch(
        "SELECT user_id, sum(used_credits)::bigint AS used FROM user_credit_allocations"
        " WHERE org_id = $1 GROUP BY 1",
        org_id,
    )
    used = {row["user_id"]: row["used"] for row in rows}
    if used != dict(charged):
        outcome.violations.append(f"{org_id}: answered {dict(charged)}, booked {used}")


async def _caller(
    org_id: str, user_id: str, meters: list[Meter], charged: Counter[str], moved: asyncio.Event
) -> None:
    """Reserves and commits under ids that it repeats until there is an answer."""
    place, number, after = 0, 0, 0

    async def until_told(use: Callable[[Meter], Awaitable[T]]) -> T:
        nonlocal place
        while True:
            try:
                return await use(meters[place])
            except WrongCell:
                place = 1
            except RequestReplayed:
                raise
            except MeterError:
                await asyncio.sleep(0.02)

    async def reserve(meter: Meter) -> None:
        await meter.reserve(org_id, user_id, 9, request_id=f"{user_id}-{number}")

    async def commit(meter: Meter) -> int:
        receipt = await meter.commit(org_id, user_id, f"{user_id}-{number}", 2)
        return receipt.charged

    while after < 3:
        number += 1
        with suppress(RequestReplayed):  # Our own, of before a lost reply.
            await until_told(reserve)
        cost = await until_told(commit)
        charged[user_id] += cost
        after += moved.is_set() and place == 1


async def _move(
    cells: Cells,
    servers: list[EmbeddedValkey],
    org_id: str,
    dice: random.Random,
    outcome: Outcome,
    folder: Path,
) -> None:
    """The command, killed at some moment most times, until it has come to its end."""
    environment = {
        "TAXIMETER_CELL": "a",
        "TAXIMETER_MIGRATE_DATABASE_URL": cells.url_a,
        "TAXIMETER_REDIS_URL": servers[0].url,
        "TAXIMETER_TO_DATABASE_URL": cells.url_b,
        "TAXIMETER_TO_REDIS_URL": servers[1].url,
        "TAXIMETER_DIRECTORY_URL": cells.url_a,
    }
    killed = 0
    for attempt in count():
        log = folder / f"{org_id}-{attempt}.log"
        command = ["cell", "move", org_id, "--to", "b"]
        process = await asyncio.to_thread(Forked, command, environment=environment, output=log)
        is_to_die = killed < KILLS_A_MOVE_MAX and dice.random() < 0.75
        kill_after_s = dice.uniform(0.0, KILLED_WITHIN_S) if is_to_die else PATIENCE_S
        deadline = time.monotonic() + kill_after_s
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 (a process)
            await asyncio.sleep(0.005)
        if process.poll() is None:
            process.kill()
            await asyncio.to_thread(process.wait)
            killed += 1
            outcome.kills += 1
            state = await cells.a.pool.fetchval(
                "SELECT state FROM taximeter.cell_moves WHERE org_id = $1"
                " ORDER BY started_at DESC LIMIT 1",
                org_id,
            )
            outcome.left[state or "none"] += 1
        elif process.poll() == 0:
            return
        else:
            outcome.refused[log.read_text(encoding="utf-8").strip()[-120:]] += 1


async def _break(servers: list[EmbeddedValkey], dice: random.Random, outcome: Outcome) -> None:
    """Kills Redis of one cell or the other now and then; it is started again at once."""
    while True:
        await asyncio.sleep(dice.uniform(3.0, 9.0))
        server = dice.choice(servers)
        await asyncio.shield(asyncio.to_thread(_kill, server))
        outcome.redis_kills += 1


def _kill(server: EmbeddedValkey) -> None:
    server.kill()
    server.start()


async def _connected(url: str, world: World) -> Meter:
    while True:
        try:
            return await Meter.connect(url, loader=account_loader(world.pool))
        except MeterError:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _two_cells(folder: Path) -> AsyncIterator[tuple[Cells, list[EmbeddedValkey]]]:
    async with AsyncExitStack() as stack:
        servers: list[EmbeddedValkey] = []
        worlds: list[World] = []
        urls: list[str] = []
        for name in ("a", "b"):
            postgres = stack.enter_context(EmbeddedPostgres(folder / f"postgres-{name}"))
            await asyncio.to_thread(migrate, postgres.url)
            servers.append(stack.enter_context(EmbeddedValkey(folder / f"valkey-{name}")))
            settings = SettlerSettings(database_url=postgres.url, redis_url=servers[-1].url)
            stores = await stack.enter_async_context(open_stores(settings))
            worlds.append(World(stores))
            urls.append(postgres.url)
        cells = Cells(*worlds, *urls)
        await cells.start()
        for world in worlds:
            await stack.enter_async_context(settling(world, "guard", "moves", "cell_moves", "fill"))
        yield cells, servers

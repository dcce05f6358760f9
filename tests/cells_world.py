"""Two cells side by side: two databases, and two systems of keys in one Redis; and a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from settler_world import World, eventually

from taximeter.meter import Meter
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.connections import Session
from taximeter.settler.cells import move as moves
from taximeter.settler.cells.move import Cell, Connections, Moved

UTC = {"timezone": "UTC"}
HISTORY = (
    "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, service_name,"
    " credits_used, created_at) VALUES ($1, $2, 'llm_inference', 'old', $3,"
    " now() - interval '10 days')"
)


@dataclass
class Cells:
    """Cell a, where organisations are made, and cell b. Both have a directory in a's database."""

    a: World
    b: World
    url_a: str
    url_b: str

    @property
    def here(self) -> Cell:
        return Cell("a", "https://a", "https://s.a", self.a.stores)

    @property
    def there(self) -> Cell:
        return Cell("b", "https://b", "https://s.b", self.b.stores)

    async def start(self) -> None:
        await self.a.start()
        await self.b.start()
        await self.a.pool.execute(
            "INSERT INTO taximeter.cells VALUES ('a', 'https://a', 'https://s.a'),"
            " ('b', 'https://b', 'https://s.b')"
        )

    async def organization(self, org_id: str, **users: int) -> None:
        """One with an allocation for each user, and usage of long ago."""
        await self.a.organization(org_id, **users)
        await self.a.pool.execute(
            "INSERT INTO taximeter.cell_organizations VALUES ($1, $1, 'a')", org_id
        )
        for user_id in users:
            await self.a.pool.execute(
                "INSERT INTO organization_members (org_id, user_id) VALUES ($1, $2)",
                org_id,
                user_id,
            )
        await self.a.pool.execute(HISTORY, org_id, next(iter(users)), 5)

    @asynccontextmanager
    async def connections(self, *, back: bool = False) -> AsyncIterator[Connections]:
        """To move from a to b, or back."""
        ways = (self.url_b, self.url_a) if back else (self.url_a, self.url_b)
        opened = [
            await asyncpg.connect(url, server_settings=UTC, connection_class=Session)
            for url in (*ways, self.url_a)
        ]
        try:
            yield Connections(*opened)
        finally:
            for one in opened:
                if not one.is_closed():
                    await one.close()

    def _ends(self, back: bool) -> tuple[Cell, Cell]:
        return (self.there, self.here) if back else (self.here, self.there)

    async def move(self, org_id: str, *, back: bool = False, **options: Any) -> Moved:
        async with self.connections(back=back) as connections:
            return await moves.move(connections, *self._ends(back), org_id, actor="test", **options)

    async def killed_at(self, org_id: str, step: str, *, back: bool = False) -> bool:
        """Move, and die as that step is reached: every session ends at once, and nothing is tidied
        up. False when it was never reached.
        """
        async with self.connections(back=back) as connections:

            async def at(reached: str) -> None:
                if reached == step:
                    for one in (connections.source, connections.target, connections.directory):
                        one.terminate()
                    raise Killed(step)

            try:
                await moves.move(connections, *self._ends(back), org_id, actor="test", at=at)
            except (Killed, asyncpg.InterfaceError, asyncpg.PostgresConnectionError):
                await self._sessions_end()
                return True
            return False

    async def _sessions_end(self) -> None:
        """Postgres gives back the locks of a session that is gone as soon as it sees that."""
        for world in (self.a, self.b):

            async def is_free(world: World = world) -> bool:
                return not await world.pool.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 74101"
                    " AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )

            await eventually(is_free)

    @asynccontextmanager
    async def meters(self, redis_url: str) -> AsyncIterator[tuple[Meter, Meter]]:
        def of(world: World) -> Any:
            prefix = world.stores.prefix
            loader = account_loader(world.pool)
            return Meter.connect(redis_url, key_prefix=prefix, loader=loader)

        async with await of(self.a) as in_a, await of(self.b) as in_b:
            yield in_a, in_b

    async def lives_in(self, org_id: str) -> list[str]:
        """The cells that would take a charge of it now."""
        found = []
        for name, world in (("a", self.a), ("b", self.b)):
            said = await world.pool.fetchval(
                "SELECT said FROM taximeter.organizations_away WHERE org_id = $1", org_id
            )
            live = await world.stores.redis.hget(world.keys(org_id).meta, f"away:{org_id}")
            here = await world.pool.fetchval(
                "SELECT count(*) FROM organizations WHERE id = $1", org_id
            )
            if here and said is None and live is None:
                found.append(name)
        return found

    async def assert_books(self) -> None:
        await self.a.assert_books()
        await self.b.assert_books()


class Killed(BaseException):
    """The process is gone."""

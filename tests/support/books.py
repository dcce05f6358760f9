"""Books: a migrated database, and short words for what tests do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from support.waiting import eventually

Conn: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Each query returns no row when the books are right, whatever a test has done to them.
INVARIANTS = Path(__file__).parents[1] / "sql" / "invariants.sql"


def invariants() -> list[tuple[str, str]]:
    blocks = INVARIANTS.read_text(encoding="utf-8").split("-- name: ")[1:]
    return [(block.partition("\n")[0].strip(), block.partition("\n")[2]) for block in blocks]


class Books:
    """One organisation `org` with a user `ann`, unless a test asks for others."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self.pool = pool

    async def run(self, query: str, *arguments: object) -> str:
        return await self.pool.execute(query, *arguments)

    async def value(self, query: str, *arguments: object) -> Any:
        return await self.pool.fetchval(query, *arguments)

    async def row(self, query: str, *arguments: object) -> tuple[Any, ...] | None:
        found = await self.pool.fetchrow(query, *arguments)
        return None if found is None else tuple(found)

    async def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        return [tuple(record) for record in await self.pool.fetch(query, *arguments)]

    async def open(self, total: int = 1000, allocated: int = 0, org: str = "org") -> None:
        """An organisation whose pool has `total`, of which ann has `allocated` millicredits."""
        await self.run(
            "INSERT INTO organizations (id, org_name, slug, created_by) VALUES ($1, $1, $1, 'ann')",
            org,
        )
        if total:
            await self.value("SELECT add_credits_to_pool($1, $2, 1.00)", org, total)
        if allocated:
            await self.allocate(allocated, org=org)

    async def allocate(self, amount: int | None, user: str = "ann", org: str = "org") -> Any:
        return await self.value(
            "SELECT allocate_credits_to_user($1, $2, $3, 'boss')", org, user, amount
        )

    async def deduct(
        self,
        amount: int | None,
        request: str | None = None,
        user: str = "ann",
        org: str = "org",
        service: str = "test",
    ) -> tuple[Any, ...] | None:
        return await self.row(
            "SELECT * FROM deduct_credits($1, $2, $3, $5, 'model', $4, '{}')",
            org,
            user,
            amount,
            request,
            service,
        )

    async def allocation(self, user: str = "ann", org: str = "org") -> tuple[Any, ...] | None:
        """(allocated, used) of the active row."""
        return await self.row(
            "SELECT allocated_credits, used_credits FROM user_credit_allocations"
            " WHERE org_id = $1 AND user_id = $2 AND is_active",
            org,
            user,
        )

    async def totals(self, org: str = "org") -> tuple[Any, ...] | None:
        """(total, allocated, used, available) of the pool."""
        return await self.row(
            "SELECT total_credits, allocated_credits, used_credits, available_credits"
            " FROM organization_credit_pools WHERE org_id = $1",
            org,
        )

    async def entries(self, user: str = "ann", org: str = "org") -> list[tuple[Any, ...]]:
        """(number, delta, kind) of the account."""
        return await self.rows(
            "SELECT entry_seq, delta, kind FROM taximeter.account_entries"
            " WHERE org_id = $1 AND user_id = $2 ORDER BY entry_seq",
            org,
            user,
        )

    async def live(self, user: str = "ann", org: str = "org") -> int:
        """What the live balance comes to once all entries are applied and nothing is unsettled."""
        return int(
            await self.value(
                "SELECT (SELECT coalesce(sum(delta), 0) FROM taximeter.account_entries"
                "         WHERE org_id = $1 AND user_id = $2)"
                "     - (SELECT coalesce(sum(credits_used), 0) FROM credit_usage_attribution"
                "         WHERE org_id = $1 AND user_id = $2 AND shard IS NOT NULL)",
                org,
                user,
            )
        )

    async def clean_up(self, org: str = "org") -> None:
        """The guide's statements, in its order."""
        for table in (
            "credit_usage_attribution",
            "user_credit_allocations",
            "organization_credit_pools",
            "organization_subscriptions",
            "organization_members",
        ):
            await self.run(f"DELETE FROM {table} WHERE org_id = $1", org)
        await self.run("DELETE FROM organizations WHERE id = $1", org)

    async def prove(self) -> None:
        for name, query in invariants():
            found = await self.rows(query)
            assert found == [], f"{name}: {found[:3]}"

    async def waits(self, session: Conn) -> None:
        """Return when `session` stands before a lock."""
        pid = session.get_server_pid()

        async def stands() -> object:
            return await self.value(
                "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", pid
            )

        await eventually(stands, what="the session waiting for a lock")

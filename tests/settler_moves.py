"""Members, moves and closings in the settler's small world."""

from __future__ import annotations

import asyncpg
from settler_world import World

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.closing import Closed, begin_removal, close_all, take_back
from taximeter.settler.moves.moves import move
from taximeter.settler.moves.records import Move, Request


async def members(world: World, *users: str, org_id: str = "acme") -> None:
    """Make these users active members."""
    for user_id in users:
        await world.pool.execute(
            "INSERT INTO organization_members (org_id, user_id) VALUES ($1, $2)", org_id, user_id
        )


async def team(world: World, org_id: str = "acme", total: int = 10**9, **users: int) -> None:
    """An organisation whose users are members and have these allocations."""
    await world.organization(org_id, total=total, **users)
    await members(world, *users, org_id=org_id)


def transfer(source: str, target: str, amount: int, key: str | None = None) -> Request:
    return Request("acme", "transfer", source, amount, "boss", to_user=target, key=key)


def deallocation(source: str, amount: int, key: str | None = None) -> Request:
    return Request("acme", "deallocation", source, amount, "boss", key=key)


async def transferred(world: World, source: str, target: str, amount: int) -> Move:
    return await move(world.stores, transfer(source, target, amount))


async def remove(stores: Stores, user_id: str, org_id: str = "acme") -> int:
    """What the API does for a member who is removed; returns what went back at once."""
    async with stores.pool.acquire() as conn, conn.transaction():
        await conn.execute(
            "UPDATE organization_members SET status = 'removed' WHERE org_id = $1 AND user_id = $2",
            org_id,
            user_id,
        )
        closing = await begin_removal(conn, org_id, user_id)
    return await take_back(stores, closing, "boss") if closing is not None else 0


async def close(world: World) -> Closed:
    """One run of the job that takes back what is free."""
    done = Closed()
    await close_all(world.stores, done)
    return done


async def pool_of(world: World, org_id: str = "acme") -> tuple[int, int, int]:
    """(allocated, used, available) of the pool."""
    row = await world.pool.fetchrow(
        "SELECT allocated_credits, used_credits, available_credits FROM organization_credit_pools"
        " WHERE org_id = $1",
        org_id,
    )
    assert row is not None
    return row[0], row[1], row[2]


async def allocation(world: World, user_id: str) -> asyncpg.Record:
    """The user's newest allocation."""
    row = await world.pool.fetchrow(
        "SELECT allocated_credits AS allocated, used_credits AS used, is_active, closing"
        " FROM user_credit_allocations WHERE user_id = $1 ORDER BY created_at DESC LIMIT 1",
        user_id,
    )
    assert row is not None
    return row


async def audited(world: World, action: str) -> int:
    return int(
        await world.pool.fetchval(
            "SELECT count(*) FROM taximeter.audit_log WHERE action = $1", action
        )
    )


async def assert_history_adds_up(world: World) -> None:
    """The entries of each move are what the move says, and none is left half done."""
    assert await world.pool.fetch(load_queries("invariants")["moves_are_their_entries"]) == []
    pending = "SELECT count(*) FROM taximeter.moves WHERE state = 'pending'"
    assert await world.pool.fetchval(pending) == 0

"""Measures how long the books of many charges take to prove, with seals and without:
`PYTHONPATH=tests python -m bench.sealed --rows 10000000`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
from redis.asyncio import Redis

from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.processes.migrate import migrate
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.relay import relay
from taximeter.settler.proof.check import CheckLimits, Report, check
from taximeter.settler.proof.seals import prove_some, seal
from taximeter.settler.shards.guardian import ensure_shards, guard

_DAYS: Final = 90
_TIMEOUT_S: Final = 7_200.0
_PEOPLE: Final = """
    INSERT INTO organizations (id, org_name, slug, created_by)
    SELECT 'o' || n, 'o' || n, 'o' || n, 'bench' FROM generate_series(1, $1) AS n
"""
_CREDITS: Final = """
    SELECT count(allocate_credits_to_user('o' || o, 'u' || u, 1000000000, 'bench'))
      FROM generate_series(1, $1) AS o, generate_series(1, 10) AS u
"""
_BUY: Final = """
    SELECT count(add_credits_to_pool('o' || o, 20000000000, 1)) FROM generate_series(1, $1) AS o
"""
_CHARGES: Final = """
    INSERT INTO taximeter.charged_requests
           (org_id, request_id, user_id, shard, epoch, seq, amount, created_at)
    SELECT 'o' || 1 + n % $3, 'request-0123456789-' || n, 'u' || 1 + n / $3 % 10, 0, 1, n,
           1000 + n % 7, $4::timestamptz + n * make_interval(secs => $5)
      FROM generate_series($1::bigint, $2::bigint) AS n
"""
_USAGE: Final = """
    INSERT INTO credit_usage_attribution
           (org_id, user_id, service_type, service_name, credits_used, request_id,
            request_metadata, created_at, shard, epoch, seq, reserved)
    SELECT org_id, user_id, 'llm_inference', 'gpt-4o-' || seq % 3, amount, request_id,
           '{"model": "gpt-4o", "provider": "openai", "tokens_used": 1234}', created_at,
           shard, epoch, seq, 1500
      FROM taximeter.charged_requests WHERE seq BETWEEN $1 AND $2
"""
_ALLOCATIONS: Final = """
    UPDATE user_credit_allocations AS a SET used_credits = used.amount
      FROM (SELECT org_id, user_id, sum(credits_used) AS amount
              FROM taximeter.usage_daily GROUP BY 1, 2) AS used
     WHERE (a.org_id, a.user_id) = (used.org_id, used.user_id)
"""
_POOLS: Final = """
    UPDATE organization_credit_pools AS p SET used_credits = used.amount
      FROM (SELECT org_id, sum(used_credits) AS amount
              FROM user_credit_allocations GROUP BY 1) AS used
     WHERE p.org_id = used.org_id
"""


async def fill(stores: Stores, rows: int, organizations: int) -> None:
    """So many charges of the last 90 days, evenly, with all that goes with them."""
    start = datetime.now(UTC) - timedelta(days=_DAYS)
    every_s = _DAYS * 86_400 / rows
    at_once = max(1, rows // 50)
    async with stores.pool.acquire() as conn:
        await conn.execute(_PEOPLE, organizations)
        await conn.execute(_BUY, organizations)
        await conn.execute(_CREDITS, organizations)
        month = start.replace(day=1)
        while month < datetime.now(UTC):
            await conn.execute("SELECT taximeter.make_attribution_month($1)", month.date())
            month = (month + timedelta(days=32)).replace(day=1)
        for first in range(1, rows + 1, at_once):
            last = min(rows, first + at_once - 1)
            async with conn.transaction():
                # As settle writes: the triggers add to the rollups, and the rest is added once.
                await conn.execute("SELECT set_config('taximeter.settling', 'on', true)")
                await conn.execute(_CHARGES, first, last, organizations, start, every_s)
                await conn.execute(_USAGE, first, last)
        async with conn.transaction():
            await conn.execute("SET LOCAL session_replication_role = 'replica'")
            await conn.execute(_ALLOCATIONS)
            await conn.execute(_POOLS)
            await conn.execute(
                "UPDATE taximeter.watermarks SET seq = $1, settled_events = $1", rows
            )
        for table in ("taximeter.charged_requests", "credit_usage_attribution"):
            await conn.execute(f"VACUUM ANALYZE {table}")


async def timed(what: str, work: Callable[[], Awaitable[Any]]) -> Any:
    """Do it, and say how long it took by the clock, and the load."""
    started = time.monotonic()
    done = await work()
    click.echo(f"{what}: {time.monotonic() - started:.1f} s (load {os.getloadavg()[0]:.0f})")
    return done


def prove(report: Report) -> None:
    """Raises AssertionError when the books are not right."""
    wrong = [f"{one.name}: {text}" for one in report.invariants for text in one.violations]
    assert not wrong, wrong[:5]


async def measure(stores: Stores, rows: int, organizations: int) -> None:
    """Fill, seal, look in each way, and print how long it took. Raises AssertionError when a look
    finds anything.
    """
    await ensure_shards(stores, 1)
    await guard(stores, 0, 1)
    await timed(f"{rows:,} charges are written", lambda: fill(stores, rows, organizations))
    while (await relay(stores)).applied:
        pass
    # Redis was at none of these events.
    await stores.redis.hset(stores.keys(0).meta, "seq", rows)

    async def look(*, full: bool) -> Report:
        await stores.pool.execute("SELECT taximeter.seal_audit()")
        return await check(stores, CheckLimits(full=full))

    async def sealing() -> None:
        async with stores.pool.acquire() as conn:
            done = await seal(conn)
            assert not done.refused, done.refused
            click.echo(f"{done.seals} seals")

    async def again() -> None:
        async with stores.pool.acquire() as conn:
            click.echo(f"read again: {len(await prove_some(conn, 1.0))} days")

    async def books() -> None:
        report = await timed("look that trusts the seals", lambda: look(full=False))
        prove(report)
        click.echo(f"rows it read: {report['I16'].figures['rows_new']:,}")

    prove(await timed("look without a seal", lambda: look(full=True)))
    await timed("all of it is sealed", sealing)
    await books()
    await books()
    await timed("sealed days", again)
    prove(await timed("full proof", lambda: look(full=True)))


async def run(rows: int, organizations: int, folder: Path) -> None:
    """The same on servers of its own below `folder`."""
    with (
        EmbeddedPostgres(folder / "postgres") as postgres,
        EmbeddedValkey(folder / "valkey") as valkey,
    ):
        await asyncio.to_thread(migrate, postgres.url)
        redis = Redis.from_url(valkey.url)
        pool = make_pool(
            postgres.url, size_max=4, command_timeout_s=_TIMEOUT_S, wait_s=60.0,
            server_settings={"application_name": "bench"},
        )  # fmt: skip
        async with pool:
            await measure(Stores(pool, redis, "bench"), rows, organizations)
        await redis.aclose()


@click.command(help="Write charges of 90 days, seal and prove them, and print how long it took.")
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(100, 10**9))
@click.option("--organizations", default=300, show_default=True, type=click.IntRange(1, 10**6))
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Of the data; a new one by default."
)
def command(rows: int, organizations: int, folder: Path | None) -> None:
    """Measure once."""
    if folder is not None:
        asyncio.run(run(rows, organizations, folder))
        return
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        asyncio.run(run(rows, organizations, Path(made)))


if __name__ == "__main__":
    command()

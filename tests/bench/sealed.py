"""Measures how long the books of many charges take to prove, with seals and without:
`PYTHONPATH=tests python -m bench.sealed --rows 10000000`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import click
from redis.asyncio import Redis

from bench.history import History, make_history
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.processes.migrate import migrate
from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.stores import Stores
from taximeter.settler.proof.check import CheckLimits, Report, check
from taximeter.settler.proof.seals import prove_some, seal
from taximeter.settler.shards.guardian import guard

_TIMEOUT_S: Final = 7_200.0
SETTINGS: Final = (
    *("-c", "shared_buffers=2GB", "-c", "wal_level=minimal", "-c", "max_wal_senders=0"),
    *("-c", "max_wal_size=4GB"),
)
"""Of a Postgres that was made for so much; its commits are on the disk."""


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


async def measure(stores: Stores, history: History) -> None:
    """Fill, seal, look in each way, and print how long it took. Raises AssertionError when a look
    finds anything.
    """
    written = f"{history.rows:,} charges of a year are written"
    await timed(written, lambda: make_history(stores, history))
    await guard(stores, 0, 1)

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


async def run(history: History, folder: Path) -> None:
    """The same on servers of its own below `folder`."""
    with (
        EmbeddedPostgres(folder / "postgres", SETTINGS) as postgres,
        EmbeddedValkey(folder / "valkey") as valkey,
    ):
        await asyncio.to_thread(migrate, postgres.url)
        redis = Redis.from_url(valkey.url)
        pool = make_pool(
            postgres.url, size_max=4, command_timeout_s=_TIMEOUT_S, wait_s=60.0,
            server_settings={"application_name": "bench"},
        )  # fmt: skip
        async with pool:
            await measure(Stores(pool, redis, "bench"), history)
        await redis.aclose()


@click.command(help="Write charges of a year, seal and prove them, and print how long it took.")
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(100, 10**9))
@click.option("--organizations", default=10_000, show_default=True, type=click.IntRange(1, 10**6))
@click.option("--members", default=1_500, show_default=True, type=click.IntRange(3, 10**6))
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Of the data; a new one by default."
)
def command(rows: int, organizations: int, members: int, folder: Path | None) -> None:
    """Measure once."""
    history = History(rows, organizations, members)
    if folder is not None:
        asyncio.run(run(history, folder))
        return
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        asyncio.run(run(history, Path(made)))


if __name__ == "__main__":
    command()

"""Keeps the directory of cells, and moves organisations between them: `taximeter cell`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import click
import httpx
from pydantic import ValidationError

from taximeter.api.commands.common import explain, owner_database
from taximeter.api.commands.owner import as_owner, operator
from taximeter.settler.books.connections import Session, primary_of
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import StoreSettings
from taximeter.settler.books.stores import Stores, open_stores
from taximeter.settler.cells.move import CannotMove, Cell, Connections, Moved, move

_SQL = load_queries("directory")
_PAGE = 1_000
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SHOWN_MAX = 20
_NO_TIMEOUTS = (
    *("statement_timeout", "lock_timeout"),
    *("idle_in_transaction_session_timeout", "idle_session_timeout"),
)


def _directory(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--directory-url",
        envvar="TAXIMETER_DIRECTORY_URL",
        show_envvar=True,
        required=True,
        help="The database with the directory, as the user who owns it.",
    )(function)


def cell_name(_context: click.Context, _option: click.Parameter, name: str) -> str:
    """A name that the directory takes. Raises BadParameter."""
    if not _NAME.fullmatch(name):
        raise click.BadParameter("must be 1 to 32 of a-z, 0-9 and -, and not begin with -")
    return name


@click.group(
    help="Where organizations live, when there are several cells: whole systems of their own, with "
    "a small directory in a Postgres that all can read."
)
def command() -> None:
    """The group; its commands do the work."""


@command.command("add", help="Write a cell into the directory, or change its addresses.")
@click.argument("name", callback=cell_name)
@click.option("--api", "api_url", required=True, help="Address of its API, https://...")
@click.option("--sidecar", "sidecar_url", required=True, help="Address of its sidecar, https://...")
@_directory
def add(name: str, api_url: str, sidecar_url: str, directory_url: str) -> None:
    """Put one cell."""
    for option, url in (("--api", api_url), ("--sidecar", sidecar_url)):
        if not re.fullmatch(r"https?://\S{1,490}", url):
            raise click.ClickException(f"{option} must be a URL such as https://b.example.com")

    async def put(conn: asyncpg.Connection) -> None:
        await conn.execute(_SQL["put_cell"], name, api_url.rstrip("/"), sidecar_url.rstrip("/"))

    as_owner(directory_url, put)
    click.echo(f"cell {name}: {api_url}")


@command.command("list", help="List the cells, and how many organizations each has.")
@_directory
def show(directory_url: str) -> None:
    """One line a cell."""

    async def read(conn: asyncpg.Connection) -> list[asyncpg.Record]:
        return await conn.fetch(_SQL["cells"])

    for row in as_owner(directory_url, read):
        click.echo(
            f"{row['name']}  {row['organizations']} organizations  API {row['api_url']}"
            f"  sidecar {row['sidecar_url']}"
        )


@command.command(
    "register",
    help="Write every organization of this database into the directory, as living in cell NAME. "
    "Can be repeated: for organizations that were made by SQL.",
)
@click.argument("name", callback=cell_name)
@owner_database()
@_directory
def register(name: str, database_url: str, directory_url: str) -> None:
    """Fill the directory."""
    known, taken = asyncio.run(_register(name, database_url, directory_url))
    for org_id, cell in taken[:_SHOWN_MAX]:
        where = f"lives in cell {cell}" if cell else "has a slug that another organization has"
        click.echo(f"{org_id} {where}: not registered", err=True)
    click.echo(f"{known - len(taken)} of {known} organizations live in cell {name}")
    if taken:
        raise click.exceptions.Exit(1)


async def _register(
    name: str, database_url: str, directory_url: str
) -> tuple[int, list[tuple[str, str | None]]]:
    known, last, taken = 0, "", list[tuple[str, str | None]]()
    async with (
        _connected("--database-url", database_url) as books,
        _connected("--directory-url", directory_url) as directory,
    ):
        while rows := await books.fetch(_SQL["organizations_page"], last, _PAGE):
            known, last = known + len(rows), rows[-1]["id"]
            ids, slugs = [row["id"] for row in rows], [row["slug"] for row in rows]
            try:
                found = await directory.fetch(_SQL["register"], ids, slugs, name)
            except asyncpg.ForeignKeyViolationError:
                raise click.ClickException(
                    f"the directory knows no cell {name}: `taximeter cell add {name}` first"
                ) from None
            taken += [(row["org_id"], row["cell"]) for row in found]
    return known, taken


@command.command(
    "overview",
    help="Add up the system overviews of all cells: asks the API of each, as a system admin. Exits "
    "1 when one does not answer; the sums are of the others then.",
)
@click.option(
    "--token",
    envvar="TAXIMETER_TOKEN",
    show_envvar=True,
    required=True,
    help="A session token of a system admin, which every cell takes.",
)
@_directory
def overview(token: str, directory_url: str) -> None:
    """One line a cell, and the sums."""

    async def read(conn: asyncpg.Connection) -> list[asyncpg.Record]:
        return await conn.fetch(_SQL["cells"])

    rows = as_owner(directory_url, read)
    answers = asyncio.run(_overviews({row["name"]: row["api_url"] for row in rows}, token))
    sums = dict.fromkeys(_SUMMED, 0.0)
    for name, found in answers.items():
        if isinstance(found, str):
            click.echo(f"{name}  {found}", err=True)
            continue
        click.echo(_overview_line(name, found))
        for figure in _SUMMED:
            sums[figure] += found[figure]
    click.echo(_overview_line("all", sums))
    if any(isinstance(found, str) for found in answers.values()):
        raise click.exceptions.Exit(1)


_SUMMED = {
    "total_organizations": "organizations",
    "active_subscriptions": "subscriptions",
    "total_mrr": "dollars a month",
    "total_credits_allocated": "credits allocated",
    "total_credits_used": "credits used",
}


def _overview_line(name: str, figures: Mapping[str, float]) -> str:
    said = (
        f"{f'{figures[key]:,.3f}'.rstrip('0').rstrip('.')} {word}" for key, word in _SUMMED.items()
    )
    return f"{name}  " + ", ".join(said)


async def _overviews(urls: Mapping[str, str], token: str) -> dict[str, dict[str, float] | str]:
    """The figures of each cell, or why there are none."""

    async def ask(client: httpx.AsyncClient, url: str) -> dict[str, float] | str:
        try:
            response = await client.get(
                f"{url}/api/v1/org-billing/billing/system",
                headers={"Authorization": f"Bearer {token}"},
            )
        except httpx.HTTPError as error:
            return f"does not answer: {type(error).__name__}"
        if response.status_code != 200:
            return f"answers {response.status_code}"
        metrics: dict[str, float] = response.json()["metrics"]
        return metrics

    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        found = await asyncio.gather(*(ask(client, url) for url in urls.values()))
    return dict(zip(urls, found, strict=True))


@command.command(
    "move",
    help="Move ORG to another cell, with its history and its open holds, while everything works. "
    "Its calls are answered 503 for a moment, and 421 with the new address after that. What goes "
    "wrong is undone; run it again to finish a move whose process died.",
)
@click.argument("org_id")
@click.option("--to", "to", required=True, callback=cell_name, help="The cell to move it to.")
@click.option(
    "--from",
    "cell",
    envvar="TAXIMETER_CELL",
    show_envvar=True,
    required=True,
    callback=cell_name,
    help="The cell that it lives in: that of TAXIMETER_REDIS_URL and of --database-url.",
)
@owner_database()
@click.option(
    "--to-database-url",
    envvar="TAXIMETER_TO_DATABASE_URL",
    show_envvar=True,
    required=True,
    help="The database of the other cell, as the user who owns it.",
)
@click.option(
    "--to-redis-url",
    envvar="TAXIMETER_TO_REDIS_URL",
    show_envvar=True,
    required=True,
    help="The Redis of the other cell.",
)
@click.option(
    "--to-key-prefix",
    envvar="TAXIMETER_TO_KEY_PREFIX",
    show_envvar=True,
    default="tm",
    show_default=True,
    help="First part of the keys there.",
)
@_directory
@click.option(
    "--pause-max",
    "pause_max_s",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    help="Most seconds for which its calls are answered 503; what takes longer is undone.",
)
def move_organization(org_id: str, **options: Any) -> None:
    """Move one organisation."""
    try:
        done = asyncio.run(move_by_urls(org_id, **options))
    except CannotMove as error:
        raise click.ClickException(str(error)) from None
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    to = options["to"]
    if done.resumed:
        click.echo(f"{org_id} lives in cell {to}: the move that was left is finished")
    else:
        click.echo(
            f"{org_id} lives in cell {to}: {done.rows} rows, the same on both sides; {done.holds}"
            f" open holds; away for {done.paused_s:.1f} s"
        )


async def move_by_urls(
    org_id: str,
    *,
    to: str,
    cell: str,
    database_url: str,
    to_database_url: str,
    to_redis_url: str,
    to_key_prefix: str,
    directory_url: str,
    pause_max_s: float,
    redis_url: str | None = None,
) -> Moved:
    """Move between stores that are named; this cell's Redis is that of the environment unless it is
    given. Raises CannotMove, ClickException, ValidationError, asyncpg and redis errors.
    """
    here_settings = StoreSettings(database_url=database_url)
    if redis_url is not None:
        here_settings = StoreSettings(database_url=database_url, redis_url=redis_url)
    there_settings = StoreSettings(
        database_url=to_database_url, redis_url=to_redis_url, key_prefix=to_key_prefix
    )
    async with (
        _connected("--database-url", database_url) as source,
        _connected("--to-database-url", to_database_url) as target,
        _connected("--directory-url", directory_url) as directory,
        open_stores(here_settings, name="taximeter-cell-move") as here,
        open_stores(there_settings, name="taximeter-cell-move") as there,
    ):
        known = {row["name"]: row for row in await directory.fetch(_SQL["cells"])}
        for name in (cell, to):
            if name not in known:
                raise CannotMove(f"the directory knows no cell {name}: `taximeter cell add {name}`")

        def of(name: str, stores: Stores) -> Cell:
            return Cell(name, known[name]["api_url"], known[name]["sidecar_url"], stores)

        return await move(
            Connections(source, target, directory),
            of(cell, here),
            of(to, there),
            org_id,
            actor=operator(),
            pause_max_s=pause_max_s,
        )


@asynccontextmanager
async def _connected(option: str, url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the owner, to the server that takes writes, closed at the end. Raises
    ClickException for one that fails.
    """
    try:
        conn = await asyncpg.connect(
            await primary_of(url),
            timeout=10,
            connection_class=Session,
            # Ours alone, whatever its database or roles are set to: what is decided stays decided.
            server_settings={
                "application_name": "taximeter-cell",
                "timezone": "UTC",
                "synchronous_commit": "on",
                # A machine that vanishes leaves its locks within half a minute.
                "tcp_keepalives_idle": "15",
                "tcp_keepalives_interval": "5",
                "tcp_keepalives_count": "3",
                **dict.fromkeys(_NO_TIMEOUTS, "0"),
            },
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise click.ClickException(
            f"the Postgres of {option} cannot be used: {str(error) or type(error).__name__}"
        ) from None
    try:
        yield conn
    finally:
        await conn.close()

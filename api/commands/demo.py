"""Tells the whole story, from an empty machine to proved books: `taximeter demo`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from taximeter.api.access.dev_tokens import KEY_FILE_NAME, load_dev_key
from taximeter.api.browser.files import console_place
from taximeter.api.commands.cell import move_by_urls
from taximeter.api.commands.check import print_report
from taximeter.api.demo.admin import Admin, DemoFailed
from taximeter.api.demo.cells import CELLS, Mover, Prove, move_between, register_cells
from taximeter.api.demo.journey import run_journey
from taximeter.api.demo.report import mistakes, organisations_table, print_traffic, users_table
from taximeter.api.demo.scenario import Scenario, make_scenario
from taximeter.api.demo.settled import settlement_lag, wait_until_settled
from taximeter.api.demo.slot_move import SHARDS, describe_cluster, move_slot
from taximeter.api.demo.traffic import Traffic, run_traffic, users_by_organisation
from taximeter.api.embedded.machine import ServerFailed
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.local.folder import FolderRefused, own_folder
from taximeter.api.local.process import ProcessFailed
from taximeter.api.local.system import DATABASE_URL, REDIS_URL, LocalSystem, local_system
from taximeter.api.processes.migrate import MigrationFailed, migrate
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_stores
from taximeter.settler.cells.move import Moved
from taximeter.settler.proof.check import check

TOKEN_TTL_S = 3600


@click.command(
    help="Run the whole story on embedded servers (or those of TAXIMETER_REDIS_URL and "
    "TAXIMETER_DATABASE_URL), then prove the books. Exits 1 if anything is off."
)
@click.option(
    "--requests",
    type=click.IntRange(500, 100_000),
    default=2_000,
    show_default=True,
    help="How many chat completions.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".data/demo"),
    show_default=True,
    help="Folder of the servers, new or of an earlier demo, which is emptied first.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Redis as a cluster on this machine: three primaries with a replica each, and a slot that "
    "moves while requests go on.",
)
@click.option(
    "--cells",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="Two whole systems on this machine, and an organisation that moves from one to the other "
    "while requests go on.",
)
@click.option(
    "--stay",
    is_flag=True,
    help="Leave everything up at the end, with the console to look around in, until Ctrl-C.",
)
def command(requests: int, data_dir: Path, cluster: bool, cells: int, stay: bool) -> None:
    """Start, tell, prove, stop."""
    stop = threading.Event()
    own = [name for name in (REDIS_URL, DATABASE_URL) if name in os.environ]
    if cluster and REDIS_URL in own:
        raise click.UsageError(f"--cluster runs servers of its own: unset {REDIS_URL}")
    if cells > 1 and own:
        raise click.UsageError(f"--cells runs servers of its own: unset {' and '.join(own)}")
    console = Console()
    # One admin founds many organisations here, and may do it again in an hour.
    settings = {"TAXIMETER_RATE_LIMITS": "0"}
    if cluster:
        settings["TAXIMETER_SHARDS"] = str(SHARDS)
    try:
        with (
            own_folder(data_dir, "demo", empty=True) as folder,
            console.status("starting") as status,
            ExitStack() as stack,
        ):

            def start(place: Path, **more: str) -> LocalSystem:
                return stack.enter_context(
                    local_system(
                        place,
                        with_cluster=cluster,
                        settings={**settings, **more},
                        progress=lambda message: status.update(f"{message} ..."),
                    )
                )

            if cells == 1:
                system = start(folder)
                status.stop()
                off = asyncio.run(_tell(console, system, requests))
            else:
                directory_url = _start_directory(stack, folder)
                named = {"TAXIMETER_DIRECTORY_URL": directory_url}
                key = load_dev_key(folder)
                systems = {
                    name: start(_with_key(folder, name), TAXIMETER_CELL=name, **named)
                    for name in CELLS
                }
                status.stop()
                asyncio.run(register_cells(directory_url, systems))
                off = asyncio.run(_tell(console, systems["a"], requests))
                mover = _mover(systems, directory_url)
                off += asyncio.run(move_between(console, systems, key, mover, _prover(console)))
                system = systems["a"]
            _conclude(console, off)
            place = console_place(system.api_url)
            if stay:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: stop.set())
                console.print(
                    f"The console: {place}\nCtrl-C stops everything.",
                    highlight=False,
                    soft_wrap=True,
                )
                while not stop.wait(1.0):
                    system.check_alive()
            else:
                console.print(
                    f"The console was {place} (`make demo ARGS=--stay` leaves it open).",
                    highlight=False,
                    soft_wrap=True,
                )
    except (DemoFailed, FolderRefused, ProcessFailed, ServerFailed, MigrationFailed) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(1 if off else 0)


def _conclude(console: Console, off: list[str]) -> None:
    for mistake in off:
        console.print(f"[red]✗[/] {mistake}", highlight=False)
    console.print("[red]Something is off.[/]" if off else "[green]Everything adds up.[/]")


def _start_directory(stack: ExitStack, folder: Path) -> str:
    """The Postgres of the directory, and its URL."""
    server = stack.enter_context(EmbeddedPostgres(folder / "directory"))
    migrate(server.url)
    return server.url


def _mover(systems: dict[str, LocalSystem], directory_url: str) -> Mover:
    here, there = (systems[name] for name in CELLS)

    async def moved(org_id: str) -> Moved:
        return await move_by_urls(
            org_id,
            cell="a",
            to="b",
            database_url=here.database_url,
            redis_url=here.redis_url,
            to_database_url=there.database_url,
            to_redis_url=there.redis_url,
            to_key_prefix="tm",
            directory_url=directory_url,
            pause_max_s=60.0,
        )

    return moved


def _prover(console: Console) -> Prove:
    async def holds(stores: Stores) -> bool:
        report = await check(stores)
        print_report(report, console)
        return report.holds

    return holds


def _with_key(folder: Path, name: str) -> Path:
    """A folder of its own for a cell, whose sessions are those of the other one."""
    place = folder / f"cell-{name}"
    place.mkdir(mode=0o755)
    shutil.copy2(folder / KEY_FILE_NAME, place / KEY_FILE_NAME)
    return place


async def _tell(console: Console, system: LocalSystem, requests: int) -> list[str]:
    """The story; returns what is off at its end."""
    scenario = make_scenario(uuid.uuid4().hex[:6], requests)
    key = load_dev_key(system.data_dir)
    root = key.mint("demo-root", ttl_s=TOKEN_TTL_S, roles=("system_admin",))
    traveller = "e2e-user-123"
    settings = SettlerSettings(database_url=system.database_url, redis_url=system.redis_url)
    async with (
        httpx.AsyncClient(base_url=system.api_url, timeout=30.0) as client,
        open_stores(settings) as stores,
    ):
        admin = Admin(client, root)
        if system.cluster is not None:
            what = await describe_cluster(system.cluster, stores)
            console.print(f"[bold]Redis is a cluster[/]: {what}", highlight=False)
        console.print("[bold]1. The journey of one organisation[/] (credits)")
        token = key.mint(traveller, ttl_s=TOKEN_TTL_S)
        await run_journey(console, client, admin, scenario.journey_org_id, traveller, token)
        people = scenario.people
        console.print(
            f"[bold]2. Traffic[/]: {requests:,} chat completions of the openai client by "
            f"{len(people)} users of {len(scenario.purchases)} organisations, upstream simulated"
        )
        await _furnish(admin, scenario)
        tokens = {one.user_id: key.mint(one.user_id, ttl_s=TOKEN_TTL_S) for one in people}
        with Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[refused]} refused"),
            TimeElapsedColumn(),
            console=console,
        ) as progress:
            under_way = asyncio.Event()
            talking = run_traffic(system.api_url, scenario.asks, tokens, progress, under_way)
            traffic, moved = await asyncio.gather(
                talking, _move_slot(system, stores, next(iter(scenario.purchases)), under_way)
            )
        system.check_alive()
        if moved:
            console.print(f"  slot moved      {moved}, while requests went on", highlight=False)
        console.print("[bold]3. The books[/]")
        return await _prove(console, admin, stores, scenario, traffic)


async def _move_slot(system: LocalSystem, stores: Stores, org_id: str, begin: asyncio.Event) -> str:
    """What was moved, where there is a cluster."""
    if system.cluster is None:
        return ""
    return await move_slot(system.cluster, stores, org_id, begin)


async def _furnish(admin: Admin, scenario: Scenario) -> None:
    for org_id, people in users_by_organisation(scenario.people).items():
        owner = f"{org_id}-owner"
        await admin.subscribe(org_id, org_id, scenario.purchases[org_id], owner)
        for person in people:
            await admin.add_member(org_id, person.user_id)
            await admin.allocate(org_id, person.user_id, person.credits)


async def _prove(
    console: Console, admin: Admin, stores: Stores, scenario: Scenario, traffic: Traffic
) -> list[str]:
    with console.status("waiting for settlement ..."):
        await wait_until_settled(stores)
    org_ids = list(scenario.purchases)
    lag = await settlement_lag(stores, org_ids)
    pools = [await admin.pool(org_id) for org_id in [scenario.journey_org_id, *org_ids]]
    allocations = {
        one["user_id"]: one for org_id in org_ids for one in await admin.allocations(org_id)
    }
    console.print(organisations_table(pools))
    console.print(users_table(scenario.people, allocations, traffic))
    print_traffic(console, traffic, lag)
    report = await check(stores)
    print_report(report, console)
    off = mistakes(scenario.people, allocations, traffic, lag)
    if not report.holds:
        off.append("an invariant of the books is violated")
    return off

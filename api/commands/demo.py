"""`taximeter demo`: the whole story, from an empty machine to proved books."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.commands.check import print_report
from taximeter.api.demo.admin import Admin, DemoFailed
from taximeter.api.demo.journey import run_journey
from taximeter.api.demo.report import mistakes, organisations_table, print_traffic, users_table
from taximeter.api.demo.scenario import Scenario, make_scenario
from taximeter.api.demo.settled import settlement_lag, wait_until_settled
from taximeter.api.demo.traffic import Traffic, run_traffic, users_by_organisation
from taximeter.api.embedded.machine import ServerFailed
from taximeter.api.local.folder import FolderRefused, own_folder
from taximeter.api.local.process import ProcessFailed
from taximeter.api.local.system import LocalSystem, local_system
from taximeter.api.processes.migrate import MigrationFailed
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores, open_stores
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
def command(requests: int, data_dir: Path) -> None:
    """Start, tell, prove, stop."""
    console = Console()
    try:
        with (
            own_folder(data_dir, "demo", empty=True) as folder,
            console.status("starting") as status,
            local_system(
                folder,
                # One admin founds many organisations here, and may do it again in an hour.
                settings={"TAXIMETER_RATE_LIMITS": "0"},
                progress=lambda message: status.update(f"{message} ..."),
            ) as system,
        ):
            status.stop()
            off = asyncio.run(_tell(console, system, requests))
    except (DemoFailed, FolderRefused, ProcessFailed, ServerFailed, MigrationFailed) as error:
        raise click.ClickException(str(error)) from error
    for mistake in off:
        console.print(f"[red]✗[/] {mistake}", highlight=False)
    console.print("[red]Something is off.[/]" if off else "[green]Everything adds up.[/]")
    sys.exit(1 if off else 0)


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
            traffic = await run_traffic(system.api_url, scenario.asks, tokens, progress)
        system.check_alive()
        console.print("[bold]3. The books[/]")
        return await _prove(console, admin, stores, scenario, traffic)


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

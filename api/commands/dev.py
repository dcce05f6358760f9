"""Keeps everything up, with something to open and a line to try: `taximeter dev`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import threading
from decimal import Decimal
from pathlib import Path

import click
import httpx
from rich.console import Console

from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.browser.files import console_place
from taximeter.api.commands.token import DEV_DATA_DIR, data_dir_is_found
from taximeter.api.demo.admin import Admin, DemoFailed
from taximeter.api.embedded.machine import ServerFailed
from taximeter.api.local.folder import FolderRefused, own_folder
from taximeter.api.local.process import ProcessFailed
from taximeter.api.local.system import LocalSystem, PortRefused, local_system
from taximeter.api.processes.migrate import MigrationFailed

PORT = 8084
ORG_ID, USER_ID = "dev-org", "dev-user"
TOKEN_TTL_S = 30 * 86_400
CREDITS = 10_000


@click.command(
    help="Run everything on embedded servers until Ctrl-C; the data stays for the next time. "
    "TAXIMETER_REDIS_URL and TAXIMETER_DATABASE_URL name other servers."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=None,
    help=f"Port of the API; {PORT} by default. One that is taken is refused.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEV_DATA_DIR,
    show_default=True,
    help="Folder of the servers, the local key and the logs.",
)
def command(port: int | None, data_dir: Path) -> None:
    """Start, say what there is, wait for Ctrl-C or SIGTERM."""
    console = Console()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with (
            own_folder(data_dir, "dev") as folder,
            console.status("starting") as status,
            local_system(
                folder,
                api_port=port or PORT,
                with_sidecar=True,
                progress=lambda message: status.update(f"{message} ..."),
            ) as system,
        ):
            token = asyncio.run(_furnish(system))
            status.stop()
            _tell(console, system, token)
            while not stop.wait(1.0):
                system.check_alive()
            console.print("stopping ...")
    except ProcessFailed as error:
        raise click.ClickException(f"{error} (everything else was stopped)") from error
    except (DemoFailed, FolderRefused, PortRefused, ServerFailed, MigrationFailed) as error:
        raise click.ClickException(str(error)) from error


async def _furnish(system: LocalSystem) -> str:
    """An organisation whose one user can ask for completions at once; returns that user's token."""
    key = load_dev_key(system.data_dir)
    token = key.mint(USER_ID, ttl_s=TOKEN_TTL_S, roles=("system_admin",))
    async with httpx.AsyncClient(base_url=system.api_url, timeout=30.0) as client:
        admin = Admin(client, token)
        known = await client.get(
            f"/api/v1/org-billing/credits/{ORG_ID}", headers={"Authorization": f"Bearer {token}"}
        )
        if known.status_code == httpx.codes.NOT_FOUND:
            await admin.subscribe(ORG_ID, "Development", Decimal(CREDITS), USER_ID)
            await admin.allocate(ORG_ID, USER_ID, Decimal(CREDITS // 2))
    return token


def _tell(console: Console, system: LocalSystem, token: str) -> None:
    processes = ", ".join(f"{process.name} {process.pid}" for process in system.processes)
    lines = {
        "console": console_place(system.api_url),
        "API": system.api_url,
        "API reference": f"{system.api_url}/docs",
        "status": f"{system.api_url}/api/v1/system/status",
        "sidecar": f"{system.sidecar_url} (no key needed on this machine)",
        "Postgres": system.database_url,
        "Redis": system.redis_url,
        "upstream": f"{system.upstream_url} (simulated)",
        "logs": str(system.data_dir / "logs"),
        "processes": processes,
    }
    for name, line in lines.items():
        console.print(f"  {name:<14} {line}", highlight=False, soft_wrap=True)
    console.print("\nA request of user dev-user, paid by dev-org:\n", highlight=False)
    body = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'
    click.echo(
        f"curl -i {system.api_url}/api/v1/llm/chat/completions \\\n"
        f"  -H 'Authorization: Bearer {token}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d '{body}'\n"
    )
    beside = "" if data_dir_is_found(system.data_dir) else f" --data-dir {system.data_dir}"
    # In a clone whose environment is on nobody's path, the name alone would not be found.
    ours = sys.argv[0] if Path(sys.argv[0]).name == "taximeter" else "taximeter"
    command = "taximeter" if shutil.which("taximeter") else ours
    console.print(
        f"Sessions of others: {command} token --user ann{beside}", highlight=False, soft_wrap=True
    )
    console.print("Ctrl-C stops everything; the data stays.", highlight=False)

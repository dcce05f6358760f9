"""Serves the meter over plain HTTP, for gateways in any language: `taximeter sidecar`."""

from __future__ import annotations

import asyncio
import sys

import click
import uvloop
from pydantic import ValidationError

from taximeter.api.commands.common import explain, refuse_unsafe_database
from taximeter.api.prices.followed import make_pricer
from taximeter.api.processes.several import Member
from taximeter.api.processes.sidecar import run_several_sidecars, run_sidecar
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.meter.pricing import PriceFileError
from taximeter.settler.books.logs import configure_logs


@click.command(
    help="Serve the meter over plain HTTP, on TCP or on a Unix socket. On SIGTERM it takes no new "
    "credits at once, still ends holds for TAXIMETER_SIDECAR_DRAIN_S seconds, then stops."
)
@click.option("--host", default=None, help="Address; TAXIMETER_SIDECAR_HOST by default.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Port; TAXIMETER_SIDECAR_PORT or 8086 by default.",
)
@click.option(
    "--socket",
    type=click.Path(dir_okay=False),
    default=None,
    help="Unix socket to listen on instead; TAXIMETER_SIDECAR_SOCKET by default.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=None,
    help="How many processes take its connections; TAXIMETER_SIDECAR_PROCESSES or 1 by default.",
)
@click.option("--member", type=int, default=None, hidden=True)
@click.option("--inherited", type=int, default=None, hidden=True)
def command(
    host: str | None,
    port: int | None,
    socket: str | None,
    processes: int | None,
    member: int | None,
    inherited: int | None,
) -> None:
    """Run until a signal comes and the drain is over."""
    options = {
        "sidecar_host": host,
        "sidecar_port": port,
        "sidecar_socket": socket,
        "sidecar_processes": processes,
    }
    given = {key: value for key, value in options.items() if value is not None}
    try:
        settings = SidecarSettings(**given)  # type: ignore[arg-type]  # Each has a type of its own.
        are_kept = settings.has_database or settings.price_lists_file is not None
        pricer = make_pricer(settings, waits_for_editions=are_kept)
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    configure_logs(settings.log_format, stream=sys.stderr)
    if settings.has_database:
        refuse_unsafe_database(settings)

    def one_of_them(number: int, listening: str) -> list[str]:
        given = [*sys.argv[1:], listening, f"--member={number}"]
        return [sys.executable, "-m", "taximeter.api", *given]

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if member is not None:
                started = runner.run(run_sidecar(settings, pricer, Member(member, inherited)))
            elif settings.sidecar_processes > 1:
                started = runner.run(run_several_sidecars(settings, one_of_them))
            else:
                started = runner.run(run_sidecar(settings, pricer))
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot start: {error}") from None
    if not started:
        raise click.ClickException("the sidecar could not start; see above")

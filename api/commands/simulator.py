"""Serves the simulated LLM provider: `taximeter simulator`."""

from __future__ import annotations

import click
import uvicorn
from pydantic import ValidationError

from taximeter.api.commands.common import explain
from taximeter.api.commands.serving import serve_until_told
from taximeter.api.simulator.app import SimulatorSettings, create_simulator


@click.command(help="Serve the simulated LLM provider: OpenAI's API, and nothing behind it.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8085,
    show_default=True,
    help="Port to listen on.",
)
@click.option("--latency", type=float, default=None, help="Seconds before every answer.")
@click.option(
    "--chunk-delay", type=float, default=None, help="Seconds before each chunk of a stream."
)
@click.option(
    "--failure-rate", type=float, default=None, help="Part of the requests that fail (0 to 1)."
)
@click.option(
    "--break-rate", type=float, default=None, help="Part of the streams that break (0 to 1)."
)
def command(
    host: str,
    port: int,
    latency: float | None,
    chunk_delay: float | None,
    failure_rate: float | None,
    break_rate: float | None,
) -> None:
    """Run until a signal comes."""
    given = {
        "latency_s": latency,
        "chunk_delay_s": chunk_delay,
        "failure_rate": failure_rate,
        "break_rate": break_rate,
    }
    try:
        settings = SimulatorSettings(
            **{key: value for key, value in given.items() if value is not None}
        )
    except ValidationError as error:
        raise click.ClickException(explain(error, "TAXIMETER_SIMULATOR_")) from error
    config = uvicorn.Config(
        create_simulator(settings),
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    if not serve_until_told(uvicorn.Server(config)):
        raise click.ClickException("the simulator could not start; see above")

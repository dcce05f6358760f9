"""`make bench`, or `PYTHONPATH=tests python -m bench`: measure every promise about speed on this
machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from bench.harness import BenchFailed
from bench.report import as_dict, machine, print_table
from bench.scale import FULL, QUICK
from bench.servers import Servers
from bench.suite import BENCHMARKS, ON_REQUEST, run_suite
from taximeter.api.commands.common import in_one_line
from taximeter.api.embedded.machine import ServerFailed
from taximeter.api.local.folder import FolderRefused, own_folder
from taximeter.api.local.process import ProcessFailed
from taximeter.api.processes.migrate import MigrationFailed
from taximeter.meter import MeterError

TABLE_WIDTH = 150


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure Taximeter and its baselines on this machine: figure, baseline, ratio, target, "
    "verdict. Runs on embedded servers, or on those of TAXIMETER_REDIS_URL and "
    "TAXIMETER_DATABASE_URL. Takes about twelve minutes, or one with --quick.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every round.")
@click.option("--quick", is_flag=True, help="Short rounds and small fills: does it still work?")
@click.option(
    "--only",
    "names",
    multiple=True,
    type=click.Choice([*BENCHMARKS, *ON_REQUEST]),
    help="Measure this alone; may be given several times.",
)
@click.option(
    "--litellm",
    is_flag=True,
    help="Also measure the LiteLLM proxy; the first time it is installed in the data folder.",
)
@click.option(
    "--redis-binary",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Run this server instead of the embedded Valkey, such as Debian's redis-server.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".data/bench"),
    show_default=True,
    help="Folder of the servers while they run.",
)
def command(
    as_json: bool,
    quick: bool,
    names: tuple[str, ...],
    litellm: bool,
    redis_binary: Path | None,
    data_dir: Path,
) -> None:
    """Measure and report. A missed target is a finding and not a failure: the exit code stays 0."""
    servers = Servers(data_dir.resolve(), QUICK if quick else FULL, redis_binary, litellm)
    told = Console(stderr=True)
    try:
        with own_folder(data_dir, "bench"), told.status("starting") as status:
            try:
                report = run_suite(
                    servers,
                    names or BENCHMARKS,
                    lambda message: status.update(f"measuring: {message} ..."),
                )
            finally:
                servers.stop()
    except (
        *(BenchFailed, FolderRefused, MeterError, ProcessFailed),
        *(ServerFailed, MigrationFailed),
    ) as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:
        line = in_one_line(error)
        if line is None:
            raise
        raise click.ClickException(line) from None
    where = machine(servers.described)
    if as_json:
        click.echo(json.dumps(as_dict(report, where), indent=2))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=TABLE_WIDTH)
        print_table(report, where, console)


if __name__ == "__main__":
    command(prog_name="python -m bench")

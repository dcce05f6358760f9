"""`make bench`, or `PYTHONPATH=tests python -m bench`: measure every promise about speed on this
machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from rich.console import Console

from bench.harness import BenchFailed
from bench.machine import Effort, Machine
from bench.plot import PlotFailed, can_draw, pictures_of_times
from bench.report import as_dict, machine, print_table, said
from bench.runs import FILE, add, commit_of, entry
from bench.scale import FULL, QUICK
from bench.servers import Servers
from bench.suite import BENCHMARKS, COMPARISON, ON_REQUEST, Report, run_suite
from taximeter.api.commands.common import in_one_line
from taximeter.api.embedded.machine import ServerFailed
from taximeter.api.local.folder import FolderRefused, own_folder
from taximeter.api.local.process import ProcessFailed
from taximeter.api.processes.migrate import MigrationFailed
from taximeter.meter import MeterError

TABLE_WIDTH = 150
WITHHELD = 3
"""Exit code of a run of which nothing, or not everything, may be judged."""
QUICK_EFFORT = Effort(python=10, redis=50, disk=3, rest_s=0.05)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure Taximeter and its baselines on this machine: figure, baseline, ratio, target, "
    "verdict. Runs on embedded servers, or on those of TAXIMETER_REDIS_URL and "
    "TAXIMETER_DATABASE_URL. Takes about fifteen minutes, or one with --quick. Ends with 0 when "
    "every target was judged, met or missed; with 3 when the machine was busy with something else "
    "during a benchmark, whose figures stand without a verdict; with 1 when something could not be "
    "measured.",
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
@click.option(
    "--history/--no-history",
    default=None,
    help=f"Write the figures down in docs/{FILE.name}, which `make bench-history` draws. On unless "
    "with --quick.",
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Draw how long what was timed took as PNG files in this folder.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Compare with this clone instead, round by round in turns: processor time of an operation "
    "in the client and in Redis, and instructions of the client where valgrind is installed.",
)
def command(
    as_json: bool,
    quick: bool,
    names: tuple[str, ...],
    litellm: bool,
    redis_binary: Path | None,
    data_dir: Path,
    history: bool | None,
    pictures: Path | None,
    against: Path | None,
) -> None:
    """Measure and report. A missed target is a finding and not a failure."""
    if against is not None and (names or litellm or history):
        raise click.UsageError("--against compares two clones, and measures nothing else")
    if pictures is not None and not can_draw("matplotlib"):
        raise click.UsageError(
            "--pictures needs matplotlib: make bench installs it, from .ci/constraints-plots.txt"
        )
    scale, effort = (QUICK, QUICK_EFFORT) if quick else (FULL, Effort())
    servers = Servers(data_dir.resolve(), scale, redis_binary, litellm, against)
    if against is not None:
        names, history = (COMPARISON,), False
    try:
        report = _measured(servers, effort, names or BENCHMARKS)
        where = machine(servers.described)
        if as_json:
            click.echo(json.dumps(as_dict(report, where), indent=2))
        else:
            _print(report, where)
        if report.figures and (history if history is not None else not quick):
            add(entry(report, where, commit_of()))
        if pictures is not None:
            for path in pictures_of_times(report.figures, pictures):
                click.echo(f"drawn: {path}", err=True)
    except (
        *(BenchFailed, FolderRefused, MeterError, ProcessFailed, PlotFailed),
        *(ServerFailed, MigrationFailed),
    ) as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:
        line = in_one_line(error)
        if line is None:
            raise
        raise click.ClickException(line) from None
    if report.failed:
        for name, why in report.failed.items():
            click.echo(f"Error: {name} could not be measured: {said(why)}", err=True)
        sys.exit(1)
    sys.exit(WITHHELD if report.withheld else 0)


def _measured(servers: Servers, effort: Effort, names: Iterable[str]) -> Report:
    told = Console(stderr=True)
    with own_folder(servers.data_dir, "bench"), told.status("starting") as status:
        try:
            with servers.calibration_url() as url:
                looks = Machine(servers.data_dir, url, f"{servers.prefix}:calibration", effort)
                return run_suite(
                    servers,
                    names,
                    looks.look,
                    lambda message: status.update(f"measuring: {message} ..."),
                )
        finally:
            servers.stop()


def _print(report: Report, where: Mapping[str, str]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    print_table(report, where, console)


if __name__ == "__main__":
    command(prog_name="python -m bench")

"""Draws: how long what a run has timed took, and `make bench-history`: how figures went from run to
run. Lines in the terminal are plotille's, PNG files matplotlib's; both are the extra `plots`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from bench.harness import BenchFailed, Figure
from bench.histogram import Histogram
from bench.runs import FILE, points, read

HEIGHT: Final = 12
WIDTH_MAX: Final = 110
MARGIN: Final = 16
"""Columns that the numbers beside a plot take."""
SHOWN_MAX: Final = 6
"""Figures that are drawn when none is named."""
INCHES: Final = (9.0, 5.0)
MARKERS: Final = (None, "x", "o", "+")


class PlotFailed(RuntimeError):
    """Something cannot be drawn; the message says why."""


def can_draw(library: str) -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec(library) is not None


def _library(name: str, module: str | None = None) -> Any:
    if not can_draw(name):
        raise PlotFailed(
            f"{name} is not installed: make bench-history installs what draws, as does"
            " pip install --requirement .ci/constraints-plots.txt"
        )
    return importlib.import_module(module or name)


def draw_times(times: Sequence[Histogram], width: int) -> str:
    """Lines of text: which share of all took at least how long, both by powers of ten."""
    figure = _figure(width, f"{times[0].title}, ms", "share that took longer")
    for number, one in enumerate(times):
        steps = one.beyond()
        if steps:
            figure.plot(
                [math.log10(took) for took, _ in steps],
                [math.log10(share) for _, share in steps],
                label=f"{one.title} ({one.total:,})",
                marker=MARKERS[number % len(MARKERS)],
            )
    figure.register_label_formatter(float, _power)
    return str(figure.show(legend=True))


def draw_history(name: str, unit: str, found: Sequence[tuple[str, float, bool]], width: int) -> str:
    """Lines of text: a figure from run to run, and which of the runs were on a quiet machine."""
    figure = _figure(width, "runs, the newest last", f"{name}, {unit}")
    numbers = [number for _, number, _ in found]
    figure.plot(range(len(numbers)), numbers, label="all runs")
    quiet = [place for place, (_, _, is_quiet) in enumerate(found) if is_quiet]
    if quiet:
        figure.scatter(
            quiet, [numbers[place] for place in quiet], label="on a quiet machine", marker="o"
        )
    figure.set_y_limits(0, max(numbers) * 1.1 or 1)
    return str(figure.show(legend=True))


def _figure(width: int, x_label: str, y_label: str) -> Any:
    figure = _library("plotille").Figure()
    figure.width = max(20, min(width, WIDTH_MAX) - MARGIN)
    figure.height = HEIGHT
    figure.with_colors = False
    figure.origin = False
    figure.x_label, figure.y_label = x_label, y_label
    return figure


def _power(number: float, chars: int, delta: float, left: bool = False) -> str:
    """How plotille asks for the text of a number of an axis."""
    text = f"{10**number:.3g}"
    return text.ljust(chars) if left else text.rjust(chars)


def pictures_of_times(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """A PNG for each figure that has times. Raises PlotFailed."""
    drawn = []
    for figure in figures:
        if not figure.times:
            continue
        axes, save = _picture(folder, figure.name)
        for one in figure.times:
            steps = one.beyond()
            axes.step(
                [took for took, _ in steps],
                [share for _, share in steps],
                where="post",
                label=f"{one.title} ({one.total:,})",
            )
        axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="share that took longer")
        drawn.append(save())
    return drawn


def picture_of_history(
    name: str, unit: str, found: Sequence[tuple[str, float, bool]], folder: Path
) -> Path:
    """A PNG of a figure from run to run. Raises PlotFailed."""
    axes, save = _picture(folder, name)
    numbers = [number for _, number, _ in found]
    axes.plot(numbers, color="0.7", label="all runs")
    quiet = [place for place, (_, _, is_quiet) in enumerate(found) if is_quiet]
    axes.plot(quiet, [numbers[place] for place in quiet], "o", label="on a quiet machine")
    axes.set(title=name, ylabel=unit, ylim=(0, max(numbers) * 1.1 or 1))
    axes.set_xticks(range(len(found)), [at[:16] for at, _, _ in found], rotation=45, ha="right")
    return save()


def _picture(folder: Path, name: str) -> tuple[Any, Callable[[], Path]]:
    """Axes to draw on, and what writes them to a file."""
    figures = _library("matplotlib", "matplotlib.figure")
    figure = figures.Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots()
    path = folder / f"{name}.png"

    def save() -> Path:
        axes.grid(alpha=0.3)
        axes.legend()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120)
        except OSError as error:
            raise PlotFailed(f"{path} cannot be written: {error.strerror}") from error
        return path

    return axes, save


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Draw how figures of `make bench` went from run to run, of docs/{FILE.name}. FIGURES are "
    "names such as charges_100, or beginnings of them; without one, those whose last verdict was a "
    "miss, or else the first ones.",
)
@click.argument("figures", nargs=-1)
@click.option(
    "--png",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Write a PNG file of each into this folder instead.",
)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=FILE,
    help="Read this file of runs.",
)
def command(figures: tuple[str, ...], png: Path | None, file: Path) -> None:
    """Draw each figure that is asked for."""
    try:
        runs = read(file)
        for name in chosen(runs, figures):
            found = points(runs, name)
            unit = unit_of(runs, name)
            if png is not None:
                click.echo(f"drawn: {picture_of_history(name, unit, found, png)}")
                continue
            click.echo(f"\n{name}")
            click.echo(draw_history(name, unit, found, shutil.get_terminal_size().columns))
    except (BenchFailed, PlotFailed) as error:
        raise click.ClickException(str(error)) from error


def chosen(runs: Sequence[dict[str, Any]], asked: Sequence[str]) -> list[str]:
    """Names of figures. Raises BenchFailed when one that is asked for is in no run, or when there
    are no runs.
    """
    known = {name: one for run in runs for name, one in run["figures"].items()}
    if not known:
        raise BenchFailed("no run is written down yet: make bench writes one")
    if not asked:
        missed = [name for name, one in known.items() if one.get("verdict") == "missed"]
        return (missed or list(known))[:SHOWN_MAX]
    found = []
    for beginning in asked:
        some = [name for name in known if name.startswith(beginning)]
        if not some:
            raise BenchFailed(f"no run has a figure called {beginning}")
        found += some
    return list(dict.fromkeys(found))


def unit_of(runs: Sequence[dict[str, Any]], name: str) -> str:
    """What the numbers of a figure are: times of its baseline where it has one."""
    newest = next(run["figures"][name] for run in reversed(runs) if name in run["figures"])
    if "ratio" in newest:
        return "x of its baseline"
    return str(newest["unit"]) or "number"


if __name__ == "__main__":
    command(prog_name="python -m bench.plot")

"""What a run has found, as a table for people or as JSON with every round."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.conditions import REFERENCE, whole
from bench.harness import BenchFailed, Figure, Spread, Verdict
from bench.plot import can_draw, draw_times
from bench.suite import Report
from taximeter.api.commands.common import in_one_line
from taximeter.api.embedded.machine import ServerFailed
from taximeter.api.local.process import ProcessFailed
from taximeter.api.processes.migrate import MigrationFailed
from taximeter.meter import MeterError

STYLES = {"met": "green", "missed": "red", "withheld": "yellow", "-": ""}


def machine(servers: Mapping[str, str]) -> dict[str, str]:
    """Where it was measured, and with what."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "load average": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **servers,
    }


def as_dict(report: Report, where: Mapping[str, str]) -> dict[str, Any]:
    """Everything, with the raw rounds."""
    return {
        "machine": dict(where),
        "conditions": whole(report.spans),
        "by_benchmark": {name: span.as_dict() for name, span in report.spans.items()},
        "failed": {name: said(error) for name, error in report.failed.items()},
        "seconds": {name: round(seconds, 1) for name, seconds in report.seconds.items()},
        "figures": [
            {
                "benchmark": report.benchmarks[figure.name],
                **_figure(figure, report.verdict(figure)),
            }
            for figure in report.figures
        ],
    }


def print_table(report: Report, where: Mapping[str, str], console: Console) -> None:
    """One line a figure; ranges in brackets are the lowest and the highest round. Then the machine,
    benchmark by benchmark, and how long each of what was timed took.
    """
    console.print("  ".join(f"{name}: {text}" for name, text in where.items()), highlight=False)
    table = Table(show_lines=False)
    table.add_column("#", justify="right")
    table.add_column("figure", overflow="fold")
    for column in ("ours", "baseline", "ratio", "target"):
        table.add_column(column, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    words = []
    for figure in report.figures:
        verdict = report.verdict(figure)
        words.append(verdict.word)
        table.add_row(
            "" if figure.number is None else str(figure.number),
            figure.title + (f"\n  {figure.note}" if figure.note else ""),
            _amount(figure.ours, figure.unit),
            ""
            if figure.baseline is None
            else f"{_amount(figure.baseline, figure.unit)} {figure.baseline_title}",
            "" if figure.ratio is None else _amount(figure.ratio, "x"),
            _target(figure, verdict),
            f"[{STYLES[verdict.word]}]{verdict.word}[/]" if figure.target else "",
        )
    console.print(table)
    console.print(_machine_table(report))
    for times in [figure.times for figure in report.figures if figure.times]:
        if can_draw("plotille"):
            console.print(Text(draw_times(times, console.width)))
    judged = len(words) - words.count("-")
    took = sum(report.seconds.values())
    withheld = words.count("withheld")
    rest = f", {withheld} withheld" if withheld else ""
    console.print(
        f"{words.count('met')} of {judged - withheld} targets met{rest}, in {took:.0f} s",
        highlight=False,
    )
    for name, span in report.spans.items():
        if span.busy:
            console.print(f"withheld: the machine was busy: {name}: {'; '.join(span.busy)}")


def said(error: Exception) -> str:
    """What went wrong in a benchmark, in a line."""
    if isinstance(error, BenchFailed | ServerFailed | ProcessFailed | MigrationFailed | MeterError):
        return str(error)
    line = in_one_line(error)
    if line is None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    return line


def _machine_table(report: Report) -> Table:
    """What others took during each benchmark, and what the same work took before and after it."""
    table = Table(title="the machine", title_justify="left")
    columns = ("benchmark", "others, cores", "stolen", "waited at rest", "calibrations, µs", "")
    for column in columns:
        table.add_column(column)
    for name, span in report.spans.items():
        table.add_row(
            name,
            "?" if span.others is None else f"{span.others:.2f} of {span.cores}",
            "?" if span.stolen is None else f"{span.stolen:.2f}",
            ", ".join(f"{resource} {share:.0%}" for resource, share in span.stalled.items()),
            ", ".join(
                f"{gauge} {took:,.0f} ({took / REFERENCE[gauge]:.2f}x)"
                for gauge, took in span.calibration.items()
            ),
            "busy" if span.busy else "quiet",
        )
    return table


def _figure(figure: Figure, verdict: Verdict) -> dict[str, Any]:
    target = figure.target
    return {
        "name": figure.name,
        "number": figure.number,
        "title": figure.title,
        "unit": figure.unit,
        "ours": _spread(figure.ours),
        "baseline": figure.baseline and _spread(figure.baseline),
        "baseline_title": figure.baseline_title,
        "ratio": figure.ratio and _spread(figure.ratio),
        "target": target
        and {
            "bound": target.bound,
            "kind": target.kind,
            "of": target.of,
            "gauge": target.gauge,
            "here": verdict.bound,
        },
        "verdict": verdict.word,
        "why": verdict.why,
        "collapsed": figure.collapsed,
        "note": figure.note,
        "times": [times.as_dict() for times in figure.times],
    }


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "median": spread.median,
        "low": spread.low,
        "high": spread.high,
        "rounds": list(spread.rounds),
    }


def _amount(spread: Spread, unit: str) -> str:
    middle = f"{_short(spread.median)}{'' if unit in ('x', '/s') else ' '}{unit}"
    if len(spread.rounds) == 1:
        return middle
    return f"{middle} ({_short(spread.low)}-{_short(spread.high)})"


def _short(number: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def _target(figure: Figure, verdict: Verdict) -> str:
    target = figure.target
    if target is None:
        return ""
    sign = "≥" if target.kind == "at least" else "≤"
    unit = "x" if target.of == "ratio" else figure.unit
    space = "" if unit in ("x", "/s") else " "
    here = ""
    if target.gauge is not None and verdict.bound is not None:
        here = f", here {_short(verdict.bound)}{space}{unit}"
    return f"{sign} {target.bound:g}{space}{unit}{here}"


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "CPU"
    lines = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(lines, platform.processor() or "CPU")

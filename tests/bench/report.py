"""What a run has found, as a table for people or as JSON with every round."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness import Figure, Spread
from bench.suite import Report

STYLES = {"met": "green", "missed": "red", "-": ""}


def machine(servers: Mapping[str, str]) -> dict[str, str]:
    """Where it was measured, and with what."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "load": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **servers,
    }


def as_dict(report: Report, where: Mapping[str, str]) -> dict[str, Any]:
    """Everything, with the raw rounds."""
    return {
        "machine": dict(where),
        "seconds": {name: round(seconds, 1) for name, seconds in report.seconds.items()},
        "figures": [
            {"benchmark": report.benchmarks[figure.name], **_figure(figure)}
            for figure in report.figures
        ],
    }


def print_table(report: Report, where: Mapping[str, str], console: Console) -> None:
    """One line a figure; ranges in brackets are the lowest and the highest round."""
    console.print("  ".join(f"{name}: {text}" for name, text in where.items()), highlight=False)
    table = Table(show_lines=False)
    table.add_column("#", justify="right")
    table.add_column("figure", overflow="fold")
    for column in ("ours", "baseline", "ratio", "target"):
        table.add_column(column, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for figure in report.figures:
        table.add_row(
            "" if figure.number is None else str(figure.number),
            figure.title + (f"\n  {figure.note}" if figure.note else ""),
            _amount(figure.ours, figure.unit),
            ""
            if figure.baseline is None
            else f"{_amount(figure.baseline, figure.unit)} {figure.baseline_title}",
            "" if figure.ratio is None else _amount(figure.ratio, "x"),
            _target(figure),
            f"[{STYLES[figure.verdict]}]{figure.verdict}[/]" if figure.target else "",
        )
    console.print(table)
    judged = [figure for figure in report.figures if figure.target is not None]
    met = sum(figure.verdict == "met" for figure in judged)
    took = sum(report.seconds.values())
    console.print(f"{met} of {len(judged)} targets met, in {took:.0f} s", highlight=False)


def _figure(figure: Figure) -> dict[str, Any]:
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
        "target": target and {"bound": target.bound, "kind": target.kind, "of": target.of},
        "verdict": figure.verdict,
        "collapsed": figure.collapsed,
        "note": figure.note,
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


def _target(figure: Figure) -> str:
    target = figure.target
    if target is None:
        return ""
    sign = "≥" if target.kind == "at least" else "≤"
    unit = "x" if target.of == "ratio" else figure.unit
    return f"{sign} {target.bound:g}{'' if unit in ('x', '/s') else ' '}{unit}"


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "CPU"
    lines = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(lines, platform.processor() or "CPU")

"""Shows answers as tables for people, or as JSON for programs.

Credits come as JSON numbers whose double is exact to the millicredit, and are shown with all three
decimals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE: Final = 10_000


def show_json(document: Any) -> None:
    """One document, as the API answered it."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A line each; `pool.total_credits` is that field of the object `pool`."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = bool(rows) and all(_is_number(_field(row, column)) for row in rows)
        name = column.rpartition(".")[2]
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(Text(_text(column, _field(row, column))) for column in columns))
    _print(table)


def show_fields(document: Mapping[str, Any]) -> None:
    """A line for each field; `pool.total_credits` is that of the object `pool`. Lists of objects
    are counted.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _flat(document):
        table.add_row(name, Text(_text(name, value)))
    _print(table)


def _print(table: Table) -> None:
    """To a pipe without frames that a program would have to take off, and without a line's end in
    the middle of a name.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        table.box = None
        console = Console(highlight=False, width=_WIDTH_OF_A_PIPE)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def _flat(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
            yield f"{before}{name}", f"{len(value)} (see --format json)"
        else:
            yield f"{before}{name}", value


def _field(row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _text(column: str, value: Any) -> str:
    """In one line, without what a terminal would obey."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.3f}" if "credits" in column else f"{value:,}"
    if isinstance(value, list):
        value = ",".join(str(one) for one in value)
    elif isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False, default=str) if value else "-"
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(value))

"""The page of commands is what `--help` says of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

import click

from taximeter.api.commands import group

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def lines_of(command: click.Command, path: list[str]) -> Iterator[str]:
    """The command and those below it: its arguments, what it does, its options."""
    ctx = click.Context(command, info_name=path[-1])
    if not isinstance(command, click.Group):
        arguments = [one for one in command.get_params(ctx) if isinstance(one, click.Argument)]
        yield ""
        yield (
            "#" * min(3, len(path))
            + " `"
            + " ".join([*path, *(one.make_metavar(ctx) for one in arguments)])
            + "`"
        )
        yield ""
        yield from wrap(" ".join((command.help or "").split()), 100)
        options = [one for one in command.get_params(ctx) if isinstance(one, click.Option)]
        records = [one.get_help_record(ctx) for one in options if "--help" not in one.opts]
        shown = [one for one in records if one is not None]
        if shown:
            yield ""
        for name, text in shown:
            yield from wrap(
                f"- `{name}`: {text}".removesuffix(": "), 100, subsequent_indent="  ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        return
    if len(path) == 2:
        yield ""
        yield f"## `{' '.join(path)}`"
        yield ""
        yield from wrap(" ".join((command.help or "").split()), 100)
    for name in command.list_commands(ctx):
        found = command.get_command(ctx, name)
        assert found is not None
        yield from lines_of(found, [*path, name])


def page() -> str:
    head = [
        "# Commands",
        "",
        "Every command, its arguments and its options. Made from the code:",
        "`WRITE_DOCS=1 make test ARGS=tests/docs`.",
    ]
    return "\n".join([*head, *lines_of(group, ["taximeter"])]) + "\n"


def test_commands_page_is_that_of_the_code() -> None:
    expected = page()
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected

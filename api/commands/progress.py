"""Shows people how far a long command is; programs that read its output see nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tell = Callable[[int, int, str], None]


@contextmanager
def progress_bar(what: str, console: Console | None = None) -> Iterator[Tell]:
    """A bar on the terminal of standard error, if it is one. It is told how much is done, of how
    much, and what is done now.
    """
    shown = console or Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
        console=shown,
        disable=not shown.is_terminal,
        transient=True,
    ) as bars:
        bar = bars.add_task(what, total=None, now="")

        def tell(done: int, total: int, now: str) -> None:
            bars.update(bar, completed=done, total=total, now=now)

        yield tell

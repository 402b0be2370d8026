"""How far something is that takes long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

#: Is told which part is done, from 0 to 1.
Report = Callable[[float], None]


@contextlib.contextmanager
def progress_bar(what: str, *, shown: bool = True) -> Iterator[Report]:
    """A progress bar on standard error, if that is a terminal and it is to be ``shown``. Yields
    what moves it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as bars:
        bar = bars.add_task(what, total=1.0)
        yield lambda part: bars.update(bar, completed=part)

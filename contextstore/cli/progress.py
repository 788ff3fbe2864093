"""Progress of what takes long: a bar with rate and remaining time, on the standard error of a terminal.

Rules of this module: where nobody looks, nothing is shown, counted or imported. A bar is gone when its work is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from .output import complain

Report = Callable[[int, int], None]
"""Told how much is done, and how much there is; 0: that is not known."""

QUIET = typer.Option("--quiet", "-q", help="Show no progress.")
"""The option of every command that shows a bar."""


def is_shown(*, quiet: bool) -> bool:
    """Whether anybody would see a bar."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def bar(title: str, unit: str, *, quiet: bool) -> Iterator[Report | None]:
    """A bar while the block runs, moved by what the block is given. None: nobody looks.

    Args:
        unit: what is counted, in the plural; ``bytes`` are shown as such.
    """
    if not is_shown(quiet=quiet):
        yield None
        return
    with _rich_bar(unit) as shown:
        task = shown.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total or None)

        yield report


def _rich_bar(unit: str) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s")

    amount: list[ProgressColumn] = (
        [DownloadColumn(binary_units=True), TransferSpeedColumn()]
        if unit == "bytes"
        else [MofNCompleteColumn(), Rate()]
    )
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *amount,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def interruption_is_told(sentence: Callable[[], str]) -> Iterator[None]:
    """Say on the standard error what is there, if the block is interrupted by Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        complain(sentence())
        raise

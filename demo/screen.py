"""What is displayed: the bars while the processes work, and the closing tables.

Rules of this module: the one that knows ``rich``. It decides how something looks, never what holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .findings import Report
from .measure import Ranked
from .proof import Check


class ProgressDisplay:
    """A bar for each process, which grows with what the store has. Without a terminal, a line for each."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=34, style="grey30"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[end]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def bar(self, title: str) -> ProgressBar:
        return ProgressBar(self._console, self._progress, title, self._total)


class ProgressBar:
    """The bar of one process."""

    def __init__(self, console: Console, progress: Progress, title: str, total: int) -> None:
        self._console = console
        self._progress = progress
        self._title = title
        self._total = total
        self._bar = progress.add_task(title, total=total, end="")

    def show(self, written: int) -> None:
        self._progress.update(self._bar, completed=written)

    def end(self, written: int, how: str, style: str) -> None:
        self._progress.update(self._bar, completed=written, end=f"[{style}]{how}[/]")
        self._progress.stop_task(self._bar)
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {written} of {self._total} nodes written, {how}", highlight=False)


def checks_table(checks: Sequence[Check], console: Console) -> Table:
    can_tick = console.encoding.lower().startswith("utf")
    verdicts = {
        None: "",
        True: "[green]\N{CHECK MARK}[/]" if can_tick else "yes",
        False: "[bold red]\N{BALLOT X}[/]" if can_tick else "[bold red]NO[/]",
    }
    table = Table(title="What became of the nodes", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("measured")
    table.add_column("nodes", justify="right")
    table.add_column("expected")
    for check in checks:
        verdict = f"{check.expected} {verdicts[check.holds]}"
        table.add_row(check.label, f"{check.figure:,}", verdict, style="" if check.label[0] != " " else "dim")
    return table


def findings_table(report: Report, console: Console) -> Table:
    table = Table(title="What the survey found", title_justify="left", title_style="bold", box=box.SIMPLE)
    table.show_header = False
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    width = console.width - 23  # the rest is for the figures, their units and the space between
    sums = report.totals
    for label, figure in (
        ("modules", f"{sums.modules:,}"),
        ("lines", f"{sums.lines:,}"),
        ("functions", f"{sums.functions:,}"),
        ("classes", f"{sums.classes:,}"),
        ("public with docstring", f"{sums.documented / sums.public:.0%}"),
        ("import cycles", f"{len(report.import_cycles)}"),
    ):
        table.add_row(label, f"{figure} {'':<9}")
    for label, ranking, unit in (
        ("largest packages", report.largest_packages, "lines"),
        ("most imported modules", report.most_imported, "importers"),
        ("longest functions", report.longest_functions, "lines"),
        ("deepest nesting", report.deepest_nesting, "blocks"),
        (
            "largest import cycles",
            [Ranked(", ".join(cycle), len(cycle)) for cycle in report.import_cycles[:3]],
            "modules",
        ),
    ):
        table.add_section()
        table.add_row(label)
        for entry in ranking:
            table.add_row(folded(entry.name, width), f"{entry.figure:,} [dim]{unit:<9}[/]")
    return table


def folded(name: str, width: int) -> str:
    """The name, indented, in lines that end after a dot or a comma, as far as they are not too long otherwise."""
    lines = ["  "]
    for part in re.split(r"(?<=[. ])", name):
        if lines[-1].strip() and len(lines[-1] + part.rstrip()) > width:
            lines.append("    ")
        lines[-1] += part
    return "\n".join(map(str.rstrip, lines))

"""Samples as small plots: what is drawn, in coordinates that a template writes down.

Rules of this module: pure functions. A plot is ``WIDTH`` by ``HEIGHT``, whatever it shows, and the page stretches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 240, 56

Words = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot: its points as SVG has them, in pieces where there was nothing to show, and its name."""

    name: str
    pieces: tuple[str, ...]
    latest: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A small plot.

    Attributes:
        key: what its element is called by.
        title, note: what it shows, and what has to be known to read it.
        latest: the newest value in words; of the first line.
        top: what its upper edge stands for, in words.
        lines: the first is the one that counts, the others are drawn fainter.
        area: the first line, closed along the bottom.
    """

    key: str
    title: str
    note: str
    latest: str
    top: str
    lines: tuple[Line, ...]
    area: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see yet."""
        return not any(line.pieces for line in self.lines)

    @property
    def words(self) -> str:
        """The plot in a sentence, for those who do not see it."""
        lines = ", ".join(f"{line.name} {line.latest}" if line.name else line.latest for line in self.lines)
        return f"{self.title}: {lines or 'nothing yet'}; the upper edge is {self.top}"


def plot(
    key: str,
    title: str,
    lines: Sequence[tuple[str, Sequence[float | None]]],
    words: Words,
    *,
    points: int,
    note: str = "",
    least_top: float = 1.0,
) -> Plot:
    """Some series as a plot, the newest value at its right edge.

    Args:
        points: how many values a whole plot has; a shorter series begins further right.
        least_top: what the upper edge stands for at least, so that noise about zero does not look like a storm.
    """
    top = round_up(max((value for _, series in lines for value in series if value is not None), default=0), least_top)
    drawn = tuple(Line(name, _pieces(series, top, points), _latest(series, words)) for name, series in lines)
    area = _area(drawn[0].pieces) if drawn else ""
    return Plot(key, title, note, drawn[0].latest if drawn else "", words(top), drawn, area)


def round_up(value: float, least: float) -> float:
    """The next of 1, 2, 5, 10, 20, … times ``least``: an edge that stays while values go up and down a little."""
    if value <= least:
        return least
    power = 10.0 ** math.floor(math.log10(value / least))
    return next(least * step * power for step in (1, 2, 5, 10) if least * step * power >= value * (1 - 1e-9))


def _latest(series: Sequence[float | None], words: Words) -> str:
    value = series[-1] if series else None
    return "—" if value is None else words(value)


def _pieces(series: Sequence[float | None], top: float, points: int) -> tuple[str, ...]:
    pieces: list[list[str]] = [[]]
    first = points - len(series)
    for number, value in enumerate(series, first):
        if value is None:
            pieces.append([])
        else:
            x = WIDTH * number / (points - 1)
            y = HEIGHT - 1 - (HEIGHT - 2) * min(value / top, 1.0)
            pieces[-1].append(f"{x:.1f},{y:.1f}")
    return tuple(" ".join(piece) for piece in pieces if piece)


def _area(pieces: Sequence[str]) -> str:
    """A path around what lies beneath a line."""
    around = []
    for piece in pieces:
        first, last = piece.split(" ")[0], piece.split(" ")[-1]
        start, end = first.partition(",")[0], last.partition(",")[0]
        around.append(f"M{start},{HEIGHT} L{piece.replace(' ', ' L')} L{end},{HEIGHT} Z")
    return " ".join(around)

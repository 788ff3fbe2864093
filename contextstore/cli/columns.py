"""Records as rows of columns.

Rules of this module: pure functions. On a terminal no line is wider than it: columns that may shrink do, the others are
cut last. Where nobody looks, nothing is cut, so that an id comes through a pipe whole. rich measures the characters and
does not lay out the rows: its tables take longer to load, and for a thousand rows to draw, than a store to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

GAP = "  "
ELLIPSIS = "…"
_LEAST_WIDTH = 20
_LEAST_ID = 8


class Column(NamedTuple):
    """A column.

    Attributes:
        title: what stands above it.
        least: how narrow it may become on a terminal; None: it does not shrink before all others have.
        to_the_right: whether its cells are numbers.
    """

    title: str
    least: int | None = None
    to_the_right: bool = False


def laid_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The lines: the titles, then the rows.

    Args:
        width: of the terminal; None: nothing is cut.
    """
    from rich.cells import cell_len, set_cell_size

    table = [[column.title for column in columns], *rows]
    widths = [max(cell_len(row[at]) for row in table) for at in range(len(columns))]
    if width is not None:
        widths = _fitted(columns, widths, max(width, _LEAST_WIDTH))
    return [_line(columns, row, widths, cell_len, set_cell_size) for row in table]


def _fitted(columns: Sequence[Column], widths: list[int], width: int) -> list[int]:
    """The widths within that of the terminal: first those that may shrink give way, from the right, then the widest."""
    fitted = list(widths)
    for at in reversed(range(len(columns))):
        least = columns[at].least
        if least is not None:
            fitted[at] = max(min(least, fitted[at]), fitted[at] - _excess(fitted, width))
    for at in reversed(range(len(columns))):  # rather no such column than no id
        if columns[at].least is not None and _excess(fitted, width):
            fitted[at] = 0
    for at in range(len(columns) - 1, 0, -1):
        if _excess(fitted, width) and fitted[0] - _excess(fitted, width) < _LEAST_ID:
            fitted[at] = 0
    while _excess(fitted, width) and max(fitted) > 1:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _excess(widths: Sequence[int], width: int) -> int:
    shown = [one for one in widths if one]
    return max(0, sum(shown) + len(GAP) * (len(shown) - 1) - width)


def _line(
    columns: Sequence[Column],
    row: Sequence[str],
    widths: Sequence[int],
    cell_len: Callable[[str], int],
    set_cell_size: Callable[[str, int], str],
) -> str:
    cells = []
    for column, cell, width in zip(columns, row, widths, strict=True):
        if not width:
            continue
        length = cell_len(cell)
        if length > width:
            cells.append(set_cell_size(cell, width - 1) + ELLIPSIS)
        elif column.to_the_right:
            cells.append(" " * (width - length) + cell)
        else:
            cells.append(cell + " " * (width - length))
    return GAP.join(cells).rstrip(" ")

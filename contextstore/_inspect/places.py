"""Where two values differ: both side by side, unfolded where they are not the same.

Rules of this module: pure functions, of which the cost is bounded: so many places are looked at, so many differences
given, and none of a text is longer than it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .._display.brief import MORE, brief, hex_head
from .._display.text import escaped

Kind = Literal["same", "different", "only in the first", "only in the second"]

_LINES = 2000
_SAME_SHOWN = 2
_BEFORE = 24
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Line:
    """A place in two values.

    Attributes:
        path: what leads to it, as errors have it: ``$.items[3].score``.
        first, second: the values there in short, from shortly before where two texts part; None where there is none.
        count: of how many places this line tells; more than one only where they are the same.
    """

    path: str
    kind: Kind
    first: str | None
    second: str | None
    count: int = 1


class SideBySide(NamedTuple):
    """Two values, side by side.

    Attributes:
        lines: the places where they differ, and what is the same beside these; none if the values are the same.
        differences: how many of these lines tell of one.
        is_cut: whether the values were not looked at to their ends.
    """

    lines: list[Line]
    differences: int
    is_cut: bool


def side_by_side(one: Any, other: Any, *, most: int = 120, differences: int = 100, looks: int = 200_000) -> SideBySide:
    """Two stored values, unfolded where they differ. Items of lists are compared by their places.

    Args:
        most: how long a value in short may be.
        differences: how many of these are shown.
        looks: how many places are looked at.
    """
    walk = _Walk(most, differences, looks)
    lines = walk.lines("$", one, other)
    return SideBySide(lines[:_LINES], differences - walk.differences_left, walk.is_cut or len(lines) > _LINES)


def first_difference(one: Any, other: Any, *, most: int = 60) -> Line | None:
    """The first place where two values differ. None: there is none among the places that it is worth looking at."""
    lines = side_by_side(one, other, most=most, differences=1, looks=2000).lines
    return next((line for line in lines if line.kind != "same"), None)


class _Walk:
    """The way through two values at once, until it has been enough."""

    def __init__(self, most: int, differences: int, looks: int) -> None:
        self.differences_left = differences
        self.is_cut = False
        self._looks_left = looks
        self._most = most

    def lines(self, path: str, one: Any, other: Any) -> list[Line]:
        """None, if the two are the same as far as they were looked at."""
        if type(one) is type(other) and isinstance(one, dict | list):
            return self._within(path, one, other)
        if _is_same(one, other):
            return []
        self.differences_left -= 1
        return [Line(path, "different", *_parting(one, other, self._most))]

    def _within(self, path: str, one: Any, other: Any) -> list[Line]:
        found: list[Line] = []
        same: list[tuple[str, Any]] = []
        for step in _steps(one, other):
            if not self._may_go_on():
                break
            there = _path(path, step)
            within = self._at(there, step, one, other)
            if within:
                found += [*_told(same), *within]
                same = []
            elif not self.is_cut:
                same.append((there, one[step]))
        return [*found, *_told(same)] if found else []

    def _may_go_on(self) -> bool:
        self._looks_left -= 1
        if self._looks_left < 0 or self.differences_left <= 0:
            self.is_cut = True
        return not self.is_cut

    def _at(self, path: str, step: Any, one: Any, other: Any) -> list[Line]:
        in_one, in_other = _has(one, step), _has(other, step)
        if in_one and in_other:
            return self.lines(path, one[step], other[step])
        self.differences_left -= 1
        if in_one:
            return [Line(path, "only in the first", brief(one[step], self._most), None)]
        return [Line(path, "only in the second", None, brief(other[step], self._most))]


def _steps(one: Any, other: Any) -> Iterable[str | int]:
    if isinstance(one, list):
        return range(max(len(one), len(other)))
    return [*one, *(key for key in other if key not in one)]


def _has(value: Any, step: Any) -> bool:
    return step in value if isinstance(value, dict) else step < len(value)


def _told(same: list[tuple[str, Any]]) -> list[Line]:
    """Places in a row where the values are the same: each, or many as one line."""
    if len(same) > _SAME_SHOWN:
        return [Line(same[0][0], "same", None, None, len(same))]
    return [Line(path, "same", text, text) for path, text in ((path, brief(value)) for path, value in same)]


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values that are no two containers of one kind are the same JSON."""
    return type(one) is type(other) and one == other and repr(one) == repr(other)


def _parting(one: Any, other: Any, most: int) -> tuple[str, str]:
    """Two values in short, so that it is seen where they part."""
    if isinstance(one, str) and isinstance(other, str) and max(len(one), len(other)) > most - 2:
        start = max(_common(one, other) - _BEFORE, 0)
        return _text_from(one, start, most), _text_from(other, start, most)
    if isinstance(one, bytes) and isinstance(other, bytes):
        at = _common(one, other)
        return _bytes_from(one, at), _bytes_from(other, at)
    return brief(one, most), brief(other, most)


def _text_from(text: str, start: int, most: int) -> str:
    shown = brief(text[start:], most)
    return f"{shown[:1]}{MORE}{shown[1:]}" if start else shown


def _bytes_from(data: bytes, start: int) -> str:
    if not start:
        return brief(data)
    return f"{len(data)} bytes, from {start} on: {hex_head(data[start : start + 17]) or 'none'}"


def _common(one: Any, other: Any) -> int:
    """How long two sequences are the same from their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _path(path: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if _IDENTIFIER.fullmatch(step) else f"{path}[{escaped(brief(step, 60))}]"


def marked(first: str, second: str) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Two values in short as what is the same before, what differs, and what is the same behind: texts alone."""
    if not (first.startswith('"') and second.startswith('"')):
        return ("", first, ""), ("", second, "")
    before = _common(first, second)
    behind = _common(first[before:][::-1], second[before:][::-1])
    return _cut_out(first, before, behind), _cut_out(second, before, behind)


def _cut_out(text: str, before: int, behind: int) -> tuple[str, str, str]:
    end = len(text) - behind
    return text[:before], text[before:end], text[end:]

"""Where in a value a text occurs: in which keys, strings and numbers.

Rules of this module: no I/O. Upper and lower case are the same. A search ends after so many matches, and after so much
time, however large the value; it says whether it came to the end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .folding import Path

_AT_ONCE = 2000
_STEPS = 1_000_000  # comparisons within a text between two looks at the clock; other threads wait for that long
_AROUND = 60
_CONSTANTS = {None: "null", True: "true", False: "false"}


class Match(NamedTuple):
    """A place where it occurs.

    Attributes:
        path: that of the value that has it, or whose key has it.
        is_key: whether it is the key.
        before, hit, after: what stands there, cut to what is around it.
    """

    path: Path
    is_key: bool
    before: str
    hit: str
    after: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found.

    Attributes:
        matches: in the order of the value.
        looked_at: how many keys, strings, numbers and the like it has looked at.
        is_whole: whether it came to the end of the value.
    """

    matches: list[Match]
    looked_at: int
    is_whole: bool


class _Wanted:
    """What is searched for, and until when."""

    def __init__(self, text: str, end: float) -> None:
        self._pattern = re.compile(re.escape(text), re.IGNORECASE)
        self._length = max(len(text), 1)
        self._end = end

    def first_in(self, text: str) -> re.Match[str] | None:
        """Where it occurs first. A long one costs its length at each character, if it nearly fits everywhere.

        Raises TimeoutError where the time is up within the text, which may be most of a value.
        """
        step = max(_STEPS // self._length, 1)
        for start in range(0, len(text), step):
            found = self._pattern.search(text, start, start + step + self._length - 1)
            if found is not None:
                return found
            if time.monotonic() > self._end:
                raise TimeoutError
        return None


def find(value: Any, text: str, *, most: int = 100, seconds: float = 3.0) -> Found:
    """The first places where a text occurs."""
    end = time.monotonic() + seconds
    wanted = _Wanted(text, end)
    matches: list[Match] = []
    number = 0
    for number, (path, one) in enumerate(_places(value), 1):
        try:
            match = _match(wanted, path, one)
        except TimeoutError:
            return Found(matches, number, False)
        if match is not None:
            if len(matches) == most:
                return Found(matches, number, False)
            matches.append(match)
        if number % _AT_ONCE == 0 and time.monotonic() > end:
            return Found(matches, number, False)
    return Found(matches, number, True)


def _places(value: Any) -> Iterator[tuple[list[str | int], Any]]:
    """Every value within a value, with its path: a list that changes as the walk goes on."""
    path: list[str | int] = []
    yield path, value
    waiting = [_items(value)]
    while waiting:
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
            if path:
                path.pop()
            continue
        path.append(item[0])
        yield path, item[1]
        if isinstance(item[1], dict | list):
            waiting.append(_items(item[1]))
        else:
            path.pop()


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return iter(value.items())
    return enumerate(value) if isinstance(value, list) else iter(())


def _match(wanted: _Wanted, path: list[str | int], value: Any) -> Match | None:
    name = path[-1] if path else None
    if isinstance(name, str):
        found = wanted.first_in(name)
        if found is not None:
            return Match(tuple(path), True, *_around(name, found))
    if isinstance(value, dict | list):
        return None
    if isinstance(value, str):
        text = value
    else:  # repr writes numbers as JSON does
        text = _CONSTANTS[value] if value is None or isinstance(value, bool) else repr(value)
    found = wanted.first_in(text)
    return None if found is None else Match(tuple(path), False, *_around(text, found))


def _around(text: str, found: re.Match[str]) -> tuple[str, str, str]:
    start, end = found.span()
    before = ("…" if start > _AROUND else "") + text[max(start - _AROUND, 0) : start]
    hit = text[start : min(end, start + 2 * _AROUND)]
    return before, hit, text[end : end + _AROUND] + ("…" if len(text) > end + _AROUND else "")

"""A value as a tree, folded where it is too much to look at.

Rules of this module: pure functions. No more of a value is looked at than is given back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .._display.brief import brief


class Branch(NamedTuple):
    """A line of a tree.

    Attributes:
        depth: how deep it is in the value; 0 for the value itself.
        name: the key, or the place in its list, that leads to it; None for the value itself.
        text: it in short.
        children: how many are in it.
        is_folded: whether some of them are not shown.
    """

    depth: int
    name: str | int | None
    text: str
    children: int
    is_folded: bool


def tree(value: Any, *, depth: int = 3, children: int = 20, most: int = 60) -> Iterator[Branch]:
    """The lines of a value, each before those of its children.

    Args:
        depth: how many levels are unfolded.
        children: how many children of each are shown.
        most: how long a line's text may be.
    """
    waiting: list[tuple[int, str | int | None, Any]] = [(0, None, value)]
    while waiting:
        level, name, one = waiting.pop()
        count = len(one) if isinstance(one, dict | list) else 0
        is_open = bool(count) and level < depth
        yield Branch(level, name, brief(one, most), count, bool(count) and (not is_open or count > children))
        if is_open:
            first = [(level + 1, key, child) for (key, child), _ in zip(_children(one), range(children), strict=False)]
            waiting += reversed(first)


def _children(value: dict[str, Any] | list[Any]) -> Iterator[tuple[str | int, Any]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)

"""So many, and about so many bytes: how much goes into one statement, one commit or one page.

Rules of this module: the first of a portion always fits, however large it is. So a caller that takes portion
after portion gets on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Portion:
    """What has been taken so far, against two limits."""

    __slots__ = ("_is_empty", "_items", "_most_bytes", "_size", "most")

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._items = self._size = 0
        self._is_empty = True

    def takes(self, size: int, items: int = 1) -> bool:
        """Count this in, of so many bytes; False, and it is not counted, if it belongs to the next portion."""
        if not self._is_empty and (self._items + items > self.most or self._size + size > self._most_bytes):
            return False
        self._is_empty = False
        self._items += items
        self._size += size
        return True

    @property
    def is_full(self) -> bool:
        """Whether nothing more goes in, however small."""
        return self._items >= self.most or self._size >= self._most_bytes


def portions(some: Iterable[T], size_of: Callable[[T], int], most: int, most_bytes: int) -> Iterator[list[T]]:
    """Everything, in order, in lists that keep to the limits."""
    part: list[T] = []
    portion = Portion(most, most_bytes)
    for one in some:
        size = size_of(one)
        if not portion.takes(size):
            yield part
            part, portion = [], Portion(most, most_bytes)
            portion.takes(size)
        part.append(one)
    if part:
        yield part

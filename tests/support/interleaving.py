"""Every order in which the steps of several actors can come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def interleavings(*actors: Sequence[T]) -> Iterator[list[T]]:
    """The steps of all, each actor's in its order: 2 and 2 steps have 6 of them."""
    if not any(actors):
        yield []
    for index, steps in enumerate(actors):
        if steps:
            rest = [*actors[:index], steps[1:], *actors[index + 1 :]]
            for order in interleavings(*rest):
                yield [steps[0], *order]

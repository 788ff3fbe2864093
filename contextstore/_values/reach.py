"""The classes that a type leads to, and which shortcuts they allow when an object is read or proved.

Rules of this module: nothing here reads a value. The answer for a class is found once and kept in its shape; where it
cannot be found, it is no.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from .shapes import MODEL, WITHOUT_FIELDS, Shape, meaning, shape_of_type

_MOST = 1000
"""Types that are looked at: a generic class may lead to ever new ones."""


class Reach(typing.NamedTuple):
    is_direct: bool
    """Whether msgspec makes the same objects as this package: no class has the last word on its fields."""
    is_compared: bool
    """Whether ``==`` compares each field of each class."""
    is_safe: bool
    """Whether msgspec may make such objects at all: those of some classes end the process."""

    def and_of(self, other: Reach) -> Reach:
        """The reach of two types together: what holds for both."""
        return Reach(
            self.is_direct and other.is_direct, self.is_compared and other.is_compared, self.is_safe and other.is_safe
        )


_SAFE = Reach(is_direct=True, is_compared=True, is_safe=True)
_UNRESOLVED = Reach(is_direct=False, is_compared=False, is_safe=True)
_UNKNOWN = Reach(is_direct=False, is_compared=False, is_safe=False)


def reach_of(kind: Any) -> Reach:
    if _is_of_builtins(kind):
        return _SAFE
    shape = shape_of_type(kind)
    if shape is None:
        return _found(kind)
    if shape.reach is None:
        shape.reach = _found(kind)
    reach: Reach = shape.reach
    return reach


def _is_of_builtins(kind: Any) -> bool:
    """Whether this is a builtin type or a container of such: the most frequent types, for which no search is needed."""
    if type(kind) is types.GenericAlias:
        return all(map(_is_of_builtins, kind.__args__)) and kind.__origin__ in WITHOUT_FIELDS
    return kind is Any or (type(kind) is type and kind in WITHOUT_FIELDS)


def _found(kind: Any) -> Reach:
    reach = _SAFE
    # All classes in one search, not one search for each: a class may lead back to one that is not decided yet, and then
    # its own answer would not be final.
    waiting, seen = [kind], set[int]()
    kept: list[Any] = []  # alive, so that no other type gets the id of one of them
    while waiting and len(kept) < _MOST:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept.append(one)
        shape = shape_of_type(one)
        if shape is None:
            waiting += _named_in(one)
        elif shape.reach is not None:
            reach = reach.and_of(shape.reach)
        else:
            reach = reach.and_of(_of_itself(shape))
            try:
                waiting += shape.types().values()
            except TypeError:  # an annotation that cannot be resolved
                reach = reach.and_of(_UNRESOLVED)
    return _UNKNOWN if waiting else reach


def _of_itself(shape: Shape) -> Reach:
    return Reach(_is_direct(shape), shape.has_generated_eq, shape.has_plain_base)


def _is_direct(shape: Shape) -> bool:
    if shape.family == MODEL:
        return True
    return shape.has_plain_base and not (shape.has_hook or shape.is_pydantic)


def _named_in(kind: Any) -> Iterator[Any]:
    meant = meaning(kind)
    if meant is not None:
        yield meant
    elif typing.get_origin(kind) is not typing.Literal:
        yield from (arg for arg in typing.get_args(kind) if not isinstance(arg, str | int | bytes))

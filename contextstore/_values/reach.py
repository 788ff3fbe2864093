"""Which classes a type leads to, and whether what is true of them all makes a shorter way safe.

Rules of this module: found out once for a class. What is not known counts as no.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from .shapes import MODEL, WITHOUT_FIELDS, Shape, meaning, shape_of_type

_MOST = 1000  # types; a generic class may lead to ever new ones


class Reach(typing.NamedTuple):
    # Whether msgspec makes of the JSON what we do: no class that it leads to has the last word on its fields.
    is_direct: bool
    # Whether ``==`` looks at each field of each of them.
    is_compared: bool
    # Whether msgspec may be asked at all: an object that it makes of some classes ends the process.
    is_safe: bool


_SAFE = Reach(is_direct=True, is_compared=True, is_safe=True)


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
    """Whether this is a container of builtin types, or one of these: the most frequent ones, which take no search."""
    if type(kind) is types.GenericAlias:
        return all(map(_is_of_builtins, kind.__args__)) and kind.__origin__ in WITHOUT_FIELDS
    return type(kind) is type and kind in WITHOUT_FIELDS


def _found(kind: Any) -> Reach:
    is_direct = is_compared = is_safe = True
    # All that it leads to, not one after the other: of a class that leads back to one that is not decided yet, nothing
    # could be said for good.
    waiting, seen = [kind], set[int]()
    kept: list[Any] = []  # so that no id is given twice
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
            is_direct = is_direct and shape.reach.is_direct
            is_compared = is_compared and shape.reach.is_compared
            is_safe = is_safe and shape.reach.is_safe
        else:
            is_direct = is_direct and _is_direct(shape)
            is_compared = is_compared and shape.has_generated_eq
            is_safe = is_safe and shape.has_plain_base
            try:
                waiting += shape.types().values()
            except TypeError:  # an annotation that cannot be resolved
                is_direct = is_compared = False
    is_whole = not waiting
    return Reach(is_direct and is_whole, is_compared and is_whole, is_safe and is_whole)


def _is_direct(shape: Shape) -> bool:
    if shape.family == MODEL:
        return True
    return shape.has_plain_base and not (shape.has_hook or shape.is_validated_by_pydantic)


def _named_in(kind: Any) -> Iterator[Any]:
    meant = meaning(kind)
    if meant is not None:
        yield meant
    elif typing.get_origin(kind) is not typing.Literal:
        yield from (arg for arg in typing.get_args(kind) if not isinstance(arg, str | int | bytes))

"""Types of which JSON can make nothing, or not one thing: found before anything is computed for them.

Rules of this module: pure functions on types; no value is read. Whether a class reads its own JSON well is left to the
proof of each value: here only what holds for all values of a type is refused.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import pathlib
import types
import typing
import uuid
from itertools import combinations
from typing import Any

from .convert import meant_by
from .problems import type_name
from .shapes import WITHOUT_FIELDS, is_pydantic, shape_of_type
from .written import can_be_mistaken

_UNIONS = (typing.Union, types.UnionType)
_READ = (
    *(str, int, list, dict, tuple, enum.Enum, decimal.Decimal, pathlib.PurePath, uuid.UUID),
    *(datetime.date, datetime.time, datetime.timedelta),
)
"""Classes of which, and of whose subclasses, an object is made of JSON."""


def refuse_unreadable(kind: Any) -> None:
    """Raise ``TypeError`` for a type of which JSON can make nothing, and for a union that JSON cannot tell apart."""
    waiting: list[tuple[Any, bool]] = [(kind, True)]
    seen: list[Any] = []
    while waiting:
        one, is_whole = waiting.pop()
        if any(one is known for known in seen):
            continue
        if not is_whole:
            seen.append(one)
        origin, args = typing.get_origin(one) or one, typing.get_args(one)
        meant = meant_by(one, origin, args)
        if meant is not None:
            waiting.append((meant, is_whole))
        elif origin in _UNIONS:
            _refuse_mistakable(one, args)
            waiting += [(member, is_whole) for member in args]
        elif origin is bytes and is_whole:
            pass
        elif not _is_read(one, origin):
            raise TypeError(_reason(one, origin))
        elif args and origin is not typing.Literal and shape_of_type(one) is None:
            waiting += [(arg, False) for arg in args if arg is not ...]


def _reason(kind: Any, origin: Any) -> str:
    if origin is bytes:
        return "bytes come back only as a whole, not within JSON"
    return f"no {type_name(kind)} can be made of JSON"


def _refuse_mistakable(kind: Any, members: tuple[Any, ...]) -> None:
    for one, other in combinations(members, 2):
        if can_be_mistaken(one, other):
            raise TypeError(
                f"{type_name(kind)}: {type_name(one)} and {type_name(other)} write the same JSON, which cannot be told "
                "apart"
            )


def _is_read(kind: Any, origin: Any) -> bool:
    if kind in (Any, None) or origin is typing.Literal or isinstance(kind, typing.TypeVar):
        return True
    if not isinstance(origin, type) or origin in (bytes, bytearray, memoryview):
        return False
    if origin in WITHOUT_FIELDS or is_pydantic(origin):
        return True
    shape = shape_of_type(kind)
    if shape is not None:
        try:
            shape.types()
        except TypeError as error:
            raise TypeError(f"no {type_name(kind)} can be made of JSON: {error}") from error
        return True
    return issubclass(origin, _READ) or _is_collection(origin)


def _is_collection(origin: type) -> bool:
    return issubclass(origin, collections.abc.Collection) and not issubclass(origin, bytes | bytearray | memoryview)

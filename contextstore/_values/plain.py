"""The quick way to JSON: for values of builtin types, UUIDs and members of well-known Enums alone.

Rules of this module: it writes the text, or raises. The error says nothing of the reason: ``encode.py`` then goes the
slow way, which finds it. Nothing is handed to orjson before every type in the value is known to be safe for it.
"""

from __future__ import annotations

import enum
import uuid
import weakref
from gc import get_referents
from typing import Any

import orjson

MAX_DEPTH = 254  # what orjson writes; it reads 1,024

SCALARS = frozenset({type(None), bool, int, str})
_PLAIN = SCALARS | {float, list, dict, tuple}


class NotPlainError(Exception):
    pass


def plain_json(value: Any) -> bytes:
    """The text of a value of these types. For any other, and for a number that JSON has not, an error of some kind."""
    # orjson alone is not safe: tuples nested some hundred deep overwrite its memory (3.13.0), an Enum member that is
    # its own value and a UUID without its number kill the process, and an orjson.Fragment is pasted in unread.
    may_have_nan = _has_floats(value)
    data = orjson.dumps(value)
    # orjson writes NaN and the infinities as null.
    if may_have_nan and b"null" in data and orjson.loads(data) != value:
        raise NotPlainError
    return data


def _has_floats(value: Any) -> bool:
    """Whether there is a float in a value of these types. Raises ``NotPlainError`` for any other, or one too deep."""
    # Level by level, each of them in C: get_referents is the garbage collector's walk, and is asked about the three
    # containers alone. Rejected as a first look: msgspec's encoder, which takes as long, follows for ever the Enum
    # member that is its own value, and does not tell how deep it was; marshal, which also takes builtins alone, but
    # needs exponential time for sets of sets.
    if type(value) not in _PLAIN:
        raise NotPlainError
    has_floats = type(value) is float
    members: Any = get_referents(value)
    for _ in range(MAX_DEPTH):
        kinds = set(map(type, members))
        if kinds <= SCALARS:  # nearly always the last level, and often the only one
            return has_floats
        if not kinds <= _PLAIN:
            members = _without_others(members, kinds)
        has_floats = has_floats or float in kinds
        members = get_referents(*members)
    raise NotPlainError


well_known: weakref.WeakSet[type[enum.Enum]] = weakref.WeakSet()
"""The Enums whose every member has one of ``SCALARS`` as its value and comes back from it. ``proof.py`` adds them."""


def _without_others(members: Any, kinds: set[type]) -> list[Any]:
    """The members of plain types. Raises ``NotPlainError`` unless orjson can be trusted with the others."""
    others = kinds - _PLAIN
    if not all(kind is uuid.UUID or _is_well_known(kind) for kind in others):
        raise NotPlainError
    for member in members:
        kind = type(member)
        if kind not in others:
            continue
        if kind is uuid.UUID:
            if not (type(member.int) is int and 0 <= member.int < 1 << 128):
                raise NotPlainError
        elif type(member.value) not in SCALARS:  # it has been changed since the proof
            raise NotPlainError
    return [member for member in members if type(member) not in others]


def _is_well_known(kind: type) -> bool:
    return type(kind) is enum.EnumMeta and kind in well_known


def sorted_json(data: bytes) -> bytes:
    return orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)

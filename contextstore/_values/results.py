"""The result of a step: the form in which it is recorded, if that comes back as what its function says it returns.

Rules of this module: pure functions. A result that would come back as something else is refused, by the name of its
place, and the message says what the author of the function can write.
"""

from __future__ import annotations

from collections.abc import Callable
from gc import get_referents
from typing import Any

import orjson

from ..errors import DeserializationError, SerializationError
from .codec import JSON, Encoded, decode
from .encode import Default, encode_json
from .plain import MAX_DEPTH, sorted_json
from .problems import is_numpy_scalar, refused_at, type_name
from .returns import Returns

_LEAVES = frozenset({type(None), bool, int, float, str})
_OWN = _LEAVES | {list, dict, tuple}

Encode = Callable[[Any], Encoded]


def recorded(value: Any, returns: Returns, encode: Encode, default: Default | None, name: str) -> tuple[Encoded, Any]:
    """The stored form of what the function of this name returned, and what comes back of it.

    Args:
        encode: gives the stored form of a value, proved.
        default: what it asks for objects that have no JSON form.

    Raises ``SerializationError``: what comes back would not be what the function says.
    """
    encoded = encode(value)
    kind = returns.kind
    if returns.is_own_form and type(value) is not bytes and not _is_own_form(value):
        raise _other_form(value, name)
    if type(value) is kind and kind in _LEAVES:
        return encoded, value
    try:
        made = decode(encoded, kind)
    except DeserializationError as error:
        raise SerializationError(error.path, f"{error.problem}: {_not_as_said(name, kind)}") from error
    if kind is None or _is_written_as(made, encoded, default, name, kind):
        return encoded, made
    return encode(made), made


def _is_written_as(made: Any, encoded: Encoded, default: Default | None, name: str, kind: Any) -> bool:
    """Whether what comes back is written as what it was made of. False: but for ints that became floats.

    Raises ``SerializationError`` if it is not.
    """
    if type(made) is bytes or encoded.codec != JSON:
        if made != encoded.data:
            raise SerializationError("$", _not_as_said(name, kind))
        return True
    try:
        again = encode_json(made, default)
    except SerializationError as error:
        raise SerializationError(error.path, f"{error.problem}; {_not_as_said(name, kind)}") from error
    if again == encoded.data:
        return True
    path = _difference(orjson.loads(encoded.data), orjson.loads(again))
    if path is not None:
        raise SerializationError(path, f"this would come back as something else; {_not_as_said(name, kind)}")
    return sorted_json(again) == sorted_json(encoded.data)


def _not_as_said(name: str, kind: Any) -> str:
    return (
        f"{name} has returned what does not come back by its return annotation, {type_name(kind)}; nothing was stored. "
        "Annotate it with what it returns, or with -> Any to get the JSON form"
    )


def _is_own_form(value: Any) -> bool:
    """Whether a value that has a JSON form equals it: tuples count as lists, numpy's scalars as their numbers."""
    # Level by level, as plain.py looks at a value.
    members: Any = [value]
    for _ in range(MAX_DEPTH + 2):
        kinds = set(map(type, members))
        if kinds <= _LEAVES:
            return True
        others = kinds - _OWN
        if others:
            if not all(map(is_numpy_scalar, others)):
                return False
            members = [member for member in members if type(member) not in others]
        members = get_referents(*members)
    return False


def _other_form(value: Any, name: str) -> SerializationError:
    steps: list[int | str] = []
    kind: type = type(value)
    waiting: list[tuple[Any, list[int | str]]] = [(value, [])]
    while waiting:
        one, at = waiting.pop()
        kind = type(one)
        if kind in (list, tuple):
            waiting += [(item, [*at, index]) for index, item in reversed(list(enumerate(one)))]
        elif kind is dict:
            odd = next((key for key in one if type(key) is not str), None)
            if odd is not None:
                kind, steps = type(odd), at
                break
            waiting += [(item, [*at, key]) for key, item in reversed(list(one.items()))]
        elif kind not in _LEAVES and not is_numpy_scalar(kind):
            steps = at
            break
    written = kind.__name__ if not steps else "..."
    return refused_at(
        steps,
        f"{name} does not say what it returns, and {type_name(kind)} would come back as its JSON form; nothing was "
        f"stored. Annotate the function with what it returns (def ... -> {written}), or with -> Any to get the JSON "
        "form",
    )


def _difference(one: Any, other: Any) -> str | None:
    """The place of the first difference; None: there is none but that one has ints where the other has floats."""
    waiting: list[tuple[Any, Any, list[int | str]]] = [(one, other, [])]
    while waiting:
        a, b, steps = waiting.pop()
        if type(a) is dict and type(b) is dict and a.keys() == b.keys():
            waiting += [(a[key], b[key], [*steps, key]) for key in reversed(list(a))]
        elif type(a) is list and type(b) is list and len(a) == len(b):
            waiting += [(a[i], b[i], [*steps, i]) for i in reversed(range(len(a)))]
        elif not (a == b and (type(a) is type(b) or (type(a) is int and type(b) is float))):
            return refused_at(steps, "").path
    return None

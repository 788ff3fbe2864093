"""The proof that an object comes back by its own class.

Rules of this module: what is written is read back in the very way in which a caller will read it, and compared; only of
builtin types it is taken for granted. What does not come back equal is refused by name of its place.
"""

from __future__ import annotations

import datetime
import enum
import threading
import typing
import weakref
from typing import Any

import orjson

from ..errors import DeserializationError, SerializationError
from .convert import convert
from .encode import Claim, encode_json
from .plain import SCALARS, well_known
from .problems import refused_at, type_name
from .reach import reach_of
from .shapes import ATTRS, DATACLASS, MODEL, NAMED_TUPLE, STRUCT, Shape, base_of, has_own_eq, shape_of

Steps = list[int | str]

# The names of the members of each Enum that come back.
_proved_members: weakref.WeakKeyDictionary[type, set[str]] = weakref.WeakKeyDictionary()
_UNSET = object()
_CONTENTS = (str, int, float, bytes, dict, list, tuple, set, frozenset)


class _Proving(threading.local):
    is_on = False


_proving = _Proving()


def prove(claims: list[Claim]) -> None:
    """Raise ``SerializationError`` unless each of these objects comes back by its class, equal to what it is now."""
    # The proof makes another object of the class. If that puts itself, or something else, no proof of that is begun:
    # there would be no end to it.
    if claims and not _proving.is_on:
        _proving.is_on = True
        try:
            for claim in claims:
                _prove(claim)
        finally:
            _proving.is_on = False


def _prove(claim: Claim) -> None:
    value, kind = claim.value, type(claim.value)
    if issubclass(kind, enum.Enum):
        _prove_member(claim)
        return
    shape = shape_of(kind)
    meant = _with_arguments(value) if shape is None or shape.is_generic else kind
    try:
        back = convert(claim.plain, meant)
    except DeserializationError as error:
        raise _refused(claim, [], f"could not be read back by its class: {error.problem}", error.path) from error
    except TypeError as error:
        raise _refused(claim, [], f"could not be read back by its class: {error}") from error
    if reach_of(meant).is_compared and _are_equal(value, back):
        return
    difference = _difference(value, back)
    if difference is not None:
        raise _refused(claim, *difference)


def _refused(claim: Claim, steps: Steps, problem: str, path: str = "$") -> SerializationError:
    kind = type(claim.value)
    problem = f"{type_name(kind)} {problem}; {_remedy(kind, claim.value)}"
    error = refused_at([*claim.steps, *steps], problem)
    return SerializationError(error.path + path[1:], problem)


_AS_JSON = {
    DATACLASS: "put dataclasses.asdict() of it",
    ATTRS: "put attrs.asdict() of it",
    STRUCT: "put msgspec.to_builtins() of it",
    MODEL: "put its model_dump(mode='json')",
    NAMED_TUPLE: "put tuple() of it",
}


def _remedy(kind: Any, value: Any) -> str:
    if issubclass(kind, enum.Enum):
        return "put its value"
    shape = shape_of(kind)
    if shape is None:
        return f"convert it to {kind.__mro__[1].__name__}, or put str() of it"
    instead = _AS_JSON[shape.family]
    if getattr(kind, "__parameters__", ()) and _with_arguments(value) is kind:
        return f"make it with its type arguments ({kind.__name__}[...](...)), or {instead}"
    return f"declare its fields as what they hold, or {instead}"


def _with_arguments(value: Any) -> Any:
    """The class of an object, with the arguments with which it was made, where that is known."""
    kind = type(value)
    meant = getattr(value, "__dict__", {}).get("__orig_class__") if getattr(kind, "__parameters__", ()) else None
    return meant if typing.get_origin(meant) is kind else kind


def _prove_member(claim: Claim) -> None:
    member: enum.Enum = claim.value
    kind = type(member)
    proved = _proved_members.get(kind)
    if proved is None:
        members = kind.__members__.values()
        proved = _proved_members[kind] = {other.name for other in members if _comes_back(other)}
        if all(other.name in proved and type(other.value) in SCALARS for other in members):
            well_known.add(kind)
    # One that is no member by name is of a Flag, or was changed since.
    if member.name not in proved and not _comes_back(member):
        raise _refused(claim, [], "has another member that is the same in JSON, and that one would come back")


def _comes_back(member: enum.Enum) -> bool:
    try:
        back = convert(orjson.loads(encode_json(member)), type(member))
    except (SerializationError, DeserializationError, TypeError):
        return False
    return back is member or (isinstance(member, enum.Flag) and bool(back == member))


# --------------------------------------------------------------------------------------------------------- differences


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an __eq__ of the caller's own; or too deep for it, and then fields are compared
        return False


def _difference(value: Any, back: Any) -> tuple[Steps, str] | None:
    """Where the two differ, and how; None if they do not. By fields, since a class may compare less, or identity."""
    waiting: list[tuple[Any, Any, Steps]] = [(value, back, [])]
    while waiting:
        one, other, steps = waiting.pop()
        if one is other:
            continue
        kind = type(one)
        shape = shape_of(kind)
        if shape is not None and shape.family != NAMED_TUPLE:
            if type(other) is not kind:
                return steps, _as_another(one, other)
            problem = _own_difference(one, other, shape)
            if problem is not None:
                return steps, problem
            waiting += ((*pair, [*steps, *step]) for *pair, step in reversed(_field_pairs(one, other, shape)))
        elif issubclass(kind, list | tuple):
            if not isinstance(other, tuple if issubclass(kind, tuple) else list) or len(one) != len(other):
                return steps, _as_another(one, other)
            waiting += [(a, b, [*steps, index]) for index, (a, b) in enumerate(zip(one, other, strict=True))][::-1]
        elif issubclass(kind, dict):
            if not isinstance(other, dict) or one.keys() != other.keys():
                return steps, _as_another(one, other)
            waiting += [(dict.get(one, key), dict.get(other, key), [*steps, key]) for key in one][::-1]
        elif not _is_same_leaf(one, other):
            return steps, _as_another(one, other)
    return None


def _as_another(one: Any, other: Any) -> str:
    if type(one) is type(other):
        return f"would come back with another {type_name(type(one))} here"
    return f"holds {_named(one)} here, which would come back as {_named(other)}"


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type_name(type(value))}"


def _is_same_leaf(one: Any, other: Any) -> bool:
    if issubclass(type(one), datetime.datetime) and isinstance(other, datetime.datetime) and one.tzinfo is not None:
        # By offset, not by zone: a time in an hour that comes twice is equal to none of another zone.
        naive = _are_equal(one.replace(tzinfo=None), other.replace(tzinfo=None))
        return naive and one.utcoffset() == other.utcoffset()
    return _are_equal(one, other)


def _field_pairs(one: Any, other: Any, shape: Shape) -> list[tuple[Any, Any, Steps]]:
    is_root = shape.family == MODEL and hasattr(shape.owner, "root")
    return [
        (getattr(one, name, _UNSET), getattr(other, name, _UNSET), [] if is_root else [step])
        for step, name in shape.members
    ]


def _own_difference(one: Any, other: Any, shape: Shape) -> str | None:
    """What the class itself says is different, and what pydantic keeps beside the fields."""
    base = base_of(shape.owner)
    if not shape.has_plain_base and issubclass(base, _CONTENTS) and base.__eq__(one, other) is not True:
        return f"would come back as another {base.__name__} than it is beside its fields"
    if shape.family == MODEL:
        if not _are_equal(one.model_extra, other.model_extra):
            return "would come back with other extra fields"
        if not _are_equal(one.__pydantic_private__, other.__pydantic_private__):
            return "would come back with other private attributes, which its JSON leaves out"
    if has_own_eq(shape.owner) and not _are_equal(one, other):
        return "would come back as one that its __eq__ says is another"
    return None

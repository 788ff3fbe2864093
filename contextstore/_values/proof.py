"""The proof that an object comes back by its own class.

Rules of this module: each object of a class is read back from its JSON in the very way in which a caller will read it,
and is compared. For builtin types that is taken for granted. An object that does not come back equal is refused, by the
name of its place.
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
Pair = tuple[Any, Any, Steps]
"""A part of an object, the same part of the object that came back, and the steps from the object to the part."""

_proved_members: weakref.WeakKeyDictionary[type, set[str]] = weakref.WeakKeyDictionary()
"""By Enum, the names of the members that come back."""
_UNSET = object()
_CONTENTS = (str, int, float, bytes, dict, list, tuple, set, frozenset)


class _Proving(threading.local):
    is_on = False


_proving = _Proving()


def prove(claims: list[Claim]) -> None:
    """Raise ``SerializationError`` unless each of these objects comes back by its class, equal to what it is now."""
    # The proof makes another object of the class. If that object, while it is made, puts itself or another value, no
    # proof is begun for the value: there would be no end to it.
    if not _proving.is_on:
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
    """The class of an object; where they are known, with the type arguments with which the object was made."""
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
    # A member without a name among these is of a Flag, or was changed since.
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
    except Exception:  # noqa: BLE001 - an __eq__ of the caller's, or a value too deep for it: fields are compared next
        return False


def _difference(value: Any, back: Any) -> tuple[Steps, str] | None:
    """Where the two differ, and how; None if they do not.

    By fields, since the ``__eq__`` of a class may compare fewer of them, or the identity alone.
    """
    waiting: list[Pair] = [(value, back, [])]
    while waiting:
        one, other, steps = waiting.pop()
        if one is other:
            continue
        found = _compared(one, other)
        if isinstance(found, str):
            return steps, found
        waiting += [(part, part_back, [*steps, *step]) for part, part_back, step in reversed(found)]
    return None


def _compared(one: Any, other: Any) -> str | list[Pair]:
    """How the two differ as a whole; if they do not, the pairs of their parts, which are still to be compared."""
    kind = type(one)
    shape = shape_of(kind)
    if shape is not None and shape.family != NAMED_TUPLE:
        if type(other) is not kind:
            return _as_another(one, other)
        return _own_difference(one, other, shape) or _field_pairs(one, other, shape)
    pairs: list[Pair] | None
    if issubclass(kind, list | tuple):
        pairs = _item_pairs(one, other)
    elif issubclass(kind, dict):
        pairs = _member_pairs(one, other)
    else:
        pairs = [] if _is_same_leaf(one, other) else None
    return _as_another(one, other) if pairs is None else pairs


def _field_pairs(one: Any, other: Any, shape: Shape) -> list[Pair]:
    is_root = shape.family == MODEL and hasattr(shape.owner, "root")
    return [
        (getattr(one, name, _UNSET), getattr(other, name, _UNSET), [] if is_root else [step])
        for step, name in shape.members
    ]


def _item_pairs(one: list[Any] | tuple[Any, ...], other: Any) -> list[Pair] | None:
    if not isinstance(other, tuple if isinstance(one, tuple) else list) or len(one) != len(other):
        return None
    return [(part, part_back, [index]) for index, (part, part_back) in enumerate(zip(one, other, strict=True))]


def _member_pairs(one: dict[Any, Any], other: Any) -> list[Pair] | None:
    if not isinstance(other, dict) or one.keys() != other.keys():
        return None
    return [(dict.get(one, key), dict.get(other, key), [key]) for key in one]


def _as_another(one: Any, other: Any) -> str:
    if type(one) is type(other):
        return f"would come back with another {type_name(type(one))} here"
    return f"holds {_named(one)} here, which would come back as {_named(other)}"


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type_name(type(value))}"


def _is_same_leaf(one: Any, other: Any) -> bool:
    if issubclass(type(one), datetime.datetime) and isinstance(other, datetime.datetime) and one.tzinfo is not None:
        # By offset, not by zone: a time in an hour that a zone has twice is equal to no time of another zone.
        naive = _are_equal(one.replace(tzinfo=None), other.replace(tzinfo=None))
        return naive and one.utcoffset() == other.utcoffset()
    return _are_equal(one, other)


def _own_difference(one: Any, other: Any, shape: Shape) -> str | None:
    """How the two differ beside their fields: as the builtins that they are, in pydantic's extras, by ``__eq__``."""
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

"""Whether objects of two types can write the same JSON, and be taken for one another when they are read.

Rules of this module: pure functions on types. Where it cannot be known what a type writes, it is taken to write what
it might.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from .convert import convert, meant_by
from .shapes import MODEL, STRUCT, Shape, shape_of_type

_ANY = "any"
_TEXTS = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal)
"""Classes of which each has texts of its own."""
_NONE = object()


class _Form(NamedTuple):
    """What objects of a type are in JSON."""

    json: str
    maker: Any
    """The class of the objects that come back."""
    kind: Any
    only: Any = _NONE
    """The one value that it can be."""


_Pairs = frozenset[tuple[int, int]]
_JSON_OF = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str", bytes: "bytes"}


def can_be_mistaken(one: Any, other: Any) -> bool:
    """Whether an object of one type can write what an object of the other type, which is no equal of it, writes."""
    return _kinds_clash(one, other, frozenset())


def _kinds_clash(one: Any, other: Any, seen: _Pairs) -> bool:
    pair = id(one), id(other)
    if one == other or pair in seen:
        return False
    return any(_clash(a, b, seen | {pair}) for a in _forms(one) for b in _forms(other))


def _clash(one: _Form, other: _Form, seen: _Pairs) -> bool:
    if not _overlap(one, other, frozenset()):
        return False
    if one.maker is not other.maker:
        makers = {one.maker, other.maker}
        return _ANY not in makers or not makers <= {_ANY, *_JSON_OF, list, dict}
    if one.json == "array":
        return any(_kinds_clash(a, b, seen) for a, b in _aligned(one, other))
    if one.json == "object":
        mine, others = _members(one), _members(other)
        return any(_kinds_clash(mine.kind_of(key), others.kind_of(key), seen) for key in mine.keys_with(others))
    return False


def _kinds_overlap(one: Any, other: Any, seen: _Pairs) -> bool:
    pair = id(one), id(other)
    if one == other or pair in seen:
        return True
    return any(_overlap(a, b, seen | {pair}) for a in _forms(one) for b in _forms(other))


def _overlap(one: _Form, other: _Form, seen: _Pairs) -> bool:
    """Whether there is a JSON that both write."""
    if _ANY in (one.json, other.json):
        return "bytes" not in (one.json, other.json)
    if one.json != other.json:
        return False
    if one.only is not _NONE and other.only is not _NONE:
        return bool(one.only == other.only)
    if one.json == "str":
        return _texts_overlap(one, other)
    if one.json == "array":
        if isinstance(_items(one), tuple) != isinstance(_items(other), tuple) or _are_of_one_length(one, other):
            return all(_kinds_overlap(a, b, seen) for a, b in _aligned(one, other))
        return not isinstance(_items(one), tuple)  # both may be empty
    if one.json == "object":
        mine, others = _members(one), _members(other)
        if not (mine.takes(others.required) and others.takes(mine.required)):
            return False
        needed = mine.required | others.required
        return all(_kinds_overlap(mine.kind_of(key), others.kind_of(key), seen) for key in needed)
    return True


def _texts_overlap(one: _Form, other: _Form) -> bool:
    one, other = (other, one) if one.maker in _TEXTS else (one, other)
    if other.maker not in _TEXTS:
        return True
    if one.only is _NONE:
        return one.maker is other.maker or one.maker not in _TEXTS
    try:
        convert(one.only, other.maker)
    except Exception:  # noqa: BLE001 - whatever it is, the text is none of that class
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------- forms


def _forms(kind: Any) -> Iterator[_Form]:
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    meant = None if kind is None else meant_by(kind, origin, args)
    if meant is not None:
        yield from _forms(meant)
    elif origin in (typing.Union, types.UnionType):
        for member in args:
            yield from _forms(member)
    elif origin is typing.Literal:
        for value in args:
            yield from _forms_of_value(value, type(value))
    elif isinstance(origin, type) and issubclass(origin, enum.Enum):
        for member in origin:
            yield from _forms_of_value(member.value, origin)
    else:
        yield _form(kind, origin)


def _forms_of_value(value: Any, maker: Any) -> Iterator[_Form]:
    while isinstance(value, enum.Enum):
        value = value.value
    json = _JSON_OF.get(type(value), _ANY)
    yield _Form(json, maker, maker, value if json in ("str", "int", "float", "bool") else _NONE)


def _form(kind: Any, origin: Any) -> _Form:
    if kind is None:
        return _Form("null", type(None), type(None))
    if not isinstance(origin, type) or origin is object:
        return _Form(_ANY, _ANY, kind)
    shape = shape_of_type(kind)
    if shape is not None:
        is_typed_dict = hasattr(origin, "__required_keys__")
        return _Form("array" if shape.is_array else "object", dict if is_typed_dict else origin, kind)
    for base, json in _JSON_OF.items():
        if issubclass(origin, base):
            return _Form(json, origin, kind)
    if issubclass(origin, collections.abc.Mapping):
        return _Form("object", _concrete(origin, dict), kind)
    if issubclass(origin, collections.abc.Set):
        return _Form("array", _concrete(origin, set), kind)
    if issubclass(origin, collections.abc.Collection):
        return _Form("array", _concrete(origin, list), kind)
    is_text = issubclass(origin, _TEXTS) or hasattr(origin, "__fspath__")
    return _Form("str" if is_text else _ANY, origin, kind)


def _concrete(origin: type, plain: type) -> type:
    """What comes back where a class without objects of its own is asked for."""
    return plain if origin.__module__ == "collections.abc" else origin


def _items(form: _Form) -> Any:
    """The types of an array's items: a tuple of them, or the one of any number of items."""
    shape = shape_of_type(form.kind)
    if shape is not None:
        tag = () if shape.tag is None else (typing.Literal[shape.tag[1]],)
        return tag + tuple(_types(shape).values())
    args = typing.get_args(form.kind)
    if form.maker is tuple and args and args[-1] is not ...:
        return args
    return args[0] if args else Any


def _are_of_one_length(one: _Form, other: _Form) -> bool:
    mine, others = _items(one), _items(other)
    return isinstance(mine, tuple) and isinstance(others, tuple) and len(mine) == len(others)


def _aligned(one: _Form, other: _Form) -> list[tuple[Any, Any]]:
    """The types of the items that stand at the same place."""
    mine, others = _items(one), _items(other)
    if isinstance(mine, tuple):
        return list(zip(mine, others if isinstance(others, tuple) else (others,) * len(mine), strict=False))
    return [(mine, item) for item in others] if isinstance(others, tuple) else [(mine, others)]


class _Members(NamedTuple):
    """The members of an object in JSON."""

    kinds: dict[str, Any]
    required: frozenset[str]
    others: Any = _NONE
    """The type of any further member."""

    def takes(self, keys: frozenset[str]) -> bool:
        return self.others is not _NONE or self.kinds.keys() >= keys

    def kind_of(self, key: str) -> Any:
        return self.kinds.get(key, Any if self.others is _NONE else self.others)

    def keys_with(self, other: _Members) -> set[str]:
        """The keys that both may have; those of any name stand under the empty one."""
        if self.others is not _NONE and other.others is not _NONE:
            return {"", *self.kinds, *other.kinds}
        return {key for key in {*self.kinds, *other.kinds} if self.takes(frozenset([key])) and key in other.kinds}


def _members(form: _Form) -> _Members:
    shape = shape_of_type(form.kind)
    if shape is None:
        args = typing.get_args(form.kind)
        return _Members({}, frozenset(), args[1] if len(args) == 2 else Any)
    types_of = _types(shape)
    kinds = {str(step): types_of.get(attribute, Any) for step, attribute in shape.members}
    if shape.tag is not None:
        kinds[str(shape.tag[0])] = typing.Literal[shape.tag[1]]
    required = frozenset(kinds)
    owner = shape.owner
    if shape.family == MODEL:
        kinds |= dict.fromkeys(getattr(owner, "model_computed_fields", {}), Any)
        is_open = owner.model_config.get("extra") == "allow"
        return _Members(kinds, frozenset(kinds), Any if is_open else _NONE)
    if shape.family == STRUCT and owner.__struct_config__.omit_defaults:
        required = frozenset([str(shape.tag[0])] if shape.tag is not None else [])
    if hasattr(owner, "__required_keys__"):
        required = frozenset(owner.__required_keys__)
    return _Members(kinds, required)


def _types(shape: Shape) -> dict[str, Any]:
    try:
        return shape.types()
    except TypeError:  # an annotation that cannot be resolved
        return {}

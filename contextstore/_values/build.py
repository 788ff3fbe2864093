"""Objects with fields, made from the values that were stored for them.

Rules of this module: a stored value wins over what the class makes of it while the object is built. The checks of the
class are heard: an error that they raise is raised to the caller. Values come in converted; no JSON is read here.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
import typing
from typing import Any

import msgspec

from .shapes import ATTRS, NAMED_TUPLE, STRUCT, TYPED_DICT, Shape, base_of


def built(shape: Shape, parts: dict[str, Any]) -> Any:
    """An object of the class, with these values for these attributes, and the defaults for the others."""
    if shape.family == TYPED_DICT:
        return _typed_dict(shape, parts)
    if shape.family == NAMED_TUPLE:
        given = {**getattr(shape.owner, "_field_defaults", {}), **parts}
        _check_missing(shape, set(shape.names) - given.keys())
        # By the __new__ of tuple: one of the class itself may make another tuple of these values.
        return tuple.__new__(shape.owner, [given[name] for name in shape.names])
    if shape.family == STRUCT:
        return _struct(shape, parts)
    return _object(shape, parts)


def _check_missing(shape: Shape, names: set[str]) -> None:
    for attribute in shape.names:
        if attribute in names:
            raise ValueError(f"Object missing required field `{shape.names[attribute]}`")


def _typed_dict(shape: Shape, parts: dict[str, Any]) -> dict[str, Any]:
    # __required_keys__ does not know of a NotRequired in annotations that are strings.
    required = {
        name
        for name in shape.owner.__required_keys__ - parts.keys()
        if typing.get_origin(shape.types()[name]) is not typing.NotRequired
    }
    _check_missing(shape, required)
    return parts


def _struct(shape: Shape, parts: dict[str, Any]) -> Any:
    if not shape.has_hook:
        return shape.owner(**parts)
    made = shape.owner(**{name: _copied(part) for name, part in parts.items()})
    for name, part in parts.items():
        msgspec.structs.force_setattr(made, name, part)
    return made


def _object(shape: Shape, parts: dict[str, Any]) -> Any:
    """An object of a dataclass, or of an attrs class.

    Made without ``__init__``, which may name the fields otherwise, leave some of them out, and convert a second time
    what was converted when the object was first made. msgspec makes such objects in the same way.
    """
    kind = shape.owner
    made = shape.base.__new__(kind)  # a __new__ of the class itself may ask for arguments, as __init__ does
    has_hook = shape.has_hook or shape.family == ATTRS
    if shape.family == ATTRS:
        _before_attrs(made)
    for name, part in parts.items():
        object.__setattr__(made, name, _copied(part) if has_hook else part)
    _set_defaults(shape, made, parts)
    if shape.family == ATTRS:
        _check_attrs(shape, made)
    elif shape.has_hook and (init_only := _init_only(shape)) is not None:
        made.__post_init__(*init_only)
    if has_hook:
        for name, part in parts.items():
            object.__setattr__(made, name, part)
    return made


def _copied(part: Any) -> Any:
    """A part for the methods of the class, which may change it: the stored one is set again after them."""
    return part.copy() if type(part) in (list, dict, set) else part


def _set_defaults(shape: Shape, made: Any, parts: dict[str, Any]) -> None:
    if len(parts) == len(shape.fields):
        return
    missing = set()
    for field in shape.fields:
        if field.name in parts:
            continue
        has_default, default = _default_of(field, made)
        if has_default:
            object.__setattr__(made, field.name, default)
        elif field.init:
            missing.add(field.name)
    _check_missing(shape, missing)


def _default_of(field: Any, made: Any) -> tuple[bool, Any]:
    if isinstance(field, dataclasses.Field):
        if field.default_factory is not dataclasses.MISSING:
            return True, field.default_factory()
        return field.default is not dataclasses.MISSING, field.default
    import attrs  # optional; a caller with such a class has it

    factory: Any = field.default
    if hasattr(factory, "takes_self"):
        return True, factory.factory(made) if factory.takes_self else factory.factory()
    return field.default is not attrs.NOTHING, field.default


def _before_attrs(made: Any) -> None:
    """Call the method that attrs calls first: mostly it calls the ``__init__`` of a base that is no attrs class.

    Not one with parameters: it takes the arguments of ``__init__`` as they were given, and those were not stored.
    """
    first = getattr(made, "__attrs_pre_init__", None)
    if first is not None and not inspect.signature(first).parameters:
        first()


def _check_attrs(shape: Shape, made: Any) -> None:
    for field in shape.fields:
        if field.validator is not None and hasattr(made, field.name):
            field.validator(made, field, getattr(made, field.name))
    if hasattr(shape.owner, "__attrs_post_init__"):
        made.__attrs_post_init__()


def _init_only(shape: Shape) -> list[Any] | None:
    """The arguments of ``__post_init__``: the defaults of the ``InitVar`` fields, which are not stored.

    None if one has no default. Then the method is not called: the stored fields have what it made of them once.
    """
    every = shape.owner.__dataclass_fields__
    if len(every) == len(shape.fields):
        return []
    hints = typing.get_type_hints(shape.owner)  # an annotation may be a str
    others = [name for name in every if name not in shape.names]
    fields = [every[name] for name in others if isinstance(hints[name], dataclasses.InitVar)]
    defaults = [field.default for field in fields]
    return None if dataclasses.MISSING in defaults else defaults


def of_base(kind: Any, value: Any) -> Any:
    """``value``, a str, int or container, as an object of a class that inherits from its type."""
    if issubclass(kind, collections.defaultdict):
        return kind(None, value)
    base = collections.OrderedDict if issubclass(kind, collections.OrderedDict) else base_of(kind)
    if base not in (str, int, list, dict, collections.OrderedDict):
        return kind(value)
    try:
        made = kind(value)
    except Exception:  # noqa: BLE001 - the __init__ of the class may ask for more, and may raise anything
        made = None
    if type(made) is kind and base.__eq__(made, value) is True:
        return made
    # The class made something else of it. The stored value wins here as well.
    if base in (str, int):
        return base.__new__(kind, value)
    made = base.__new__(kind)
    if base is list:
        list.extend(made, value)
    else:
        for key, member in value.items():
            base.__setitem__(made, key, member)
    return made

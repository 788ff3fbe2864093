"""The fields of a class, for writing and for reading: where each stands in the JSON, its type, how objects are made.

Rules of this module: a shape is found once for a class and kept at the class itself, so that it lives as long as the
class does. It holds no values but the defaults of fields. The six families of classes are told apart here alone.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import inspect
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

_MARK = "__contextstore_shape__"
"""The attribute of the class that holds its shape. msgspec keeps what it knows of a dataclass in the same way.

Not in a dict with weak keys: the types in the shape of a recursive class name the class itself, and such a dict would
keep it for ever.
"""

DATACLASS = "dataclass"
ATTRS = "attrs class"
STRUCT = "Struct"
NAMED_TUPLE = "NamedTuple"
TYPED_DICT = "TypedDict"
MODEL = "pydantic model"

Member = tuple[int | str, str]
"""The key or the index in the JSON, and the attribute."""


class Reader:
    """A field as it is read: its step in the JSON, its attribute, its type, and whether msgspec reads the type well."""

    __slots__ = ("attribute", "is_direct", "kind", "step")

    def __init__(self, step: int | str, attribute: str, kind: Any) -> None:
        self.step = step
        self.attribute = attribute
        self.kind = kind
        self.is_direct: bool | None = None  # not known yet


class Shape:
    """A class with fields."""

    def __init__(self, owner: Any, family: str, members: list[Member], *, is_array: bool = False) -> None:
        self.owner = owner
        self.args: tuple[Any, ...] = ()
        """The arguments for its type parameters."""
        self.family = family
        self.members = members
        self.is_array = is_array
        self.names = {attribute: attribute if is_array else str(step) for step, attribute in members}
        self.keys = {step for step, _ in members}
        """The steps in its JSON, that of the tag included."""
        self.tag: tuple[int | str, int | str] | None = None
        """Of a tagged Struct: where the tag stands in the JSON, and the tag."""
        self.has_hook = False
        """Whether the class has code that runs when an object is made, and may change its fields."""
        self.is_pydantic = _has_pydantic_methods(owner)
        self.is_generic = bool(getattr(owner, "__parameters__", ()))
        self.base = base_of(owner)
        """The class whose ``__new__`` prepares an object."""
        # msgspec makes an object without having its base in C prepare it. A look at such an object ends the process.
        self.has_plain_base = family not in (DATACLASS, ATTRS) or self.base is object
        self._types: dict[str, Any] | None = None
        self._readers: list[Reader] | None = None
        self.fields: tuple[Any, ...] = ()
        """The fields as a dataclass or an attrs class describes them."""
        if family == DATACLASS:
            self.fields = dataclasses.fields(owner)
        elif family == ATTRS:
            self.fields = tuple(owner.__attrs_attrs__)
        self.reach: Any = None
        """Found by ``reach.py``."""
        self.has_computed: bool | None = None
        """Whether this is, or leads to, a model with computed fields. Found by ``pydantic_.py``."""

    def types(self) -> dict[str, Any]:
        """The type of each attribute. Raises ``TypeError`` where an annotation cannot be resolved."""
        if self.family == MODEL:  # not kept: pydantic completes a model once all classes that it names are defined
            return {name: field.annotation for name, field in self.owner.model_fields.items()}
        if self._types is None:
            self._types = self._resolved()
        return self._types

    def readers(self) -> list[Reader]:
        """The fields with their types, in order. Raises ``TypeError`` as ``types`` does."""
        if self._readers is None:
            kinds = self.types()
            self._readers = [Reader(step, attribute, kinds[attribute]) for step, attribute in self.members]
        return self._readers

    def with_args(self, args: tuple[Any, ...]) -> Shape:
        """The shape of ``owner[args]``."""
        other = copy.copy(self)
        other.args = args
        other._types = other._readers = other.reach = other.has_computed = None
        return other

    def _resolved(self) -> dict[str, Any]:
        try:
            hints = typing.get_type_hints(self.owner, include_extras=True)
        except Exception as error:  # an annotation is evaluated, and may raise anything
            raise TypeError(f"its annotations cannot be resolved at run time ({error})") from error
        if self.family == ATTRS:
            untyped = {field.name: field.type for field in self.fields}
            hints = {name: kind for name, kind in untyped.items() if kind is not None} | hints
        given = arguments_of_bases(self.owner, self.args)
        return {
            attribute: with_arguments(hints.get(attribute, Any), given.get(_definer(self.owner, attribute), {}))
            for _, attribute in self.members
        }

    @property
    def has_generated_eq(self) -> bool:
        """Whether ``__eq__`` was made by the decorator or the base class, and compares all fields."""
        if self.family == DATACLASS:
            is_whole = all(field.compare for field in self.fields)
        elif self.family == ATTRS:
            is_whole = all(field.eq and field.eq_key is None for field in self.fields)
        else:
            is_whole = self.family in (NAMED_TUPLE, TYPED_DICT, MODEL) or (
                self.family == STRUCT and bool(self.owner.__struct_config__.eq)
            )
        is_whole = is_whole and self.has_plain_base
        return is_whole and self.owner.__eq__ is not object.__eq__ and not has_own_eq(self.owner)


def has_own_eq(kind: Any) -> bool:
    """Whether the ``__eq__`` of this class was written by hand."""
    code = getattr(kind.__eq__, "__code__", None)
    if code is None or code.co_filename.startswith("<"):  # in C, or generated by a decorator
        return False
    return not str(getattr(kind.__eq__, "__module__", "")).startswith("pydantic.")


def is_pydantic(kind: Any) -> bool:
    """Whether pydantic knows how to make an object of this class."""
    if not isinstance(kind, type):
        return False
    shape: Shape | None = kind.__dict__.get(_MARK)
    if shape is not None and shape.owner is kind:  # hasattr is slow where a class has no such attribute
        return shape.is_pydantic
    return _has_pydantic_methods(kind)


def _has_pydantic_methods(kind: Any) -> bool:
    return hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__get_pydantic_core_schema__")


WITHOUT_FIELDS = {
    *(object, type(None), bool, int, float, str, bytes, list, dict, tuple, set),
    *(datetime.datetime, datetime.date, datetime.time, uuid.UUID),
}


def shape_of(kind: Any) -> Shape | None:
    """The shape of a class; None if it has no fields."""
    if kind in WITHOUT_FIELDS:
        return None
    shape: Shape | None = kind.__dict__.get(_MARK)
    # It is of another class where a decorator has copied that class with all its attributes.
    if shape is None or shape.owner is not kind:
        shape = _made(kind)
        if shape is not None:
            try:
                type.__setattr__(kind, _MARK, shape)
            except TypeError:  # a class of an extension, which takes no attributes
                pass
    return shape


def shape_of_type(kind: Any) -> Shape | None:
    """The shape of a class, or of a class with arguments such as ``Page[Item]``."""
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        return shape_of(kind)
    origin = typing.get_origin(kind)
    if not isinstance(origin, type):
        return None
    shape: Shape | None = getattr(kind, "__dict__", {}).get(_MARK)
    if shape is None:
        general = shape_of(origin)
        if general is None:
            return None
        shape = general.with_args(typing.get_args(kind))
        try:
            setattr(kind, _MARK, shape)
        except (AttributeError, TypeError):  # a list[int] takes no attributes
            pass
    return shape


def _family_of(kind: Any) -> str | None:
    if dataclasses.is_dataclass(kind):
        return DATACLASS
    if hasattr(kind, "__pydantic_serializer__") and hasattr(kind, "model_fields"):
        return MODEL
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return NAMED_TUPLE
    if hasattr(kind, "__required_keys__"):
        return TYPED_DICT
    if issubclass(kind, msgspec.Struct):
        return STRUCT
    return ATTRS if hasattr(kind, "__attrs_attrs__") else None


def _made(kind: Any) -> Shape | None:
    family = _family_of(kind)
    return None if family is None else _MAKERS[family](kind)


def _dataclass_shape(kind: Any) -> Shape:
    shape = Shape(kind, DATACLASS, [(field.name, field.name) for field in dataclasses.fields(kind)])
    shape.has_hook = hasattr(kind, "__post_init__")
    return shape


def _model_shape(kind: Any) -> Shape:
    return Shape(kind, MODEL, [(name, name) for name in kind.model_fields])


def _named_tuple_shape(kind: Any) -> Shape:
    shape = Shape(kind, NAMED_TUPLE, list(enumerate(kind._fields)), is_array=True)
    shape.has_hook = not _is_generated_new(kind)
    return shape


def _typed_dict_shape(kind: Any) -> Shape:
    keys = sorted(kind.__required_keys__ | kind.__optional_keys__)
    return Shape(kind, TYPED_DICT, [(key, key) for key in keys])


def _struct_shape(kind: Any) -> Shape:
    config = kind.__struct_config__
    names = list(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    if config.array_like:
        first = 0 if config.tag is None else 1
        members: list[Member] = [(index, attribute) for index, (_, attribute) in enumerate(names, first)]
    else:
        members = [(str(name), attribute) for name, attribute in names]
    shape = Shape(kind, STRUCT, members, is_array=config.array_like)
    if config.tag is not None:
        shape.tag = (0 if config.array_like else str(config.tag_field), config.tag)
        shape.keys.add(shape.tag[0])
    shape.has_hook = hasattr(kind, "__post_init__")
    return shape


def _attrs_shape(kind: Any) -> Shape:
    shape = Shape(kind, ATTRS, [(field.name, field.name) for field in kind.__attrs_attrs__])
    has_methods = hasattr(kind, "__attrs_pre_init__") or hasattr(kind, "__attrs_post_init__")
    # takes_self: msgspec does not know how to call such a factory.
    shape.has_hook = has_methods or any(getattr(field.default, "takes_self", False) for field in kind.__attrs_attrs__)
    return shape


_MAKERS: dict[str, Callable[[Any], Shape]] = {
    DATACLASS: _dataclass_shape,
    MODEL: _model_shape,
    NAMED_TUPLE: _named_tuple_shape,
    TYPED_DICT: _typed_dict_shape,
    STRUCT: _struct_shape,
    ATTRS: _attrs_shape,
}


def _is_generated_new(kind: Any) -> bool:
    return str(getattr(getattr(kind.__new__, "__code__", None), "co_filename", "")).startswith("<")


def base_of(kind: Any) -> Any:
    """The class in C that decides how an object is laid out."""
    # The flag of a heap type does not tell: threading.local has it, too.
    return next(base for base in kind.__mro__ if isinstance(base.__dict__.get("__new__"), types.BuiltinFunctionType))


# ------------------------------------------------------------------------------------------------------ type parameters


def with_arguments(hint: Any, given: dict[Any, Any]) -> Any:
    """A type with the arguments in place of its parameters."""
    if not given:
        return hint
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, hint)
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or not any(parameter in given for parameter in parameters):
        return hint
    try:
        return hint[tuple(given.get(parameter, parameter) for parameter in parameters)]
    except TypeError:  # a ParamSpec, a TypeVarTuple: left open
        return hint


def arguments_of_bases(kind: Any, args: tuple[Any, ...]) -> dict[Any, dict[Any, Any]]:
    """The arguments for the type parameters of the class and of each of its bases."""
    found = {kind: _matched(kind, args)}
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        bases = (*one.__dict__.get("__orig_bases__", ()), *one.__bases__)
        for base in bases:
            origin = typing.get_origin(base) or base
            if isinstance(origin, type) and origin not in found and origin not in (object, typing.Generic):
                found[origin] = _matched(origin, tuple(with_arguments(a, found[one]) for a in typing.get_args(base)))
                waiting.append(origin)
    return found


def _matched(kind: Any, args: tuple[Any, ...]) -> dict[Any, Any]:
    parameters = getattr(kind, "__parameters__", ())
    return dict(zip(parameters, args, strict=True)) if len(parameters) == len(args) else {}


def _definer(kind: Any, attribute: str) -> Any:
    """The class that decides the annotation of the attribute: the first in the MRO that has one."""
    for base in kind.__mro__:
        if attribute in inspect.get_annotations(base):
            return base
    return kind


def meaning(kind: Any) -> Any:
    """The type that a NewType or a ``type`` statement names; None for any other type."""
    meant = getattr(kind, "__supertype__", None)
    if meant is None and not isinstance(kind, type):
        meant = getattr(kind, "__value__", None)
        args = typing.get_args(kind)
        if meant is not None and args:  # a `type` statement with parameters
            meant = with_arguments(meant, _matched(typing.get_origin(kind), args))
    return meant

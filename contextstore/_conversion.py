"""From JSON to the types that a caller asks for.

Rules of this room: as in _codec. A value that does not fit is a ``DeserializationError`` that names the place; a type
that nobody knows how to make is a ``TypeError``.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

import msgspec
import orjson

from ._encoding import encode_json, member_path, shown, sorted_json, type_name
from .errors import DeserializationError, SerializationError

# msgspec converts nearly everything. Where it does not know a type (unions of several dataclasses, or of several things
# that are strings in JSON; enums of floats), or does not name the place (it writes "[...]" for the key of a dict), the
# type is taken apart by one level, and its parts are handed to msgspec again.


def convert(value: Any, kind: Any) -> Any:
    """``value`` as one of the type ``kind``. Raises ``DeserializationError``, ``TypeError``."""
    try:
        return _Conversion().convert(value, kind, "$")
    except RecursionError as error:
        raise DeserializationError("$", f"nested too deeply to be made {type_name(kind)}") from error


class _MisfitError(DeserializationError, ValueError):
    """Raised by what msgspec calls: it wraps a ValueError into one of its own that knows the place."""


class _TakeApartError(Exception):
    """Raised by what msgspec calls for a type whose parts it has not looked at."""


_WHOLE = object()  # of a type that cannot be taken apart
_MSGSPEC_PLACE = re.compile(r"(.*) - at `(.*)`", re.DOTALL)
_EXACT_PLACE = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]+\])*")


def _by_msgspec(value: Any, kind: Any) -> Any:
    # bytes are native here: left to itself, msgspec makes them of any str that happens to be base64.
    native = (bytes, bytearray, memoryview)
    return msgspec.convert(value, kind, builtin_types=native, str_keys=True, dec_hook=_custom)


def _custom(kind: Any, value: Any) -> Any:
    """What msgspec does not know by itself. Called for fields of such a type."""
    if _is_pydantic(kind):
        return _validated(value, kind)
    if typing.get_origin(kind) is not None or not isinstance(kind, type):
        raise _TakeApartError("neither msgspec nor pydantic knows it")
    if isinstance(value, kind):
        return value
    if issubclass(kind, str | int | list | dict) and issubclass(kind, type(value)):
        return _of_base(kind, value)
    raise _MisfitError("$", f"{type_name(type(value))} cannot be converted to {type_name(kind)}")


class _Conversion:
    def __init__(self) -> None:
        self._layouts: dict[Any, list[tuple[int | str, str, Any]]] = {}
        # What unions have tried, by place and type. Without it nested unions of types that look alike would take
        # exponential time. The types are kept alive by those that contain them, and those by the layouts.
        self._tried: dict[tuple[str, int], Any] = {}

    def convert(self, value: Any, kind: Any, path: str) -> Any:
        failure: Exception
        try:
            # Not a pydantic dataclass: msgspec would take it for a dataclass, and not call its validators.
            return _validated(value, kind) if _is_pydantic(kind) else _by_msgspec(value, kind)
        except _MisfitError as error:
            raise _moved(error, path) from error.__cause__
        except msgspec.ValidationError as error:
            problem, place = _split(error)
            failure = DeserializationError(path + place[1:], problem)
            if isinstance(error.__cause__, _MisfitError):
                failure = _moved(error.__cause__, failure.path)
            if _EXACT_PLACE.fullmatch(place):
                raise failure from error
            failure.__cause__ = error
        except (TypeError, NameError, KeyError, _TakeApartError) as error:  # KeyError: an attrs class without types
            failure = TypeError(f"no way to convert to {type_name(kind)} is known: {error}")
            failure.__cause__ = error
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - from a class's own check, which may raise anything
            failure = DeserializationError(path, f"{type_name(kind)} does not take it: {error!r}")
            failure.__cause__ = error
        made = self._by_parts(value, kind, path)
        if made is _WHOLE or isinstance(failure, DeserializationError):
            raise failure
        return made

    def _by_parts(self, value: Any, kind: Any, path: str) -> Any:
        origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin in (typing.Required, typing.NotRequired, typing.Final):
            return self.convert(value, args[0], path)
        if origin is typing.Annotated and not any(isinstance(note, msgspec.Meta) for note in args[1:]):
            return self.convert(value, args[0], path)
        meant = getattr(kind, "__supertype__", None) or getattr(kind, "__value__", None)
        if meant is not None:  # a NewType, a `type` statement
            return self.convert(value, meant, path)
        if origin in (typing.Union, types.UnionType):
            return self._union(value, kind, path)
        if origin is typing.Literal:
            return _choice(value, args, kind, path)
        if not isinstance(origin, type):
            return _WHOLE
        if issubclass(origin, enum.Enum):
            return _choice(value, origin.__members__.values(), kind, path)
        if _has_fields(origin):
            return _WHOLE if args else self._object(value, kind, path)
        if args and issubclass(origin, collections.abc.Collection):
            return self._container(value, origin, args, path)
        return _WHOLE

    def _union(self, value: Any, kind: Any, path: str) -> Any:
        """The first member that is written as the value is; if there is none, the first that the value fits."""
        members = [member for member in typing.get_args(kind) if member is not types.NoneType or value is None]
        if len(members) == 1:
            return self.convert(value, members[0], path)
        stored = _written(value)
        fitting: list[Any] = []
        nearest = DeserializationError(path, f"{shown(value)} fits none of {type_name(kind)}")
        for member in members:
            tried = (path, id(member))
            if tried not in self._tried:
                try:
                    self._tried[tried] = self.convert(value, member, path)
                except DeserializationError as error:
                    self._tried[tried] = error
            made = self._tried[tried]
            if isinstance(made, DeserializationError):
                nearest = made if len(made.path) > len(nearest.path) else nearest
            elif _written(made) == stored:
                return made
            else:
                fitting.append(made)
        if fitting:
            return fitting[0]
        raise nearest

    def _container(self, value: Any, origin: Any, args: tuple[Any, ...], path: str) -> Any:
        if issubclass(origin, collections.abc.Mapping):
            _expect(value, dict, path)
            key_kind, item_kind = (args[0], int) if issubclass(origin, collections.Counter) else args
            made: Any = {
                _dict_key(key, key_kind, path): self.convert(item, item_kind, member_path(path, key))
                for key, item in value.items()
            }
            return made if inspect.isabstract(origin) else _of_base(origin, made)
        _expect(value, list, path)
        kinds = args
        if not issubclass(origin, tuple) or args[1:] == (...,):
            kinds = args[:1] * len(value)
        if len(kinds) != len(value):
            raise DeserializationError(path, f"Expected `array` of length {len(kinds)}, got {len(value)}")
        made = [self.convert(value[index], kind, member_path(path, index)) for index, kind in enumerate(kinds)]
        if inspect.isabstract(origin):
            return set(made) if issubclass(origin, collections.abc.Set) else made
        return _of_base(origin, made)

    def _object(self, value: Any, kind: Any, path: str) -> Any:
        layout = self._layouts.get(kind)
        if layout is None:
            layout = self._layouts[kind] = _layout(kind)
        is_array = bool(layout) and type(layout[0][0]) is int
        _expect(value, list if is_array else dict, path)
        members: dict[int | str, Any] = dict(enumerate(value)) if is_array else value
        if issubclass(kind, tuple) and len(members) > len(layout):
            raise DeserializationError(path, f"Expected `array` of length {len(layout)} at most, got {len(members)}")
        parts = {
            attribute: self.convert(members[step], part, member_path(path, step))
            for step, attribute, part in layout
            if step in members
        }
        try:
            return _built(kind, parts)
        except RecursionError:
            raise
        except Exception as error:  # from the class's own __init__, which may raise anything
            raise DeserializationError(path, f"no {type_name(kind)} can be made of it: {error!r}") from error


def _of_base(kind: Any, value: Any) -> Any:
    """``value`` as one of a subclass of its type."""
    return kind(None, value) if issubclass(kind, collections.defaultdict) else kind(value)


def _has_fields(kind: type) -> bool:
    return (
        dataclasses.is_dataclass(kind)
        or issubclass(kind, msgspec.Struct)
        or any(hasattr(kind, mark) for mark in ("__required_keys__", "_fields", "__attrs_attrs__"))
    )


_TAG = ""  # stands for the attribute that a Struct's tag is not


def _layout(kind: Any) -> list[tuple[int | str, str, Any]]:
    """Where each field is in the JSON of an object of this class, its attribute, its type."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(f"no way to convert to {type_name(kind)} is known: {error}") from error
    if issubclass(kind, msgspec.Struct):
        config = kind.__struct_config__
        names = list(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
        if config.tag is not None:
            names.insert(0, (str(config.tag_field), _TAG))
            hints[_TAG] = typing.Literal[config.tag]
        is_array = config.array_like
    else:
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else getattr(kind, "__attrs_attrs__", None)
        own = [field.name for field in fields] if fields is not None else getattr(kind, "_fields", hints)
        names = [(name, name) for name in own]
        is_array = issubclass(kind, tuple)
    return [
        (index if is_array else name, attribute, hints.get(attribute, Any))
        for index, (name, attribute) in enumerate(names)
    ]


def _built(kind: Any, parts: dict[str, Any]) -> Any:
    parts.pop(_TAG, None)
    if hasattr(kind, "__required_keys__"):
        hints = typing.get_type_hints(kind, include_extras=True)
        for name in kind.__required_keys__ - parts.keys():
            # __required_keys__ does not know of a NotRequired in annotations that are strings.
            if typing.get_origin(hints[name]) is not typing.NotRequired:
                raise ValueError(f"Object missing required field `{name}`")
        return parts
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else getattr(kind, "__attrs_attrs__", ())
    late = {field.name: parts.pop(field.name) for field in fields if not field.init and field.name in parts}
    aliases = {field.name: getattr(field, "alias", field.name) for field in fields}
    made = kind(**{aliases.get(name, name): part for name, part in parts.items()})
    for name, part in late.items():
        object.__setattr__(made, name, part)
    return made


def _choice(value: Any, choices: Iterable[Any], kind: Any, path: str) -> Any:
    stored = _written(value)
    for choice in choices:
        if _written(choice) == stored is not None:
            return choice
    raise DeserializationError(path, f"{shown(value)} is none of {type_name(kind)}")


def _dict_key(key: str, kind: Any, path: str) -> Any:
    try:
        (made,) = _by_msgspec({key: None}, dict[kind, None])
    except msgspec.ValidationError as error:
        raise DeserializationError(path, f"the key {shown(key)}: {_split(error)[0]}") from error
    return made


def _written(value: Any) -> bytes | None:
    try:
        return sorted_json(encode_json(value))
    except SerializationError:
        return None


def _split(error: msgspec.ValidationError) -> tuple[str, str]:
    """The problem and the place, of which msgspec makes one text."""
    match = _MSGSPEC_PLACE.fullmatch(str(error))
    return (match[1], match[2]) if match else (str(error), "$")


def _moved(error: _MisfitError, path: str) -> DeserializationError:
    moved = DeserializationError(path + error.path[1:], error.problem)
    moved.__cause__ = error.__cause__
    return moved


def _expect(value: Any, kind: type, path: str) -> None:
    if type(value) is not kind:
        raise DeserializationError(path, f"Expected `{type_name(kind)}`, got `{type_name(type(value))}`")


def _is_pydantic(kind: Any) -> bool:
    return isinstance(kind, type) and (
        hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__get_pydantic_core_schema__")
    )


# They read aliases alone, and would silently leave out a field of which model_dump has written the name.
_OLD_PYDANTIC = tuple(f"2.{minor}." for minor in range(11))


def _validated(value: Any, kind: Any) -> Any:
    import pydantic  # optional; whoever has such a type has it

    if pydantic.VERSION.startswith(_OLD_PYDANTIC):
        raise _TakeApartError(f"it takes pydantic 2.11 or later, and here is {pydantic.VERSION}")
    if isinstance(value, bytes):
        raise _MisfitError("$", f"Expected `{type_name(kind)}`, got `bytes`")
    try:
        validate = getattr(kind, "model_validate_json", None) or pydantic.TypeAdapter(kind).validate_json
        # From JSON, since a strict model takes less from Python objects. By the names of the fields as well, since
        # model_dump writes those, not the aliases.
        return validate(orjson.dumps(value), by_alias=True, by_name=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path, problem = "$", first["msg"]
        for step in first["loc"]:
            members = dict(enumerate(value)) if isinstance(value, list) else value
            if isinstance(members, dict) and step in members:
                path, value = member_path(path, step), members[step]
            else:  # a field that is missing, or the member of a union that was tried
                problem += f" ({step})"
        raise _MisfitError(path, problem) from error

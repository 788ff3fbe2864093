"""Values: what a caller hands over, the bytes that are stored, and back.

Rules of this room: pure functions. ``encode`` either returns bytes that decode to what was given, or refuses and names
the place; it never changes a value silently. ``decode`` makes fresh objects each time. Nothing here does I/O.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import math
import os
import re
import types
import typing
import uuid
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import orjson

from .errors import DeserializationError, SerializationError

JSON = 0  # JSON text, UTF-8
BYTES = 1  # the value is bytes, stored as they are

MAX_DEPTH = 254  # what orjson writes; it reads 1,024


class Encoded(NamedTuple):
    """A value as it is stored."""

    codec: int
    data: bytes


def encode(value: Any, max_bytes: int) -> Encoded:
    """The stored form of ``value``. Raises ``SerializationError`` that names the place."""
    encoded = Encoded(BYTES, value) if type(value) is bytes else Encoded(JSON, _encode_json(value))
    if len(encoded.data) > max_bytes:
        size = len(encoded.data)
        raise SerializationError("$", f"it has {size} bytes when encoded, and max_value_bytes is {max_bytes}")
    return encoded


def decode(encoded: Encoded, type: Any = None) -> Any:
    """The value anew; with ``type``, converted to it and checked. Raises ``DeserializationError``."""
    value: Any = encoded.data
    if encoded.codec == JSON:
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise DeserializationError("$", f"the stored text is not JSON ({error})") from error
    return value if type is None else _decode_as(value, type)


def equal(one: Encoded, other: Encoded) -> bool:
    """Whether two stored values are the same: the same JSON text once keys are sorted, or the same bytes."""
    if one == other:
        return True
    if one.codec != JSON or other.codec != JSON:
        return False
    return _sorted(one.data) == _sorted(other.data)


def _sorted(data: bytes) -> bytes:
    return orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)


def checksum(owner: str, name: str, encoded: Encoded) -> int:
    """CRC-32 over whose value it is, its codec and its bytes: a flipped bit or a swapped row shows.

    ``owner`` is the flow run (empty for a global) and ``name`` the node or the global's key. Neither has a NUL, so
    the parts cannot run into each other. About 0.5 µs for 200 bytes, 1 ms for 1 MB.
    """
    return zlib.crc32(encoded.data, zlib.crc32(f"{owner}\0{name}\0{encoded.codec}\0".encode()))


# ---------------------------------------------------------------------------------------------------------- encoding

# Passed through to us instead of being written by orjson: it drops dataclass fields that begin with "_", and cuts the
# seconds off an offset. Subclasses: their base value is right, but only after a look at what they hold.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class _NotPlainError(Exception):
    pass


def _refuse(value: Any) -> Any:
    raise _NotPlainError


_look_through = msgspec.json.Encoder(enc_hook=_refuse).encode


def _encode_json(value: Any) -> bytes:
    # The quick way for plain values, which are nearly all. It looks at the value twice, since orjson alone is not safe:
    # tuples nested some thousand deep overwrite its memory (3.13.0), and an orjson.Fragment is pasted in unread.
    # msgspec walks as quickly, stops at Python's recursion limit and does not know Fragments.
    # Whatever the quick way stumbles over is decided by the slow one alone, which names places.
    try:
        if _is_too_deep(_look_through(value)):
            raise _NotPlainError
        data = orjson.dumps(value, option=_OPTIONS)
        # orjson writes NaN and the infinities as null. To look for them costs nothing unless there is a "null".
        if b"null" in data and orjson.loads(data) != value:
            raise _NotPlainError
        return data
    except Exception:  # noqa: BLE001 - whatever it was, the slow way finds the place, or finds nothing wrong
        return _encode_json_slowly(value)


def _encode_json_slowly(value: Any) -> bytes:
    steps: list[int | str] = []
    try:
        return orjson.dumps(_plain(value, steps))
    except _RefusedError as refusal:
        path = functools.reduce(_member, steps, "$")
        raise SerializationError(_shortened(path), refusal.problem) from refusal.__cause__


class _RefusedError(Exception):
    def __init__(self, problem: str) -> None:
        self.problem = problem


_ONLY_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


def _is_too_deep(data: bytes) -> bool:
    """Whether this JSON is nested deeper than MAX_DEPTH."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    # Brackets within strings may raise a false alarm; to leave the strings out each time takes longer than all else.
    return _brackets_nest_too_deep(data) and _brackets_nest_too_deep(_STRING.sub(b"", data))


def _brackets_nest_too_deep(data: bytes) -> bool:
    brackets = data.translate(_ONLY_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        size = len(brackets)
        brackets = brackets.replace(b"[]", b"")  # the innermost level
        if len(brackets) == size:
            break
    return bool(brackets)


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _member(path: str, step: int | str) -> str:
    if isinstance(step, str) and len(step) <= 60 and _IDENTIFIER.fullmatch(step):
        return f"{path}.{step}"
    return f"{path}[{_shown(step)}]"


def _plain(value: Any, steps: list[int | str]) -> Any:
    """``value`` in None, bool, int, float, str, list and dict alone. ``steps`` tells how far it has come, if it raises.

    Not recursive: 200 levels go through from anywhere in the caller's stack, however little is left of that.
    """
    root = [value]
    levels: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [(root, iter([(0, value)]))]
    while levels:
        holder, members = levels[-1]
        for step, member in members:
            steps[len(levels) - 2 :] = [step] if holder is not root else []
            holder[step] = flat = _flat(member)
            if type(flat) is dict or type(flat) is list:
                if len(levels) > MAX_DEPTH:
                    raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels, or contains itself")
                levels.append((flat, iter(flat.items()) if type(flat) is dict else enumerate(flat)))
                break
        else:
            levels.pop()
    return root[0]


def _flat(value: Any) -> Any:
    """A plain scalar, or one level of a container as a new list or dict: what it holds and nothing else."""
    # By the type alone: isinstance also believes what a mock or a proxy says of itself.
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, enum.Enum):  # before str and int, which an Enum may be as well
        return _flat(value.value)
    if issubclass(kind, str):
        return _text(value, "a str")
    if issubclass(kind, int):
        number = int.__int__(value)
        if not -(2**63) <= number < 2**64:
            raise _RefusedError("an int must be within -2**63 and 2**64 - 1; store it as a str")
        return number
    if kind is float:
        if not math.isfinite(value):
            raise _RefusedError(f"{_FLOAT_NAMES[str(value)]} is not JSON; store None or a str instead")
        return value
    if issubclass(kind, datetime.datetime | datetime.date | datetime.time):
        return _time_text(value)
    if issubclass(kind, uuid.UUID):
        return uuid.UUID.__str__(value)
    if hasattr(kind, "__pydantic_serializer__") and not dataclasses.is_dataclass(kind):
        return _flat(_dumped(value))
    members = _members(value)
    if type(members) is dict:
        return {_key(key): member for key, member in members.items()}
    return members


_FLOAT_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text(value: str, what: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _RefusedError(f"{what} with a lone surrogate is not text; store bytes instead") from None
    return text


def _key(key: Any) -> str:
    if type(key) is not str:
        raise _RefusedError(f"the key {_shown(key)} is a {type(key).__name__}; keys must be str")
    return _text(key, f"the key {_shown(key)}")


def _members(value: Any) -> list[Any] | dict[Any, Any]:
    # Copies, since another thread may change the original; and by the methods of the base class, whatever a subclass
    # has made of them. Not dict.copy, which calls those of the subclass.
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return _fields(value, {field.name: field.name for field in dataclasses.fields(kind)})
    if issubclass(kind, collections.OrderedDict):
        return dict(collections.OrderedDict.items(value))  # dict.items does not know of move_to_end
    if issubclass(kind, dict):
        return dict(dict.items(value))
    if issubclass(kind, list):
        return list.copy(value)
    if kind is tuple or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return list(tuple.__iter__(value))
    if issubclass(kind, msgspec.Struct):
        return _struct_members(value)
    if hasattr(kind, "__attrs_attrs__"):
        return _fields(value, {field.name: field.name for field in kind.__attrs_attrs__})
    raise _RefusedError(_why_not(value))


def _fields(value: Any, names: dict[str, str]) -> dict[str, Any]:
    try:
        held = {name: getattr(value, attribute) for name, attribute in names.items()}
    except Exception as error:  # mostly AttributeError; a descriptor of the caller's own may raise anything
        raise _RefusedError(f"a field of this {type(value).__name__} is not set ({error})") from error
    return {name: member for name, member in held.items() if member is not msgspec.UNSET}


def _struct_members(value: msgspec.Struct) -> list[Any] | dict[str, Any]:
    # Not msgspec.to_builtins: that goes all the way down, and would turn bytes into base64 on the way.
    config = value.__struct_config__
    names = dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
    tagged = {} if config.tag is None else {str(config.tag_field): config.tag}
    members = {**tagged, **_fields(value, names)}
    if config.array_like and len(members) < len(tagged) + len(names):
        raise _RefusedError("a field of this array-like Struct is UNSET, and an array has no gaps")
    return list(members.values()) if config.array_like else members


def _dumped(value: Any) -> Any:
    try:
        dumped = value.model_dump(mode="json")
        if b"null" in _look_through(dumped):
            dumped = _with_lost_numbers(dumped, value.model_dump())
    except Exception as error:  # a serializer of the model's own may raise anything
        raise _RefusedError(f"{type(value).__name__}.model_dump raised {error!r}") from error
    return dumped


def _with_lost_numbers(dumped: Any, objects: Any) -> Any:
    """pydantic makes None of a NaN in a field without a type. Put it back, to be refused by name of its place."""
    root = [dumped]
    levels: list[tuple[Any, Any]] = [(root, [objects])]
    while levels:
        made, source = levels.pop()
        steps = list(made) if isinstance(made, dict) else range(len(made))
        sources = list(source.values()) if isinstance(source, dict) else list(source)
        if len(steps) != len(sources):  # a serializer of the model's own has made something else of it
            continue
        for step, item in zip(steps, sources, strict=True):
            if made[step] is None and isinstance(item, float) and not math.isfinite(item):
                made[step] = item
            elif isinstance(made[step], dict | list) and isinstance(item, collections.abc.Collection):
                levels.append((made[step], item))
    return root[0]


def _time_text(value: datetime.datetime | datetime.date | datetime.time) -> str:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.date.isoformat(value)
    if getattr(value, "nanosecond", 0):  # a pandas.Timestamp; the base class would drop them
        raise _RefusedError("a datetime with nanoseconds would lose them; store it as a str")
    base: Any = datetime.datetime if isinstance(value, datetime.datetime) else datetime.time
    try:
        offset = base.utcoffset(value)
    except Exception as error:  # the tzinfo may be the caller's own
        raise _RefusedError(f"the offset of this {base.__name__} cannot be had ({error!r})") from error
    if value.tzinfo is not None and offset is None:
        raise _RefusedError("the offset of this time's zone depends on the date; store a datetime")
    if offset is not None and offset % datetime.timedelta(minutes=1):
        # RFC 3339 has no seconds in an offset, and orjson as well as msgspec cut them off.
        raise _RefusedError(f"an offset with seconds ({offset}) cannot be written; convert it to UTC")
    return str(base.isoformat(value))


_NO_BYTES = "bytes are a value only as a whole, not within JSON; put bytes() of it on its own, or encode it (base64)"
_HINTS: dict[type, str] = {
    bytes: _NO_BYTES,
    bytearray: _NO_BYTES,
    memoryview: _NO_BYTES,
    tuple: "convert it with tuple()",
    collections.abc.Set: "convert it to a list",
    collections.abc.Iterator: "convert it to a list",
    collections.deque: "convert it to a list",
    collections.abc.Mapping: "convert it with dict()",
    decimal.Decimal: "convert it with str(), which keeps it exactly, or with float()",
    datetime.timedelta: "store its total_seconds()",
    os.PathLike: "convert it with str()",
    type: "it is a class, not an object of that class",
    float: "it is a subclass of float; convert it with float()",
}


def _why_not(value: Any) -> str:
    kind = type(value)
    hints = (hint for refused, hint in _HINTS.items() if issubclass(kind, refused))
    hint = next(hints, "convert it to dict, list, str, int, float, bool or None, or make it a dataclass")
    return f"{_type_name(kind)} is not JSON: {hint}"


def _type_name(kind: Any) -> str:
    if not isinstance(kind, type) or typing.get_origin(kind) is not None:
        return repr(kind).replace("typing.", "")
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr of the caller's own must not hide what we have to say
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _shortened(path: str) -> str:
    return path if len(path) <= 500 else f"{path[:300]}...{path[-100:]}"


# ---------------------------------------------------------------------------------------------------------- decoding

# msgspec converts nearly everything. Where it does not know a type (unions of several dataclasses, or of several things
# that are strings in JSON; enums of floats), or does not name the place (it writes "[...]" for the key of a dict), the
# type is taken apart by one level, and its parts are handed to msgspec again.


def _decode_as(value: Any, kind: Any) -> Any:
    try:
        return _Conversion().convert(value, kind, "$")
    except RecursionError as error:
        raise DeserializationError("$", f"nested too deeply to be made {_type_name(kind)}") from error


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
    raise _MisfitError("$", f"no way to make {_type_name(kind)} of {_type_name(type(value))} is known")


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
            failure = TypeError(f"no way to convert to {_type_name(kind)} is known: {error}")
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
        nearest = DeserializationError(path, f"{_shown(value)} fits none of {_type_name(kind)}")
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
                _dict_key(key, key_kind, path): self.convert(item, item_kind, _member(path, key))
                for key, item in value.items()
            }
            return made if inspect.isabstract(origin) else _of_base(origin, made)
        _expect(value, list, path)
        kinds = args
        if not issubclass(origin, tuple) or args[1:] == (...,):
            kinds = args[:1] * len(value)
        if len(kinds) != len(value):
            raise DeserializationError(path, f"Expected `array` of length {len(kinds)}, got {len(value)}")
        made = [self.convert(value[index], kind, _member(path, index)) for index, kind in enumerate(kinds)]
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
            attribute: self.convert(members[step], part, _member(path, step))
            for step, attribute, part in layout
            if step in members
        }
        try:
            return _built(kind, parts)
        except (TypeError, ValueError) as error:
            raise DeserializationError(path, f"no {_type_name(kind)} can be made of it: {error}") from error


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
        raise TypeError(f"no way to convert to {_type_name(kind)} is known: {error}") from error
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
    raise DeserializationError(path, f"{_shown(value)} is none of {_type_name(kind)}")


def _dict_key(key: str, kind: Any, path: str) -> Any:
    try:
        (made,) = _by_msgspec({key: None}, dict[kind, None])
    except msgspec.ValidationError as error:
        raise DeserializationError(path, f"the key {_shown(key)}: {_split(error)[0]}") from error
    return made


def _written(value: Any) -> bytes | None:
    try:
        return _sorted(_encode_json(value))
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
        raise DeserializationError(path, f"Expected `{_type_name(kind)}`, got `{_type_name(type(value))}`")


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
        raise _MisfitError("$", f"Expected `{_type_name(kind)}`, got `bytes`")
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
                path, value = _member(path, step), members[step]
            else:  # a field that is missing, or the member of a union that was tried
                problem += f" ({step})"
        raise _MisfitError(path, problem) from error

"""The JSON text of a value, or the place in it that has none.

Rules of this room: as in _codec. The quick way is orjson's; whatever it stumbles over is decided by the slow one alone.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import math
import os
import re
import typing
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from .errors import SerializationError

MAX_DEPTH = 254  # what orjson writes; it reads 1,024

# Passed through to us instead of being written by orjson: it drops dataclass fields that begin with "_", and cuts the
# seconds off an offset. Subclasses: their base value is right, but only after a look at what they hold.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class _NotPlainError(Exception):
    pass


def _refuse(value: Any) -> Any:
    raise _NotPlainError


_look_through = msgspec.json.Encoder(enc_hook=_refuse).encode


def encode_json(value: Any) -> bytes:
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
        path = functools.reduce(member_path, steps, "$")
        raise SerializationError(_shortened(path), refusal.problem) from refusal.__cause__


class _RefusedError(Exception):
    def __init__(self, problem: str) -> None:
        self.problem = problem


_ONLY_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


def _is_too_deep(data: bytes) -> bool:
    """Whether this JSON is nested deeper than MAX_DEPTH."""
    if len(data) <= 2 * MAX_DEPTH or data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
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


def member_path(path: str, step: int | str) -> str:
    if isinstance(step, str) and len(step) <= 60 and _IDENTIFIER.fullmatch(step):
        return f"{path}.{step}"
    return f"{path}[{shown(step)}]"


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
        raise _RefusedError(f"the key {shown(key)} is of the type {type(key).__name__}; keys must be str")
    return _text(key, f"the key {shown(key)}")


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
    if value != value:  # pandas.NaT, which passes for a datetime
        raise _RefusedError(f"{shown(value)} is no time; store None instead")
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
    own = (f"store what its {method}() returns" for method in ("tolist", "to_dict") if hasattr(kind, method))  # numpy's
    hint = next(hints, None) or next(
        own, "convert it to dict, list, str, int, float, bool or None, or make it a dataclass"
    )
    return f"{type_name(kind)} is not JSON: {hint}"


def type_name(kind: Any) -> str:
    if not isinstance(kind, type) or typing.get_origin(kind) is not None:
        return repr(kind).replace("typing.", "")
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr of the caller's own must not hide what we have to say
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _shortened(path: str) -> str:
    return path if len(path) <= 500 else f"{path[:300]}...{path[-100:]}"


def sorted_json(data: bytes) -> bytes:
    return orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)

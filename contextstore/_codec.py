"""Values: what a caller hands over, the bytes that are stored, and back.

Rules of this room: pure functions. ``encode`` either returns bytes that decode to what was given, or refuses and names
the place; it never changes a value silently. ``decode`` makes fresh objects each time. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import re
import uuid
import zlib
from typing import Any, NamedTuple, TypeVar

import msgspec
import orjson

from .errors import DeserializationError, SerializationError

T = TypeVar("T")

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
        raise SerializationError("$", f"{len(encoded.data)} bytes; max_value_bytes is {max_bytes}")
    return encoded


def decode(encoded: Encoded, type: Any = None) -> Any:
    """The value anew; with ``type``, converted to it and checked. Raises ``DeserializationError``."""
    if type is not None:
        return _decode_as(encoded, type)
    if encoded.codec == JSON:
        try:
            return orjson.loads(encoded.data)
        except orjson.JSONDecodeError as error:
            raise DeserializationError("$", f"the stored text is not JSON ({error})") from error
    return encoded.data


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


class _NotPlain(Exception):
    pass


def _refuse(value: Any) -> Any:
    raise _NotPlain


_look_through = msgspec.json.Encoder(enc_hook=_refuse).encode


def _encode_json(value: Any) -> bytes:
    # The quick way for plain values, which are nearly all. It looks at the value twice, since orjson alone is not safe:
    # tuples nested some thousand deep overwrite its memory (3.13.0), and an orjson.Fragment is pasted in unread.
    # msgspec walks as quickly, stops at Python's recursion limit and does not know Fragments.
    # Whatever the quick way stumbles over is decided by the slow one alone, which names places.
    try:
        if _is_too_deep(_look_through(value)):
            raise _NotPlain
        data = orjson.dumps(value, option=_OPTIONS)
        # orjson writes NaN and the infinities as null. To look for them costs nothing unless there is a "null".
        if b"null" in data and orjson.loads(data) != value:
            raise _NotPlain
        return data
    except Exception:  # whatever it was, the slow way finds the place, or finds nothing wrong
        return _encode_json_slowly(value)


def _encode_json_slowly(value: Any) -> bytes:
    plain = _plain(value, "$", 0)
    try:
        return orjson.dumps(plain)
    except (TypeError, ValueError) as error:  # pragma: no cover - whatever orjson refuses, _plain has refused before
        raise SerializationError("$", str(error)) from error


_ONLY_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _is_too_deep(data: bytes) -> bool:
    """Whether this JSON may be nested deeper than MAX_DEPTH. Brackets within strings may make it a false alarm."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    brackets = data.translate(_ONLY_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _member(path: str, key: str) -> str:
    if _IDENTIFIER.fullmatch(key):
        return f"{path}.{key}"
    return f"{path}[{key!r}]"


def _plain(value: Any, path: str, depth: int) -> Any:
    """``value`` in None, bool, int, float, str, list and dict alone, or ``SerializationError`` naming the place."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, enum.Enum):  # before str and int, which an Enum may be as well
        return _plain(value.value, path, depth)
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise SerializationError(path, "a str with a lone surrogate is not text; store bytes instead") from None
        return text
    if isinstance(value, int):
        number = int.__int__(value)
        if not -(2**63) <= number < 2**64:
            raise SerializationError(path, "an int must be within -2**63 and 2**64 - 1; store it as a str")
        return number
    if kind is float:
        if not math.isfinite(value):
            raise SerializationError(path, f"{_FLOAT_NAMES[str(value)]} is not JSON; store None or a str instead")
        return value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return _time_text(value, path)
    if isinstance(value, uuid.UUID):
        return uuid.UUID.__str__(value)
    if hasattr(kind, "__pydantic_serializer__") and not dataclasses.is_dataclass(kind):
        return _plain(_dumped(value, path), path, depth)
    if depth >= MAX_DEPTH:
        raise SerializationError(_shortened(path), f"nested deeper than {MAX_DEPTH} levels, or contains itself")
    return _plain_container(value, path, depth)


_FLOAT_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _plain_container(value: Any, path: str, depth: int) -> Any:
    members = _members(value, path)
    if isinstance(members, list):
        return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(members)]
    plain = {}
    for key, item in members.items():
        if type(key) is not str:
            raise SerializationError(path, f"the key {_shown(key)} is a {type(key).__name__}; keys must be str")
        plain[_plain(key, f"{path} (the key {key!r})", depth)] = _plain(item, _member(path, key), depth + 1)
    return plain


def _members(value: Any, path: str) -> list[Any] | dict[Any, Any]:
    """One level of a container as a list or a dict: what it holds and nothing else."""
    kind = type(value)
    if isinstance(value, dict):
        # A copy, since another thread may change the original. Not its own items(): that may be anything.
        return dict(dict.items(value))
    if isinstance(value, list):
        return list.copy(value)
    if kind is tuple or (isinstance(value, tuple) and hasattr(kind, "_fields")):
        return list(value)
    try:
        if dataclasses.is_dataclass(kind):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, msgspec.Struct):
            return _struct_members(value)
        if hasattr(kind, "__attrs_attrs__"):
            return {field.name: getattr(value, field.name) for field in kind.__attrs_attrs__}
    except AttributeError as error:
        raise SerializationError(path, f"a field of this {kind.__name__} is not set ({error})") from error
    raise SerializationError(path, _why_not(value))


def _struct_members(value: msgspec.Struct) -> list[Any] | dict[Any, Any]:
    # Not msgspec.to_builtins: that goes all the way down, and would turn bytes into base64 on the way.
    config = value.__struct_config__
    held = [getattr(value, name) for name in value.__struct_fields__]
    if config.array_like:
        return held if config.tag is None else [config.tag, *held]
    members = dict(zip(value.__struct_encode_fields__, held, strict=True))
    members = {name: item for name, item in members.items() if item is not msgspec.UNSET}
    return members if config.tag_field is None else {config.tag_field: config.tag, **members}


def _dumped(value: Any, path: str) -> Any:
    try:
        return value.model_dump(mode="json")
    except Exception as error:  # a serializer of the model's own may raise anything
        raise SerializationError(path, f"{type(value).__name__}.model_dump raised {error!r}") from error


def _time_text(value: datetime.datetime | datetime.date | datetime.time, path: str) -> str:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.date.isoformat(value)
    if getattr(value, "nanosecond", 0):  # a pandas.Timestamp; the base class would drop them
        raise SerializationError(path, "a datetime with nanoseconds would lose them; store it as a str")
    offset = value.utcoffset()
    if value.tzinfo is not None and offset is None:
        raise SerializationError(path, "the offset of this time's zone depends on the date; store a datetime")
    if offset is not None and offset % datetime.timedelta(minutes=1):
        # RFC 3339 has no seconds in an offset, and orjson as well as msgspec cut them off.
        raise SerializationError(path, f"an offset with seconds ({offset}) cannot be written; convert it to UTC")
    base = datetime.datetime if isinstance(value, datetime.datetime) else datetime.time
    return base.isoformat(value)


_HINTS: dict[type, str] = {
    bytes: "bytes are a value only as a whole, not within JSON; encode them (base64) or put them on their own",
    bytearray: "convert it with bytes()",
    memoryview: "convert it with bytes()",
    set: "convert it to a list",
    frozenset: "convert it to a list",
}


def _why_not(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    for refused, hint in _HINTS.items():
        if isinstance(value, refused):
            return f"{name} is not JSON: {hint}"
    if isinstance(value, float):
        return f"{name} is a subclass of float: convert it with float()"
    return f"{name} is not JSON: convert it to dict, list, str, int, float, bool or None, or to a dataclass"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a repr of the caller's own must not hide what we have to say
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _shortened(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:80]}...{path[-30:]}"


# ---------------------------------------------------------------------------------------------------------- decoding


def _decode_as(encoded: Encoded, kind: Any) -> Any:
    if encoded.codec != JSON:
        if kind is bytes or kind is Any or kind is object:
            return encoded.data
        raise DeserializationError("$", f"the stored value is bytes, not {_type_name(kind)}")
    if kind is bytes:
        raise DeserializationError("$", "the stored value is JSON, not bytes")
    try:
        if _is_pydantic_model(kind):
            return kind.model_validate_json(encoded.data)
        return msgspec.json.decode(encoded.data, type=kind, dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        raise DeserializationError(path.strip("`") or "$", problem) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise DeserializationError("$", f"does not fit {_type_name(kind)}: {error}") from error


def _decode_custom(kind: Any, value: Any) -> Any:
    """What msgspec does not know by itself. Called for fields of such a type."""
    if _is_pydantic_model(kind):
        return kind.model_validate(value)
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise DeserializationError("$", f"no way to make a {_type_name(kind)} of JSON is known")


def _is_pydantic_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate_json")


def _type_name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)

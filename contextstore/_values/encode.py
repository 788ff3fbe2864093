"""The JSON text of a value, or the place in it that has none.

Rules of this module: as in _codec. The quick way is that of _plainness; whatever it stumbles over is decided by the
slow one alone, which names places.
"""

from __future__ import annotations

import collections
import datetime
import enum
import math
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import orjson

from .plain import MAX_DEPTH, PLAIN, plain_json
from .problems import RefusedError, is_numpy_scalar, python_scalar, refused_at, shown, why_not
from .pydantic_ import dumped
from .shapes import MODEL, NAMED_TUPLE, Shape, shape_of

Default = Callable[[Any], Any]

_LEAST, _MOST = -(2**63), 2**64 - 1  # that orjson writes
_MOST_ASKED = 100  # how often encode_default is asked about what it has returned itself
_TIMES = (datetime.datetime, datetime.date, datetime.time)


class Claim(NamedTuple):
    """An object of a class that reads more from the JSON than is in it: by that class it must come back equal."""

    steps: list[int | str]  # where it is
    value: Any
    plain: Any  # its JSON form


def encode_json(value: Any, default: Default | None = None, claims: list[Claim] | None = None) -> bytes:
    """The text. To ``claims`` is added what has to be proved to come back; see _proof."""
    try:
        if type(value) in PLAIN:
            return plain_json(value)
    except Exception:  # noqa: BLE001, S110 - whatever it was, the slow way finds the place, or finds nothing wrong
        pass
    return _Walk(default, claims).encoded(value)


class _Walk:
    """A way through a value that makes of it None, bool, int, float, str, list and dict alone.

    Not recursive: 200 levels go through from anywhere in the caller's stack, however little is left of that.
    """

    def __init__(self, default: Default | None, claims: list[Claim] | None) -> None:
        self._default = default
        self._claims = claims
        self._steps: list[int | str] = []  # how far it has come
        self._has_class = False  # whether what was looked at last is of a class that has to be proved,
        self._has_asked = False  # and whether encode_default was asked since a proof was begun
        self._open: tuple[int, Claim] | None = None  # the level of an object below which it is, that has to be proved

    def encoded(self, value: Any) -> bytes:
        try:
            return orjson.dumps(self._plain(value))
        except RefusedError as refusal:
            raise refused_at(self._steps[1:], refusal.problem) from refusal.__cause__
        except orjson.JSONEncodeError as error:  # the name of a Struct's field may be any str
            raise refused_at([], f"the name of a field is not text ({error})") from error

    def _plain(self, value: Any) -> Any:
        root = [value]
        holder: Any = root
        members: Iterator[tuple[Any, Any]] = iter([(0, value)])
        above: list[tuple[Any, Iterator[tuple[Any, Any]]]] = []
        steps = self._steps
        steps.append(0)
        while True:
            for step, member in members:
                kind = type(member)
                if kind is str:
                    if member.isascii():
                        continue
                elif kind is int:
                    if _LEAST <= member <= _MOST:
                        continue
                elif kind is bool or member is None or (kind is float and math.isfinite(member)):
                    continue
                steps[-1] = step
                self._has_class = False
                self._has_asked = self._has_asked and self._open is not None
                holder[step] = flat = self._flat(member)
                if self._has_class and self._claims is not None and self._open is None:
                    self._begin_claim(len(above), member, flat)
                if type(flat) is dict or type(flat) is list:
                    if len(above) >= MAX_DEPTH:
                        raise RefusedError(f"nested deeper than {MAX_DEPTH} levels, or contains itself")
                    above.append((holder, members))
                    holder, members = flat, iter(flat.items()) if type(flat) is dict else enumerate(flat)
                    steps.append(0)
                    break
                if self._open is not None and self._open[0] == len(above):
                    self._end_claim()
            else:
                steps.pop()
                if not above:
                    return root[0]
                holder, members = above.pop()
                if self._open is not None and self._open[0] == len(above):
                    self._end_claim()

    def _begin_claim(self, level: int, value: Any, plain: Any) -> None:
        self._open = (level, Claim(self._steps[1:], value, plain))

    def _end_claim(self) -> None:
        # What encode_default made of something is what its author wants stored, whether or not a class reads it back.
        if self._open is not None and self._claims is not None and not self._has_asked:
            self._claims.append(self._open[1])
        self._open = None
        self._has_asked = False

    def _flat(self, value: Any) -> Any:
        """A plain scalar, or one level of a container as a new list or dict: what it holds and nothing else."""
        # By the type alone: isinstance also believes what a mock or a proxy says of itself.
        for _ in range(_MOST_ASKED):
            kind = type(value)
            if kind is bool or value is None:
                return value
            if issubclass(kind, enum.Enum):  # before str and int, which an Enum may be as well
                self._has_class = True
                value = _value_of(value)
                if not issubclass(type(value), enum.Enum):
                    continue
            elif kind is dict:
                return _with_keys(dict(value))
            elif kind is list:
                return list(value)
            elif (shape := _shape(kind)) is not None:
                self._has_class = True
                if shape.family != MODEL:
                    return _fields(value, shape)
                value = dumped(value, None if self._default is None else self._ask)
                continue
            elif issubclass(kind, str):
                return _text(value, "a str")
            elif issubclass(kind, int):
                return _number(int.__int__(value))
            elif kind is float:
                return _finite(value)
            elif issubclass(kind, _TIMES):
                self._has_class = self._has_class or kind not in _TIMES
                return _time_text(value)
            elif issubclass(kind, uuid.UUID):
                self._has_class = self._has_class or kind is not uuid.UUID
                return _id_text(value)
            else:
                members = _members(value)
                if members is not None:
                    return members
                if is_numpy_scalar(kind):
                    value = python_scalar(value)
                    continue
            value = self._asked(value)
        raise RefusedError(f"encode_default goes on returning what is not JSON, such as this: {why_not(value)}")

    def _asked(self, value: Any) -> Any:
        if self._default is None:
            raise RefusedError(why_not(value))
        try:
            return self._ask(value)
        except Exception as error:  # the caller's encode_default may raise anything
            raise RefusedError(f"encode_default raised {error!r} ({why_not(value)})") from error

    def _ask(self, value: Any) -> Any:
        self._has_asked = True
        assert self._default is not None
        return self._default(value)


def _shape(kind: Any) -> Shape | None:
    try:
        return shape_of(kind)
    except Exception:  # noqa: BLE001 - of a metaclass of the caller's own, which may say anything of its classes
        return None


def _value_of(member: enum.Enum) -> Any:
    """The value of an Enum member; the member, if its value is one again without end."""
    value: Any = member
    for _ in range(MAX_DEPTH):
        try:
            value = value.value
        except Exception as error:  # a property of the caller's own
            raise RefusedError(f"the value of this {type(member).__name__} cannot be had ({error!r})") from error
        if not issubclass(type(value), enum.Enum):
            return value
    return member


def _number(number: int) -> int:
    if not _LEAST <= number <= _MOST:
        raise RefusedError("an int must be within -2**63 and 2**64 - 1; store it as a str")
    return number


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise RefusedError(f"{_FLOAT_NAMES[str(number)]} is not JSON; store None or a str instead")
    return number


_FLOAT_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text(value: str, what: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RefusedError(f"{what} with a lone surrogate is not text; store bytes instead") from None
    return text


def _with_keys(members: dict[Any, Any]) -> dict[str, Any]:
    for key in members:
        if type(key) is not str or not key.isascii():
            break
    else:
        return members
    plain = {_key(key): member for key, member in members.items()}
    if len(plain) < len(members):
        raise RefusedError("two of the keys are the same str; keep one of them")
    return plain


def _key(key: Any) -> str:
    kind = type(key)
    if kind is not str:
        hint = "keys must be str"
        if not issubclass(kind, enum.StrEnum):
            if issubclass(kind, enum.Enum):
                hint += ", or members of a StrEnum; use its value"
            elif issubclass(kind, str):
                hint += ", not a subclass; convert it with str()"
            raise RefusedError(f"the key {shown(key)} is of the type {kind.__name__}; {hint}")
        value = _value_of(key)
        if type(value) is not str:
            raise RefusedError(f"the key {shown(key)} is a member of a StrEnum, and its value is no str; use a str")
        key = value
    return _text(key, f"the key {shown(key)}")


def _members(value: Any) -> list[Any] | dict[str, Any] | None:
    """One level of a container; None for what is none."""
    # Copies, since another thread may change the original; and by the methods of the base class, whatever a subclass
    # has made of them. Not dict.copy, which calls those of the subclass.
    kind = type(value)
    if issubclass(kind, collections.OrderedDict):
        return _with_keys(dict(collections.OrderedDict.items(value)))  # dict.items does not know of move_to_end
    if issubclass(kind, dict):
        return _with_keys(dict(dict.items(value)))
    if issubclass(kind, list):
        return list.copy(value)
    if kind is tuple:
        return list(value)
    return None


def _fields(value: Any, shape: Shape) -> list[Any] | dict[str, Any]:
    if shape.family == NAMED_TUPLE:
        return list(tuple.__iter__(value))
    # Not msgspec.to_builtins: that goes all the way down, and would turn bytes into base64 on the way.
    held: dict[Any, Any] = {} if shape.tag is None else dict([shape.tag])
    try:
        for step, attribute in shape.members:
            member = getattr(value, attribute)
            if member is not msgspec.UNSET:
                held[step] = member
            elif shape.is_array:
                raise RefusedError("a field of this array-like Struct is UNSET, and an array has no gaps")
    except RefusedError:
        raise
    except Exception as error:  # mostly AttributeError; a descriptor of the caller's own may raise anything
        raise RefusedError(f"a field of this {type(value).__name__} is not set ({error})") from error
    return list(held.values()) if shape.is_array else held


def _time_text(value: datetime.datetime | datetime.date | datetime.time) -> str:
    kind = type(value)
    if not issubclass(kind, datetime.datetime | datetime.time):
        return datetime.date.isoformat(value)  # type: ignore[arg-type]
    if value != value:  # pandas.NaT, which passes for a datetime
        raise RefusedError(f"{shown(value)} is no time; store None instead")
    if getattr(value, "nanosecond", 0):  # a pandas.Timestamp; the base class would drop them
        raise RefusedError("a datetime with nanoseconds would lose them; store it as a str")
    base: Any = datetime.datetime if issubclass(kind, datetime.datetime) else datetime.time
    try:
        offset = base.utcoffset(value)
        text = str(base.isoformat(value))
    except Exception as error:  # the tzinfo may be the caller's own
        raise RefusedError(f"the offset of this {base.__name__} cannot be had ({error!r})") from error
    if offset is None and base.tzinfo.__get__(value) is not None:
        raise RefusedError("the offset of this time's zone depends on the date; store a datetime")
    if offset is not None and offset % datetime.timedelta(minutes=1):
        # RFC 3339 has no seconds in an offset, and orjson as well as msgspec cut them off.
        raise RefusedError(f"an offset with seconds ({offset}) cannot be written; convert it to UTC")
    return text


def _id_text(value: uuid.UUID) -> str:
    try:
        return uuid.UUID.__str__(value)
    except Exception as error:  # one that was made without its __init__
        raise RefusedError(f"a field of this {type(value).__name__} is not set ({error})") from error

"""The JSON text of a value, or the place in it that has none.

Rules of this module: pure functions; a value is copied level by level and never changed. The quick way (``plain.py``)
is tried first, and any failure of it is decided by the slow way alone, which names places. A subclass of a builtin is
read by the builtin's methods, not by its own. Code of the caller's that must run may raise anything.
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

from .plain import MAX_DEPTH, plain_json
from .problems import RefusedError, is_numpy_scalar, python_scalar, refused_at, shown, why_not
from .pydantic_ import dumped
from .shapes import MODEL, NAMED_TUPLE, Shape, shape_of

Default = Callable[[Any], Any]

_LEAST, _MOST = -(2**63), 2**64 - 1
"""The ints that orjson writes."""
_MOST_ASKED = 100
"""How often ``encode_default`` is called again with an object that it has returned itself."""
_NO_LEVEL = -1
_UNSET = msgspec.UNSET


class Claim(NamedTuple):
    """An object that its class must read back equal, since the class has a say in what is made of the JSON."""

    steps: list[int | str]
    """Its place in the whole value."""
    value: Any
    plain: Any
    """Its JSON form."""


def encode_json(value: Any, default: Default | None = None, claims: list[Claim] | None = None) -> bytes:
    """The text. Each object that has to be proved to come back (see ``proof.py``) is added to ``claims``."""
    try:
        return plain_json(value)
    except Exception:  # noqa: BLE001, S110 - the slow way finds the place of any fault, or finds nothing wrong
        pass
    return _Walk(default, claims).encoded(value)


class _Walk:
    """A walk through a value that copies it into None, bool, int, float, str, list and dict alone.

    Not recursive, so that 200 levels are written however little is left of the caller's stack.
    """

    def __init__(self, default: Default | None, claims: list[Claim] | None) -> None:
        self._default = default
        self._claims = claims
        self._steps: list[int | str] = []
        """The place that the walk has come to."""
        self._has_class = False
        """Whether the last member is of a class that has to be proved."""
        self._has_asked = False
        """Whether ``encode_default`` was called for the object of the open claim, or for a part of it."""
        self._open: Claim | None = None
        """The claim of the object that the walk is within. The parts of that object are proved with it."""
        self._open_level = _NO_LEVEL

    def encoded(self, value: Any) -> bytes:
        try:
            return orjson.dumps(self._plain(value))
        except RefusedError as refusal:
            raise refused_at(self._steps[1:], refusal.problem) from refusal.__cause__
        except orjson.JSONEncodeError as error:  # the name of a Struct's field may be any str
            raise refused_at([], f"the name of a field is not text ({error})") from error

    def _plain(self, value: Any) -> Any:
        root: Any = [value]
        levels: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [(root, enumerate(root))]
        steps = self._steps
        steps.append(0)
        while levels:
            holder, members = levels[-1]
            for step, member in members:
                steps[-1] = step
                form = _FORMS.get(id(type(member)))
                holder[step] = flat = self._flat_claimed(member, len(levels)) if form is None else form(member)
                if type(flat) is dict or type(flat) is list:
                    if len(levels) > MAX_DEPTH:
                        raise RefusedError(f"nested deeper than {MAX_DEPTH} levels, or contains itself")
                    levels.append((flat, _members_to_flatten(flat)))
                    steps.append(0)
                    break
                if self._open_level == len(levels):
                    self._end_claim()
            else:
                steps.pop()
                levels.pop()
                if self._open_level == len(levels):
                    self._end_claim()
        return root[0]

    def _flat_claimed(self, member: Any, level: int) -> Any:
        """One level of the member (see ``_flat``). For an object that has to be proved a claim is begun."""
        self._has_class = False
        if self._open is not None:
            return self._flat(member)
        self._has_asked = False
        flat = self._flat(member)
        if self._has_class and self._claims is not None:
            self._open, self._open_level = Claim(self._steps[1:], member, flat), level
        return flat

    def _end_claim(self) -> None:
        # The author of encode_default wants its result stored, whether or not the class reads that back.
        if self._open is not None and self._claims is not None and not self._has_asked:
            self._claims.append(self._open)
        self._open, self._open_level = None, _NO_LEVEL

    def _flat(self, value: Any) -> Any:
        """A plain scalar, or one level of a container as a new list or dict with the members as they are."""
        # By the type alone: a mock or a proxy may lie to isinstance.
        for _ in range(_MOST_ASKED):
            kind = type(value)
            if issubclass(kind, enum.Enum):  # before str and int, which an Enum may be as well
                self._has_class = True
                value = _value_of(value)
                if issubclass(type(value), enum.Enum):
                    value = self._asked(value)
            elif (shape := _shape(kind)) is not None:
                self._has_class = True
                if shape.family != MODEL:
                    return _fields(value, shape)
                value = dumped(value, None if self._default is None else self._ask)
            elif (form := _form_of_subclass(kind)) is not None:
                self._has_class = self._has_class or form in _READ_BACK
                return form(value)
            else:
                value = python_scalar(value) if is_numpy_scalar(kind) else self._asked(value)
            if (form := _FORMS.get(id(type(value)))) is not None:
                return form(value)
        raise RefusedError(f"encode_default goes on returning what is not JSON, such as this: {why_not(value)}")

    def _asked(self, value: Any) -> Any:
        if self._default is None:
            raise RefusedError(why_not(value))
        try:
            return self._ask(value)
        except Exception as error:  # encode_default is the caller's, and may raise anything
            raise RefusedError(f"encode_default raised {error!r} ({why_not(value)})") from error

    def _ask(self, value: Any) -> Any:
        self._has_asked = True
        assert self._default is not None
        return self._default(value)


def _members_to_flatten(holder: Any) -> Iterator[tuple[Any, Any]]:
    """The members of a dict or list but those that are plain already: most of them, in most values."""
    for step, member in holder.items() if type(holder) is dict else enumerate(holder):
        kind = type(member)
        if kind is str:
            if member.isascii():
                continue
        elif kind is int:
            if _LEAST <= member <= _MOST:
                continue
        elif kind is bool or member is None or (kind is float and math.isfinite(member)):
            continue
        yield step, member


def _shape(kind: Any) -> Shape | None:
    try:
        return shape_of(kind)
    except Exception:  # noqa: BLE001 - a metaclass of the caller's may raise at any question
        return None


def _value_of(member: enum.Enum) -> Any:
    """The value of an Enum member; the member, if its value is one again without end."""
    value: Any = member
    for _ in range(MAX_DEPTH):
        try:
            value = value.value
        except Exception as error:  # the value may be a property of the caller's
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


def _text(value: str, what: str = "a str") -> str:
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


def _fields(value: Any, shape: Shape) -> list[Any] | dict[str, Any]:
    if shape.family == NAMED_TUPLE:
        return list(tuple.__iter__(value))
    # Not msgspec.to_builtins: it goes all the way down, and turns bytes into base64 on the way.
    held: dict[Any, Any] = {} if shape.tag is None else dict([shape.tag])
    try:
        for step, attribute in shape.members:
            member = getattr(value, attribute)
            if member is not _UNSET:
                held[step] = member
            elif shape.is_array:
                raise RefusedError("a field of this array-like Struct is UNSET, and an array has no gaps")
    except RefusedError:
        raise
    except Exception as error:  # mostly AttributeError; a descriptor of the caller's may raise anything
        raise RefusedError(f"a field of this {type(value).__name__} is not set ({error})") from error
    return list(held.values()) if shape.is_array else held


def _time_text(value: datetime.datetime | datetime.date | datetime.time) -> str:
    kind = type(value)
    if not issubclass(kind, datetime.datetime | datetime.time):
        return datetime.date.isoformat(value)  # type: ignore[arg-type]
    if value != value:  # pandas.NaT, which is a datetime by its class
        raise RefusedError(f"{shown(value)} is no time; store None instead")
    if getattr(value, "nanosecond", 0):  # a pandas.Timestamp; the base class would drop them
        raise RefusedError("a datetime with nanoseconds would lose them; store it as a str")
    base: Any = datetime.datetime if issubclass(kind, datetime.datetime) else datetime.time
    try:
        offset = base.utcoffset(value)
        text = str(base.isoformat(value))
    except Exception as error:  # the tzinfo may be the caller's
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
    except Exception as error:  # it was made without its __init__
        raise RefusedError(f"a field of this {type(value).__name__} is not set ({error})") from error


# -------------------------------------------------------------------------------------------------- forms of builtins

# Containers are copied, since another thread may change the original, and by the methods of the builtin, since a
# subclass may have others. Not by dict.copy, which calls those of the subclass.


def _itself(value: Any) -> Any:
    return value


def _dict_form(value: dict[Any, Any]) -> dict[str, Any]:
    return _with_keys(dict(dict.items(value)))


def _exact_dict_form(value: dict[Any, Any]) -> dict[str, Any]:
    """The same for a dict that is of no subclass: dict() copies it as a whole, which is quicker."""
    return _with_keys(dict(value))


def _ordered_form(value: collections.OrderedDict[Any, Any]) -> dict[str, Any]:
    return _with_keys(dict(collections.OrderedDict.items(value)))  # dict.items does not know of move_to_end


def _int_form(value: int) -> int:
    return _number(int.__int__(value))


_FORMS_OF_SUBCLASSES: dict[type, Callable[[Any], Any]] = {
    str: _text,
    int: _int_form,
    datetime.datetime: _time_text,
    datetime.date: _time_text,
    datetime.time: _time_text,
    uuid.UUID: _id_text,
    collections.OrderedDict: _ordered_form,  # before dict
    dict: _dict_form,
    list: list.copy,
}
_FORMS: dict[int, Callable[[Any], Any]] = {
    **{id(kind): form for kind, form in _FORMS_OF_SUBCLASSES.items()},
    id(dict): _exact_dict_form,
    id(bool): _itself,
    id(type(None)): _itself,
    id(float): _finite,
    id(tuple): list,
}
"""The forms of objects of these very classes. By the id of the class, since another one may claim to equal it."""

_READ_BACK = (_time_text, _id_text)
"""Forms that a subclass of the builtin may read back as another object."""


def _form_of_subclass(kind: type) -> Callable[[Any], Any] | None:
    for base, form in _FORMS_OF_SUBCLASSES.items():
        if issubclass(kind, base):
            return form
    return None

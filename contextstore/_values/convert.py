"""From JSON to the type that a caller asks for.

Rules of this module: pure functions; the JSON given is not changed. A value that does not fit the type is a
``DeserializationError`` that names the place. A type that neither msgspec, pydantic nor this module can make is a
``TypeError``.
"""

from __future__ import annotations

import collections
import collections.abc
import datetime
import decimal
import enum
import inspect
import pathlib
import re
import types
import typing
import uuid
from collections.abc import Generator, Iterable
from typing import Any

import msgspec

from ..errors import DeserializationError, SerializationError
from .build import built, of_base
from .encode import encode_json
from .plain import sorted_json
from .problems import member_path, shown, type_name
from .pydantic_ import MisfitError, TakeApartError, validated
from .reach import Reach, reach_of
from .shapes import NAMED_TUPLE, STRUCT, Shape, is_pydantic, meaning, shape_of_type

# msgspec converts nearly everything. It does not know some types (unions of several dataclasses, or of several types
# that are strings in JSON; enums of floats), does not always name the place (it writes "[...]" for the key of a dict),
# and leaves some classes the last word on their fields. Such a type is taken apart by one level, and its parts are
# handed to msgspec again.


def convert(value: Any, kind: Any) -> Any:
    """``value`` as an object of the type ``kind``. Raises ``DeserializationError``, ``TypeError``."""
    try:
        conversion = _Conversion()
        made = conversion.at_once(value, kind)
        return conversion.convert(value, kind) if made is _SLOW else made
    except RecursionError as error:
        raise DeserializationError("$", f"nested too deeply to be made {type_name(kind)}") from error


_LEAVES = {bool, int, float, str, type(None)}
_WRAPPERS = (typing.Required, typing.NotRequired, typing.Final, getattr(typing, "ReadOnly", typing.Final))
_ATOMIC = object()
"""Result of ``_by_parts`` for a type without parts."""
_SLOW = object()
"""Result of ``at_once`` for a value that msgspec does not convert as a whole."""
_NATIVE = (bytes, bytearray, memoryview)
"""Left to itself, msgspec makes these of any str that happens to be base64."""
_MSGSPEC_PLACE = re.compile(r"(.*) - at `(.*)`", re.DOTALL)
_EXACT_PLACE = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]+\])*")


def _by_msgspec(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, kind, builtin_types=_NATIVE, str_keys=True, dec_hook=_custom)


def _custom(kind: Any, value: Any) -> Any:
    """An object of a type that msgspec does not know by itself. msgspec calls this for fields of such a type."""
    if is_pydantic(kind):
        return validated(value, kind)
    if typing.get_origin(kind) is not None or not isinstance(kind, type):
        raise TakeApartError("neither msgspec nor pydantic knows it")
    if type(value) is str and (made := _of_text(kind, value)) is not None:
        return made
    if isinstance(value, kind):
        return value
    if issubclass(kind, str | int | list | dict) and issubclass(kind, type(value)):
        return of_base(kind, value)
    raise MisfitError("$", f"{type_name(type(value))} cannot be converted to {type_name(kind)}")


def _of_text(kind: Any, text: str) -> Any:
    """An object of a class that is read from a str; None for other classes."""
    try:
        if issubclass(kind, pathlib.PurePath | decimal.Decimal | uuid.UUID):
            return kind(text)
        if issubclass(kind, datetime.date | datetime.time):
            return kind.fromisoformat(text)
    except Exception as error:  # a subclass of the caller's may raise anything
        raise MisfitError("$", f"{type_name(kind)} does not take {shown(text)}: {error!r}") from error
    return None


class _Attempt(typing.NamedTuple):
    """What msgspec made of a value, or why it did not."""

    made: Any = None
    failure: Exception | None = None
    knows_place: bool = False


_Parts = Generator[tuple[Any, Any, str], Any, Any]


class _Conversion:
    """One call of ``convert``.

    Not recursive, except where msgspec is, so that 200 levels come back however little is left of the caller's stack.
    Each level is a generator: it yields a part of the value with its type and its place, and is sent the object made of
    them.
    """

    def __init__(self) -> None:
        self._direct: dict[int, tuple[Any, bool]] = {}
        """By the id of a type, since not every type can be hashed; with the type, so that no other gets its id."""
        self._tried: dict[tuple[str, int], Any] = {}
        """Results of the members of unions, by place and type.

        Without them nested unions of types that look alike would take exponential time.
        """

    def convert(self, value: Any, kind: Any) -> Any:
        waiting = [self._begun(value, kind, "$")]
        made, failure = None, None
        while waiting:
            try:
                asked = waiting[-1].send(made) if failure is None else waiting[-1].throw(failure)
            except StopIteration as end:
                waiting.pop()
                made, failure = end.value, None
            except RecursionError:
                raise
            except Exception as error:  # noqa: BLE001 - raised again where the value was asked for
                waiting.pop()
                failure = error
            else:
                made, failure = None, None
                waiting.append(self._begun(*asked))
        if failure is not None:
            raise failure
        return made

    def _begun(self, value: Any, kind: Any, path: str) -> _Parts:
        if isinstance(kind, type) and not self._is_direct(kind) and not is_pydantic(kind):
            shape = shape_of_type(kind)
            if shape is not None:  # the one of all cases of _by_parts that applies
                return self._object(value, shape, path)
        return self._convert(value, kind, path)

    def _is_direct(self, kind: Any) -> bool:
        known = self._direct.get(id(kind))
        if known is None:
            known = self._direct[id(kind)] = (kind, reach_of(kind).is_direct)
        return known[1]

    def at_once(self, value: Any, kind: Any) -> Any:
        if type(value) is kind and kind in _LEAVES:
            return value
        if not self._is_direct(kind):
            return _SLOW
        try:
            return validated(value, kind) if is_pydantic(kind) else _by_msgspec(value, kind)
        except (TypeError, NameError, NotImplementedError):
            self._note_unknown(kind)
            return _SLOW
        except Exception:  # noqa: BLE001 - it is tried anew by _attempt, which knows the place
            return _SLOW

    def _attempt(self, value: Any, kind: Any, path: str) -> _Attempt:
        try:
            # Not a pydantic dataclass: msgspec would take it for a dataclass, and not call its validators.
            return _Attempt(validated(value, kind) if is_pydantic(kind) else _by_msgspec(value, kind))
        except MisfitError as error:
            return _Attempt(failure=_moved(error, path), knows_place=True)
        except msgspec.ValidationError as error:
            problem, place = _split(error)
            failure = DeserializationError(path + place[1:], problem)
            if isinstance(error.__cause__, MisfitError):
                failure = _moved(error.__cause__, failure.path)
            failure.__cause__ = error
            return _Attempt(failure=failure, knows_place=_EXACT_PLACE.fullmatch(place) is not None)
        except (TypeError, NameError, KeyError, NotImplementedError, TakeApartError) as error:
            # KeyError: an attrs class without types
            self._note_unknown(kind)
            unknown = TypeError(f"no way to convert to {type_name(kind)} is known: {error}")
            unknown.__cause__ = error
            return _Attempt(failure=unknown)
        except RecursionError as error:
            return _Attempt(failure=error)
        except Exception as error:  # noqa: BLE001 - a check of the class may raise anything
            failure = DeserializationError(path, f"{type_name(kind)} does not take it: {error!r}")
            failure.__cause__ = error
            return _Attempt(failure=failure)

    def _note_unknown(self, kind: Any) -> None:
        """msgspec does not know this type. It is not asked again: for a class never, for another type in this call."""
        self._direct[id(kind)] = (kind, False)
        shape = shape_of_type(kind)
        if shape is not None:
            _, is_compared, is_safe = reach_of(kind)
            shape.reach = Reach(False, is_compared, is_safe)

    def _convert(self, value: Any, kind: Any, path: str) -> _Parts:
        attempt = _Attempt()
        if is_direct := self._is_direct(kind):
            attempt = self._attempt(value, kind, path)
            if attempt.failure is None:
                return attempt.made
            if attempt.knows_place:
                raise attempt.failure
        made = yield from self._by_parts(value, kind, path)
        if made is _ATOMIC and not is_direct:
            if not reach_of(kind).is_safe:
                raise TypeError(f"no way to convert to {type_name(kind)} is known: it cannot be taken apart")
            attempt = self._attempt(value, kind, path)
            if attempt.failure is None:
                return attempt.made
        if attempt.failure is not None and (made is _ATOMIC or isinstance(attempt.failure, DeserializationError)):
            raise attempt.failure
        return made

    def _by_parts(self, value: Any, kind: Any, path: str) -> _Parts:
        origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
        meant = meant_by(kind, origin, args)
        if meant is not None:
            return (yield value, meant, path)
        if origin in (typing.Union, types.UnionType):
            return (yield from self._union(value, kind, path))
        if origin is typing.Literal:
            return _choice(value, args, kind, path)
        if not isinstance(origin, type):
            return _ATOMIC
        if issubclass(origin, enum.Enum):
            return _choice(value, origin.__members__.values(), kind, path)
        shape = None if is_pydantic(origin) else shape_of_type(kind)
        if shape is not None:
            return (yield from self._object(value, shape, path))
        if args and issubclass(origin, collections.abc.Collection):
            container = self._mapping if issubclass(origin, collections.abc.Mapping) else self._collection
            return (yield from container(value, origin, args, path))
        return _ATOMIC

    def _union(self, value: Any, kind: Any, path: str) -> _Parts:
        """The first member with an object that is written like the value; or else the first that the value fits."""
        members = [member for member in typing.get_args(kind) if member is not types.NoneType or value is None]
        if len(members) == 1:
            return (yield value, members[0], path)
        fitting: dict[int, Any] = {}
        deeper: list[DeserializationError] = []
        for number in _order_of_trial(value, members):
            made = yield from self._tried_as(value, members[number], path)
            if isinstance(made, DeserializationError):
                if len(made.path) > len(path):
                    deeper.append(made)
            elif made is value or _is_written_as(made, value):
                return made
            else:
                fitting[number] = made
        if fitting:
            return fitting[min(fitting)]
        if deeper:
            raise max(deeper, key=lambda error: len(error.path))
        raise DeserializationError(path, f"{shown(value)} fits none of {type_name(kind)}")

    def _tried_as(self, value: Any, member: Any, path: str) -> _Parts:
        """What a member of a union makes of the value, or its ``DeserializationError``. Each is tried once."""
        tried = (path, id(member))
        if tried not in self._tried:
            made = self.at_once(value, member)
            try:
                self._tried[tried] = made if made is not _SLOW else (yield value, member, path)
            except DeserializationError as error:
                self._tried[tried] = error
        return self._tried[tried]

    def _mapping(self, value: Any, origin: Any, args: tuple[Any, ...], path: str) -> _Parts:
        _expect(value, dict, path)
        key_kind, item_kind = (args[0], int) if issubclass(origin, collections.Counter) else args
        made = {}
        for key, item in value.items():
            part = self.at_once(item, item_kind)
            if part is _SLOW:
                part = yield item, item_kind, member_path(path, key)
            made[_dict_key(key, key_kind, path)] = part
        return made if inspect.isabstract(origin) else of_base(origin, made)

    def _collection(self, value: Any, origin: Any, args: tuple[Any, ...], path: str) -> _Parts:
        _expect(value, list, path)
        kinds = args
        if not issubclass(origin, tuple) or args[1:] == (...,):
            kinds = args[:1] * len(value)
        if len(kinds) != len(value):
            raise DeserializationError(path, f"Expected `array` of length {len(kinds)}, got {len(value)}")
        made = []
        for index, kind in enumerate(kinds):
            part = self.at_once(value[index], kind)
            if part is _SLOW:
                part = yield value[index], kind, member_path(path, index)
            made.append(part)
        if inspect.isabstract(origin):
            return set(made) if issubclass(origin, collections.abc.Set) else made
        return of_base(origin, made)

    def _object(self, value: Any, shape: Shape, path: str) -> _Parts:
        try:
            readers = shape.readers()
        except TypeError as error:
            raise TypeError(f"no way to convert to {type_name(shape.owner)} is known: {error}") from error
        _expect(value, list if shape.is_array else dict, path)
        members: dict[int | str, Any] = dict(enumerate(value)) if shape.is_array else value
        _check_members(members, shape, path)
        parts = {}
        for reader in readers:
            step, kind = reader.step, reader.kind
            if step not in members:
                continue
            if reader.is_direct is False:
                self._direct[id(kind)] = (kind, False)
            part = self.at_once(members[step], kind)
            if part is _SLOW:
                part = yield members[step], kind, member_path(path, step)
                reader.is_direct = self._is_direct(kind)
            parts[reader.attribute] = part
        try:
            return built(shape, parts)
        except RecursionError:
            raise
        except ValueError as error:
            raise DeserializationError(path, str(error)) from error
        except Exception as error:  # a method of the class may raise anything
            problem = f"no {type_name(shape.owner)} can be made of it: {error!r}"
            raise DeserializationError(path, problem) from error


def meant_by(kind: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    """The type that this one is another form of, such as ``int`` of ``Final[int]``; None if it is no such form."""
    if origin in _WRAPPERS:
        return args[0]
    if origin is typing.Annotated and not any(isinstance(note, msgspec.Meta) for note in args[1:]):
        return args[0]
    return meaning(kind)


def _check_members(members: dict[int | str, Any], shape: Shape, path: str) -> None:
    """Raise for another tag than the class has, and for members that the class does not allow."""
    if shape.tag is not None:
        step, tag = shape.tag
        if step in members:
            _choice(members[step], [tag], typing.Literal[tag], member_path(path, step))
    if shape.family == NAMED_TUPLE and len(members) > len(shape.members):
        most = len(shape.members)
        raise DeserializationError(path, f"Expected `array` of length {most} at most, got {len(members)}")
    if shape.family == STRUCT and shape.owner.__struct_config__.forbid_unknown_fields:
        for step in members:
            if step not in shape.keys:
                raise DeserializationError(path, f"Object contains unknown field {shown(step)}")


def _order_of_trial(value: Any, members: list[Any]) -> list[int]:
    """The numbers of a union's members, in the order of trial: first the classes that leave nothing of a dict out."""
    order = list(range(len(members)))
    if type(value) is dict:
        order.sort(key=lambda number: _has_no_place_for(value, members[number]))
    return order


def _has_no_place_for(value: dict[str, Any], kind: Any) -> bool:
    """Whether an object of this class would leave out some member of the value."""
    shape = shape_of_type(kind)
    return shape is not None and not shape.is_array and not shape.keys >= value.keys()


def _is_written_as(made: Any, value: Any) -> bool:
    try:
        one, other = encode_json(made), encode_json(value)
    except SerializationError:
        return False
    return one == other or sorted_json(one) == sorted_json(other)


def _choice(value: Any, choices: Iterable[Any], kind: Any, path: str) -> Any:
    stored = _written(value)
    for choice in choices:
        if _written(choice) == stored is not None:
            return choice
    raise DeserializationError(path, f"{shown(value)} is none of {type_name(kind)}")


def _dict_key(key: str, kind: Any, path: str) -> Any:
    if kind is str:
        return key
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
    """The problem and the place: msgspec joins them into one text."""
    match = _MSGSPEC_PLACE.fullmatch(str(error))
    return (match[1], match[2]) if match else (str(error), "$")


def _moved(error: MisfitError, path: str) -> DeserializationError:
    moved = DeserializationError(path + error.path[1:], error.problem)
    moved.__cause__ = error.__cause__
    return moved


def _expect(value: Any, kind: type, path: str) -> None:
    if type(value) is not kind:
        raise DeserializationError(path, f"Expected `{type_name(kind)}`, got `{type_name(type(value))}`")

"""Values: whatever is taken comes back as it was, and whatever is not is refused by name of its place."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import json
import math
import pathlib
import random
import subprocess
import sys
import time
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from unittest import mock

import attrs
import hypothesis
import msgspec
import orjson
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextstore import DeserializationError, SerializationError
from contextstore._values import encode as _encoding
from contextstore._values.codec import BYTES, JSON, Encoded, checksum, decode, encode, equal
from contextstore._values.encode import MAX_DEPTH, encode_json

from .conftest import named
from .portions import some

UTC = datetime.UTC
PLENTY = 10**9


def encoded(value: Any) -> Encoded:
    return encode(value, PLENTY)


def form(value: Any) -> Any:
    """The JSON form of a value, as it comes back without ``type``."""
    return decode(encoded(value))


def bare_form(value: Any) -> Any:
    """The JSON form, also of what would be refused because its class does not read it back."""
    return orjson.loads(encode_json(value))


def there_and_back(value: Any, kind: Any) -> Any:
    return decode(encoded(value), kind)


def refusal(value: Any) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encoded(value)
    return caught.value


def misfit(value: Any, kind: Any) -> DeserializationError:
    with pytest.raises(DeserializationError) as caught:
        there_and_back(value, kind)
    return caught.value


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types at every level, with the same sign of zero and the same order of keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


# ------------------------------------------------------------------------------------------------------------- classes
# of every kind that is taken; each has one member of any type, so that they nest at will.


@dataclasses.dataclass
class Data:
    score: Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    score: Any


class Pair(NamedTuple):
    score: Any
    other: Any = None


@attrs.define
class Attr:
    score: Any


@attrs.frozen(slots=False)
class FrozenAttr:
    score: Any


class Struct(msgspec.Struct):
    score: Any


class Row(msgspec.Struct, array_like=True):
    score: Any


class Model(pydantic.BaseModel):
    score: Any


@pydantic.dataclasses.dataclass
class PydanticData:
    score: Any


# and of every kind one that has another one of its kind in it, as its field says.


class Couple(NamedTuple):
    score: tuple[int, int]
    other: Couple | None = None


@dataclasses.dataclass
class DataChain:
    score: DataChain | int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlottedChain:
    score: SlottedChain | int


class PairChain(NamedTuple):
    score: PairChain | int


@attrs.define
class AttrChain:
    score: AttrChain | int


class StructChain(msgspec.Struct):
    score: StructChain | int


class RowChain(msgspec.Struct, array_like=True):
    score: RowChain | int


class ModelChain(pydantic.BaseModel):
    score: ModelChain | int


@dataclasses.dataclass
class HookedChain:
    score: HookedChain | int

    def __post_init__(self) -> None:
        self.seen = True


CHAINS: list[Any] = [DataChain, SlottedChain, PairChain, AttrChain, StructChain, RowChain, ModelChain, HookedChain]


def chain(kind: Any, levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = kind(score=value)
    return value


def chain_form(kind: Any, levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind in (PairChain, RowChain) else {"score": value}
    return value


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Name(str, enum.Enum):  # noqa: UP042 - str() of a member is not its value
    A = "a"


class Odd(enum.StrEnum):
    A = "a"


Odd.A._value_ = 1  # type: ignore[assignment]


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Mixed(enum.Enum):
    HALF = 0.5
    NOTHING = None
    POINT = (1, 2)
    NAME = "name"
    COUNT = 7
    DAY = datetime.date(2020, 2, 29)
    TRUE = True


class Broken(enum.Enum):
    NAN = math.nan
    DEEP = (1, [None, {"a": math.inf}])
    BYTES = b"x"


class Text(str):
    """A str whose own methods all lie."""

    __slots__ = ()

    def __str__(self) -> str:
        return "lie"

    def __len__(self) -> int:
        return 0

    def encode(self, *args: Any) -> bytes:
        return b"lie"

    __repr__ = __str__


class Number(int):
    def __int__(self) -> int:
        return 666

    def __str__(self) -> str:
        return "666"

    __index__ = __int__
    __repr__ = __str__


class Mapping(dict):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        return iter(["lie"])

    def items(self) -> Any:
        return [("lie", 1)]

    def keys(self) -> Any:
        return ["lie"]

    def copy(self) -> Any:
        return {"lie": 1}

    __getitem__ = None  # type: ignore[assignment]


class Sequence(list):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        return iter(["lie"])

    def copy(self) -> Any:
        return ["lie"]

    def __len__(self) -> int:
        return 1


class LyingPair(NamedTuple("LyingPair", [("a", int), ("b", int)])):
    def __iter__(self) -> Iterator[Any]:
        return iter(["lie"])


class Triple(tuple):  # type: ignore[type-arg]
    __slots__ = ()


# ---------------------------------------------------------------------------------------------------- JSON, as it comes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(
        [-(2**63), 2**63 - 1, 2**63, 2**64 - 1, 0.0, -0.0, 1.0, 5e-324, 1.7976931348623157e308, 1e16, 1e22]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.sampled_from(["null", "NaN", '"', "\\", "[", "]}", "\0", "\x1f", "\u2028", "\U0001f600", "[...]", "a.b"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=15
)


@given(VALUES)
@settings(max_examples=some(200, 200 // 5), deadline=None)
def test_json_comes_back_equal_and_of_the_same_types_at_every_level(value: Any) -> None:
    stored = encoded(value)
    assert stored.codec == JSON
    assert same(decode(stored), value)
    assert same(json.loads(stored.data), value)  # it is JSON to others too


@given(st.binary(max_size=300))
def test_bytes_come_back_exactly(value: bytes) -> None:
    stored = encoded(value)
    assert stored == (BYTES, value)
    assert decode(stored) == value
    assert type(decode(stored)) is bytes


async def test_bytes_that_look_like_json_stay_bytes_in_a_store(store: Any) -> None:
    for value in (b"null", b"", b'{"a": 1}', b"\xff\x00"):
        await store.put("run", repr(value), value)
        await store.put_global(repr(value), value)
        assert await store.get("run", repr(value)) == value
        assert await store.get_global(repr(value)) == value


EDGES = [
    None,
    True,
    False,
    0,
    -0.0,
    1.0,
    2**64 - 1,
    -(2**63),
    5e-324,
    "",
    "\0",
    "null",
    "\U0001f600",
    [],
    {},
    {"": None},
    [[], {}, [None]],
    {"a": {"b": [1, 1.0, True, "1"]}},
]


async def test_edges_of_json_come_back_from_a_store_of_the_same_type(make_store: Any) -> None:
    async with make_store(cache_bytes=0) as store:
        for value in EDGES:
            await store.put("run", repr(value), value)
            await store.upsert_global("key", value)
            assert same(await store.get("run", repr(value), "default"), value)
            assert same(await store.get_global("key", "default"), value)


@given(VALUES)
@settings(deadline=None)
def test_the_same_value_in_other_clothes_is_stored_as_the_same_text(value: Any) -> None:
    """The slow way writes what the quick way writes."""

    def dressed(inner: Any) -> Any:
        if isinstance(inner, list):
            return Sequence(map(dressed, inner))
        if isinstance(inner, dict):
            return Mapping((key, dressed(item)) for key, item in inner.items())
        if isinstance(inner, str):
            return Text(inner)
        return Number(inner) if type(inner) is int else inner

    assert encoded(dressed(value)) == encoded(value)


# ------------------------------------------------------------------------------------------------ what has a JSON form

NOW = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)
ID = uuid.UUID("01234567-89ab-7def-8123-456789abcdef")

FORMS: list[tuple[Any, Any]] = [
    ((1, "a", None), [1, "a", None]),
    ((), []),
    (((),), [[]]),
    (Pair(1, [2]), [1, [2]]),
    (Couple((1, 2), Couple((3, 4))), [[1, 2], [[3, 4], None]]),
    (LyingPair(1, 2), [1, 2]),
    (collections.namedtuple("Old", "a b")(1, 2), [1, 2]),  # noqa: PYI024 - that is the point
    (Data(1), {"score": 1}),
    (Slotted(score=[2]), {"score": [2]}),
    (Attr({"a": 1}), {"score": {"a": 1}}),
    (FrozenAttr([1]), {"score": [1]}),
    (Struct(1), {"score": 1}),
    (Row(1), [1]),
    (Model(score=1), {"score": 1}),
    (PydanticData([1]), {"score": [1]}),
    *((chain(kind, 3), chain_form(kind, 3)) for kind in CHAINS),
    ([Model(score=1), {"a": Model(score=2)}, (Data(3),)], [{"score": 1}, {"a": {"score": 2}}, [{"score": 3}]]),
    (pydantic.RootModel[list[int]]([1, 2]), [1, 2]),
    (pydantic.RootModel[int](1), 1),
    (Color.RED, "red"),
    (Level.HIGH, 2),
    (Word.YES, "yes"),
    (Rights.READ | Rights.WRITE, 3),
    (Rights(0), 0),
    (list(Mixed), [0.5, None, [1, 2], "name", 7, "2020-02-29", True]),
    (Text("é"), "é"),
    (Number(5), 5),
    (Mapping(a=Mapping(b=1)), {"a": {"b": 1}}),
    (Sequence([Sequence([2])]), [[2]]),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (ID, str(ID)),
    (type("SubUUID", (uuid.UUID,), {"__str__": lambda self: "lie"})(int=ID.int), str(ID)),
    (datetime.date(1, 1, 1), "0001-01-01"),
    (datetime.date(9999, 12, 31), "9999-12-31"),
    (datetime.time(1, 2, 3), "01:02:03"),
    (datetime.time(1, 2, 3, 4, tzinfo=UTC), "01:02:03.000004+00:00"),
    (NOW, "2024-02-29T12:30:15.123456"),
    (NOW.replace(tzinfo=UTC), "2024-02-29T12:30:15.123456+00:00"),
    (
        NOW.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-9, minutes=-30))),
        "2024-02-29T12:30:15.123456-09:30",
    ),
    (datetime.datetime.min, "0001-01-01T00:00:00"),
    (datetime.datetime.max, "9999-12-31T23:59:59.999999"),
]


@pytest.mark.parametrize(("value", "expected"), FORMS, ids=lambda value: repr(value)[:50])
def test_what_is_not_json_has_a_json_form(value: Any, expected: Any) -> None:
    assert same(form(value), expected)
    assert same(form({"a": [None, value]}), {"a": [None, expected]})


async def test_what_is_not_json_comes_back_from_a_store_as_its_form_or_by_type(store: Any) -> None:
    await store.put("run", "node", {"x": Frozen(at=NOW)})
    assert await store.get("run", "node") == {"x": {"at": NOW.isoformat(), "day": None}}
    assert await store.get("run", "node", type=dict[str, Frozen]) == {"x": Frozen(at=NOW)}
    await store.upsert_global("now", NOW)
    assert await store.get_global("now", type=datetime.datetime) == NOW


@pytest.mark.parametrize(
    ("value", "expected"), [pair for pair in FORMS if isinstance(pair[0], str | int | dict | list)]
)
def test_subclasses_lose_their_class_and_nothing_else(value: Any, expected: Any) -> None:
    assert type(form(value)) is type(expected)


def test_an_ordered_dict_keeps_its_order() -> None:
    value = collections.OrderedDict(a=1, b=2)
    value.move_to_end("a")
    assert list(form(value)) == ["b", "a"]


def test_a_dataclass_is_all_of_its_fields_and_no_other_attribute() -> None:
    @dataclasses.dataclass
    class Base:
        _private: int
        __mangled: int = 2
        late: int = dataclasses.field(init=False)
        hidden: int = dataclasses.field(default=4, repr=False, compare=False)
        klass: typing.ClassVar[int] = 5
        init: dataclasses.InitVar[int] = 6

        def __post_init__(self, init: int) -> None:
            self.late = 3
            self.other = init

    class Sub(Base):
        pass

    expected = {"_private": 1, "_Base__mangled": 2, "late": 3, "hidden": 4}
    expected = {key.replace("_Base", f"_{Base.__name__}"): item for key, item in expected.items()}
    assert form(Base(1)) == expected
    assert form(Sub(1)) == expected


def test_a_dataclass_that_is_also_a_dict_is_its_fields() -> None:
    @dataclasses.dataclass
    class Both(dict):  # type: ignore[type-arg]
        a: int

    assert form(Both(1)) == {"a": 1}


@pytest.mark.parametrize("kind", [Data, Slotted, Attr, FrozenAttr, Struct, Row], ids=lambda kind: kind.__name__)
def test_a_field_that_is_not_set_is_refused(kind: Any) -> None:
    unset = kind(score=1)
    object.__delattr__(unset, "score") if not isinstance(unset, msgspec.Struct) else delattr(unset, "score")
    error = refusal({"a": [unset]})
    assert error.path == "$.a[0]"
    assert "score" in error.problem
    assert "not set" in error.problem


def test_a_property_that_raises_is_a_refusal_not_an_error_of_its_own() -> None:
    @dataclasses.dataclass
    class Lazy:
        score: int

    Lazy.score = property(lambda self: 1 / 0, lambda self, value: None)  # type: ignore[assignment]
    assert "division by zero" in refusal([Lazy(1)]).problem


def test_unset_fields_are_left_out_as_msgspec_does() -> None:
    class Patch(msgspec.Struct):
        a: int | msgspec.UnsetType = msgspec.UNSET
        b: int | msgspec.UnsetType = msgspec.UNSET

    @dataclasses.dataclass
    class DataPatch:
        a: int | msgspec.UnsetType = msgspec.UNSET

    assert form(Patch(b=1)) == {"b": 1}
    assert form(DataPatch()) == {}
    assert "msgspec.UnsetType" in str(refusal([msgspec.UNSET])).replace("_core.", "")

    class RowPatch(msgspec.Struct, array_like=True):
        a: int | msgspec.UnsetType = msgspec.UNSET
        b: int = 1

    assert "UNSET" in refusal(RowPatch()).problem  # an array without it would shift the others


@given(st.data())
@settings(deadline=None)
def test_a_datetime_keeps_its_moment_and_its_offset(data: st.DataObject) -> None:
    minutes = st.integers(-23 * 60 - 59, 23 * 60 + 59)
    zones = st.one_of(
        st.none(),
        st.just(UTC),
        minutes.map(lambda m: datetime.timezone(datetime.timedelta(minutes=m))),
        st.sampled_from(["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]).map(zoneinfo.ZoneInfo),
    )
    zone = data.draw(zones)
    first = datetime.datetime(1975, 1, 1) if isinstance(zone, zoneinfo.ZoneInfo) else datetime.datetime.min
    fold = data.draw(st.sampled_from([0, 1]))
    value = data.draw(st.datetimes(min_value=first)).replace(tzinfo=zone, fold=fold)
    if zone is not None and value.utcoffset() % datetime.timedelta(minutes=1):
        assert "seconds" in refusal(value).problem
        return
    back = there_and_back(value, datetime.datetime)
    assert back.replace(tzinfo=None) == value.replace(tzinfo=None, fold=0)
    assert back.utcoffset() == value.utcoffset()


def test_the_second_of_two_equal_hours_keeps_its_own_offset() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    offsets = [datetime.datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    assert form(offsets) == ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"]


def test_a_subclass_of_datetime_is_its_base_value() -> None:
    class Moment(datetime.datetime):
        def isoformat(self, *args: Any, **kwargs: Any) -> str:
            return "lie"

        def utcoffset(self) -> Any:
            return datetime.timedelta(seconds=7)

        __str__ = isoformat

    assert form(Moment(2020, 1, 1, tzinfo=UTC)) == form(datetime.datetime(2020, 1, 1, tzinfo=UTC))


class Zone(datetime.tzinfo):
    def __init__(self, offset: Any) -> None:
        self.offset = offset

    def utcoffset(self, moment: Any) -> Any:
        if isinstance(self.offset, Exception):
            raise self.offset
        return self.offset


@pytest.mark.parametrize(
    "value",
    [
        NOW.replace(tzinfo=datetime.timezone(datetime.timedelta(seconds=30))),
        NOW.replace(tzinfo=datetime.timezone(datetime.timedelta(microseconds=1))),
        datetime.datetime(1800, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.time(1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        NOW.replace(tzinfo=Zone(None)),
        NOW.replace(tzinfo=Zone(ValueError("no"))),
        NOW.replace(tzinfo=Zone("seven")),
    ],
    ids=named,
)
def test_a_time_whose_offset_cannot_be_written_is_refused(value: Any) -> None:
    assert refusal({"at": value}).path == "$.at"


def test_a_datetime_with_nanoseconds_is_refused_not_rounded() -> None:
    class Timestamp(datetime.datetime):  # as that of pandas
        nanosecond = 7

    assert "nanoseconds" in refusal(Timestamp(2020, 1, 1)).problem


# ---------------------------------------------------------------------------------------------------- what is refused


@dataclasses.dataclass
class Bad:
    """Something that is refused, and a word of the reason."""

    value: Any
    word: str

    def __repr__(self) -> str:
        return f"{type(self.value).__name__} {self.word}"


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


class Float(float):
    pass


class Bytes(bytes):
    pass


REFUSED = [
    Bad(math.nan, "NaN"),
    Bad(math.inf, "Infinity"),
    Bad(-math.inf, "-Infinity"),
    Bad(Broken.NAN, "NaN"),
    Bad(2**64, "2**64 - 1"),
    Bad(-(2**63) - 1, "2**63"),
    Bad(10**400, "str"),
    Bad(type("BigInt", (int,), {})(2**64), "str"),
    Bad(b"x", "base64"),
    Bad(Bytes(b"x"), "bytes()"),
    Bad(bytearray(b"x"), "bytes()"),
    Bad(memoryview(b"x"), "bytes()"),
    Bad(Broken.BYTES, "base64"),
    Bad({1}, "list"),
    Bad(frozenset([1]), "list"),
    Bad({}.keys(), "list"),
    Bad((x for x in [1]), "list"),
    Bad(map(str, [1]), "list"),
    Bad(iter([1]), "list"),
    Bad(collections.deque([1]), "list"),
    Bad(range(3), "list"),
    Bad(array.array("i", [1]), "list"),
    Bad(types.MappingProxyType({"a": 1}), "dict()"),
    Bad(collections.ChainMap({"a": 1}), "dict()"),
    Bad(collections.UserDict(a=1), "dict()"),
    Bad(Triple((1, 2)), "tuple()"),
    Bad(time.gmtime(0), "tuple()"),
    Bad(Float(1.5), "float()"),
    Bad(decimal.Decimal("1.5"), "str()"),
    Bad(fractions.Fraction(1, 2), "convert"),
    Bad(1j, "complex"),
    Bad(datetime.timedelta(1), "total_seconds()"),
    Bad(pathlib.Path("a"), "str()"),
    Bad(int, "class"),
    Bad(Data, "class"),
    Bad(Color, "class"),
    Bad(Model, "class"),
    Bad(object(), "object"),
    Bad(..., "ellipsis"),
    Bad(NotImplemented, "NotImplementedType"),
    Bad(len, "builtin_function_or_method"),
    Bad(lambda: 1, "function"),
    Bad(Opaque(), "Opaque"),
    Bad(ValueError("x"), "ValueError"),
    Bad(orjson.Fragment(b"1"), "Fragment"),
    Bad(orjson.Fragment(b"{"), "Fragment"),
    Bad(msgspec.Raw(b"1"), "Raw"),
    Bad(mock.MagicMock(spec=dict), "MagicMock"),
    Bad(mock.MagicMock(spec=str), "MagicMock"),
    Bad(mock.MagicMock(spec=list), "MagicMock"),
    Bad("\ud800", "surrogate"),
    Bad("a\udfff null", "surrogate"),
    Bad(Text("\ud800"), "surrogate"),
    Bad({1: 1}, "keys must be str"),
    Bad({None: 1}, "keys must be str"),
    Bad({True: 1}, "keys must be str"),
    Bad({(1, 2): 1}, "keys must be str"),
    Bad({b"a": 1}, "keys must be str"),
    Bad({Text("a"): 1}, "keys must be str"),
    Bad({Color.RED: 1}, "use its value"),
    Bad({Name.A: 1}, "use its value"),
    Bad({Odd.A: 1}, "is no str"),
    Bad({ID: 1}, "keys must be str"),
    Bad({NOW: 1}, "keys must be str"),
    Bad({"a": 1, 2: 2}, "keys must be str"),
    Bad({"\ud800": 1}, "surrogate"),
    Bad({"null": None, "a\udc80": 1}, "surrogate"),
    Bad(NOW.replace(tzinfo=datetime.timezone(datetime.timedelta(seconds=1))), "UTC"),
]


@pytest.mark.parametrize("bad", REFUSED, ids=named)
def test_what_is_refused_is_refused_with_a_word_of_advice(bad: Bad) -> None:
    error = refusal({"items": [0, None, "null", {"score": bad.value}]})
    assert error.path == "$.items[3].score"
    assert bad.word in error.problem
    assert str(error) == f"{error.path}: {error.problem}"
    if type(bad.value) is not bytes:
        assert refusal(bad.value).path == "$"


async def test_of_what_is_refused_nothing_is_stored(store: Any) -> None:
    for bad in REFUSED:
        for call in (store.put("run", "node", [bad.value]), store.put_global("key", [bad.value])):
            with pytest.raises(SerializationError, match=r"^\$\[0\]: "):
                await call
    assert await store.list_keys("run") == []
    assert await store.get_global("key", "nothing") == "nothing"


# How a value can sit in another one, and the step that it adds to the path.
WRAPPERS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda value: [value], "[0]"),
    (lambda value: [None, "null", value, math.nan], "[2]"),
    (lambda value: (None, value), "[1]"),
    (lambda value: {"a": 1, "score": value, "z": math.nan}, ".score"),
    (lambda value: {"null": None, "_a1": value}, "._a1"),
    (lambda value: {"a b": value}, "['a b']"),
    (lambda value: {"": value}, "['']"),
    (lambda value: {"é": value}, "['é']"),
    (lambda value: {"1": value}, "['1']"),
    (lambda value: {"it's": value}, '["it\'s"]'),
    (lambda value: {"a\n.b[0]": value}, r"['a\n.b[0]']"),
    (lambda value: Pair(1, value), "[1]"),
    (Data, ".score"),
    (lambda value: Slotted(score=value), ".score"),
    (Attr, ".score"),
    (FrozenAttr, ".score"),
    (Struct, ".score"),
    (Row, "[0]"),
    (PydanticData, ".score"),
    (lambda value: Sequence([1, value]), "[1]"),
    (lambda value: Mapping(score=value), ".score"),
    (lambda value: collections.OrderedDict(a=None, score=value), ".score"),
    (lambda value: collections.defaultdict(int, score=value), ".score"),
    (lambda value: enum.Enum("E", {"A": (None, [value])}).A, "[1][0]"),  # type: ignore[attr-defined]
]


@given(st.lists(st.sampled_from(WRAPPERS), max_size=8), st.sampled_from(REFUSED))
@settings(max_examples=some(500, 500 // 5), deadline=None)
def test_the_path_names_the_place_however_it_is_nested(wrappers: Any, bad: Bad) -> None:
    hypothesis.assume(wrappers or type(bad.value) is not bytes)
    value, path = bad.value, ""
    for wrap, step in wrappers:
        value, path = wrap(value), step + path
    error = refusal(value)
    assert error.path == f"${path}"
    assert bad.word in error.problem


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    ("holder", "path"),
    [
        (lambda n: n, "$"),
        (lambda n: [None, n], "$[1]"),
        (lambda n: [n, None], "$[0]"),
        (lambda n: ["null", n], "$[1]"),
        (lambda n: {"null": "null", "n": n}, "$.n"),
        (lambda n: ["x" * 5000, None] + [[None]] * 500 + [(n,)], "$[502][0]"),
        (Data, "$.score"),
        (lambda n: [Data((n, None))], "$[0].score[0]"),
        (lambda n: Pair(None, n), "$[1]"),
        (Attr, "$.score"),
        (Struct, "$.score"),
        (lambda n: Model(score=n), "$.score"),
        (lambda n: [Model(score={"null": None, "n": [n]})], "$[0].score.n[0]"),
        (lambda n: pydantic.create_model("M", x=(float, ...))(x=n), "$.x"),
        (lambda n: pydantic.create_model("M", x=(list[float], ...))(x=[1.0, n]), "$.x[1]"),
        (lambda n: pydantic.RootModel[dict[str, float]]({"a": n}), "$.a"),
        (lambda n: pydantic.RootModel[Any](n), "$"),
        (lambda n: Model(score={1: [None, Data((1, {"x": n}))]}), "$.score['1'][1].score[1].x"),
        (lambda n: Model(score=(None, n)), "$.score[1]"),
        (lambda n: Model(score={n}), "$.score[0]"),
        (lambda n: enum.Enum("E", {"A": n}).A, "$"),
        (lambda n: [None, enum.Enum("E", {"A": (None, n)}).A], "$[1][1]"),
        (lambda n: enum.Enum("E", {"A": n}, type=float).A, "$"),
    ],
)
def test_a_number_that_json_has_not_is_refused_wherever_it_sits(number: float, holder: Any, path: str) -> None:
    error = refusal(holder(number))
    assert error.path == path
    assert error.problem.startswith({"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(number)])


@given(VALUES, st.integers(0))
@settings(deadline=None)
def test_a_nan_is_found_at_any_place_of_any_value(value: Any, place: int) -> None:
    value, count = copy.deepcopy(value), 0

    def spots(inner: Any) -> Iterator[tuple[Any, Any]]:
        for step in inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ():
            yield inner, step
            yield from spots(inner[step])

    count = len(list(spots(value)))
    hypothesis.assume(count)
    holder, step = list(spots(value))[place % count]
    holder[step] = math.nan
    assert refusal(value).problem.startswith("NaN")


def test_an_error_of_a_model_of_the_callers_own_is_the_cause() -> None:
    class Loud(pydantic.BaseModel):
        @pydantic.model_serializer
        def dump(self) -> Any:
            raise KeyError("mine")

    error = refusal([Loud()])
    assert error.path == "$[0]"
    assert "mine" in error.problem
    assert error.__cause__ is not None


def test_a_model_may_write_null_for_what_is_a_number_and_leave_things_out() -> None:
    class Own(pydantic.BaseModel):
        small: float
        numbers: list[float]

        @pydantic.field_serializer("small", when_used="json")
        def hide(self, value: float) -> None:
            return None

        @pydantic.field_serializer("numbers", when_used="json")
        def shorten(self, value: list[float]) -> list[Any]:
            return [None, *value[2:]]

    for numbers in ([1.5, 2.5, 3.5], [math.nan, 2.5, 3.5], []):
        own = Own(small=0.5, numbers=numbers)
        assert bare_form(own) == {"small": None, "numbers": [None, *numbers[2:]]}
        assert refusal([own]).path == "$[0].small"  # since it takes no null for it


def test_a_refused_place_with_an_endless_key_or_object_is_named_in_short() -> None:
    error = refusal({"k" * 10**6: math.nan})
    assert len(str(error)) < 200
    assert len(str(refusal({("k" * 10**6,): 1}))) < 300
    assert len(str(refusal({"a": {"\ud800" * 10**6: 1}}))) < 300


# --------------------------------------------------------------------------------------------------------------- depth

NESTINGS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": value},
    "dict subclass": lambda value: Mapping(a=value),
    "list subclass": lambda value: Sequence([value]),
}
OF_CLASSES: dict[str, Callable[[Any], Any]] = {
    kind.__name__: functools.partial(lambda kind, value: kind(score=value), kind)
    for kind in CHAINS
    if kind is not ModelChain  # pydantic has a limit of its own
}


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = wrap(1)
    for _ in range(levels - 1):
        value = wrap(value)
    return value


def depth_of(value: Any) -> int:
    depth = 0
    while isinstance(value, list | dict):
        value = next(iter(value.values() if isinstance(value, dict) else value))
        depth += 1
    return depth


def mixture(seed: int) -> Callable[[Any], Any]:
    choices = random.Random(seed)
    return lambda value: choices.choice(list(NESTINGS.values()))(value)


def at_the_end_of_the_stack(function: Callable[[], Any], left: int = 60) -> Any:
    """Call it with so few frames left of what Python's recursion limit allows."""
    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1  # type: ignore[assignment]

    def down(levels: int) -> Any:
        return function() if levels <= 0 else down(levels - 1)

    return down(sys.getrecursionlimit() - used - left)


@pytest.mark.parametrize("levels", [1, 200, MAX_DEPTH])
@pytest.mark.parametrize(
    "wrap",
    [*NESTINGS.values(), *OF_CLASSES.values(), mixture(1), mixture(2)],
    ids=[*NESTINGS, *OF_CLASSES, "mixed", "mixed too"],
)
def test_so_many_levels_are_taken_even_at_the_end_of_the_callers_stack(wrap: Any, levels: int) -> None:
    value = nested(levels, wrap)
    assert depth_of(form(value)) == levels
    assert depth_of(at_the_end_of_the_stack(lambda: form(value))) == levels


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 256, 300, 700])
@pytest.mark.parametrize(
    "wrap",
    [*NESTINGS.values(), *OF_CLASSES.values(), mixture(1), mixture(2)],
    ids=[*NESTINGS, *OF_CLASSES, "mixed", "mixed too"],
)
def test_more_levels_are_refused(wrap: Any, levels: int) -> None:
    error = refusal(nested(levels, wrap))
    assert "deeper than 254" in error.problem
    assert len(str(error)) < 600
    error = at_the_end_of_the_stack(functools.partial(refusal, nested(levels, wrap)), left=120)
    assert "deeper than 254" in error.problem


async def test_200_levels_come_back_from_a_store_and_more_than_254_do_not_enter_it(store: Any) -> None:
    await store.put("run", "deep", nested(200, mixture(3)))
    assert depth_of(await store.get("run", "deep")) == 200
    with pytest.raises(SerializationError):
        await store.put("run", "deeper", nested(255, NESTINGS["tuple"]))
    assert await store.list_keys("run") == ["deep"]


DEEP = """
import sys, threading
from contextstore import SerializationError
from contextstore._values.codec import encode

def attempt():
    for levels in (255, 256, 300, 1500, 5000, 100_000):
        for wrap in (lambda v: (v,), lambda v: [v], lambda v: {"a": v}, lambda v: ({"a": [v]}, 1), lambda v: (1, v)):
            value = ()
            for _ in range(levels):
                value = wrap(value)
            for holder in (value, [value], {"x": value, "n": None}):
                try:
                    encode(holder, 10**9)
                except SerializationError as error:
                    assert "deeper than 254" in str(error)
                else:
                    raise AssertionError(levels)

attempt()
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
print("unharmed")
"""


def test_thousands_of_levels_hurt_nobody() -> None:
    """orjson alone overwrites memory of tuples nested so deep; in a process of its own, since that may crash."""
    done = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unharmed\n", "")


def test_whatever_contains_itself_is_refused() -> None:
    a_list: list[Any] = [1]
    a_list.append(a_list)
    a_dict: dict[str, Any] = {"x": 1}
    a_dict["self"] = {"a": (a_dict,)}
    data = Data(None)
    data.score = [data]
    in_a_tuple: Any = ([],)
    in_a_tuple[0].append(in_a_tuple)
    model = Model(score=1)
    model.score = [model]
    for value in (a_list, a_dict, data, in_a_tuple):
        assert "contains itself" in refusal(value).problem
    assert refusal([model]).path == "$[0]"  # by pydantic
    for value in (a_list, a_dict, data, in_a_tuple):
        value.clear() if hasattr(value, "clear") else None
    gc.collect()


def test_an_object_met_twice_is_no_circle() -> None:
    shared = [1]
    assert form([shared, {"a": shared}, (shared, shared)]) == [[1], {"a": [1]}, [[1], [1]]]


@pytest.mark.parametrize("text", ["[" * 5000, "]" * 5000, "{[" * 3000, '"[' * 3000, "\\[" * 3000, '\\"[{' * 2000])
def test_brackets_within_strings_are_not_taken_for_depth(text: str) -> None:
    value = {"text": text, text: [text, 1], "rows": [{"t": text[:7]}] * 300}
    assert form(value) == value
    with mock.patch.object(_encoding, "_Walk") as slowly:
        encoded(value)
    slowly.assert_not_called()


# ------------------------------------------------------------------------------------------------------------- the size


@pytest.mark.parametrize("value", [b"12345678", "123456", [1, 2, 3.5], {"é": 1}, Data], ids=named)
def test_max_value_bytes_is_the_size_of_the_encoded_value_and_that_much_fits(value: Any) -> None:
    value = Data("x") if value is Data else value
    size = len(encoded(value).data)
    assert encode(value, size) == encoded(value)
    with pytest.raises(SerializationError, match=rf"^\$: .*{size} bytes.*max_value_bytes is {size - 1}"):
        encode(value, size - 1)


async def test_a_store_takes_values_of_max_value_bytes_and_no_more(make_store: Any) -> None:
    async with make_store(max_value_bytes=10) as store:
        await store.put("run", "bytes", b"x" * 10)
        await store.put("run", "text", "x" * 8)
        for value in (b"x" * 11, "x" * 9, ["x" * 7]):
            with pytest.raises(SerializationError, match="max_value_bytes is 10"):
                await store.put("run", "more", value)
            with pytest.raises(SerializationError, match="max_value_bytes is 10"):
                await store.upsert_global("more", value)
        assert await store.list_keys("run") == ["bytes", "text"]
        assert await store.get_global("more") is None


# ---------------------------------------------------------------------------------------------------- nothing is shared


def test_what_happens_to_the_value_later_does_not_reach_the_encoded_one() -> None:
    value: dict[str, Any] = {"a": [1, {"b": 2}]}
    stored = encoded(value)
    value["a"][1]["b"] = 3
    value["c"] = 4
    assert decode(stored) == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("kind", [None, Any, dict, dict[str, list[Any]]], ids=named)
def test_each_decoding_makes_new_objects(kind: Any) -> None:
    stored = encoded({"a": [1, {"b": 2}]})
    first = decode(stored, kind)
    first["a"][1]["b"] = 3
    first["a"].append(4)
    assert decode(stored, kind) == {"a": [1, {"b": 2}]}


async def test_what_was_put_or_got_can_be_changed_without_touching_the_store(store: Any) -> None:
    value: dict[str, Any] = {"a": [1]}
    await store.put("run", "node", value)
    await store.upsert_global("key", value)
    value["a"].append(2)
    for _ in range(2):
        for got in (await store.get("run", "node"), await store.get_global("key")):
            assert got == {"a": [1]}
            got["a"].append(3)


# ------------------------------------------------------------------------------------------------------------- equality

UNEQUAL = [None, True, False, 0, 1, 0.0, -0.0, 1.0, "1", "", "null", [], {}, [1], [1.0], [True], {"a": 1}, {"a": 1.0}]


@pytest.mark.parametrize("number", range(len(UNEQUAL)))
def test_values_that_python_takes_for_equal_differ_if_their_json_does(number: int) -> None:
    for other in range(len(UNEQUAL)):
        for wrap in (lambda v: v, lambda v: [v], lambda v: {"x": [v], "a": None}):
            assert equal(encoded(wrap(UNEQUAL[number])), encoded(wrap(UNEQUAL[other]))) is (number == other)


@given(VALUES, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_keys_does_not_matter_at_any_level(value: Any, order: random.Random) -> None:
    def shuffled(inner: Any) -> Any:
        if isinstance(inner, list):
            return [shuffled(item) for item in inner]
        if isinstance(inner, dict):
            return {key: shuffled(inner[key]) for key in order.sample(list(inner), len(inner))}
        return inner

    assert equal(encoded(value), encoded(shuffled(value)))


@given(VALUES, VALUES)
@settings(max_examples=some(150, 150 // 5), deadline=None)
def test_equal_is_what_sorted_json_says(one: Any, other: Any) -> None:
    def by_json(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert equal(encoded(one), encoded(other)) is (by_json(one) == by_json(other))


def test_bytes_are_equal_to_the_same_bytes_alone() -> None:
    assert equal(encoded(b"1"), encoded(b"1"))
    assert not equal(encoded(b"1"), encoded(1))
    assert not equal(encoded(1), encoded(b"1"))
    assert not equal(encoded(b'{"a":1,"b":2}'), encoded(b'{"b":2,"a":1}'))


def test_the_order_of_a_list_matters() -> None:
    assert not equal(encoded([1, 2]), encoded([2, 1]))


def test_a_value_is_equal_to_its_json_form() -> None:
    for value, expected in FORMS:
        assert equal(encoded(value), encoded(expected))


@given(st.tuples(TEXT, TEXT), VALUES | st.binary(max_size=9))
@settings(deadline=None)
def test_the_checksum_knows_the_owner_the_name_the_codec_and_every_bit(names: tuple[str, str], value: Any) -> None:
    owner, name = (text.replace("\0", "") for text in names)
    stored = encoded(value)
    right = checksum(owner, name, stored)
    assert right == checksum(owner, name, Encoded(*stored))
    assert right != checksum(owner, name + "x", stored)
    assert right != checksum(owner + "x", name, stored)
    assert right != checksum(owner, name, Encoded(1 - stored.codec, stored.data))
    if name:
        assert right != checksum(owner + name[0], name[1:], stored)
    if stored.data:
        assert right != checksum(owner, name, Encoded(stored.codec, bytes([stored.data[0] ^ 1]) + stored.data[1:]))


# ----------------------------------------------------------------------------------------------------- read as a type
# `type=T`. Classes with real annotations, at module level, since annotations are resolved by name.

T = TypeVar("T")


@dataclasses.dataclass
class Item:
    name: str
    score: float
    tags: list[str] = dataclasses.field(default_factory=list)
    _private: int | None = None
    late: int = dataclasses.field(init=False, default=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    at: datetime.datetime
    day: datetime.date | None = None


@dataclasses.dataclass
class Order:
    items: list[Item]
    by_name: dict[str, Item]
    color: Color = Color.RED


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)


class Total(TypedDict):
    x: int
    y: typing.NotRequired[Item]


class Partial(TypedDict, total=False):
    x: typing.Required[int]
    y: Item


class Point(NamedTuple):
    x: int
    y: float = 0.0


@attrs.define
class Box:
    _width: int
    height: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    label: str = attrs.field(init=False, default="")
    items: list[Item] = attrs.field(factory=list, alias="contents")


@attrs.define
class Untyped:
    x = attrs.field()
    y = attrs.field(default=2)


class Camel(msgspec.Struct, rename="camel"):
    long_name: int
    by_name: dict[str, int] = {}


class Kebab(msgspec.Struct, rename="kebab", tag="kebab", forbid_unknown_fields=True):
    long_name: int
    by_name: dict[str, int] = {}


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    lives: int


class Array(msgspec.Struct, array_like=True, tag="array"):
    x: int
    by_name: dict[str, int] = {}


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(0, ge=0, alias="theAge")
    born: datetime.date | None = None
    friends: dict[str, Person] = {}


class Strict(pydantic.BaseModel, strict=True):
    at: datetime.datetime
    pair: tuple[int, int] = (0, 0)
    kind: Color = Color.RED


@pydantic.dataclasses.dataclass
class Limited:
    count: typing.Annotated[int, pydantic.Field(gt=0)]


@dataclasses.dataclass
class Team:
    boss: Person | None
    others: list[Person]
    by_name: dict[str, Person] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Apple:
    weight: int


@dataclasses.dataclass
class Pear:
    weight: int
    ripe: bool = False


@dataclasses.dataclass
class Basket:
    best: Apple | Pear
    fruits: dict[str, list[Apple | Pear]]
    when: datetime.datetime | datetime.date | uuid.UUID | str = ""


class FruitRow(NamedTuple):
    fruit: Apple | Pear
    count: int = 1


class FruitDict(TypedDict):
    fruit: Apple | Pear
    count: typing.NotRequired[int]


@attrs.frozen
class FruitBox:
    _fruit: Apple | Pear
    count: int = attrs.field(init=False, default=1)


class FruitStruct(msgspec.Struct, rename="upper", tag="fruit"):
    fruit: Apple | Pear
    count: int = 1


class FruitArray(msgspec.Struct, array_like=True, tag="fruits"):
    fruit: Apple | Pear
    count: int = 1


class Anything(Generic[T]):
    pass


def late(item: Any, value: int) -> Any:
    item.late = value
    return item


def counted(box: FruitBox, count: int) -> FruitBox:
    object.__setattr__(box, "count", count)
    return box


def labelled(box: Box, label: str) -> Box:
    box.label = label
    return box


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (late(Item("a", 1.0, ["b"], 2), 3), Item),
    ([Item("a", -0.0)], list[Item]),
    (Order([Item("a", 1.5)], {"b c": Item("d", 2.5)}, Color.BLUE), Order),
    (Frozen(at=NOW, day=datetime.date(1, 1, 1)), Frozen),
    (Tree(1, [Tree(2), Tree(3, [Tree(4)])]), Tree),
    ({"x": 1}, Total),
    ({"x": 1, "y": Item("a", 1.0)}, Total),
    ({"x": 1}, Partial),
    (Point(1), Point),
    ([Point(1, 2.5)], list[Point]),
    (labelled(Box(3, 2.0), "x"), Box),
    (Box(width=3, contents=[Item("a", 1.0)]), Box | None),
    (Untyped([1]), Untyped),
    (Camel(1, {"a_b": 2}), Camel),
    (Kebab(1, {"a b": 2}), Kebab),
    ([Cat(9), Dog(1)], list[Cat | Dog]),
    ({"a": Array(1, {"b": 2})}, dict[str, Array]),
    (Person(name="a", theAge=3, born=datetime.date(2000, 1, 1)), Person),
    (Person(name="a", friends={"b": Person(name="c", theAge=4)}), Person),
    ([Person(name="a", theAge=3)], list[Person]),
    ({"p": Person(name="a", theAge=3), "q": None}, dict[str, Person | None]),
    (Team(None, [Person(name="a", theAge=5)], {"x": Person(name="b")}), Team),
    (Team(Person(name="a"), []), Team | None),
    (Strict(at=NOW, pair=(1, 2), kind=Color.BLUE), Strict),
    ([Strict(at=NOW)], list[Strict]),
    (pydantic.RootModel[list[int]]([1, 2]), pydantic.RootModel[list[int]]),
    (Limited(3), Limited),
    ([Person(name="a"), Limited(2)], list[Limited | Person]),
    (Color.BLUE, Color),
    ({"a": [Color.RED]}, dict[str, list[Color]]),
    (Level.HIGH, Level),
    (Word.YES, Word),
    (Rights.READ | Rights.WRITE, Rights),
    (Rights(0), Rights),
    (list(Mixed), list[Mixed]),
    ({"a": (Mixed.POINT, 1)}, dict[str, tuple[Mixed, int]]),
    (NOW, datetime.datetime),
    (NOW.replace(tzinfo=UTC), datetime.datetime | None),
    (datetime.date(2020, 2, 29), datetime.date),
    (datetime.time(1, 2, 3, 4), datetime.time),
    (datetime.time(1, tzinfo=UTC), datetime.time),
    (ID, uuid.UUID),
    ({"a": ID}, dict[str, uuid.UUID]),
    ((1, "a", None), tuple[int, str, None]),
    ((1, 2, 3), tuple[int, ...]),
    ((), tuple[()]),
    ([(1, [2])], list[tuple[int, list[int]]]),
    (Text("x"), Text),
    ({"a": [Text("x")]}, dict[str, list[Text]]),
    (collections.OrderedDict(a=1), collections.OrderedDict),
    (collections.OrderedDict(a=Point(1)), collections.OrderedDict[str, Point]),
    (collections.defaultdict(list, a=[1]), collections.defaultdict[str, list[int]]),
    (collections.defaultdict(list, a=[1]), collections.defaultdict),
    (collections.Counter("aab"), collections.Counter),
    (collections.Counter("aab"), collections.Counter[str]),
    ({"a": [1, "b", None, 1.5, True]}, dict[str, list[int | str | float | bool | None]]),
    (["a", 1, None], list[Literal["a", 1] | None]),
    ([True, "x"], list[Literal[True, "x"]]),
    # what msgspec alone does not take
    ([Apple(1), Pear(2), Pear(3, True)], list[Apple | Pear]),
    ([Apple(1), Pear(2)], list[Pear | Apple]),
    (Apple(1), Apple | Pear | None),
    (None, typing.Optional[typing.Union[Apple, Pear]]),  # noqa: UP007, UP045 - the old way of writing it
    (Basket(Pear(1), {"a b": [Apple(2), Pear(3)]}, ID), Basket),
    (Basket(Apple(1), {}, NOW), Basket),
    (Basket(Apple(1), {}, NOW.date()), Basket),
    (Basket(Apple(1), {}, "text"), Basket),
    (FruitRow(Pear(1), 2), FruitRow),
    (FruitRow(Apple(1)), FruitRow),
    ({"fruit": Pear(1)}, FruitDict),
    ({"fruit": Pear(1), "count": 2}, FruitDict),
    (FruitBox(Pear(1)), FruitBox),
    (counted(FruitBox(Pear(1)), 9), FruitBox),
    (FruitStruct(Pear(1), 2), FruitStruct),
    ([FruitStruct(Pear(1), 2), Kebab(1)], list[Kebab | FruitStruct]),
    (FruitArray(Pear(1), 2), FruitArray),
    ([Camel(1), Item("a", 1.0), {"x": 1}], list[Camel | Item | dict[str, int]]),
    ([NOW, ID, Color.RED, "text"], list[datetime.datetime | uuid.UUID | Color | str]),
    ([[1], ["a"], {"a": 1}], list[list[int] | list[str] | dict[str, int]]),
    ([(1, "a"), ("a", 1)], list[tuple[int, str] | tuple[str, int]]),
    ([{"a": 1}, {"a": "b"}], list[dict[str, int] | dict[str, str]]),
    ([Person(name="a"), Apple(1), 7], list[Person | Apple | int]),
    (["a", 2, ID], list[Literal["a", 2] | uuid.UUID]),
    ((Apple(1), Pear(2)), tuple[Apple | Pear, ...]),
    ((1, Pear(2)), tuple[int, Apple | Pear]),
    ((b"x"), bytes | None),
    ((b"x"), str | bytes),
    ("x", bytes | str),
]


def kind_id(value: Any) -> str:
    return repr(value).replace("tests.test_values.", "")[:60]


@pytest.mark.parametrize(("value", "kind"), ROUND_TRIPS, ids=kind_id)
def test_what_was_stored_comes_back_equal_through_its_type(value: Any, kind: Any) -> None:
    wraps: list[Any] = [(value, kind)]
    if not isinstance(value, bytes):
        wraps += [([value], list[kind]), ({"a b": value}, dict[str, kind]), ((None, value), tuple[None, kind])]
    for wrapped, wrapping in wraps:
        back = there_and_back(wrapped, wrapping)
        assert back == wrapped
        assert type(back) is type(wrapped)
        assert equal(encoded(back), encoded(wrapped))


# Types made at random: a leaf, then layers around it. Each layer tells the type, how to make one, the step of the path.
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**63), 2**64 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, TEXT),
    (bool, st.booleans()),
    (type(None), st.none()),
    (datetime.datetime, st.datetimes(timezones=st.sampled_from([None, UTC]))),
    (datetime.date, st.dates()),
    (datetime.time, st.times()),
    (uuid.UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Mixed, st.sampled_from(Mixed)),
    (Point, st.builds(Point, st.integers(0, 9), st.floats(0, 1))),
    (Item, st.builds(Item, TEXT, st.floats(0, 1), st.lists(TEXT, max_size=2))),
    (Camel, st.builds(Camel, st.integers(0, 9))),
    (Person, st.builds(Person, name=TEXT, theAge=st.integers(0, 9))),
    (Apple | Pear, st.builds(Apple, st.integers(0, 9)) | st.builds(Pear, st.integers(0, 9), st.booleans())),
]


def around_fields(make: Any, step: str = ".field", **names: Any) -> Callable[[Any], Any]:
    def layer(kind: Any) -> Any:
        made = make(kind)
        return made, (lambda value: made(**{names.get("name", "field"): value})), step

    return layer


def typed_dict(kind: Any) -> Any:
    return TypedDict("Made", {"field": kind})  # type: ignore[misc]


LAYERS: list[Callable[[Any], Any]] = [
    lambda kind: (list[kind], lambda value: [value], "[0]"),
    lambda kind: (tuple[int, kind], lambda value: (1, value), "[1]"),
    lambda kind: (tuple[kind, ...], lambda value: (value,), "[0]"),
    lambda kind: (dict[str, kind], lambda value: {"key": value}, ".key"),
    lambda kind: (dict[str, kind], lambda value: {"a b": value}, "['a b']"),
    lambda kind: (collections.OrderedDict[str, kind], lambda value: collections.OrderedDict(key=value), ".key"),
    lambda kind: (typing.Optional[kind], lambda value: value, ""),  # noqa: UP045
    lambda kind: (typing.Annotated[kind, "a note"], lambda value: value, ""),
    lambda kind: (typing.NewType("New", kind), lambda value: value, ""),
    around_fields(lambda kind: dataclasses.make_dataclass("Made", [("field", kind)])),
    around_fields(lambda kind: dataclasses.make_dataclass("Made", [("_field", kind)]), "._field", name="_field"),
    around_fields(lambda kind: attrs.define(type("Made", (), {"__annotations__": {"field": kind}}))),
    around_fields(lambda kind: attrs.frozen(type("Made", (), {"__annotations__": {"_field": kind}})), "._field"),
    around_fields(lambda kind: msgspec.defstruct("Made", [("field", kind)])),
    around_fields(lambda kind: msgspec.defstruct("Made", [("field", kind)], tag=True, rename="upper"), ".FIELD"),
    around_fields(lambda kind: msgspec.defstruct("Made", [("field", kind)], array_like=True, tag=3), "[1]"),
    around_fields(lambda kind: NamedTuple("Made", [("field", kind)]), "[0]"),
    around_fields(typed_dict),
]


@given(st.sampled_from(LEAVES), st.lists(st.sampled_from(LAYERS), max_size=5), st.data())
@settings(max_examples=some(200, 200 // 5), deadline=None)
def test_what_was_stored_comes_back_through_any_nesting_of_types(leaf: Any, layers: Any, data: st.DataObject) -> None:
    kind, value = leaf[0], data.draw(leaf[1])
    for layer in layers:
        kind, make, _ = layer(kind)
        value = make(value)
    back = there_and_back(value, kind)
    assert back == value
    assert type(back) is type(value)
    assert equal(encoded(back), encoded(value))


WRONG: list[tuple[Any, Any, str, str]] = [
    # the type of the leaf, what is stored instead, the rest of the path, a word of the problem
    (int, "x", "", "int"),
    (int, 1.5, "", "int"),
    (int, True, "", "int"),
    (str, 1, "", "str"),
    (float, "1.5", "", "float"),
    (bool, 1, "", "bool"),
    (list[int], {"a": 1}, "", ""),
    (list[int], [1, None], "[1]", "int"),
    (dict[str, int], {"a": 1, "b c": "x"}, "['b c']", "int"),
    (dict[str, dict[str, list[int]]], {"a": {"b": [1, 2, "x"]}}, ".a.b[2]", "int"),
    (dict[int, int], {"1": 1, "x": 2}, "", "'x'"),
    (dict[str, dict[uuid.UUID, int]], {"a": {"x": 1}}, ".a", "'x'"),
    (tuple[int, int], [1], "", "2"),
    (datetime.datetime, "yesterday", "", "datetime"),
    (datetime.datetime, 0, "", "datetime"),
    (datetime.date, "2024-02-30", "", "date"),
    (uuid.UUID, "x", "", "UUID"),
    (Color, "green", "", "green"),
    (Level, 7, "", "7"),
    (Mixed, 0.25, "", "0.25"),
    (Mixed, 1, "", "Mixed"),
    (Literal["a", 1], "b", "", "b"),
    (bytes, "eHl6", "", "bytes"),
    (list[bytes], ["eHl6"], "[0]", "bytes"),
    (bytes | int, "eHl6", "", ""),
    (bytearray, "eHl6", "", "bytes"),
    (memoryview, "eHl6", "", "bytes"),
    (Item, {"name": "a", "score": "x"}, ".score", "float"),
    (Item, {"name": "a"}, "", "score"),
    (Item, [], "", ""),
    (Order, {"items": [], "by_name": {"a": {"name": "b", "score": 1, "tags": ["c", 2]}}}, ".by_name.a.tags[1]", "str"),
    (Tree, {"value": 1, "children": [{"value": 2}, {"value": "x"}]}, ".children[1].value", "int"),
    (Total, {"y": {"name": "a", "score": 1}}, "", "x"),
    (Partial, {"x": 1, "y": {"name": "a", "score": 1, "tags": [1]}}, ".y.tags[0]", "str"),
    (Point, ["x"], "[0]", "int"),
    (Point, [], "", ""),
    (Box, {"_width": 1, "height": -1.0}, "", "height"),
    (Box, {"_width": "x"}, "._width", "int"),
    (Camel, {"longName": "x"}, ".longName", "int"),
    (Camel, {"longName": 1, "byName": {"a b": "x"}}, ".byName['a b']", "int"),
    (Kebab, {"type": "kebab", "long-name": "x"}, "['long-name']", "int"),
    (Kebab, {"type": "kebab", "long-name": 1, "by-name": {"a": "x"}}, "['by-name'].a", "int"),
    (Kebab, {"type": "other", "long-name": 1}, ".type", "other"),
    (Cat | Dog, {"type": "Cow", "lives": 1}, ".type", "Cow"),
    (Cat | Dog, {"type": "Dog", "lives": "x"}, ".lives", "int"),
    (Array, ["array", 1, {"a": "x"}], "[2].a", "int"),
    (Array, ["other", 1], "[0]", "other"),
    (Person, {"name": 1}, ".name", "string"),
    (Person, {}, "", "name"),
    (Person, {"name": "a", "age": -1}, ".age", "greater"),
    (Person, {"name": "a", "friends": {"b c": {"name": "d", "born": "x"}}}, ".friends['b c'].born", "date"),
    (dict[str, list[Person]], {"x y": [{"name": "a"}, {"name": 1}]}, "['x y'][1].name", "string"),
    (Team, {"boss": None, "others": [{"name": "a", "friends": {"f": 1}}]}, ".others[0].friends.f", ""),
    (Team, {"boss": {"name": 2}, "others": []}, ".boss.name", "string"),
    (Apple | Pear, {"weight": "x"}, ".weight", "int"),
    (Apple | Pear, 5, "", "Apple"),
    (Apple | Pear | None, {}, "", "Apple"),
    (tuple[int, Apple | Pear] | None, [1], "", "2"),
    (list[Apple | Pear], [{"weight": 1}, {}], "[1]", "Pear"),
    (dict[str, Apple | Pear], {"a b": {"weight": 1}, "c": {"weight": None}}, ".c.weight", "int"),
    (
        Basket,
        {"best": {"weight": 1}, "fruits": {"a b": [{"weight": 1}, {"weight": "x"}]}},
        ".fruits['a b'][1].weight",
        "int",
    ),
    (Basket, {"best": {"weight": 1}}, "", "fruits"),
    (Basket, [], "", "dict"),
    (FruitRow, [], "", "fruit"),
    (FruitRow, [{"weight": 1}, 2, 3], "", "2"),
    (FruitDict, {}, "", "fruit"),
    (FruitBox, {"_fruit": {"weight": 1.5}}, "._fruit.weight", "int"),
    (FruitStruct, {"type": "veg", "FRUIT": {"weight": 1}}, ".type", "veg"),
    (FruitStruct, {"type": "fruit", "FRUIT": {"weight": "x"}}, ".FRUIT.weight", "int"),
    (FruitArray, ["fruits", {"weight": "x"}], "[1].weight", "int"),
    (tuple[int, Apple | Pear], [1], "", "2"),
    (tuple[int, Apple | Pear], {}, "", "list"),
    (datetime.datetime | uuid.UUID, "x", "", "UUID"),
    (typing.Annotated[int, msgspec.Meta(gt=3)], 3, "", "int"),
    (complex, 1, "", "complex"),
    (collections.deque, [1], "", "deque"),
    (type("Own", (), {}), {}, "", "Own"),
    (pydantic.HttpUrl, "no url", "", "URL"),
]


@given(st.sampled_from(WRONG), st.lists(st.sampled_from(LAYERS), max_size=5))
@settings(max_examples=some(200, 200 // 5), deadline=None)
def test_the_path_of_what_does_not_fit_names_the_place(wrong: Any, layers: Any) -> None:
    kind, value, path, word = wrong
    for layer in layers:
        kind, make, step = layer(kind)
        # The places of the JSON, whatever it was made of: so the object is made around anything, and stored.
        value, path = bare_form(make(value)), step + path
    error = misfit(value, kind)
    assert error.path == f"${path}"
    assert word in error.problem
    assert "at `" not in error.problem


@pytest.mark.parametrize(("kind", "value", "path", "word"), WRONG, ids=kind_id)
def test_what_does_not_fit_is_refused(kind: Any, value: Any, path: str, word: str) -> None:
    for error, start in ((misfit(value, kind), "$"), (misfit({"a b": [value]}, dict[str, list[kind]]), "$['a b'][0]")):
        assert error.path == start + path
        assert word in error.problem


async def test_get_of_a_value_that_does_not_fit_names_the_place_and_a_default_is_returned_as_it_is(store: Any) -> None:
    await store.put("run", "node", {"a": {"score": "x"}})
    await store.put_global("key", [1, "x"])
    with pytest.raises(DeserializationError, match=r"^\$\.a\.score: "):
        await store.get("run", "node", type=dict[str, Item])
    with pytest.raises(DeserializationError, match=r"^\$\[1\]: "):
        await store.get_global("key", type=list[int])
    default = object()
    assert await store.get("run", "other", default, type=Item) is default
    assert await store.get_global("other", default, type=Item) is default


@pytest.mark.parametrize("kind", ["int", 5, Anything[int], Callable[[int], str]], ids=named)
def test_what_is_no_type_to_convert_to_is_a_type_error_that_names_it(kind: Any) -> None:
    for wrapping in (kind, list[kind], Apple | list[kind] | Pear) if not isinstance(kind, str | int) else (kind,):
        with pytest.raises(TypeError) as caught:
            there_and_back([1], wrapping)
        assert repr(kind).rpartition(".")[2] in str(caught.value)


def test_a_limit_on_what_must_be_taken_apart_is_a_type_error_not_overlooked() -> None:
    with pytest.raises(TypeError, match="Meta"):
        there_and_back([Apple(1)], typing.Annotated[list[Apple | Pear], msgspec.Meta(max_length=0)])


def test_an_annotation_that_cannot_be_resolved_is_a_type_error_that_names_it() -> None:
    @dataclasses.dataclass
    class Local:
        x: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"Local.*Nowhere"):
        there_and_back({"x": 1}, Local)


def test_a_type_variable_and_any_and_object_stand_for_anything() -> None:
    for kind in (T, Any, object):
        assert there_and_back({"a": [1]}, kind) == {"a": [1]}
        assert there_and_back(b"x", kind) == b"x"


@pytest.mark.parametrize("kind", [bytes, bytearray, bytes | None, str | bytes, Any, object], ids=named)
def test_bytes_come_back_through_types_that_have_them(kind: Any) -> None:
    assert there_and_back(b"eHl6", kind) == b"eHl6"


@pytest.mark.parametrize(
    "kind", [str, int, list[int], dict, Item, Person, Point, Color, Mixed, Apple | Pear, uuid.UUID]
)
def test_bytes_are_nothing_else(kind: Any) -> None:
    assert misfit(b"eHl6", kind).path == "$"


def test_an_object_with_an_own_check_is_refused_by_it() -> None:
    @dataclasses.dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError(f"{self.number} is odd")

    globals()["Even"] = Even
    error = misfit({"a": [{"number": 2}, {"number": 3}]}, dict[str, list[Even]])
    assert (error.path, error.problem) == ("$.a[1]", "3 is odd")
    assert misfit([{"number": 3}], list[Even | Point]).path == "$[0]"


def test_of_a_union_the_member_that_is_written_the_same_is_taken_else_the_first_that_fits() -> None:
    assert there_and_back({"weight": 1}, Apple | Pear) == Apple(1)
    assert there_and_back({"weight": 1}, Pear | Apple) == Apple(1)
    assert there_and_back({"weight": 1, "ripe": True}, Apple | Pear) == Pear(1, True)
    assert there_and_back({"weight": 1, "ripe": True, "more": 1}, Apple | Pear) == Apple(1)
    assert there_and_back("2020-01-01", str | datetime.date) == "2020-01-01"
    assert there_and_back("2020-01-01", datetime.date | str) == datetime.date(2020, 1, 1)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no `type` statement yet")
def test_a_type_statement_is_the_type_that_it_names() -> None:
    fruit = typing.TypeAliasType("fruit", Apple | Pear)  # type: ignore[attr-defined]
    numbers = typing.TypeAliasType("numbers", dict[str, int])  # type: ignore[attr-defined]
    assert there_and_back([Pear(1)], list[fruit]) == [Pear(1)]
    assert there_and_back({"a": 1}, numbers) == {"a": 1}
    assert misfit({"a": [{"b": "x"}]}, dict[str, list[numbers]]).path == "$.a[0].b"


@dataclasses.dataclass
class Add:
    left: Add | Multiply | int
    right: Add | Multiply | int
    note: str = ""


@dataclasses.dataclass
class Multiply:
    left: Add | Multiply | int
    right: Add | Multiply | int
    note: str = ""


@pytest.mark.parametrize("end", [1, "x"])
def test_nested_unions_of_lookalikes_do_not_take_exponential_time(end: Any) -> None:
    value: Any = end
    for _ in range(40):
        value = {"left": value, "right": 1}
    begun = time.perf_counter()
    if end == 1:
        assert isinstance(there_and_back(value, Add | Multiply), Add)
    else:
        assert misfit(value, Add | Multiply).path == "$" + ".left" * 40
    assert time.perf_counter() - begun < 20


def test_a_tree_of_200_levels_is_read_as_its_class() -> None:
    tree: dict[str, Any] = {"value": 1}
    for _ in range(99):
        tree = {"value": 1, "children": [tree]}
    back = there_and_back([tree], list[Tree])
    for _ in range(99):
        back = back[0].children
    assert back == [Tree(1)]


def test_a_pydantic_dataclass_is_read_with_its_own_checks() -> None:
    error = misfit({"count": 0}, Limited)
    assert error.path == "$.count"
    assert "greater than 0" in error.problem


def test_a_union_of_a_tree_too_deep_for_python_is_read_all_the_same() -> None:
    value: Any = 1
    for _ in range(254):
        value = {"left": value, "right": 1}
    assert depth_of(form(there_and_back(value, Add | Multiply))) == 254


OPTIONAL = """
import sys
sys.modules["pydantic"] = sys.modules["attrs"] = sys.modules["attr"] = None  # their import fails
import dataclasses, datetime
from contextstore import ContextStore

@dataclasses.dataclass
class A:
    x: int

@dataclasses.dataclass
class B:
    x: int
    y: datetime.date | datetime.datetime

with ContextStore(":memory:") as store:
    store.put("run", "node", {"a": [A(1), B(2, datetime.date(2020, 1, 1)), None]})
    print(store.get("run", "node", type=dict[str, list[A | B | None]]))
    try:
        store.put("run", "other", [object()])
    except Exception as error:
        print(type(error).__name__)
    try:
        store.get("run", "node", type=dict[str, A])
    except Exception as error:
        print(error.path)
"""


def test_neither_pydantic_nor_attrs_need_be_installed() -> None:
    done = subprocess.run([sys.executable, "-c", OPTIONAL], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "{'a': [A(x=1), B(x=2, y=datetime.date(2020, 1, 1)), None]}",
        "SerializationError",
        "$.a",
    ]


def test_pydantic_is_not_imported_by_the_package() -> None:
    script = "import sys, contextstore; print({'pydantic', 'attr', 'attrs'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("data", [b"", b"{", b"nan", b"[1,]", b"\xff", b"1 2"])
@pytest.mark.parametrize("kind", [None, int, Item, Person, Apple | Pear])
def test_a_stored_text_that_is_no_json_is_a_deserialization_error(data: bytes, kind: Any) -> None:
    with pytest.raises(DeserializationError, match=r"^\$: the stored text is not JSON"):
        decode(Encoded(JSON, data), kind)


def test_a_model_that_ignores_its_own_names_is_read_by_its_field_names_and_by_its_aliases() -> None:
    assert there_and_back({"name": "a", "theAge": 3}, Person).age == 3
    assert there_and_back({"name": "a", "age": 3}, Person).age == 3
    assert form(Person(name="a", theAge=3))["age"] == 3

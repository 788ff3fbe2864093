"""Values of every kind that is taken, and ways to store and read one, which the tests of values share.

Classes stand at module level, since annotations are resolved by name.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import math
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import attrs
import msgspec
import orjson
import pydantic
import pytest
from hypothesis import strategies as st

from contextstore import DeserializationError, SerializationError
from contextstore._values.codec import Encoded, decode, encode
from contextstore._values.encode import encode_json

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


def depth_of(value: Any) -> int:
    depth = 0
    while isinstance(value, list | dict):
        value = next(iter(value.values() if isinstance(value, dict) else value))
        depth += 1
    return depth

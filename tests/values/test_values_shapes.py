"""Shapes of classes, one by one: what comes back by its own class, and what is refused, with what is to be done."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import gc
import typing
import uuid
import weakref
import zoneinfo
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import attrs
import msgspec
import pytest

from contextstore import DeserializationError, SerializationError
from contextstore._values.codec import decode, encode

PLENTY = 10**9
T = TypeVar("T")


def back(value: Any, kind: Any = None) -> Any:
    return decode(encode(value, PLENTY), kind or type(value))


def refusal(value: Any) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encode(value, PLENTY)
    return caught.value


# ------------------------------------------------------------------------------------------- set after they are made


@dataclasses.dataclass
class Order:
    customer: str
    order_id: str = dataclasses.field(init=False)
    made_at: datetime.datetime = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.order_id = uuid.uuid4().hex
        self.made_at = datetime.datetime.now(datetime.UTC)


@dataclasses.dataclass
class Basket:
    items: list[str]
    count: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.count = len(self.items)
        self.items.append("a present")


@attrs.define
class Waiter:
    title: str
    number: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.number = uuid.uuid4().hex


class Numbered(msgspec.Struct, frozen=True):
    title: str
    number: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "number", uuid.uuid4().hex)


@dataclasses.dataclass
class Seeded:
    seed: dataclasses.InitVar[int]
    scale: dataclasses.InitVar[int] = 10
    number: int = 0
    calls: ClassVar[list[int]] = []

    def __post_init__(self, seed: int, scale: int) -> None:
        self.number = seed * scale


@dataclasses.dataclass
class Scaled:
    number: int
    scale: dataclasses.InitVar[int] = 10

    def __post_init__(self, scale: int) -> None:
        self.number *= scale


@dataclasses.dataclass(init=False)
class ByHand:
    number: int

    def __init__(self, first: int, second: int) -> None:
        self.number = first + second


@attrs.define
class Converted:
    number: int = attrs.field(converter=lambda text: int(text, 16))
    double: int = attrs.field(default=attrs.Factory(lambda self: self.number * 2, takes_self=True))


@dataclasses.dataclass
class OfAll:
    order: Order
    baskets: dict[str, Basket]
    either: Basket | Order | None
    waiters: list[Waiter]
    numbered: Numbered | None = None


class Shifted(NamedTuple("Shifted", [("number", int)])):
    def __new__(cls, number: int) -> Self:
        return super().__new__(cls, number + 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Rounded:
    number: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", round(self.number))


def changed(value: Any, **fields: Any) -> Any:
    for name, field in fields.items():
        object.__setattr__(value, name, field)
    return value


LATE: list[Any] = [
    Order("ann"),
    Basket(["tea"]),
    changed(Basket(["tea"]), count=7),
    Waiter("printer on fire"),
    Numbered("printer on fire"),
    Seeded(3),
    Scaled(3),
    ByHand(1, 2),
    Converted("ff"),
    changed(Converted("ff"), double=1),
    OfAll(Order("ann"), {"a b": Basket(["tea"])}, Order("bob"), [Waiter("fire")], Numbered("x")),
    OfAll(Order("ann"), {}, Basket([]), []),
    Shifted(1),
    changed(Rounded(1.5), number=0.25),
]


def name_of(value: Any) -> str:
    return type(value).__name__ if not isinstance(value, str) else value


@pytest.mark.parametrize("value", LATE, ids=name_of)
def test_what_was_stored_of_a_field_wins_over_what_the_class_makes_of_it(value: Any) -> None:
    kind = type(value)
    assert back(value) == value
    assert back([value], list[kind]) == [value]
    assert back({"a b": (value, 1)}, dict[str, tuple[kind, int]]) == {"a b": (value, 1)}
    assert back(value, kind | int | None) == value
    assert back(value, typing.Union[str, kind, list[int]]) == value  # noqa: UP007 - the two ways of conversion


async def test_each_replay_has_the_order_that_was_stored(store: Any) -> None:
    first = await store.get_or_put("run", "order", lambda: Order("ann"), type=Order)
    assert await store.get_or_put("run", "order", lambda: Order("ann"), type=Order) == first
    assert (await store.get("run", "order"))["order_id"] == first.order_id
    for number, value in enumerate(LATE):
        await store.put("run", f"node-{number}", [value])
        await store.put_global(f"key-{number}", value)
        assert await store.get("run", f"node-{number}", type=list[type(value)]) == [value]
        assert await store.get_global(f"key-{number}", type=type(value)) == value


def test_what_post_init_sets_beside_the_fields_is_set_again_and_its_check_is_heard() -> None:
    @dataclasses.dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            self.half = self.number // 2
            if self.number % 2:
                raise ValueError(f"{self.number} is odd")

    value = back(Even(4))
    assert value.half == 2
    error = refusal({"a": [changed(Even(4), number=3)]})
    assert error.path == "$.a[0]"
    assert "3 is odd" in error.problem
    with pytest.raises(DeserializationError, match=r"\$\[0\]: 3 is odd"):
        decode(encode([{"number": 3}], PLENTY), list[Even])


# ------------------------------------------------------------------------------------------------------------ bases


@dataclasses.dataclass
class Failure(Exception):
    code: int


@dataclasses.dataclass
class Both(dict):  # type: ignore[type-arg]
    number: int


class Sorted(list):  # type: ignore[type-arg]
    def __init__(self, items: Any, reverse: bool) -> None:
        super().__init__(sorted(items, reverse=reverse))


class Loud(str):
    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        return super().__new__(cls, text.upper() + "!")


class Unit(int):
    def __new__(cls, number: int, unit: str) -> Self:
        made = super().__new__(cls, number)
        made.unit = unit  # type: ignore[attr-defined]
        return made


class Config(dict):  # type: ignore[type-arg]
    def __init__(self, path: str, **settings: Any) -> None:
        super().__init__(settings)


class Moment(datetime.datetime):
    pass


class Day(datetime.date):
    pass


class Id(uuid.UUID):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Failure(3),
        Both(3),
        Sorted([1, 3, 2], reverse=True),
        Loud("a"),
        Unit(3, "m"),
        Config("x", a=1),
        Moment(2020, 1, 1),
        Day(2020, 1, 1),
        Id(int=5),
        collections.Counter("aab"),
    ],
    ids=name_of,
)
def test_a_subclass_of_a_builtin_comes_back_equal_whatever_its_init_asks_for(value: Any) -> None:
    kind = type(value)
    assert back(value) == value
    assert type(back(value)) is kind
    assert back([value], list[kind]) == [value]
    len(value) if hasattr(value, "__len__") else repr(value)


def test_a_datetime_that_is_not_made_from_its_text_is_refused() -> None:
    class Clock(datetime.datetime):
        @classmethod
        def fromisoformat(cls, text: str) -> Any:
            raise NotImplementedError

    error = refusal({"at": [Clock(2020, 1, 1)]})
    assert error.path == "$.at[0]"
    assert "convert it to datetime" in error.problem


def test_times_in_an_hour_that_comes_twice_are_compared_by_their_offset() -> None:
    @dataclasses.dataclass
    class Event:
        at: datetime.datetime

    for fold in (0, 1):
        at = datetime.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=fold)
        made = back(Event(at))
        assert made.at.replace(tzinfo=None) == at.replace(tzinfo=None)
        assert made.at.utcoffset() == at.utcoffset()


# ---------------------------------------------------------------------------------------------------- what is compared


@dataclasses.dataclass(eq=False)
class Identity:
    number: int
    other: Identity | None = None


@dataclasses.dataclass
class Hidden:
    number: int
    cache: Any = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(eq=False)
class Fussy:
    number: int

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclasses.dataclass(eq=False)
class Easy:
    number: int
    at: Any = None

    def __eq__(self, other: object) -> bool:
        return True


def test_a_class_without_eq_is_compared_by_its_fields() -> None:
    made = back(Identity(1, Identity(2)))
    assert (made.number, made.other.number, made.other.other) == (1, 2, None)
    assert "holds a datetime.date here" in refusal([Hidden(1, datetime.date(2020, 1, 1))]).problem
    assert back(Hidden(1, [2])).cache == [2]


def test_what_its_own_eq_says_is_another_is_refused_and_an_easy_one_does_not_count() -> None:
    assert "__eq__" in refusal(Fussy(1)).problem
    assert back(Easy(1)).number == 1
    assert refusal({"a": Easy(1, (2,))}).path == "$.a.at"


# ------------------------------------------------------------------------------------------- declared as something else


@dataclasses.dataclass
class Part:
    number: int


@dataclasses.dataclass
class Special(Part):
    note: str = ""


@dataclasses.dataclass
class Whole:
    parts: list[Part]
    best: Part | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    names: list[str] = dataclasses.field(default_factory=list)
    count: int = 0


@pytest.mark.parametrize(
    ("value", "path", "word"),
    [
        (Whole([Part(1), Special(2)]), "$.parts[1]", "Special here, which would come back as a tests."),
        (Whole([], Special(1, "x")), "$.best", "Special"),
        (Whole([], meta={"a b": [Part(1)]}), "$.meta['a b'][0]", "would come back as a dict"),
        (Whole([], meta={"day": datetime.date(2020, 1, 1)}), "$.meta.day", "would come back as a str"),
        (Whole([], names=("a",)), "$.names", "holds a tuple here, which would come back as a list"),
        (Whole([], count="3"), "$.count", "Expected `int`, got `str`"),
        (Whole([Part("x")]), "$.parts[0].number", "Expected `int`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_holds_what_it_is_not_declared_as_is_refused_by_name(value: Any, path: str, word: str) -> None:
    for wrapped, start in ((value, "$"), ([value], "$[0]"), ({"x y": (None, value)}, "$['x y'][1]")):
        error = refusal(wrapped)
        assert error.path == start + path[1:]
        assert word in error.problem
        assert "dataclasses.asdict()" in error.problem


async def test_what_the_refusal_advises_works(store: Any) -> None:
    value = Whole([Part(1), Special(2)])
    with pytest.raises(SerializationError, match=r"^\$\.parts\[1\]: "):
        await store.put("run", "node", value)
    assert await store.list_keys("run") == []
    await store.put("run", "node", dataclasses.asdict(value))
    assert (await store.get("run", "node"))["parts"][1] == {"number": 2, "note": ""}


# ------------------------------------------------------------------------------------------------------------ generics


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    next: Page[T] | None = None


class PartPage(Page[Part]):
    pass


@attrs.frozen
class Frame(Generic[T]):
    content: T


class Cell(msgspec.Struct, Generic[T]):
    content: T


def test_a_generic_object_that_knows_its_arguments_comes_back_with_them() -> None:
    page = Page[Part]([Part(1)], Page([Part(2)]))
    assert back(page, Page[Part]) == page
    assert back([page], list[Page[Part]]) == [page]
    assert back(PartPage([Part(1)])) == PartPage([Part(1)])
    assert back(Page([1, "a"])) == Page([1, "a"])
    hooked = Page[Order]([Order("ann")])
    assert back(hooked, Page[Order]) == hooked


@pytest.mark.parametrize("value", [Page([Part(1)]), Frame(Part(1)), Cell(Part(1))], ids=name_of)
def test_a_generic_object_that_does_not_is_refused_with_the_advice_to_say_them(value: Any) -> None:
    error = refusal(value)
    assert "would come back as a dict" in error.problem
    assert f"{type(value).__name__}[...](...)" in error.problem


# ---------------------------------------------------------------------------------------------------------------- enums


class Alike(enum.Enum):
    TUPLE = (1, 2)
    LIST = [1, 2]  # noqa: RUF012 - an Enum takes it
    OTHER = 3


class Days(enum.Enum):
    DATE = datetime.date(2020, 1, 1)
    TEXT = "2020-01-01"


class Colors(enum.Flag):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class WithEnum:
    alike: Alike


def test_a_member_that_cannot_be_told_from_another_is_refused() -> None:
    assert back([Alike.TUPLE, Alike.OTHER], list[Alike]) == [Alike.TUPLE, Alike.OTHER]
    assert "the same in JSON" in refusal({"a": Alike.LIST}).problem
    assert refusal([Days.DATE, Days.TEXT]).path == "$[1]"
    assert back(WithEnum(Alike.TUPLE)) == WithEnum(Alike.TUPLE)
    assert refusal(WithEnum(Alike.LIST)).path == "$.alike"
    assert back([Colors.RED | Colors.BLUE, Colors(0)], list[Colors]) == [Colors.RED | Colors.BLUE, Colors(0)]


# -------------------------------------------------------------------------------------------------------- what is kept


def test_a_class_ends_when_nobody_has_it_any_more_although_it_was_stored_and_read() -> None:
    def use(number: int) -> Any:
        kind = dataclasses.make_dataclass("Short", [("x", int), ("y", "list[int]")])
        hooked = dataclasses.make_dataclass("Hooked", [("x", kind)], namespace={"__post_init__": lambda self: None})
        value = hooked(kind(number, [1]))
        assert back(value) == value
        assert back([value], list[hooked]) == [value]
        member = enum.Enum("Brief", {"A": (1, number)}).A  # type: ignore[attr-defined]
        assert back([member], list[type(member)]) == [member]
        return weakref.ref(kind), weakref.ref(hooked), weakref.ref(type(member))

    references = [reference for number in range(20) for reference in use(number)]
    for clear in typing._cleanups:  # type: ignore[attr-defined]
        clear()
    gc.collect()
    assert [reference() for reference in references if reference() is not None] == []


def test_a_class_that_is_decorated_once_more_is_looked_at_anew() -> None:
    first = dataclasses.make_dataclass("First", [("x", int)])
    assert back(first(1)) == first(1)

    @dataclasses.dataclass(slots=True)
    class Second(first):  # type: ignore[misc, valid-type]
        y: int

    assert back(Second(1, 2)) == Second(1, 2)

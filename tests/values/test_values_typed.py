"""Values read as a type: what was stored comes back equal, through any nesting of types."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import subprocess
import sys
import time
import typing
import uuid
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextstore._values.codec import equal

from ..conftest import named
from ..support.portions import some
from .samples import (
    ID,
    NOW,
    TEXT,
    UTC,
    Color,
    Level,
    Mixed,
    Rights,
    Text,
    Word,
    depth_of,
    encoded,
    form,
    misfit,
    there_and_back,
)
from .typed_samples import (
    LAYERS,
    Apple,
    Array,
    Basket,
    Box,
    Camel,
    Cat,
    Dog,
    Frozen,
    FruitArray,
    FruitBox,
    FruitDict,
    FruitRow,
    FruitStruct,
    Item,
    Kebab,
    Limited,
    Order,
    Partial,
    Pear,
    Person,
    Point,
    Strict,
    T,
    Team,
    Total,
    Tree,
    Untyped,
    kind_id,
)


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


def test_a_type_variable_and_any_and_object_stand_for_anything() -> None:
    for kind in (T, Any, object):
        assert there_and_back({"a": [1]}, kind) == {"a": [1]}
        assert there_and_back(b"x", kind) == b"x"


@pytest.mark.parametrize("kind", [bytes, bytearray, bytes | None, str | bytes, Any, object], ids=named)
def test_bytes_come_back_through_types_that_have_them(kind: Any) -> None:
    assert there_and_back(b"eHl6", kind) == b"eHl6"


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


def test_a_model_that_ignores_its_own_names_is_read_by_its_field_names_and_by_its_aliases() -> None:
    assert there_and_back({"name": "a", "theAge": 3}, Person).age == 3
    assert there_and_back({"name": "a", "age": 3}, Person).age == 3
    assert form(Person(name="a", theAge=3))["age"] == 3

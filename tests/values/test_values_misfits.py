"""Values that do not fit the type they are read as: refused by name of the place, or a TypeError if it is no type."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import typing
import uuid
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextstore import DeserializationError
from contextstore._values.codec import JSON, Encoded, decode

from ..conftest import named
from ..support.portions import some
from .samples import Color, Level, Mixed, bare_form, misfit, there_and_back
from .typed_samples import (
    LAYERS,
    Anything,
    Apple,
    Array,
    Basket,
    Box,
    Camel,
    Cat,
    Dog,
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
    Team,
    Total,
    Tree,
    kind_id,
)

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


def test_a_pydantic_dataclass_is_read_with_its_own_checks() -> None:
    error = misfit({"count": 0}, Limited)
    assert error.path == "$.count"
    assert "greater than 0" in error.problem


@pytest.mark.parametrize("data", [b"", b"{", b"nan", b"[1,]", b"\xff", b"1 2"])
@pytest.mark.parametrize("kind", [None, int, Item, Person, Apple | Pear])
def test_a_stored_text_that_is_no_json_is_a_deserialization_error(data: bytes, kind: Any) -> None:
    with pytest.raises(DeserializationError, match=r"^\$: the stored text is not JSON"):
        decode(Encoded(JSON, data), kind)

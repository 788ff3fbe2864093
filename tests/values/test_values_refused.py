"""Values that are refused: with a word of advice, by name of their place, and nothing is stored."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import pathlib
import time
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import hypothesis
import msgspec
import orjson
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextstore import SerializationError

from ..conftest import named
from ..support.portions import some
from .samples import (
    ID,
    NOW,
    VALUES,
    Attr,
    Broken,
    Color,
    Data,
    FrozenAttr,
    Mapping,
    Model,
    Name,
    Odd,
    Pair,
    PydanticData,
    Row,
    Sequence,
    Slotted,
    Struct,
    Text,
    Triple,
    bare_form,
    refusal,
)


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

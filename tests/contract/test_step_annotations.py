"""What a step returns: what its function's return annotation says, at first as on a replay, or it is refused."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Never, Self, TypeVar

import pytest

from contextstore import DeserializationError, SerializationError

from ..conftest import Target
from .test_flow_run import Bound

if TYPE_CHECKING:
    from somewhere import Missing  # type: ignore[import-not-found]  # known to a type checker alone

T = TypeVar("T")


@dataclasses.dataclass
class Point:
    x: int
    y: int

    def itself(self) -> Self:
        return self


@dataclasses.dataclass
class Same:
    x: int
    y: int


@dataclasses.dataclass
class Wider:
    x: int
    y: int
    z: int


@dataclasses.dataclass
class Text:
    x: str
    y: str


class Color(enum.Enum):
    RED = "red"


class Plain:
    pass


def annotated(kind: Any, result: Any = None, calls: list[Any] | None = None) -> Callable[[], Any]:
    def fn() -> Any:
        if calls is not None:
            calls.append(result)
        return result

    fn.__annotations__["return"] = kind
    return fn


UNREADABLE = [
    "Missing",
    "list[Missing]",
    "list[",
    Plain,
    list[Plain],
    Never,
    collections.abc.Iterator[int],
    collections.abc.Callable[[], int],
    list[bytes],
    dict[str, bytes],
    type[int],
    Plain | None,
]
MISTAKABLE = [
    Point | Same,
    list[Point | Same],
    dict[str, Point | Same | None],
    str | datetime.datetime,
    uuid.UUID | str | None,
    str | pathlib.Path,
    str | Color,
    Literal["red", "blue"] | Color,
    list[int] | tuple[int, ...],
    list[Point] | list[Same],
    dict[str, int] | Point,
]
APART = [
    (Point | Wider, Wider(1, 2, 3)),
    (Point | Text | None, Text("a", "b")),
    (list[Point] | list[Text], [Text("a", "b")]),
    (datetime.datetime | datetime.date, datetime.date(2026, 1, 2)),
    (uuid.UUID | datetime.datetime, uuid.UUID(int=5)),
    (Literal["blue"] | Color, Color.RED),
    (int | float | str | bool | None, 1.0),
    (int | float | str | bool | None, True),
    (list[int] | dict[str, int], {"a": 1}),
    (Point | list[Point], [Point(1, 2)]),
    (bytes | str, b"a"),
    (bytes | str, "a"),
    (dict[str, Color], {"a": Color.RED}),
    (tuple[int, str], (1, "a")),
]


@pytest.mark.each_input_once
class TestBeforeTheFunctionIsCalled:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("kind", [*UNREADABLE, *MISTAKABLE], ids=str)
    async def test_what_json_cannot_make_is_a_type_error_that_says_what_to_write(self, store: Any, kind: Any) -> None:
        calls: list[Any] = []
        with pytest.raises(TypeError, match="-> Any"):
            await Bound(store).step("node", annotated(kind, 1, calls))
        assert calls == []
        assert await Bound(store).attempts() == []

    async def test_so_it_is_on_a_replay(self, store: Any) -> None:
        await store.put("run", "node", 1)
        with pytest.raises(TypeError, match="Missing"):
            await Bound(store).step("node", annotated("Missing"))

    async def test_a_function_that_is_bound_to_nothing_has_no_self(self, store: Any) -> None:
        with pytest.raises(TypeError, match="bound method"):
            await Bound(store).step("node", Point.itself, Point(1, 2))

    async def test_names_of_parameters_need_not_be_there(self, store: Any) -> None:
        def fn(value: Missing | None = None, *, other: Missing = 1) -> Point:
            return Point(1, 2)

        for _ in range(2):
            assert await Bound(store).step("node", fn) == Point(1, 2)


@pytest.mark.each_input_once
class TestWithAnAnnotation:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize(("kind", "result"), APART, ids=str)
    async def test_members_of_a_union_that_write_other_json_come_back_as_what_they_were(
        self, store: Any, kind: Any, result: Any
    ) -> None:
        for _ in range(2):
            back = await Bound(store).step("node", annotated(kind, result))
            assert (type(back), back) == (type(result), result)

    @pytest.mark.each_input_once
    @pytest.mark.parametrize(
        ("kind", "result", "path"),
        [
            (int, "5", "$"),
            (Point, {"x": 1, "y": "2"}, "$.y"),
            (Point, Wider(1, 2, 3), "$"),
            (list[Point], [Point(1, 2), Wider(1, 2, 3)], "$[1]"),
            (str, 5, "$"),
            (type(None), 5, "$"),
            (decimal.Decimal, "1.5", "$"),
            (bytes, "text", "$"),
        ],
        ids=str,
    )
    async def test_a_result_that_would_come_back_as_something_else_is_refused_and_counts_as_failed(
        self, store: Any, kind: Any, result: Any, path: str
    ) -> None:
        run = Bound(store)
        with pytest.raises(SerializationError, match="-> Any") as caught:
            await run.step("node", annotated(kind, result))
        assert caught.value.path == path
        assert "node 'node' of flow run 'run'" in str(caught.value)
        assert not await run.exists("node")
        (attempt,) = await run.attempts()
        assert "SerializationError" in str(attempt.error)

    async def test_an_int_where_a_float_is_said_to_be_is_recorded_as_the_float_that_comes_back(
        self, store: Any
    ) -> None:
        for _ in range(2):
            assert repr(await Bound(store).step("node", annotated(float, 3))) == "3.0"
            assert repr(await Bound(store).step("many", annotated(dict[str, list[float]], {"a": [1, 2.5]}))) == (
                "{'a': [1.0, 2.5]}"
            )
        assert repr(await store.get("run", "node")) == "3.0"

    async def test_an_int_that_no_float_equals_is_refused(self, store: Any) -> None:
        with pytest.raises(SerializationError):
            await Bound(store).step("node", annotated(float, 2**53 + 1))

    async def test_a_dict_may_stand_for_the_class_that_it_makes(self, store: Any) -> None:
        for _ in range(2):
            assert await Bound(store).step("node", annotated(Point, {"y": 2, "x": 1})) == Point(1, 2)

    @pytest.mark.parametrize("kind", [Any, object])
    async def test_any_and_object_give_the_json_form(self, store: Any, kind: Any) -> None:
        for _ in range(2):
            assert await Bound(store).step("node", annotated(kind, (Point(1, 2), Color.RED))) == [
                {"x": 1, "y": 2},
                "red",
            ]

    async def test_a_stored_output_that_does_not_fit_is_told_in_each_call_and_stays(self, store: Any) -> None:
        await store.put("run", "node", "text")
        for _ in range(2):
            with pytest.raises(DeserializationError):
                await Bound(store).step("node", annotated(int, pytest.fail))
        assert await store.get("run", "node") == "text"


class Word(enum.StrEnum):
    YES = "yes"


class Number(int):
    pass


@pytest.mark.each_input_once
class TestWithoutAnAnnotation:
    @pytest.mark.parametrize(
        ("result", "back"),
        [
            ({"a": [1, 2.5, None, True, "é"]}, {"a": [1, 2.5, None, True, "é"]}),
            ((1, (2, [3])), [1, [2, [3]]]),
            (b"\x00\xff", b"\x00\xff"),
            (None, None),
        ],
        ids=str,
    )
    async def test_what_equals_its_json_form_is_recorded(self, store: Any, result: Any, back: Any) -> None:
        for _ in range(2):
            assert await Bound(store).step("node", lambda: result) == back

    async def test_numpys_scalars_are_their_numbers(self, store: Any) -> None:
        numpy = pytest.importorskip("numpy")
        for _ in range(2):
            got = await Bound(store).step("node", lambda: {"mean": numpy.float64(1.5), "n": [numpy.int32(3)]})
            assert repr(got) == "{'mean': 1.5, 'n': [3]}"

    @pytest.mark.parametrize(
        ("result", "path"),
        [
            (Point(1, 2), "$"),
            ({"rows": [1, Point(1, 2)]}, "$.rows[1]"),
            ([datetime.date(2026, 1, 2)], "$[0]"),
            (uuid.UUID(int=5), "$"),
            ((1, Word.YES), "$[1]"),
            (Number(5), "$"),
            ({Word.YES: 1}, "$"),
        ],
        ids=str,
    )
    async def test_what_would_come_back_as_its_json_form_is_refused_and_says_what_to_write(
        self, store: Any, result: Any, path: str
    ) -> None:
        run = Bound(store)
        with pytest.raises(SerializationError, match=r"def \.\.\. -> .*-> Any") as caught:
            await run.step("node", lambda: result)
        assert caught.value.path == path
        assert not await run.exists("node")
        assert [attempt.number for attempt in await run.attempts("node")] == [1]

    async def test_so_it_is_of_a_type_variable_that_nothing_binds(self, store: Any) -> None:
        def same(value: T) -> T:
            return value

        def several(value: T) -> dict[str, list[T]]:
            return {"a": [value]}

        assert await Bound(store).step("plain", same, 5) == 5
        for fn in (same, several, functools.partial(same)):
            with pytest.raises(SerializationError, match=r"def \.\.\. ->"):
                await Bound(store).step("node", fn, Point(1, 2))

    async def test_so_it_is_of_what_a_builtin_container_is_made_of(self, store: Any) -> None:
        assert await Bound(store).step("plain", tuple, [1, 2]) == (1, 2)
        with pytest.raises(SerializationError):
            await Bound(store).step("node", list, (Point(1, 2),))


class TestEncodeDefault:
    async def test_it_gives_the_form_that_is_read_back_by_the_annotation(self, make_store: Target) -> None:
        async with make_store(encode_default=str) as store:
            for _ in range(2):
                price = await Bound(store).step("node", annotated(decimal.Decimal, decimal.Decimal("1.10")))
                assert price == decimal.Decimal("1.10")
                assert await Bound(store).step("any", annotated(Any, decimal.Decimal("1.10"))) == "1.10"
            with pytest.raises(SerializationError):
                await Bound(store).step("plain", lambda: decimal.Decimal("1.10"))

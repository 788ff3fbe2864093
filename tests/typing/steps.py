"""Each form of function that a step takes: what a type checker says that comes is what comes when it is run.

``tests/contract/test_step_forms.py`` calls each function here that takes a run, twice, so that its steps are computed
and replayed, and looks whether what came is of the type that ``assert_type`` names.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import math
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    NewType,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    assert_type,
    overload,
)

from contextstore import AsyncFlowRun, FlowRun

if TYPE_CHECKING:
    from decimal import Decimal as Unknown  # not there when this is run: parameters may name it all the same

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


@dataclasses.dataclass
class Point:
    x: int
    y: int

    def moved(self, dx: int) -> Point:
        return Point(self.x + dx, self.y)

    def itself(self) -> Self:
        return self

    def norm(self, *, node_id: str = "", type: str = "") -> float:
        return math.hypot(self.x, self.y)

    @classmethod
    def origin(cls) -> Self:
        return cls(0, 0)

    @classmethod
    def at(cls, x: int) -> Point:
        return Point(x, x)

    @staticmethod
    def parse(text: str) -> Point:
        x, y = text.split(",")
        return Point(int(x), int(y))

    async def fetched(self) -> Self:
        return self


@dataclasses.dataclass
class Named(Point):
    name: str = "a"


@dataclasses.dataclass
class Other:
    z: str


@dataclasses.dataclass
class Box(Generic[T]):
    content: T

    def opened(self) -> T:
        return self.content

    def twice(self) -> list[T]:
        return [self.content, self.content]


class IntBox(Box[int]):
    pass


class Pair(NamedTuple):
    one: int
    other: str


class Row(TypedDict):
    name: str
    count: int


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


UserId = NewType("UserId", int)


class Adder:
    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(self, other: int) -> int:
        return self.first + other


class Fetcher:
    async def __call__(self, x: int) -> Point:
        return Point(x, x)


def add(a: int, b: int = 1) -> int:
    return a + b


def points(count: int) -> list[Point]:
    return [Point(n, n) for n in range(count)]


def nothing() -> None:
    return None


def anything(value: Any) -> Any:
    return value


def opaque(value: int) -> object:
    return value


def unknown(value: Unknown | None = None, *more: Unknown) -> Point:
    return Point(1, 2)


def keywords(*, type: str, node_id: int, fn: int = 0, self: int = 0) -> dict[str, int]:
    return {type: node_id + fn + self}


def first(items: list[T]) -> T:
    return items[0]


def same(value: T) -> T:
    return value


def pairs(keys: Sequence[str], value: T) -> dict[str, T]:
    return dict.fromkeys(keys, value)


@overload
def doubled(value: int) -> int: ...
@overload
def doubled(value: str) -> str: ...
def doubled(value: int | str) -> int | str:
    return value * 2


def either(flag: bool) -> Point | Other:
    return Point(1, 2) if flag else Other("z")


def perhaps(flag: bool) -> Point | None:
    return Point(1, 2) if flag else None


def mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0


def retried(fn: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return fn(*args, **kwargs)

    return call


def listed(fn: Callable[P, R]) -> Callable[P, list[R]]:
    def call(*args: P.args, **kwargs: P.kwargs) -> list[R]:
        return [fn(*args, **kwargs)]

    return call


@retried
def wrapped(x: int) -> Point:
    return Point(x, x)


@retried
@retried
def wrapped_twice(x: int) -> list[Point]:
    return [Point(x, x)]


@functools.cache
def cached(x: int) -> Pair:
    return Pair(x, "one")


@retried
async def wrapped_async(x: int) -> Point:
    return Point(x, x)


async def fetch(x: int, *, type: str = "") -> Point:
    await asyncio.sleep(0)
    return Point(x, 0)


async def fetch_all(keys: Sequence[int]) -> dict[str, list[Point]]:
    return {str(key): [await fetch(key)] for key in keys}


def begun(x: int) -> Awaitable[Point]:
    return fetch(x)


def begun_coroutine(x: int) -> Coroutine[None, None, Point]:
    return fetch(x)


def begun_future(x: int) -> asyncio.Future[int]:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(x)
    return future


async def fetched_same(value: T) -> T:
    return value


async def fetched_nothing() -> None:
    return None


# ------------------------------------------------------------------------------------------------- forms, blocking face


def functions(run: FlowRun) -> None:
    assert_type(run.step("1", add, 1), int)
    assert_type(run.step("2", add, 1, b=2), int)
    assert_type(run.step(uuid.UUID(int=3), points, 2), list[Point])
    assert_type(run.step("4", nothing), None)
    assert_type(run.step("5", mean, [1, 2]), float)
    assert_type(run.step("6", mean, []), float)
    assert_type(run.step("7", unknown), Point)


def json_forms(run: FlowRun) -> None:
    assert_type(run.step("1", anything, Point(1, 2)), Any)
    assert_type(run.step("2", opaque, 1), object)


def keyword_names(run: FlowRun) -> None:
    assert_type(run.step("1", keywords, type="a", node_id=5), dict[str, int])
    assert_type(run.step("2", keywords, type="a", node_id=5, fn=1, self=2), dict[str, int])
    assert_type(run.step("3", Point(3, 4).norm, node_id="a", type="b"), float)


def methods(run: FlowRun) -> None:
    point, named = Point(1, 2), Named(1, 2, "b")
    assert_type(run.step("1", point.moved, 5), Point)
    assert_type(run.step("2", point.itself), Point)
    assert_type(run.step("3", named.itself), Named)
    assert_type(run.step("4", named.moved, 1), Point)
    assert_type(run.step("5", Point.moved, point, 5), Point)


def classmethods_and_staticmethods(run: FlowRun) -> None:
    assert_type(run.step("1", Point.origin), Point)
    assert_type(run.step("2", Named.origin), Named)
    assert_type(run.step("3", Named(1, 2).origin), Named)
    assert_type(run.step("4", Point.at, 5), Point)
    assert_type(run.step("5", Point.parse, "1,2"), Point)
    assert_type(run.step("6", Point(1, 2).parse, "1,2"), Point)


def partials(run: FlowRun) -> None:
    assert_type(run.step("1", functools.partial(add, 1), 2), int)
    assert_type(run.step("2", functools.partial(functools.partial(add, 1), b=2)), int)
    assert_type(run.step("3", functools.partial(Point(1, 2).moved, 5)), Point)
    assert_type(run.step("4", functools.partial(Point, 1), 2), Point)


def wrappers(run: FlowRun) -> None:
    assert_type(run.step("1", wrapped, 5), Point)
    assert_type(run.step("2", retried(Point(1, 2).moved), 5), Point)
    assert_type(run.step("3", retried(Adder(1)), 5), int)
    assert_type(run.step("4", cached, 5), Pair)
    assert_type(run.step("5", listed(add), 1), list[int])
    assert_type(run.step("6", wrapped_twice, 1), list[Point])


def generics(run: FlowRun) -> None:
    assert_type(run.step("1", first, ["a", "b"]), str)
    assert_type(run.step("2", same, 5), int)
    assert_type(run.step("3", pairs, ["a"], 1.5), dict[str, float])
    assert_type(run.step("4", IntBox(5).opened), int)
    assert_type(run.step("5", IntBox(5).twice), list[int])
    assert_type(run.step("6", Box[Point](Point(1, 2)).opened), Point)
    assert_type(run.step("7", Box[str]("a").opened), str)


def overloads(run: FlowRun) -> None:
    assert_type(run.step("1", doubled, 5), int)
    assert_type(run.step("2", doubled, "a"), str)


def unions(run: FlowRun) -> None:
    assert_type(run.step("1", either, True), Point | Other)
    assert_type(run.step("2", either, False), Point | Other)
    assert_type(run.step("3", perhaps, True), Point | None)
    assert_type(run.step("4", perhaps, False), Point | None)


def lambdas(run: FlowRun) -> None:
    assert_type(run.step("1", lambda: 5), int)
    assert_type(run.step("2", lambda: {"rows": [1, 2]}), dict[str, list[int]])
    number = 5
    assert_type(run.step("3", lambda: number * 2), int)


def builtins(run: FlowRun) -> None:
    text, numbers = str(run.flow_run_id), [len(run.flow_run_id), 2]
    assert_type(run.step("1", len, numbers), int)
    assert_type(run.step("2", text.upper), str)
    assert_type(run.step("3", str.upper, text), str)
    assert_type(run.step("4", text.split, ","), list[str])
    assert_type(run.step("5", sorted, numbers), list[int])
    assert_type(run.step("6", pow, 2, 3), int)
    assert_type(run.step("7", sum, numbers), int)


def classes(run: FlowRun) -> None:
    numbers = (len(run.flow_run_id), 2)
    assert_type(run.step("1", Point, 1, 2), Point)
    assert_type(run.step("2", Named, 1, y=2, name="n"), Named)
    assert_type(run.step("3", int, "5"), int)
    assert_type(run.step("4", Pair, 1, other="b"), Pair)
    assert_type(run.step("5", list, numbers), list[int])
    assert_type(run.step("6", tuple, numbers), tuple[int, ...])
    assert_type(run.step("7", datetime.date, 2026, 1, 2), datetime.date)
    assert_type(run.step("8", uuid.UUID, int=5), uuid.UUID)
    assert_type(run.step("9", IntBox, 5), IntBox)
    assert_type(run.step("10", dict, a=1), dict[str, int])


def classes_of_typing(run: FlowRun) -> None:
    row: Row = {"name": "a", "count": 1}
    assert_type(run.step("1", lambda: row), Row)
    assert_type(run.step("2", Box[int], 5), Box[int])
    assert_type(run.step("3", bytes, 3), bytes)


def callable_objects(run: FlowRun) -> None:
    assert_type(run.step("1", Adder(1), 2), int)
    assert_type(run.step("2", functools.partial(Adder(1), 2)), int)


def locals_of_a_function(run: FlowRun) -> None:
    @dataclasses.dataclass
    class Local:
        x: int

        def another(self) -> Local:
            return Local(self.x + 1)

        def same(self) -> Self:
            return self

    def make(x: int) -> Local:
        return Local(x)

    def make_several(x: int) -> Mapping[str, Local]:
        return {"a": Local(x)}

    assert_type(run.step("1", make, 5), Local)
    assert_type(run.step("2", make_several, 5), Mapping[str, Local])
    assert_type(run.step("3", Local(1).another), Local)
    assert_type(run.step("4", Local(1).same), Local)
    assert_type(run.step("5", Local, 1), Local)


# -------------------------------------------------------------------------------------------------- forms, awaited face


async def async_functions(run: AsyncFlowRun) -> None:
    assert_type(await run.step("1", fetch, 5), Point)
    assert_type(await run.step("2", fetch, 5, type="a"), Point)
    assert_type(await run.step("3", fetch_all, [1, 2]), dict[str, list[Point]])
    assert_type(await run.step("4", fetched_nothing), None)
    assert_type(await run.step("5", asyncio.sleep, 0, 5), int)
    assert_type(await run.step("6", asyncio.sleep, 0, result="a"), str)


async def plain_functions_awaited(run: AsyncFlowRun) -> None:
    assert_type(await run.step("1", add, 1, b=2), int)
    assert_type(await run.step("2", points, 2), list[Point])
    assert_type(await run.step("3", unknown), Point)
    assert_type(await run.step("4", keywords, type="a", node_id=5), dict[str, int])
    assert_type(await run.step("5", anything, Point(1, 2)), Any)
    assert_type(await run.step("6", nothing), None)


async def awaitables(run: AsyncFlowRun) -> None:
    assert_type(await run.step("1", begun, 5), Point)
    assert_type(await run.step("2", begun_coroutine, 5), Point)
    assert_type(await run.step("3", begun_future, 5), int)


async def async_methods_and_objects(run: AsyncFlowRun) -> None:
    assert_type(await run.step("1", Point(1, 2).fetched), Point)
    assert_type(await run.step("2", Named(1, 2).fetched), Named)
    assert_type(await run.step("3", Fetcher(), 5), Point)
    assert_type(await run.step("4", Named.origin), Named)
    assert_type(await run.step("5", Point(1, 2).moved, 1), Point)


async def async_wrapped(run: AsyncFlowRun) -> None:
    assert_type(await run.step("1", wrapped_async, 5), Point)
    assert_type(await run.step("2", functools.partial(fetch, 5)), Point)
    assert_type(await run.step("3", functools.partial(fetch, type="a"), 5), Point)
    assert_type(await run.step("4", wrapped, 5), Point)


async def async_generics_and_others(run: AsyncFlowRun) -> None:
    assert_type(await run.step("1", fetched_same, 5), int)
    assert_type(await run.step("2", same, "a"), str)
    assert_type(await run.step("3", doubled, 5), int)
    assert_type(await run.step("4", lambda: 5), int)
    assert_type(await run.step("6", len, [1, 2]), int)
    assert_type(await run.step("7", Point, 1, 2), Point)
    assert_type(await run.step("8", Adder(1), 2), int)


async def async_locals(run: AsyncFlowRun) -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    async def make(x: int) -> list[Local]:
        return [Local(x)]

    assert_type(await run.step("1", make, 5), list[Local])

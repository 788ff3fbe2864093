"""encode_default: asked for what has no JSON form, as the default of json.dumps is, and for nothing else."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import threading
from typing import Any

import pydantic
import pytest

from contextstore import AsyncContextStore, ContextStore, DeserializationError, SerializationError
from contextstore._values.codec import decode, encode

from ..conftest import named

PLENTY = 10**9


class Opaque:
    def __init__(self, number: int) -> None:
        self.number = number


@dataclasses.dataclass
class Price:
    amount: decimal.Decimal
    paid: bool = False


@dataclasses.dataclass
class Holder:
    held: Any


class Model(pydantic.BaseModel, arbitrary_types_allowed=True):
    held: Any


class Marker(enum.Enum):
    OPAQUE = Opaque(1)


def refusal(value: Any, default: Any) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encode(value, PLENTY, default)
    return caught.value


def as_json(value: Any) -> Any:
    match value:
        case Opaque():
            return {"number": value.number}
        case set() | frozenset():
            return sorted(value)
        case bytes():
            return value.hex()
        case decimal.Decimal() | pathlib.PurePath():
            return str(value)
        case complex():
            return (value.real, value.imag)
    raise TypeError(f"nothing is known of {type(value).__name__}")


def form(value: Any, default: Any = as_json) -> Any:
    return decode(encode(value, PLENTY, default))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Opaque(1), {"number": 1}),
        ({"a": [Opaque(1), {2, 1}]}, {"a": [{"number": 1}, [1, 2]]}),
        ([b"\x01", 1j, pathlib.Path("a/b")], ["01", [0.0, 1.0], "a/b"]),
        (Holder(Opaque(1)), {"held": {"number": 1}}),
        (Model(held=[Opaque(1)]), {"held": [{"number": 1}]}),
        (Marker.OPAQUE, {"number": 1}),
        (Price(decimal.Decimal("1.10")), {"amount": "1.10", "paid": False}),
        ([{frozenset([1])}], [[[1]]]),  # asked again for what is within
    ],
)
def test_it_is_asked_wherever_something_has_no_json_form(value: Any, expected: Any) -> None:
    assert form(value) == expected


def test_what_it_is_asked_for_is_what_json_dumps_asks_its_default_for() -> None:
    value = {"a": [{1}, Opaque(2), b"x", decimal.Decimal(1)], "b": {"c": pathlib.Path("d")}, "e": "text", "f": None}
    asked: dict[str, list[Any]] = {"here": [], "there": []}

    def noting(where: str) -> Any:
        return lambda value: asked[where].append(value) or as_json(value)

    assert form(value, noting("here")) == json.loads(json.dumps(value, default=noting("there")))
    assert asked["here"] == asked["there"]


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], 2**64, "\ud800", {1: 2}, {"a": {None: 1}}, {Opaque(1): 1}, datetime.time(1), [[]] * 3, (1,)],
    ids=named,
)
def test_it_is_not_asked_for_what_has_a_form_or_what_no_form_would_help(value: Any) -> None:
    def never(value: Any) -> Any:
        raise AssertionError(f"asked for {value!r}")

    try:
        encode({"a": [value]}, PLENTY, never)
    except SerializationError as error:
        assert "asked for" not in str(error)


def test_bytes_as_a_whole_are_themselves() -> None:
    assert encode(b"x", PLENTY, as_json) == encode(b"x", PLENTY)


@pytest.mark.parametrize("kind", [TypeError, ValueError, KeyError, OSError])
def test_whatever_it_raises_is_the_cause_of_a_refusal_that_names_the_place(kind: type[Exception]) -> None:
    cause = kind("mine")

    def fails(value: Any) -> Any:
        raise cause

    error = refusal({"a": [1, Opaque(1)]}, fails)
    assert error.path == "$.a[1]"
    assert "encode_default raised" in error.problem
    assert "mine" in error.problem
    assert error.__cause__ is cause


def test_an_interrupt_passes() -> None:
    def interrupted(value: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode([Opaque(1)], PLENTY, interrupted)


def test_what_it_returns_is_checked_as_everything_is() -> None:
    error = refusal({"a": Opaque(1)}, lambda value: {"b": [math.nan]})
    assert (error.path, error.problem[:3]) == ("$.a.b[0]", "NaN")
    assert "keys must be str" in refusal(Opaque(1), lambda value: {1: 2}).problem


def test_it_does_not_go_on_for_ever() -> None:
    assert "goes on returning" in refusal([Opaque(1)], lambda value: value).problem
    assert "goes on returning" in refusal([Opaque(1)], lambda value: Opaque(2)).problem
    assert "nested deeper than 254" in refusal([Opaque(1)], lambda value: [value]).problem


def test_what_it_made_comes_back_by_type_where_the_type_takes_it_and_is_stored_all_the_same_where_not() -> None:
    price = Price(decimal.Decimal("1.10"), paid=True)
    assert decode(encode([price], PLENTY, as_json), list[Price]) == [price]
    assert form(Holder(Opaque(1))) == {"held": {"number": 1}}


def test_only_that_of_which_it_was_asked_goes_without_proof() -> None:
    for value in ([Opaque(1), Holder((1,))], [Holder((1,)), Opaque(1)], [Holder(Opaque(1)), Holder((1,))]):
        assert "holds a tuple here" in refusal(value, as_json).problem


async def test_both_faces_ask_it_at_each_call_that_takes_a_value(make_store: Any) -> None:
    async with make_store(encode_default=as_json) as store:
        await store.put("run", "a", {1})
        await store.put_many("run", {"b": {2}, "c": [Opaque(3)]})
        await store.put_global("a", {4})
        await store.upsert_global("b", {5})
        assert await store.update_global("b", lambda old: {6}) == [6]
        assert await store.get_or_put("run", "d", lambda: {7}) == [7]
        assert await store.get_or_put("run", "e", lambda: Price(decimal.Decimal(8)), type=Price) == Price(
            decimal.Decimal(8)
        )
        assert await store.get_many("run", ["a", "b", "c", "d"]) == {"a": [1], "b": [2], "c": [{"number": 3}], "d": [7]}
        with pytest.raises(SerializationError, match=r"^\$\[0\]: encode_default raised TypeError") as caught:
            await store.put("run", "f", [object()])
        assert "node 'f' of flow run 'run'" in str(caught.value)
        assert isinstance(caught.value.__cause__, TypeError)
        assert "f" not in await store.list_keys("run")


def test_a_batch_asks_it(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "store.db", encode_default=as_json) as store:
        with store.batch() as batch:
            batch.put("run", "a", {1})
            batch.upsert_global("key", {2})
        assert (store.get("run", "a"), store.get_global("key")) == ([1], [2])


async def test_it_is_asked_in_the_calling_thread_at_the_time_of_the_call_and_may_call_the_store() -> None:
    threads = []

    def stored(value: Opaque) -> Any:
        threads.append(threading.get_ident())
        store.put("values", str(value.number), value.number, exist_ok=True)
        return {"stored": value.number}

    store = ContextStore(":memory:", encode_default=stored)
    with store:
        store.put("run", "a", [Opaque(1), Opaque(2)])
        assert store.get("run", "a") == [{"stored": 1}, {"stored": 2}]
        assert store.list_keys("values") == ["1", "2"]
    assert threads == [threading.get_ident()] * 2

    async with AsyncContextStore(
        ":memory:", encode_default=lambda value: threads.append(threading.get_ident())
    ) as other:
        await other.put("run", "a", Opaque(1))
        assert await other.get("run", "a", "nothing") is None
    assert threads == [threading.get_ident()] * 3


@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
def test_what_is_no_plain_function_is_a_type_error_at_once(face: Any) -> None:
    async def waits(value: Any) -> Any:
        return value

    class Waits:
        async def __call__(self, value: Any) -> Any:
            return value

    for wrong in (5, "str", {}, waits, Waits()):
        with pytest.raises(TypeError, match="encode_default must be a"):
            face(":memory:", encode_default=wrong)
    face(":memory:", encode_default=str)
    face(":memory:", encode_default=None)


# ------------------------------------------------------------------------------------- what is read, but not written so


@dataclasses.dataclass
class Invoice:
    total: decimal.Decimal
    file: pathlib.Path | None = None
    parts: dict[str, list[decimal.Decimal]] = dataclasses.field(default_factory=dict)


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    ("stored", "kind", "expected"),
    [
        ("a/b", pathlib.Path, pathlib.Path("a/b")),
        ("a/b", pathlib.PurePosixPath, pathlib.PurePosixPath("a/b")),
        (["a"], list[pathlib.Path], [pathlib.Path("a")]),
        ({"a": 1}, dict[pathlib.Path, int], {pathlib.Path("a"): 1}),
        ("a", pathlib.Path | None, pathlib.Path("a")),
        ("a", int | pathlib.Path, pathlib.Path("a")),
        ("a", pathlib.Path | str, "a"),  # the member that would be written so
        ("1.10", decimal.Decimal, decimal.Decimal("1.10")),
        (0.1, decimal.Decimal, decimal.Decimal("0.1")),
        (1e22, decimal.Decimal, decimal.Decimal("1E+22")),
        (2**64 - 1, decimal.Decimal, decimal.Decimal(2**64 - 1)),
        ("1" * 40, decimal.Decimal, decimal.Decimal("1" * 40)),
        ([1, "2.50"], list[decimal.Decimal], [decimal.Decimal(1), decimal.Decimal("2.50")]),
        ("1.10", decimal.Decimal | int, decimal.Decimal("1.10")),
        (1, decimal.Decimal | int, 1),
        (
            {"total": "1.10", "file": "a", "parts": {"x": [0.1]}},
            Invoice,
            Invoice(decimal.Decimal("1.10"), pathlib.Path("a"), {"x": [decimal.Decimal("0.1")]}),
        ),
        (
            [{"total": 1}, None],
            list[Invoice | pathlib.Path | None],
            [Invoice(decimal.Decimal(1)), None],
        ),
    ],
    ids=str,
)
async def test_paths_and_decimals_are_read_by_type(stored: Any, kind: Any, expected: Any, store: Any) -> None:
    await store.put("run", "node", stored)
    back = await store.get("run", "node", type=kind)
    assert back == expected
    assert repr(back) == repr(expected)  # 1.10 and 1.1 are equal


@pytest.mark.parametrize(
    ("stored", "kind", "path"),
    [
        (5, pathlib.Path, "$"),
        (["a", None], list[pathlib.Path], "$[1]"),
        ("abc", decimal.Decimal, "$"),
        (True, decimal.Decimal, "$"),
        ({"total": "x"}, Invoice, "$.total"),
        ({"total": "1", "file": 5}, Invoice, "$.file"),
    ],
)
def test_what_is_none_is_refused_by_name_of_its_place(stored: Any, kind: Any, path: str) -> None:
    with pytest.raises(DeserializationError) as caught:
        decode(encode(stored, PLENTY), kind)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (decimal.Decimal("1.1"), "$"),
        (pathlib.Path("a"), "$"),
        (Invoice(decimal.Decimal("1.1")), "$.total"),
        ([Invoice("1.1", pathlib.Path("a"))], "$[0].file"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_they_are_not_written_unless_somebody_says_how(value: Any, path: str) -> None:
    with pytest.raises(SerializationError, match=r"convert it with str\(\)") as caught:
        encode(value, PLENTY)
    assert caught.value.path == path
    assert decode(encode(value, PLENTY, str), type(value) if not isinstance(value, list) else list[Invoice])


def test_members_of_a_str_enum_are_keys_by_their_value() -> None:
    class Word(enum.StrEnum):
        YES = "yes"
        NO = "né"

    @dataclasses.dataclass
    class Counts:
        by_word: dict[Word, int]

    assert form({Word.YES: 1, "maybe": {Word.NO: [2]}}) == {"yes": 1, "maybe": {"né": [2]}}
    assert decode(encode({Word.YES: 1}, PLENTY), dict[Word, int]) == {Word.YES: 1}
    counts = Counts({Word.NO: 2})
    globals()["Word"] = Word
    assert decode(encode([counts], PLENTY), list[Counts]) == [counts]

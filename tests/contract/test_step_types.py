"""What a computation gives is stored only if it is of the type that was asked for: get_or_put, by type."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import uuid
from typing import Any

import pytest

from contextstore import DeserializationError

from ..conftest import Target
from ..support.doubles import until
from ..support.forked import run
from .steps import Held, outcomes_of, spawn, waiters


@dataclasses.dataclass
class Answer:
    text: str
    confidence: float


WHOLE = {"text": "42", "confidence": 0.9}
MISFIT = {"text": "42"}

made: list[Any] = []


@dataclasses.dataclass
class Counted:
    """Tells of each that is made."""

    x: int

    def __post_init__(self) -> None:
        made.append(self)


class Unknown:
    """A type of which nobody knows how to make one."""

    def __init__(self, one: Any, other: Any) -> None:
        raise AssertionError


async def write_by_another_process(make_store: Target, value: Any) -> None:
    program = f"with ContextStore(sys.argv[1]) as store: store.put('run', 'node', {value!r})"
    await asyncio.to_thread(run, program, make_store.location)


class TestWhatDoesNotFit:
    async def test_it_is_an_error_that_names_the_place_the_node_and_the_run_and_nothing_is_stored(
        self, store: Any
    ) -> None:
        with pytest.raises(DeserializationError) as caught:
            await store.get_or_put("run-1", "answer", lambda: {"text": 5, "confidence": 1}, type=Answer)
        assert caught.value.path == "$.text"
        assert "node 'answer' of flow run 'run-1'" in str(caught.value)
        assert str(caught.value).endswith("; nothing was stored")
        assert await store.list_keys("run-1") == []
        assert await store.list_runs() == []

    async def test_the_next_call_computes_anew(self, store: Any) -> None:
        answers = iter([MISFIT, "42", WHOLE])
        for _ in range(2):
            with pytest.raises(DeserializationError):
                await store.get_or_put("run", "node", lambda: next(answers), type=Answer)
        for _ in range(2):
            assert await store.get_or_put("run", "node", lambda: next(answers), type=Answer) == Answer("42", 0.9)
        assert await store.get("run", "node") == WHOLE

    async def test_a_type_that_nobody_can_make_is_a_type_error_and_nothing_is_stored(self, store: Any) -> None:
        with pytest.raises(TypeError, match="no way to convert"):
            await store.get_or_put("run", "node", lambda: 1, type="Answer")
        with pytest.raises(DeserializationError):
            await store.get_or_put("run", "node", lambda: 1, type=Unknown)
        assert await store.list_keys("run") == []

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("kind", [int, Answer, list[int], int | float, bytes], ids=str)
    async def test_a_null_is_no_output_of_another_type(self, store: Any, kind: Any) -> None:
        with pytest.raises(DeserializationError):
            await store.get_or_put("run", "node", lambda: None, type=kind)
        assert await store.get_or_put("run", "node", lambda: None, type=kind | None) is None
        assert await store.exists("run", "node")


class TestThoseWhoJoined:
    async def test_who_asked_for_the_same_type_gets_the_same_failure(self, store: Any) -> None:
        held = Held(store, MISFIT)
        # Equal, and not the same object.
        crowd = spawn(*(store.get_or_put("run", "node", held.factory, type=list[Answer]) for _ in range(10)))
        await until(lambda: waiters(store) == 9)
        held.release()
        outcomes = await outcomes_of(crowd)
        assert {type(outcome) for outcome in outcomes} == {DeserializationError}
        assert len({str(outcome) for outcome in outcomes}) == 1
        assert held.begun == 1
        assert await store.list_keys("run") == []
        assert await store.get_or_put("run", "node", lambda: [WHOLE], type=list[Answer]) == [Answer("42", 0.9)]

    async def test_who_asked_for_another_type_computes_anew_once_for_all_of_them(self, store: Any) -> None:
        first, second = Held(store, "text"), Held(store, "computed anew")
        refused = spawn(*(store.get_or_put("run", "node", first.factory, type=int) for _ in range(2)))
        await first.has_begun()
        crowd = spawn(*(store.get_or_put("run", "node", second.factory, type=str) for _ in range(5)))
        await until(lambda: waiters(store) == 6)
        first.release()
        await second.has_begun()
        await until(lambda: waiters(store) == 4)
        second.release()
        assert {type(outcome) for outcome in await outcomes_of(refused)} == {DeserializationError}
        assert await asyncio.gather(*crowd) == ["computed anew"] * 5
        assert (first.begun, second.begun) == (1, 1)
        assert await store.get("run", "node") == "computed anew"

    async def test_who_asked_for_no_type_computes_anew_as_well(self, store: Any) -> None:
        held = Held(store, "text")
        (refused,) = spawn(store.get_or_put("run", "node", held.factory, type=int))
        await held.has_begun()
        (plain,) = spawn(store.get_or_put("run", "node", lambda: ["any"]))
        await until(lambda: waiters(store) == 1)
        held.release()
        assert isinstance((await outcomes_of([refused]))[0], DeserializationError)
        assert await plain == ["any"] == await store.get("run", "node")

    async def test_what_fits_who_computes_is_stored_and_refused_to_those_whose_type_it_does_not_fit(
        self, store: Any
    ) -> None:
        held = Held(store, WHOLE)
        (computing,) = spawn(store.get_or_put("run", "node", held.factory, type=Answer))
        await held.has_begun()
        others = spawn(*(store.get_or_put("run", "node", held.factory, type=kind) for kind in (int, dict, None)))
        await until(lambda: waiters(store) == 3)
        held.release()
        assert await computing == Answer("42", 0.9)
        refused, *plain = await outcomes_of(others)
        assert isinstance(refused, DeserializationError)
        assert "nothing was stored" not in str(refused)
        assert plain == [WHOLE] * 2
        assert await store.get("run", "node") == WHOLE
        assert held.begun == 1

    async def test_nobodys_object_is_anothers(self, store: Any) -> None:
        held = Held(store, [WHOLE])
        crowd = spawn(*(store.get_or_put("run", "node", held.factory, type=list[Answer]) for _ in range(5)))
        await until(lambda: waiters(store) == 4)
        held.release()
        values = await asyncio.gather(*crowd)
        assert values == [[Answer("42", 0.9)]] * 5
        assert len({id(value) for value in values}) == len({id(value[0]) for value in values}) == 5


@pytest.mark.usefixtures("shared_target")
class TestAnotherProcessThatWritesFirst:
    async def test_its_value_is_returned_by_type(self, make_store: Target) -> None:
        async with make_store() as store:
            held = Held(store, {"text": "own", "confidence": 0})
            crowd = spawn(*(store.get_or_put("run", "node", held.factory, type=Answer) for _ in range(3)))
            await held.has_begun()
            await write_by_another_process(make_store, WHOLE)
            held.release()
            assert await asyncio.gather(*crowd) == [Answer("42", 0.9)] * 3

    async def test_if_its_value_does_not_fit_that_is_told_and_it_stands(self, make_store: Target) -> None:
        async with make_store() as store:
            held = Held(store, WHOLE)
            crowd = spawn(*(store.get_or_put("run", "node", held.factory, type=Answer) for _ in range(3)))
            await held.has_begun()
            await write_by_another_process(make_store, MISFIT)
            held.release()
            outcomes = await outcomes_of(crowd)
            assert {type(outcome) for outcome in outcomes} == {DeserializationError}
            assert "nothing was stored" not in str(outcomes[0])
            assert held.begun == 1
            assert await store.get_or_put("run", "node", lambda: pytest.fail("computed anew")) == MISFIT

    async def test_after_a_misfit_of_the_own_value_its_value_is_returned(self, make_store: Target) -> None:
        async with make_store() as store:
            held = Held(store, MISFIT)
            (refused,) = spawn(store.get_or_put("run", "node", held.factory, type=Answer))
            await held.has_begun()
            await write_by_another_process(make_store, WHOLE)
            held.release()
            assert isinstance((await outcomes_of([refused]))[0], DeserializationError)
            assert await store.get_or_put("run", "node", held.factory, type=Answer) == Answer("42", 0.9)


class TestTheFirstCallAndAReplay:
    @pytest.mark.each_input_once
    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (WHOLE, Answer),
            (Answer("42", 1), Answer),
            ([1, 2], tuple[int, ...]),
            ({"a": {1: "x"}}["a"][1], str),
            ("2026-01-02T03:04:05+00:00", datetime.datetime),
            (uuid.UUID(int=5), uuid.UUID),
            (b"\x00", bytes),
            (3, int | str),
            (None, Answer | None),
        ],
        ids=str,
    )
    async def test_they_return_the_same(self, make_store: Target, value: Any, kind: Any) -> None:
        async with make_store() as store:
            first = await store.get_or_put("run", "node", lambda: value, type=kind)
        async with make_store() as store:
            again = await store.get_or_put("run", "node", lambda: pytest.fail("computed anew"), type=kind)
        assert first == again
        assert type(first) is type(again)

    async def test_what_is_returned_is_made_from_the_stored_form_once_in_each_call(self, store: Any) -> None:
        made.clear()
        for count in (1, 2, 3):
            one = await store.get_or_put("run", "node", lambda: {"x": 1}, type=Counted)
            assert len(made) == count
            assert made[-1] is one

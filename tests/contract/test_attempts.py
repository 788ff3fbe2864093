"""Attempts of steps: what is recorded of each, the numbers that they get, and what becomes of them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    Attempt,
    InvalidKeyError,
    OutputDeletedError,
    RunDeletedError,
    StoreClosedError,
)
from contextstore._engine.attempts import MOST_FAILURES
from contextstore._engine.operations import PutOutput
from contextstore._engine.run_operations import LoadFailure
from contextstore._values.codec import JSON, Encoded
from contextstore._values.run_facts import ERROR_BYTES

from ..conftest import Target
from .attempts import STARTED, commit, failure, in_short, success
from .test_flow_run import Bound


async def test_a_run_without_steps_has_none(store: Any) -> None:
    assert await Bound(store, "run").attempts() == []
    await store.put("run", "node", 1)
    assert await Bound(store, "run").attempts() == []
    assert await Bound(store, "run").attempts("node") == []


async def test_a_success_tells_when_it_began_and_that_it_ended_as_the_output_was_written(store: Any) -> None:
    assert await commit(store, success("node", inputs="ab12")) == [True]
    entry = await store.get_entry("run", "node")
    began = datetime.datetime.fromtimestamp(STARTED / 1e6, datetime.UTC)
    assert await Bound(store, "run").attempts() == [Attempt("node", 1, began, entry.written_at, None, "ab12")]
    assert await store.get("run", "node") == 1


async def test_a_failure_makes_the_run_and_has_its_text(store: Any) -> None:
    assert await commit(store, failure("node", "ValueError: no", inputs="cd")) == [1]
    (attempt,) = await Bound(store, "run").attempts()
    assert (attempt.number, attempt.error, attempt.inputs) == (1, "ValueError: no", "cd")
    assert attempt.ended_at - attempt.started_at == datetime.timedelta(seconds=2)
    assert not await store.exists("run", "node")
    assert (await store.check()).problems == ()


async def test_each_node_counts_by_itself_whatever_became_of_the_attempts(store: Any) -> None:
    assert await commit(store, failure("a")) == [1]
    assert await commit(store, failure("a")) == [2]
    assert await commit(store, success("a")) == [True]
    assert await commit(store, success("b")) == [True]
    assert await commit(store, failure("a", "late")) == [4]
    assert await commit(store, failure("b", "late")) == [2]
    assert in_short(await Bound(store, "run").attempts()) == [
        ("a", 1, "ValueError: no"),
        ("a", 2, "ValueError: no"),
        ("a", 3, None),
        ("a", 4, "late"),
        ("b", 1, None),
        ("b", 2, "late"),
    ]
    assert in_short(await Bound(store, "run").attempts("b")) == [("b", 1, None), ("b", 2, "late")]


async def test_several_of_one_commit_are_numbered_one_after_the_other(store: Any) -> None:
    await commit(store, failure("b"), failure("b"), failure("a"))
    await commit(store, success("a"), success("b"), success("c"))
    numbers = [(attempt.node_id, attempt.number) for attempt in await Bound(store, "run").attempts()]
    assert numbers == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("c", 1)]


async def test_many_successes_of_one_commit_are_all_recorded(store: Any) -> None:
    nodes = [f"node-{number:03}" for number in range(150)]
    await commit(store, failure(nodes[7]))
    await commit(store, *(success(node) for node in nodes))
    attempts = await Bound(store, "run").attempts()
    assert [attempt.node_id for attempt in attempts if attempt.error is None] == nodes
    assert {attempt.number for attempt in attempts if attempt.node_id != nodes[7]} == {1}
    assert len(await store.get_run("run")) == 150


async def test_attempts_stand_beside_plain_outputs_by_node(store: Any) -> None:
    await commit(store, success("a"), PutOutput("run", "b", Encoded(JSON, b"2"), False), success("c"))
    assert [attempt.node_id for attempt in await Bound(store, "run").attempts()] == ["a", "c"]
    assert await store.get_run("run") == {"a": 1, "b": 2, "c": 1}
    assert [output.node_id for output in await store.list_outputs("run")] == ["a", "b", "c"]


async def test_the_newest_hundred_failures_are_kept_and_the_numbers_go_on(store: Any) -> None:
    for start in range(0, 104, 8):
        await commit(store, *(failure("node", f"{start + more}") for more in range(8)), failure("other"))
    attempts = await Bound(store, "run").attempts("node")
    assert [attempt.number for attempt in attempts] == list(range(5, 105))
    assert len(attempts) == MOST_FAILURES
    assert [attempt.error for attempt in attempts] == [str(number) for number in range(4, 104)]
    assert await commit(store, success("node")) == [True]
    assert (await Bound(store, "run").attempts("node"))[-1].number == 105
    assert len(await Bound(store, "run").attempts("other")) == 13


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\0b", "a\\x00b"),
        ("\ud800", "\\ud800"),
        ("", ""),
        ("é" * ERROR_BYTES, "é" * (ERROR_BYTES // 2)),
    ],
    ids=["NUL", "a lone surrogate", "none", "a long one"],
)
async def test_whatever_text_a_failure_has_it_is_recorded(store: Any, text: str, stored: str) -> None:
    assert await commit(store, failure("node", text)) == [1]
    assert [attempt.error for attempt in await Bound(store, "run").attempts()] == [stored]


async def test_who_made_an_output_is_no_part_of_its_value(store: Any) -> None:
    await commit(store, success("node"))
    await store.put("run", "node", 1, exist_ok=True)
    with pytest.raises(AlreadyExistsError) as caught:
        await store.put("run", "node", 1)
    assert caught.value.same_value
    assert await commit(store, success("node")._replace(exist_ok=True)) == [False]
    with pytest.raises(AlreadyExistsError):
        await commit(store, success("node", b"2"))
    assert in_short(await Bound(store, "run").attempts()) == [("node", 1, None)]


async def test_an_output_that_a_put_has_made_stays_without_an_attempt(store: Any) -> None:
    await store.put("run", "node", 1)
    assert await commit(store, success("node")._replace(exist_ok=True)) == [False]
    assert await Bound(store, "run").attempts() == []


async def test_the_attempt_of_an_output_goes_with_it_and_failures_stay(store: Any) -> None:
    await commit(store, failure("node"))
    await commit(store, success("node"), success("other"))
    await store.delete_outputs("run", prefix="")
    assert in_short(await Bound(store, "run").attempts()) == [("node", 1, "ValueError: no")]
    with pytest.raises(OutputDeletedError):
        await commit(store, success("node"))
    assert (await store.check()).problems == ()


async def test_a_deleted_run_has_none_and_takes_none(store: Any) -> None:
    run = Bound(store, "run")
    await commit(store, success("node"), failure("other"))
    assert len(await run.attempts()) == 2
    await store.delete_run("run")
    assert await run.attempts() == []
    assert await Bound(store, "run").attempts() == []
    for operation in (success("node"), failure("node"), LoadFailure("run", "node", 1, 1, 2, "no", None)):
        with pytest.raises(RunDeletedError):
            await commit(store, operation)


async def test_a_run_object_has_those_of_its_own_life(store: Any) -> None:
    await commit(store, success("node"), failure("other"))
    before = Bound(store, "run")
    assert len(await before.attempts()) == 2
    await store.delete_run("run", forget=True)
    await commit(store, success("third"))
    assert await before.attempts() == []
    assert [attempt.node_id for attempt in await Bound(store, "run").attempts()] == ["third"]


async def test_a_failure_that_means_another_life_is_refused(store: Any) -> None:
    await commit(store, failure("node"))
    with pytest.raises(RunDeletedError):
        await commit(store, failure("node")._replace(run=10**9))
    with pytest.raises(RunDeletedError):
        await commit(store, failure("node", run="never seen")._replace(run=10**9))
    assert len(await Bound(store, "run").attempts()) == 1


async def test_a_unit_that_is_refused_records_none_of_its_attempts(store: Any) -> None:
    await store.put("run", "taken", 1)
    with pytest.raises(AlreadyExistsError):
        await commit(store, success("node"), failure("other"), success("taken"))
    assert await Bound(store, "run").attempts() == []
    assert await store.get_run("run") == {"taken": 1}


async def test_a_fork_has_the_attempts_that_made_its_outputs_as_they_were(store: Any) -> None:
    await commit(store, failure("a"))
    await commit(store, success("a", inputs="ab"), success("b"))
    await store.put("run", "c", 1)
    await Bound(store, "run").fork(new_flow_run_id="copy")
    of_origin = [attempt for attempt in await Bound(store, "run").attempts() if attempt.error is None]
    assert await Bound(store, "copy").attempts() == of_origin
    await Bound(store, "copy").fork(new_flow_run_id="copy of the copy", node_ids=["a"])
    assert await Bound(store, "copy of the copy").attempts() == of_origin[:1]
    assert (await store.check()).problems == ()
    assert await commit(store, failure("a", run="copy")) == [3]


async def test_what_cannot_be_a_node_is_refused(store: Any) -> None:
    with pytest.raises(InvalidKeyError):
        await Bound(store, "run").attempts("")
    with pytest.raises(InvalidKeyError):
        await Bound(store, "run").attempts("a\0")


async def test_pages_have_each_attempt_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        await commit(store, failure(f"{number % 3}"), failure(f"{number}"))
        await store.put("run", f"{number}-plain", number)
    await commit(store, *(success(f"{number}") for number in range(0, 9, 2)))
    whole = await Bound(store, "run").attempts()
    assert len(whole) == 14 + 5
    for size in (2, 3, 5):
        monkeypatch.setattr("contextstore._core.attempts._PAGE", size)
        assert await Bound(store, "run").attempts() == whole
        assert await Bound(store, "run").attempts("2") == [attempt for attempt in whole if attempt.node_id == "2"]


async def test_what_is_taken_over_keeps_its_number_and_what_is_here_stays(store: Any) -> None:
    await commit(store, failure("node", "here"))
    loads = [LoadFailure("run", "node", number, 1, 2, "there", None) for number in (1, 7)]
    await commit(store, *loads)
    assert await commit(store, failure("node", "next")) == [8]
    assert in_short(await Bound(store, "run").attempts()) == [
        ("node", 1, "here"),
        ("node", 7, "there"),
        ("node", 8, "next"),
    ]
    assert (await store.check()).problems == ()


async def test_of_a_closed_store_none_are_told(make_store: Target) -> None:
    store = make_store()
    await commit(store, success("node"))
    run = Bound(store, "run")
    await store.close()
    with pytest.raises(StoreClosedError):
        await run.attempts()

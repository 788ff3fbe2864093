"""The engine of these tests is one: it answers the contract, and means by each operation what the others do."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any

import pytest

from contextstore import ContextStoreError, CorruptStoreError, RunDeletedError, StorageError
from contextstore._engine.contract import Engine
from contextstore._engine.operations import (
    DeleteIdleRuns,
    DeleteRun,
    ForgetRuns,
    GiveBackSpace,
    IdleDeletion,
    LoadOutput,
    LoadRun,
    Operation,
    PutGlobal,
    PutOutput,
    Removal,
    RemoveOutputs,
)
from contextstore._engine.pages import Part
from contextstore._engine.records import Counts, Extent, GlobalRow, IdleRuns, RunLife, RunRecord, RunRow
from contextstore._engine.run_query import RunIndex, RunPlace, RunQuery
from contextstore._values.codec import JSON, Encoded

from ..support.fake_engine import FakeEngine, run_now

ONE = Encoded(JSON, b"1")


def put(run: str, node_id: str) -> PutOutput:
    return PutOutput(run, node_id, ONE, False)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def asked(call: Coroutine[Any, Any, Any]) -> Any:
    return run_now(call)


def committed(engine: FakeEngine, *operations: Operation) -> list[Any]:
    """As the writer has it done."""

    async def commit() -> list[Any]:
        assert await engine.acquire_write(lambda: True)
        try:
            (outcome,) = await engine.commit([operations])
            return outcome.unwrap()
        finally:
            engine.release_write()

    return run_now(commit())


def test_it_has_every_call_of_the_contract_with_its_parameters() -> None:
    for name, member in vars(Engine).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            own = getattr(FakeEngine, name)
            assert list(inspect.signature(own).parameters) == list(inspect.signature(member).parameters), name
            assert inspect.iscoroutinefunction(own) == inspect.iscoroutinefunction(member), name
    for name in inspect.get_annotations(Engine):
        assert hasattr(FakeEngine(), name), name


def test_what_was_committed_is_read(engine: FakeEngine) -> None:
    assert committed(engine, put("run", "a"), put("run", "ab"), PutGlobal("key", ONE, False)) == [True, True, None]
    epoch, (found, absent) = asked(engine.fetch([("run", "a"), ("run", "b")]))
    assert (epoch, found.unwrap().value, absent.unwrap()) == (0, ONE, None)
    assert [asked(engine.exists(("run", node))) for node in ("a", "b")] == [True, False]
    assert asked(engine.list_node_ids("run", Part("a"), None)) == ["a", "ab"]
    assert asked(engine.first_node_ids("run", Part(), 1)) == ["a"]
    assert asked(engine.fetch_global("key")).value == ONE
    assert [row.unwrap().node_id for row in asked(engine.page_outputs("run", None, "a", 9, 10**6))] == ["ab"]
    assert asked(engine.page_outputs("run", 99, "", 9, 10**6)) == []
    assert len(asked(engine.page_outputs("run", None, "", 9, 1))) == 1
    assert asked(engine.count()) == Counts(1, 0, 2, 1, 3)


def test_a_unit_that_is_refused_leaves_nothing(engine: FakeEngine) -> None:
    engine.place.delete("gone")
    with pytest.raises(RunDeletedError):
        committed(engine, put("run", "a"), put("gone", "a"))
    assert (engine.place.has(("run", "a")), engine.place.history) == (False, [None])


def test_a_deleted_run_is_gone_for_readers_and_its_outputs_are_removed_later(engine: FakeEngine) -> None:
    committed(engine, put("run", "a"), put("run", "b"))
    assert committed(engine, DeleteRun("run"), DeleteRun("run"), DeleteRun("never seen")) == [1, 1, 2]
    assert not asked(engine.exists(("run", "a")))
    assert asked(engine.find_run("run"))[1] == RunLife(1, is_deleted=True)
    assert asked(engine.page_unfinished_deletions(0)) == (["run"], None)
    assert committed(engine, RemoveOutputs(("run", "alive"), 1)) == [Removal(1, 1, ("run",))]
    assert committed(engine, RemoveOutputs(("run",), 9)) == [Removal(1, 1, ())]
    assert asked(engine.count_tombstones(99)) == 2
    assert committed(engine, ForgetRuns(0, 99, 1), ForgetRuns(0, 99, 9)) == [(1, 2), (1, None)]
    assert asked(engine.find_run("run"))[1] is None
    assert committed(engine, put("run", "a"), GiveBackSpace(1)) == [True, 0]


def test_idle_runs_are_deleted_with_their_outputs(engine: FakeEngine) -> None:
    engine.place.commit(put("old", "a"))
    engine.place.commit(put("older", "a"))
    engine.place.commit(put("young", "a"))
    assert asked(engine.page_idle_runs(0, 3, 9)) == IdleRuns([("old", 1), ("older", 1)], 3, None, None)
    assert asked(engine.page_idle_runs(0, 3, 1)) == IdleRuns([("old", 1)], 1, 1, None)
    deletion = DeleteIdleRuns(("old", "older", "young"), 3, 1, None)
    assert committed(engine, deletion) == [IdleDeletion(1, 1, 1, 1, ())]
    assert committed(engine, deletion._replace(flow_run_ids=("older", "young"))) == [IdleDeletion(2, 1, 1, 1, ())]
    assert asked(engine.measure_runs(["old", "young"])) == Extent(1, 1, 1)
    assert asked(engine.count_runs()) == 1


def test_runs_are_listed_newest_first_and_taken_over_with_their_times(engine: FakeEngine) -> None:
    committed(engine, LoadRun("loaded", 5, None), LoadOutput("loaded", "a", ONE, 6), put("run", "a"))
    committed(engine, LoadRun("gone", 7, 8))
    runs, gone = RunIndex("runs"), asked(engine.find_run_place("gone"))
    newest, loaded = asked(engine.list_runs(RunQuery(), runs, None, 9, 9)).runs
    assert (newest.flow_run_id, loaded) == ("run", RunRecord(1, "loaded", 1, 1, 6, 6))
    first, after = asked(engine.list_runs(RunQuery(), runs, gone, 9, 1))
    assert ([run.flow_run_id for run in first], after) == (["run"], RunPlace(2))
    assert [run.flow_run_id for run in asked(engine.list_runs(RunQuery("lo"), runs, None, 9, 9)).runs] == ["loaded"]
    assert asked(engine.find_run_place("absent")) is None
    assert asked(engine.page_run_rows(1, 9)) == [RunRow(2, "run", 1, None), RunRow(3, "gone", 7, 8)]
    assert committed(engine, LoadRun("loaded", 5, 9)) == [None]
    assert asked(engine.find_run("loaded"))[1] == RunLife(1, is_deleted=True)


def test_what_is_damaged_is_an_error_in_its_place(engine: FakeEngine) -> None:
    committed(engine, put("run", "a"), put("run", "b"), PutGlobal("key", ONE, False), PutGlobal("other", ONE, False))
    outputs = engine.place.runs["run"].outputs
    outputs["a"] = outputs["a"]._replace(checksum=0)
    engine.place.globals["key"] = engine.place.globals["key"]._replace(data=b"2")
    _, found = asked(engine.fetch([("run", "a"), ("run", "b")]))
    assert [type(outcome.error) for outcome in found] == [CorruptStoreError, type(None)]
    rows = asked(engine.page_global_rows(None, 9))
    assert [type(rows[0].error), rows[1].unwrap()] == [CorruptStoreError, GlobalRow("other", ONE, 1, 1)]
    assert [record.key for record in asked(engine.page_globals("o", "key", 9))] == ["other"]
    with pytest.raises(CorruptStoreError):
        asked(engine.fetch_global("key"))


def test_the_epoch_changes_with_a_deletion_by_whomever_and_a_turn_knows_whose_it_was(engine: FakeEngine) -> None:
    committed(engine, put("run", "a"))
    assert list(engine.epochs.turn) == [0, 0]
    committed(engine, DeleteRun("run"))
    assert list(engine.epochs.turn) == [0, 2]
    engine.place.delete("other")
    assert engine.epochs.now[0] == engine.epochs.latest == 4
    engine.hold("commit")

    async def job() -> None:
        await engine.acquire_write(lambda: True)
        await engine.commit([[DeleteRun("third")]])
        engine.release_write()

    engine.post_write(job)
    running = engine.begin_write()
    engine.place.delete("fourth")
    running.finish()
    assert list(engine.epochs.turn) == [None, 8]


@pytest.mark.parametrize("call", ["acquire_write", "commit", "fetch", "maintain"])
def test_a_call_that_is_to_fail_does_nothing_and_the_next_one_does(engine: FakeEngine, call: str) -> None:
    engine.fail(call, StorageError("failed"))

    async def job() -> None:
        if await engine.acquire_write(lambda: True):
            try:
                await engine.commit([[put("run", "a")]])
            finally:
                engine.release_write()
        await engine.fetch([("run", "a")])
        await engine.maintain()

    engine.post_write(job)
    with pytest.raises(StorageError):
        engine.run_next_write()
    assert engine.place.has(("run", "a")) == (call in ("fetch", "maintain"))
    engine.place = FakeEngine().place
    engine.post_write(job)
    engine.run_next_write()


def test_a_commit_whose_answer_is_lost_is_done(engine: FakeEngine) -> None:
    engine.lose_answer()
    with pytest.raises(StorageError) as lost:
        committed(engine, put("run", "a"))
    assert lost.value.outcome_unknown
    assert engine.place.has(("run", "a"))


def test_a_job_stands_where_it_is_held_until_it_is_let_go_on(engine: FakeEngine) -> None:
    engine.hold("acquire_write", "deleting", "committed")

    async def job() -> None:
        await engine.acquire_write(lambda: True)
        await engine.commit([[DeleteRun("run")]])
        engine.release_write()

    engine.post_write(job)
    running = engine.begin_write()
    seen = []
    while running.at is not None:
        seen.append((running.at, engine.is_locked, engine.place.is_deleted("run"), engine.place.epoch))
        running.go_on()
    assert seen == [("acquire_write", False, False, 0), ("deleting", True, False, 1), ("committed", True, True, 2)]


def test_a_closed_one_takes_no_jobs_and_has_done_those_that_it_took(engine: FakeEngine) -> None:
    done: list[str] = []

    async def job() -> None:
        done.append("a job")

    engine.post_write(job)
    engine.post_scan(job)
    run_now(engine.close())
    assert done == ["a job"] * 2
    for post in (engine.post_write, engine.post_read, engine.post_scan):
        with pytest.raises(ContextStoreError):
            post(job)

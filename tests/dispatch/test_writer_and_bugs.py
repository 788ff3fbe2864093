"""A bug in the engine, or in those who are told of commits, leaves no caller of the writer waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import AlreadyExistsError, RunDeletedError, StorageError
from contextstore._dispatch.writer import Writer
from contextstore._values.codec import JSON, Encoded

from ..support.desk import Desk, put
from ..support.fake_engine import FakeEngine, outcomes_of, spawn, task_callers, turns


@contextlib.contextmanager
def logged(caplog: pytest.LogCaptureFixture, message: str) -> Iterator[True]:
    caplog.clear()
    yield
    assert [record.getMessage() for record in caplog.records] == [message]


class TestABugInTheEngine:
    @pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), RunDeletedError("run")], ids=repr)
    async def test_in_a_commit_leaves_no_one_waiting_and_the_outcome_unknown(
        self, desk: Desk, caplog: pytest.LogCaptureFixture, bug: Exception
    ) -> None:
        desk.engine.fail("commit", bug)
        tasks = await desk.submit(put("a"), put("b"))
        with logged(caplog, "a commit to fake failed in an unforeseen way"):
            desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [(type(outcome), outcome.outcome_unknown) for outcome in outcomes] == [(StorageError, True)] * 2
        assert not desk.engine.is_locked
        tasks = await desk.submit(put("a"))
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]]

    async def test_in_acquiring_the_right_to_commit_refuses_all_that_is_queued(
        self, desk: Desk, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk.engine.fail("acquire_write", ZeroDivisionError("a bug"))
        tasks = await desk.submit(*(put(str(i)) for i in range(6)))
        with logged(caplog, "the writer of fake failed; every queued write is refused"):
            desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [(type(outcome), outcome.outcome_unknown) for outcome in outcomes] == [(StorageError, False)] * 6
        assert len({id(outcome) for outcome in outcomes}) == 6
        tasks = await desk.submit(put("a"))
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]]

    async def test_in_giving_back_the_right_to_commit_changes_no_outcome(
        self, desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        release = desk.engine.release_write

        def broken() -> None:
            release()
            raise ZeroDivisionError

        monkeypatch.setattr(desk.engine, "release_write", broken)
        desk.engine.place.put("run", "taken", Encoded(JSON, b"1"))
        tasks = await desk.submit(put("a"), put("taken"))
        with logged(caplog, "a commit to fake failed in an unforeseen way"):
            desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [outcomes[0], type(outcomes[1])] == [[True], AlreadyExistsError]

    async def test_in_maintenance_is_no_writes_failure(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        desk.engine.fail("maintain", ZeroDivisionError("a bug"))
        tasks = await desk.submit(*(put(str(i)) for i in range(6)))
        with logged(caplog, "tidying up fake failed in an unforeseen way"):
            desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]] * 6

    @pytest.mark.parametrize("change", [lambda told: told[:1], lambda told: [*told, told[0]]], ids=["few", "many"])
    async def test_that_gives_too_few_outcomes_or_too_many_leaves_all_of_them_unknown(
        self, desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, change: Any
    ) -> None:
        commit = desk.engine.commit

        async def miscounting(units: Any) -> Any:
            return change(await commit(units))

        monkeypatch.setattr(desk.engine, "commit", miscounting)
        tasks = await desk.submit(put("a"), put("b"))
        with logged(caplog, "a commit to fake failed in an unforeseen way"):
            desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [(type(outcome), outcome.outcome_unknown) for outcome in outcomes] == [(StorageError, True)] * 2

    async def test_in_those_who_are_told_of_commits_changes_no_outcome_of_the_commit(
        self, engine: FakeEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_: object) -> None:
            raise ZeroDivisionError("a bug")

        writer, callers = Writer(engine, [broken], 5.0), task_callers(engine)
        tasks = spawn(*(writer.commit([put(str(i))], callers) for i in range(5)))
        await turns(1)
        with logged(caplog, "the writer of fake failed; every queued write is refused"):
            engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert outcomes[:4] == [[True]] * 4
        assert [type(outcomes[4]), engine.place.has(("run", "4"))] == [StorageError, False]

    async def test_that_ends_the_interpreter_refuses_what_is_queued_and_goes_on_to_end_it(
        self, desk: Desk, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk.engine.fail("acquire_write", SystemExit())
        tasks = await desk.submit(put("a"))
        with pytest.raises(SystemExit):
            desk.engine.run_writes()
        assert [type(outcome) for outcome in await outcomes_of(tasks)] == [StorageError]

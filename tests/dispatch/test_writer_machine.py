"""Whatever comes in whatever order, each write has one outcome, and it is true of what is stored."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contextstore import (
    AlreadyExistsError,
    RunDeletedError,
    StorageError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
)
from contextstore._dispatch import writer as writer_module
from contextstore._dispatch.writer import Writer
from contextstore._engine.operations import PutOutput
from contextstore._values.codec import JSON, Encoded

from ..support.fake_engine import FakeEngine, RunningJob, task_callers, turns

RUNS = ["a", "b"]
NODES = ["x", "y", "z"]
QUEUE_BYTES = 12_000
FAILURES: dict[str, Callable[[], BaseException]] = {
    "busy": lambda: StoreBusyError("busy"),
    "full": lambda: StoreFullError("full"),
    "unknown": lambda: StorageError("lost", True),
    "a bug": lambda: ZeroDivisionError("a bug"),
}


class Write:
    """A caller's write of some outputs, and what it has come to."""

    def __init__(self, puts: list[PutOutput]) -> None:
        self.puts = puts
        self.was_taken = False
        """Whether a commit had it when its caller gave it up."""
        self.task: asyncio.Task[list[Any]] | None = None
        self.outcomes = 0

    @property
    def outcome(self) -> Any:
        assert self.task is not None
        if self.task.cancelled():
            return "taken" if self.was_taken else "withdrawn"
        error = self.task.exception()
        return self.task.result() if error is None else error

    @property
    def may_be_stored(self) -> bool:
        if self.outcome == "taken":
            return True
        return isinstance(self.outcome, list) or getattr(self.outcome, "outcome_unknown", False)


class WriterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.engine = FakeEngine()
        self.writes: list[Write] = []
        self.job: RunningJob | None = None
        self.groups_before = 0
        """How many groups there were when the last job began: those after it are its own, if it goes one by one."""
        self.values = itertools.count()
        self.is_closed = False
        self.told: list[PutOutput] = []
        self.loop.run_until_complete(self._make_writer())

    async def _make_writer(self) -> None:
        self.callers = task_callers(self.engine)
        self.writer = Writer(self.engine, [self.told.extend], 5.0)  # type: ignore[list-item]

    def settle(self) -> None:
        self.loop.run_until_complete(turns(3))

    # -- what may come ------------------------------------------------------------------------------------------------

    @rule(
        run=st.sampled_from(RUNS),
        nodes=st.lists(st.sampled_from(NODES), min_size=1, max_size=3, unique=True),
        size=st.sampled_from([1, 1, 1, 3_000, 8_000]),
    )
    def submit(self, run: str, nodes: list[str], size: int) -> None:
        value = Encoded(JSON, b'"%0*d"' % (size, next(self.values)))  # no other write has it
        write = Write([PutOutput(run, node, value, False) for node in nodes])
        write.task = self.loop.create_task(self.writer.commit(list(write.puts), self.callers))
        self.writes.append(write)
        self.settle()

    @precondition(lambda self: any(not write.task.done() for write in self.writes))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        write = data.draw(st.sampled_from([write for write in self.writes if not write.task.done()]))  # type: ignore[union-attr]
        write.was_taken = any(write.puts in group for group in self.engine.groups[self.groups_before :])
        assert write.task is not None
        write.task.cancel()
        self.settle()

    @precondition(lambda self: self.job is None and self.engine.writes)
    @rule(points=st.sets(st.sampled_from(["acquire_write", "commit", "committed", "maintain"])))
    def begin(self, points: set[str]) -> None:
        self.engine.release()
        self.engine.hold(*points)
        self.groups_before = len(self.engine.groups)
        self.job = self.engine.begin_write()
        self._look_after_job()

    @precondition(lambda self: self.job is not None)
    @rule()
    def go_on(self) -> None:
        assert self.job is not None
        self.job.go_on()
        self._look_after_job()

    def _look_after_job(self) -> None:
        if self.job is not None and self.job.at is None:
            self.job = None
        self.settle()

    @rule(call=st.sampled_from(["acquire_write", "commit", "commit", "maintain"]), why=st.sampled_from(list(FAILURES)))
    def fail(self, call: str, why: str) -> None:
        if (call, why) != ("acquire_write", "unknown"):  # nothing was begun: an engine knows that
            self.engine.fail(call, FAILURES[why]())

    @rule()
    def lose_answer(self) -> None:
        self.engine.lose_answer()

    @rule(run=st.sampled_from(RUNS), node=st.sampled_from(NODES))
    def another_client_puts(self, run: str, node: str) -> None:
        self.engine.place.commit_units([[PutOutput(run, node, Encoded(JSON, b'"another"'), False)]])

    @precondition(lambda self: not self.is_closed and len(self.writes) > 5)
    @rule()
    def close(self) -> None:
        self.is_closed = True
        self.writer.close()
        self.settle()

    # -- what holds ---------------------------------------------------------------------------------------------------

    @invariant()
    def each_outcome_is_true(self) -> None:
        for write in self.writes:
            assert write.task is not None
            if write.task.done():
                stored = [self.engine.place.value(put.flow_run_id, put.node_id) == put.value for put in write.puts]
                assert len(set(stored)) == 1, "a unit is stored whole or not at all"
                if isinstance(write.outcome, list):
                    assert all(stored), "what is acknowledged is stored"
                if not write.may_be_stored:
                    assert not any(stored), "what is refused or withdrawn is not stored"

    @invariant()
    def an_error_is_one_that_a_write_can_have_and_its_own(self) -> None:
        errors = [write.outcome for write in self.writes if write.task is not None and write.task.done()]
        errors = [error for error in errors if isinstance(error, BaseException)]
        kinds = {AlreadyExistsError, RunDeletedError, StorageError, StoreBusyError, StoreClosedError, StoreFullError}
        assert {type(error) for error in errors} <= kinds
        assert len({id(error) for error in errors}) == len(errors)

    @invariant()
    def others_are_told_of_what_is_stored_alone_and_once(self) -> None:
        for put in self.told:
            assert self.engine.place.value(put.flow_run_id, put.node_id) == put.value
        assert len(set(self.told)) == len(self.told)

    @invariant()
    def whoever_waits_has_someone_to_answer(self) -> None:
        if any(write.task is not None and not write.task.done() for write in self.writes):
            assert self.job is not None or self.engine.writes

    @invariant()
    def units_are_committed_in_the_order_in_which_they_came(self) -> None:
        places = {write.puts[0].value: place for place, write in enumerate(self.writes)}
        committed = [places[unit[0].value] for group in self.engine.groups for unit in group]  # type: ignore[union-attr, index]
        assert list(dict.fromkeys(committed)) == sorted(set(committed))

    @invariant()
    def the_queue_keeps_to_its_room(self) -> None:
        beyond = self.writer._waiting_for_room()
        queued = [entry.bytes for entry in self.writer._queue if entry.claim and entry not in beyond]
        assert sum(queued) <= QUEUE_BYTES or len(queued) == 1
        assert sum(queued) + sum(entry.bytes for entry in beyond) == self.writer.queued_bytes

    def teardown(self) -> None:
        try:
            self.writer.close()
            self.engine.release()
            if self.job is not None:
                self.job.finish()
            self.engine.run_writes()
            self.settle()
            assert all(write.task is not None and write.task.done() for write in self.writes), "each has its outcome"
            self.each_outcome_is_true()
            assert self.writer.queued == 0
            assert not self.engine.is_locked
        finally:
            self.loop.close()


class TestWriter(WriterMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )

    @pytest.fixture(autouse=True)
    def little_room(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(writer_module, "QUEUE_BYTES", QUEUE_BYTES)
        caplog.set_level(logging.CRITICAL, "contextstore")  # bugs are reported, and there are many here

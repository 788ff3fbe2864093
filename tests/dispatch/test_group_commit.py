"""The writer against an engine in which the test chooses what happens when: who commits with whom, who is told what."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStoreError,
    RunDeletedError,
    StorageError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
)
from contextstore._dispatch import writer as writer_module
from contextstore._dispatch.writer import OPERATION_BYTES, UNIT_BYTES, Writer
from contextstore._engine.contract import GroupLimits
from contextstore._engine.operations import DeleteRun, PutGlobal, UpsertGlobal
from contextstore._values.codec import JSON, Encoded

from ..support.clock import Clock
from ..support.desk import Desk, put
from ..support.fake_engine import FakeEngine, outcomes_of, run_now, thread_callers, turns


class TestGroups:
    async def test_what_gathers_during_a_commit_is_committed_together_by_the_next(self, desk: Desk) -> None:
        desk.engine.hold("commit")
        tasks = await desk.submit(put("first"))
        job = desk.engine.begin_write()
        tasks += await desk.submit(put("a"), put("b"), put("c"))
        desk.engine.release()
        job.finish()
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]] * 4
        assert desk.nodes() == [["first"], ["a", "b", "c"]]

    async def test_what_comes_while_the_right_to_commit_is_waited_for_goes_with_it(self, desk: Desk) -> None:
        desk.engine.hold("acquire_write")
        tasks = await desk.submit(put("first"))
        job = desk.engine.begin_write()
        tasks += await desk.submit(put("a"))
        job.finish()
        assert await outcomes_of(tasks) == [[True]] * 2
        assert desk.nodes() == [["first", "a"]]

    async def test_one_job_at_a_time_drains_the_queue(self, desk: Desk) -> None:
        tasks = await desk.submit(*(put(str(i)) for i in range(9)))
        assert len(desk.engine.writes) == 1
        desk.engine.run_next_write()
        assert len(desk.engine.writes) == 1  # behind others' jobs
        desk.engine.run_next_write()
        desk.engine.run_next_write()
        assert not desk.engine.writes
        await outcomes_of(tasks)
        assert desk.nodes() == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8"]]

    async def test_a_group_has_no_more_operations_than_its_limit(self, desk: Desk) -> None:
        tasks = await desk.submit([put("a"), put("b"), put("c")], [put("d"), put("e")], [put("f")])
        desk.engine.run_writes()
        await outcomes_of(tasks)
        assert desk.nodes() == [["a", "b", "c"], ["d", "e", "f"]]

    async def test_a_unit_beyond_the_limit_of_operations_travels_alone(self, desk: Desk) -> None:
        tasks = await desk.submit(put("a"), [put(f"large-{i}") for i in range(5)], put("b"))
        desk.engine.run_writes()
        await outcomes_of(tasks)
        assert desk.nodes() == [["a"], [f"large-{i}" for i in range(5)], ["b"]]

    async def test_a_group_has_about_as_many_bytes_as_its_limit_and_a_larger_unit_travels_alone(
        self, desk: Desk
    ) -> None:
        one = 100 + UNIT_BYTES + OPERATION_BYTES
        desk.engine.group_limits = GroupLimits(operations=100, bytes=2 * one)
        tasks = await desk.submit(*(put(str(i), b"1" * 100) for i in range(3)), put("large", b"1" * 10_000), put("4"))
        desk.engine.run_writes()
        await outcomes_of(tasks)
        assert desk.nodes() == [["0", "1"], ["2"], ["large"], ["4"]]

    async def test_units_keep_their_order(self, desk: Desk) -> None:
        tasks = await desk.submit(*(UpsertGlobal("key", Encoded(JSON, b"1"), None) for _ in range(10)))
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[version] for version in range(1, 11)]


class TestWhatEachIsTold:
    async def test_each_gets_its_own_result_and_each_refused_one_its_own_refusal(self, desk: Desk) -> None:
        desk.engine.place.put("run", "taken", Encoded(JSON, b"1"))
        desk.engine.place.delete("gone")
        desk.engine.group_limits = GroupLimits(operations=100, bytes=10**9)
        tasks = await desk.submit(
            put("new"),
            put("taken", b"2"),
            put("taken", b"1", exist_ok=True),
            put("node", run="gone"),
            put("new", b"3"),
            UpsertGlobal("key", Encoded(JSON, b"1"), None),
        )
        desk.engine.run_next_write()
        outcomes = await outcomes_of(tasks)
        assert len(desk.engine.groups) == 1
        assert [outcomes[i] for i in (0, 2, 5)] == [[True], [False], [1]]
        assert [type(outcomes[i]) for i in (1, 3, 4)] == [AlreadyExistsError, RunDeletedError, AlreadyExistsError]

    async def test_a_unit_commits_whole_or_not_at_all(self, desk: Desk) -> None:
        desk.engine.place.put("run", "taken", Encoded(JSON, b"1"))
        tasks = await desk.submit([put("a"), put("taken", b"2")], [put("b")])
        desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [type(outcomes[0]), outcomes[1]] == [AlreadyExistsError, [True]]
        assert [desk.engine.place.has(("run", node)) for node in ("a", "b")] == [False, True]

    async def test_others_are_told_of_what_was_committed_before_the_callers_and_of_nothing_else(
        self, desk: Desk
    ) -> None:
        desk.engine.place.put("run", "taken", Encoded(JSON, b"1"))
        tasks = await desk.submit(put("a"), put("taken"), put("b"))
        desk.engine.run_next_write()
        assert desk.told == [[put("a"), put("b")]]
        assert not any(task.done() for task in tasks)
        await outcomes_of(tasks)

    async def test_what_is_counted_is_what_was_committed(self, desk: Desk) -> None:
        desk.engine.place.put("run", "taken", Encoded(JSON, b"1"))
        desk.engine.fail("commit", StoreBusyError("busy"))
        tasks = await desk.submit(*(put(f"busy-{i}") for i in range(4)), put("a"), put("b"), put("taken"), put("c"))
        desk.engine.run_writes()
        tasks += await desk.submit(put("taken"))
        desk.engine.run_writes()
        await outcomes_of(tasks)
        writer = desk.writer
        assert (writer.commits, writer.writes, writer.largest_group) == (1, 3, 3)


class TestAGroupThatFailsAsAWhole:
    async def test_is_committed_one_by_one_and_exactly_those_concerned_are_told(self, desk: Desk) -> None:
        desk.engine.fail("commit", StoreFullError("full"), None, StoreFullError("full"), None)
        tasks = await desk.submit(put("a"), put("large"), put("c"))
        desk.engine.run_next_write()
        outcomes = await outcomes_of(tasks)
        assert [outcomes[0], type(outcomes[1]), outcomes[2]] == [[True], StoreFullError, [True]]
        assert desk.nodes() == [["a", "large", "c"], ["a"], ["large"], ["c"]]
        assert [desk.engine.place.has(("run", node)) for node in ("a", "large", "c")] == [True, False, True]
        assert desk.told == [[put("a"), put("c")]]

    async def test_keeps_the_right_to_commit_while_it_goes_one_by_one(self, desk: Desk) -> None:
        desk.engine.fail("commit", StorageError("refused"))
        tasks = await desk.submit(put("a"), put("b"))
        desk.engine.run_next_write()
        await outcomes_of(tasks)
        assert desk.engine.calls == ["acquire_write", "commit", "commit", "commit", "release_write", "maintain"]

    async def test_of_one_is_not_tried_again(self, desk: Desk) -> None:
        desk.engine.fail("commit", StorageError("refused"))
        (task,) = await desk.submit(put("a"))
        desk.engine.run_writes()
        assert [type(outcome) for outcome in await outcomes_of([task])] == [StorageError]
        assert len(desk.engine.groups) == 1

    async def test_with_an_unknown_outcome_is_told_to_all_and_not_tried_again(self, desk: Desk) -> None:
        desk.engine.lose_answer()
        tasks = await desk.submit(put("a"), put("b"))
        desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [(type(outcome), outcome.outcome_unknown) for outcome in outcomes] == [(StorageError, True)] * 2
        assert outcomes[0] is not outcomes[1]
        assert len(desk.engine.groups) == 1
        assert desk.told == [[]]
        assert desk.engine.place.has(("run", "a"))

    async def test_since_the_engine_was_busy_is_not_tried_one_by_one(self, desk: Desk) -> None:
        desk.engine.fail("commit", StoreBusyError("busy"))
        tasks = await desk.submit(put("a"), put("b"))
        desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [type(outcome) for outcome in outcomes] == [StoreBusyError] * 2
        assert outcomes[0] is not outcomes[1]
        assert len(desk.engine.groups) == 1
        assert not desk.engine.place.runs

    async def test_does_not_keep_the_next_one_from_being_committed(self, desk: Desk) -> None:
        desk.engine.fail("commit", StoreBusyError("busy"))
        tasks = await desk.submit(*(put(str(i)) for i in range(6)))
        desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [type(outcome) for outcome in outcomes[:4]] == [StoreBusyError] * 4
        assert outcomes[4:] == [[True]] * 2

    async def test_is_told_to_each_if_the_right_to_commit_cannot_be_had(self, desk: Desk) -> None:
        reason = OSError("no such file")
        error = StorageError("the file is gone")
        error.__cause__ = reason
        desk.engine.fail("acquire_write", error)
        tasks = await desk.submit(put("a"), put("b"))
        desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [(str(outcome), outcome.__cause__) for outcome in outcomes] == [("the file is gone", reason)] * 2
        assert len({id(outcome) for outcome in (error, *outcomes)}) == 3
        assert "release_write" not in desk.engine.calls


class TestWithdrawal:
    async def test_a_unit_that_is_queued_is_withdrawn_by_its_cancellation(self, desk: Desk) -> None:
        tasks = await desk.submit(put("a"), put("b"))
        tasks[0].cancel()
        await turns()
        desk.engine.run_writes()
        await outcomes_of(tasks)
        assert tasks[0].cancelled()
        assert desk.nodes() == [["b"]]

    async def test_a_unit_that_was_posted_and_then_withdrawn_alone_takes_no_right_to_commit(self, desk: Desk) -> None:
        (task,) = await desk.submit(put("a"))
        task.cancel()
        await turns()
        desk.engine.run_writes()
        assert desk.engine.groups == []
        assert not desk.engine.is_locked

    async def test_a_unit_is_withdrawn_while_the_right_to_commit_is_waited_for(self, desk: Desk) -> None:
        desk.engine.hold("acquire_write")
        tasks = await desk.submit(put("a"), put("b"))
        job = desk.engine.begin_write()
        assert desk.engine.wanted()
        tasks[0].cancel()
        await turns()
        assert desk.engine.wanted()  # there is another one
        tasks[1].cancel()
        await turns()
        assert not desk.engine.wanted()
        job.finish()
        assert desk.engine.groups == []
        assert "release_write" not in desk.engine.calls

    @pytest.mark.parametrize("point", ["commit", "committed"])
    async def test_a_unit_that_a_commit_has_taken_is_stored_though_its_caller_is_gone(
        self, desk: Desk, point: str
    ) -> None:
        desk.engine.hold(point)
        tasks = await desk.submit(put("a"), put("b"))
        job = desk.engine.begin_write()
        tasks[0].cancel()
        await turns()
        job.finish()
        await outcomes_of(tasks)
        assert tasks[0].cancelled()
        assert desk.engine.place.has(("run", "a"))
        assert desk.told == [[put("a"), put("b")]]

    async def test_a_unit_that_waits_for_room_is_withdrawn_and_lets_those_behind_it_pass(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer_module, "QUEUE_BYTES", 10_000)
        tasks = await desk.submit(put("a"), put("large", b"1" * 9_000), put("b"))
        tasks[1].cancel()
        await turns()
        desk.engine.run_writes()
        await outcomes_of(tasks)
        assert desk.nodes() == [["a", "b"]]

    async def test_what_is_withdrawn_gives_back_its_room(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "QUEUE_BYTES", 10_000)
        tasks = await desk.submit(put("a"), put("large", b"1" * 5_000))
        tasks[1].cancel()
        await turns()
        tasks += await desk.submit(put("b", b"1" * 5_000))
        desk.engine.run_writes()
        await outcomes_of(tasks)
        assert desk.nodes() == [["a", "b"]]


class TestRoom:
    @pytest.fixture(autouse=True)
    def little_room(self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "QUEUE_BYTES", 10_000)
        engine.group_limits = GroupLimits(operations=4, bytes=10_000)

    async def test_a_unit_larger_than_the_queue_is_taken_if_the_queue_is_empty(self, desk: Desk) -> None:
        tasks = await desk.submit(put("large", b"1" * 50_000))
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]]

    async def test_small_ones_do_not_overtake_a_large_one_that_waits_for_room(self, desk: Desk) -> None:
        desk.engine.hold("acquire_write")
        tasks = await desk.submit(put("a"), put("large", b"1" * 9_000), put("b"), put("c"))
        job = desk.engine.begin_write()
        tasks += await desk.submit(put("d"))
        desk.engine.release()
        job.finish()
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]] * 5
        assert desk.nodes() == [["a"], ["large"], ["b", "c", "d"]]

    async def test_what_waits_for_room_comes_into_the_queue_when_a_commit_has_taken_what_was_before_it(
        self, desk: Desk
    ) -> None:
        desk.engine.hold("commit")
        tasks = await desk.submit(put("a", b"1" * 7_000), put("b", b"1" * 7_000))
        job = desk.engine.begin_write()
        tasks += await desk.submit(put("c"))
        assert desk.writer.queued == 2
        desk.engine.release()
        job.finish()
        desk.engine.run_writes()
        await outcomes_of(tasks)
        assert desk.nodes() == [["a"], ["b"], ["c"]] or desk.nodes() == [["a"], ["b", "c"]]

    async def test_what_waits_for_room_has_it_as_soon_as_a_commit_has_taken_what_was_before_it(
        self, desk: Desk
    ) -> None:
        desk.engine.hold("commit")
        tasks = await desk.submit(put("a", b"1" * 7_000), put("b", b"1" * 7_000))
        job = desk.engine.begin_write()
        desk.writer.close()  # and so it is accepted, and not refused
        desk.engine.release()
        job.finish()
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]] * 2


class TestTimeout:
    async def test_one_whose_time_is_over_while_the_lock_is_waited_for_is_told_and_not_stored(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch, writer_module)
        desk = Desk(engine, timeout=5.0)
        engine.hold("acquire_write")
        tasks = await desk.submit(put("early"))
        job = engine.begin_write()
        clock.advance(3)
        tasks += await desk.submit(put("late"))
        clock.advance(2)
        assert engine.wanted()  # by the late one
        (outcome,) = await outcomes_of(tasks[:1])
        assert type(outcome) is StoreBusyError
        assert str(outcome) == (
            "the write to fake waited longer than timeout=5 seconds for another process, the server or room in the "
            "queue; nothing was stored: try again, or raise timeout"
        )
        engine.release()
        job.finish()
        assert await outcomes_of(tasks[1:]) == [[True]]
        assert desk.nodes() == [["late"]]

    async def test_nothing_is_wanted_any_more_once_the_time_of_all_is_over(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch, writer_module)
        desk = Desk(engine, timeout=5.0)
        engine.hold("acquire_write")
        tasks = await desk.submit(put("a"), put("b"))
        job = engine.begin_write()
        clock.advance(5)
        assert not engine.wanted()
        job.finish()
        assert [type(outcome) for outcome in await outcomes_of(tasks)] == [StoreBusyError] * 2
        assert engine.groups == []
        assert not engine.writes

    async def test_the_caller_gives_up_by_itself_if_the_writer_does_not_come_to_it(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer_module, "LEAST_PATIENCE", 0.0)
        desk = Desk(engine, timeout=0.002)
        tasks = await desk.submit(put("a"), put("b"))
        assert [type(outcome) for outcome in await outcomes_of(tasks)] == [StoreBusyError] * 2
        engine.run_writes()
        assert engine.groups == []

    async def test_a_caller_whose_write_is_under_way_waits_for_its_outcome_however_long(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desk = Desk(engine, timeout=30.0)
        engine.hold("committed")
        tasks = await desk.submit(put("a"))
        job = engine.begin_write()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 60)  # and the time is over
        await asyncio.sleep(0.01)
        assert not tasks[0].done()
        job.finish()
        assert await outcomes_of(tasks) == [[True]]

    async def test_the_writer_tries_once_whatever_the_timeout(self, engine: FakeEngine) -> None:
        desk = Desk(engine, timeout=0.0)
        tasks = await desk.submit(put("a"))
        engine.run_writes()
        assert [type(outcome) for outcome in await outcomes_of(tasks)] in ([list], [StoreBusyError])
        assert desk.writer.patience == writer_module.LEAST_PATIENCE


class TestClose:
    async def test_what_is_queued_is_committed_and_what_waits_for_room_is_refused(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer_module, "QUEUE_BYTES", 10_000)
        tasks = await desk.submit(put("a"), put("large", b"1" * 9_000), put("b"))
        desk.writer.close()
        outcomes = await outcomes_of(tasks[1:])
        assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 2
        assert outcomes[0] is not outcomes[1]
        assert not tasks[0].done()
        assert desk.writer.queued == 1
        await desk.engine.close()
        assert await outcomes_of(tasks[:1]) == [[True]]
        assert desk.nodes() == [["a"]]

    async def test_nothing_more_is_accepted(self, desk: Desk) -> None:
        desk.writer.close()
        (outcome,) = await outcomes_of(await desk.submit(put("a")))
        assert type(outcome) is StoreClosedError
        assert not desk.engine.writes

    async def test_a_commit_under_way_is_brought_to_its_end(self, desk: Desk) -> None:
        desk.engine.hold("commit")
        tasks = await desk.submit(put("a"))
        job = desk.engine.begin_write()
        desk.writer.close()
        job.finish()
        assert await outcomes_of(tasks) == [[True]]

    async def test_it_may_come_twice(self, desk: Desk) -> None:
        tasks = await desk.submit(put("a"))
        desk.writer.close()
        desk.writer.close()
        desk.engine.run_writes()
        assert await outcomes_of(tasks) == [[True]]


class TestTheRightToCommit:
    async def test_is_given_back_before_the_store_is_looked_after_and_before_callers_go_on(self, desk: Desk) -> None:
        desk.engine.hold("maintain")
        tasks = await desk.submit(put("a"))
        job = desk.engine.begin_write()
        assert desk.engine.calls == ["acquire_write", "commit", "release_write", "maintain"]
        assert await outcomes_of(tasks) == [[True]]  # while the store is looked after
        job.finish()

    async def test_is_not_asked_for_where_nothing_is_queued(self, desk: Desk) -> None:
        (task,) = await desk.submit(put("a"))
        task.cancel()
        await turns()
        desk.engine.run_writes()
        assert desk.engine.groups == []

    async def test_another_client_may_come_between_two_groups(self, desk: Desk) -> None:
        desk.engine.group_limits = GroupLimits(operations=1, bytes=10**9)
        tasks = await desk.submit(put("a"), put("b"))
        desk.engine.run_next_write()
        desk.engine.place.put("run", "b", Encoded(JSON, b"2"))
        desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [outcomes[0], type(outcomes[1])] == [[True], AlreadyExistsError]

    async def test_another_process_may_delete_the_run_while_it_is_waited_for(self, desk: Desk) -> None:
        desk.engine.hold("acquire_write")
        tasks = await desk.submit(put("a"), put("a", run="other"))
        job = desk.engine.begin_write()
        desk.engine.place.delete("run")
        job.finish()
        outcomes = await outcomes_of(tasks)
        assert [type(outcomes[0]), outcomes[1]] == [RunDeletedError, [True]]

    async def test_a_deletion_and_puts_into_its_run_commit_in_their_order(self, desk: Desk) -> None:
        tasks = await desk.submit(put("a"), DeleteRun("run"), put("b"))
        desk.engine.run_writes()
        outcomes = await outcomes_of(tasks)
        assert [*outcomes[:2], type(outcomes[2])] == [[True], [True], RunDeletedError]


class TestThreads:
    """The same writer for callers that are blocked threads."""

    def test_a_thread_gets_its_outcome_from_the_thread_that_ran_the_job(self, engine: FakeEngine) -> None:
        writer, callers = Writer(engine, [], 5.0), thread_callers(engine)
        outcomes: dict[str, Any] = {}

        def write(node_id: str) -> None:
            try:
                outcomes[node_id] = run_now(writer.commit([put(node_id)], callers))
            except ContextStoreError as error:
                outcomes[node_id] = error

        engine.place.put("run", "taken", Encoded(JSON, b"1"))
        threads = [threading.Thread(target=write, args=(node_id,)) for node_id in ("a", "b", "taken")]
        for thread in threads:
            thread.start()
        _wait_until(lambda: writer.queued == 3)
        engine.run_writes()
        for thread in threads:
            thread.join(10)
        assert (outcomes["a"], outcomes["b"], type(outcomes["taken"])) == ([True], [True], AlreadyExistsError)
        assert len(engine.groups) == 1

    def test_a_thread_gives_up_when_its_time_is_over_and_nothing_is_stored(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer_module, "LEAST_PATIENCE", 0.0)
        writer = Writer(engine, [], 0.002)
        with pytest.raises(StoreBusyError):
            run_now(writer.commit([PutGlobal("key", Encoded(JSON, b"1"), False)], thread_callers(engine)))
        engine.run_writes()
        assert (engine.groups, engine.place.globals) == ([], {})


def _wait_until(condition: Any) -> None:
    pause = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come to pass")

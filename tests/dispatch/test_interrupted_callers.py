"""Whatever comes between two instructions of a caller's, or of the engine's thread's, no call waits for ever.

What may come: an interrupt, which ends the call; a finalizer that calls the store; another thread.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import StoreClosedError
from contextstore._dispatch import writer as writer_module
from contextstore._dispatch.cache import OutputCache
from contextstore._dispatch.reader import Reader
from contextstore._dispatch.writer import Writer
from contextstore._values.codec import JSON, Encoded
from contextstore._waiting.future import SharedFuture

from ..support.desk import put
from ..support.fake_engine import FakeEngine
from ..support.instructions import at_each_instruction
from ..support.stepped import SteppedCall, SteppedCallers

FOLDERS = ("/_dispatch/", "/_waiting/")
MOST = 1000
"""More than a call has instructions."""


class Writes:
    """Puts, of a writer on the fake engine."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.callers = SteppedCallers(self.engine)
        self.writer = Writer(self.engine, [], 30.0)

    def begin(self, name: str) -> SteppedCall:
        return SteppedCall(self.writer.commit([put(name)], self.callers))

    def run_jobs(self) -> None:
        self.engine.run_writes()

    def is_right(self, name: str, result: Any) -> bool:
        return result == [True] and self.engine.place.has(("run", name))

    def is_idle(self) -> bool:
        return (len(self.writer._queue), len(self.engine.writes)) == (0, 0)

    def close(self) -> None:
        self.writer.close()


class Reads:
    """Gets, of a reader on the fake engine."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.engine.place.put("run", "there", Encoded(JSON, b"1"))
        self.callers = SteppedCallers(self.engine)
        self.reader = Reader(self.engine, OutputCache(0, self.engine.epochs), 30.0)

    def begin(self, name: str) -> SteppedCall:
        return SteppedCall(self.reader.fetch(("run", "there"), self.callers))

    def run_jobs(self) -> None:
        self.engine.run_reads()

    def is_right(self, name: str, result: Any) -> bool:
        return bool(result.value == Encoded(JSON, b"1"))

    def is_idle(self) -> bool:
        return (len(self.reader._wanted), len(self.engine.reads)) == (0, 0)

    def close(self) -> None:
        self.reader.close()


@pytest.fixture(params=[Writes, Reads])
def calls(request: pytest.FixtureRequest) -> Iterator[Writes | Reads]:
    with warnings.catch_warnings():  # of one that is interrupted before its first step
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield request.param()


def in_another_thread(work: Callable[[], Any]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for the thread that calls"
    for error in errors:
        raise error


def test_a_call_that_comes_while_another_is_interrupted_is_served(calls: Writes | Reads) -> None:
    beside: list[SteppedCall] = []

    def act(at: int) -> None:
        beside.append(calls.begin(f"beside {at}"))
        raise KeyboardInterrupt

    for at, where, outcome in at_each_instruction(lambda at: calls.begin(f"{at}").interrupt(), act, *FOLDERS):
        assert isinstance(outcome, KeyboardInterrupt), where
        in_another_thread(calls.run_jobs)
        assert calls.is_right(f"beside {at}", beside.pop().result()), where
        assert calls.is_idle(), where


def test_a_put_that_is_interrupted_before_a_commit_has_taken_it_is_not_stored() -> None:
    writes = Writes()

    def act(at: int) -> None:
        raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for at, where, outcome in at_each_instruction(lambda at: writes.begin(f"{at}"), act, *FOLDERS):
            assert isinstance(outcome, KeyboardInterrupt), where
            after = writes.begin(f"after {at}")
            writes.run_jobs()
            assert writes.is_right(f"after {at}", after.result()), where
            assert not writes.engine.place.has(("run", f"{at}")), where


def test_a_finalizer_that_calls_the_store_in_the_middle_of_a_call_is_served(calls: Writes | Reads) -> None:
    def act(at: int) -> None:
        within = calls.begin(f"within {at}")
        in_another_thread(calls.run_jobs)
        assert calls.is_right(f"within {at}", within.result())

    for at, where, outcome in at_each_instruction(lambda at: calls.begin(f"{at}"), act, *FOLDERS):
        assert isinstance(outcome, SteppedCall), (where, outcome)
        calls.run_jobs()
        assert calls.is_right(f"{at}", outcome.result()), where
        assert calls.is_idle(), where


def test_a_call_that_comes_while_the_engines_thread_is_at_any_instruction_is_served(calls: Writes | Reads) -> None:
    beside: list[SteppedCall] = []

    def act(at: int) -> None:
        beside.append(calls.begin(f"beside {at}"))

    def run(at: int) -> Any:
        first = calls.begin(f"{at}")
        calls.run_jobs()
        return first.result()

    for at, where, outcome in at_each_instruction(run, act, *FOLDERS):
        assert calls.is_right(f"{at}", outcome), (where, outcome)
        calls.run_jobs()
        assert calls.is_right(f"beside {at}", beside.pop().result()), where
        assert calls.is_idle(), where


def test_a_call_during_which_the_store_is_closed_and_its_engine_ends_is_served_or_refused(
    calls: Writes | Reads,
) -> None:
    stores = [type(calls)() for _ in range(MOST)]

    def act(at: int) -> None:
        stores[at].close()
        stores[at].run_jobs()
        stores[at].engine.is_open = False

    for at, where, outcome in at_each_instruction(lambda at: stores[at].begin(f"{at}"), act, *FOLDERS):
        refused = isinstance(outcome, StoreClosedError)
        assert refused or stores[at].is_right(f"{at}", outcome.result()), where
        if isinstance(calls, Writes):
            assert stores[at].engine.place.has(("run", f"{at}")) is not refused, where


def test_a_put_that_close_refuses_is_told_so_though_close_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "QUEUE_BYTES", 1)
    stores = [Writes() for _ in range(MOST)]
    puts = [[writes.begin("first"), writes.begin("second")] for writes in stores]

    def act(at: int) -> None:
        raise KeyboardInterrupt

    for at, where, outcome in at_each_instruction(lambda at: stores[at].close(), act, *FOLDERS):
        assert isinstance(outcome, KeyboardInterrupt), where
        stores[at].run_jobs()
        assert puts[at][0].result() == [True], where
        try:
            result = puts[at][1].result()
        except StoreClosedError:
            result = None
        assert stores[at].engine.place.has(("run", "second")) is (result is not None), where


class TestTheResultOfAnotherThread:
    """A ``SharedFuture``."""

    def test_reaches_who_comes_while_another_caller_is_interrupted(self) -> None:
        waiter = SteppedCallers(FakeEngine()).waiter
        beside = [waiter() for _ in range(MOST)]
        futures: list[SharedFuture[int]] = [SharedFuture() for _ in range(MOST)]

        def act(at: int) -> None:
            futures[at].add_waiter(beside[at])
            raise KeyboardInterrupt

        def add(at: int) -> None:
            futures[at].add_waiter(waiter())

        for at, where, _ in at_each_instruction(add, act, "/_waiting/future"):
            in_another_thread(lambda at=at: futures[at].set_result(1))
            assert beside[at].answers[:1] == [1], where

    def test_reaches_who_comes_while_it_is_given(self) -> None:
        waiter = SteppedCallers(FakeEngine()).waiter
        beside = [waiter() for _ in range(MOST)]
        futures: list[SharedFuture[int]] = [SharedFuture() for _ in range(MOST)]

        def give(at: int) -> None:
            futures[at].set_result(1)

        def come(at: int) -> None:
            futures[at].add_waiter(beside[at])

        for at, where, _ in at_each_instruction(give, come, "/_waiting/future"):
            assert beside[at].answers[:1] == [1], where

    def test_is_given_once_more_if_that_was_interrupted(self) -> None:
        waiter = SteppedCallers(FakeEngine()).waiter
        waiting = [waiter() for _ in range(MOST)]
        futures: list[SharedFuture[int]] = [SharedFuture() for _ in range(MOST)]

        def act(at: int) -> None:
            raise KeyboardInterrupt

        def give(at: int) -> None:
            futures[at].set_result(1)

        for at in range(MOST):
            futures[at].add_waiter(waiting[at])
        for at, where, _ in at_each_instruction(give, act, "/_waiting/future", "/_waiting/waiters"):
            futures[at].set_result(2)
            assert waiting[at].answers[0] in (1, 2), where

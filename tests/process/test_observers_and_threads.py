"""Observers among threads, interrupts, forks and blocked disks: a call ends as it would have without them."""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import AlreadyExistsError, ContextStore, ForkedProcessError, Observer, WrongLoopError
from contextstore._process.own_threads import OWNERS
from contextstore.observers import CommitEvent, OperationEvent

from ..contract.test_observers import Recorder
from .test_interrupts import at_every_instruction, interruptions, works_on
from .threads import run_threads


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def store(file_path: pathlib.Path, recorder: Recorder) -> Iterator[ContextStore]:
    with ContextStore(file_path, observers=[recorder]) as store:
        store.put("run", "there", 1)
        yield store


CALLS: dict[str, Callable[[ContextStore, int], Any]] = {
    "put": lambda store, at: store.put("run", f"{at}", "x" * 100),
    "get": lambda store, at: store.get("run", "there"),
    "get, cold": lambda store, at: store.get("run", f"missing {at}"),
    "batch": lambda store, at: _put_two(store, at),
    "iter_outputs": lambda store, at: list(store.iter_outputs("run")),
}


@at_every_instruction
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_instruction_leaves_the_store_usable_by_the_thread(
    name: str, store: ContextStore, recorder: Recorder
) -> None:
    for at, where in interruptions(lambda at: CALLS[name](store, at)):
        assert threading.get_ident() not in OWNERS, where
        assert works_on(store), where
        if name == "put":  # written as a whole, or not at all: and a retry says which
            store.put("run", f"{at}", "x" * 100, exist_ok=True)
            assert store.get("run", f"{at}") == "x" * 100, where
        if name == "batch":
            assert len(store.list_keys(f"batch {at}")) in (0, 2), where
        told = len(recorder.operations)
        assert store.get("run", "there") == 1, where
        assert len(recorder.operations) == told + 1, where


def _put_two(store: ContextStore, at: int) -> None:
    with store.batch() as batch:
        batch.put(f"batch {at}", "one", 1)
        batch.put(f"batch {at}", "two", 2)


class TestThreads:
    def test_each_call_of_many_threads_is_told_once_in_its_own_thread(
        self, store: ContextStore, recorder: Recorder
    ) -> None:
        calls = 100
        idents: dict[int, int] = {}

        def use(thread: int) -> None:
            idents[thread] = threading.get_ident()
            for n in range(calls):
                store.put("run", f"{thread} {n}", n)
                assert store.get("run", f"{thread} {n}") == n

        assert run_threads(use, 8) == [None] * 8
        told = [
            (event.operation, event.node_id, ident)
            for event, ident in zip(recorder.events, recorder.threads, strict=True)
            if isinstance(event, OperationEvent) and event.node_id != "there"
        ]
        expected = [(name, f"{t} {n}", idents[t]) for t in range(8) for n in range(calls) for name in ("put", "get")]
        assert sorted(told) == sorted(expected)
        assert sum(event.units for event in recorder.commits) == 8 * calls + 1

    def test_an_observer_that_blocks_keeps_no_other_caller_from_memory(self, file_path: pathlib.Path) -> None:
        class Blocking(Observer):
            def __init__(self) -> None:
                self.begun, self.go_on = threading.Event(), threading.Event()

            def on_operation(self, event: OperationEvent, /) -> None:
                if event.operation == "put" and event.node_id == "held":
                    self.begun.set()
                    assert self.go_on.wait(60)

        blocking = Blocking()
        with ContextStore(file_path, observers=[blocking]) as store:
            store.put("run", "a", 1)
            held = threading.Thread(target=store.put, args=("run", "held", 1))
            held.start()
            assert blocking.begun.wait(60)
            assert store.get("run", "held") == 1  # the answer is on its way before the observer is called
            store.put("run", "b", 2)
            blocking.go_on.set()
            held.join(60)
            assert not held.is_alive()

    def test_a_commit_is_told_when_its_callers_have_their_answers(self) -> None:
        class Held(Observer):
            def __init__(self) -> None:
                self.go_on = threading.Event()

            def on_commit(self, event: CommitEvent, /) -> None:
                assert self.go_on.wait(60)

        held = Held()
        with ContextStore(":memory:", observers=[held]) as store:
            store.put("run", "a", 1)  # returns, though the observer is still at it
            assert store.get("run", "a") == 1
            held.go_on.set()

    def test_a_call_that_an_observer_has_another_thread_make_is_an_ordinary_one(self, file_path: pathlib.Path) -> None:
        class Writing(Observer):
            def __init__(self) -> None:
                self.store: ContextStore | None = None
                self.outcomes: list[Any] = []

            def on_operation(self, event: OperationEvent, /) -> None:
                store = self.store
                if store is not None and event.flow_run_id == "run":
                    writing = threading.Thread(target=store.put, args=("log", event.operation, 1))
                    writing.start()
                    writing.join(60)
                    self.outcomes.append(writing.is_alive())

        writing = Writing()
        with ContextStore(file_path, observers=[writing]) as store:
            writing.store = store
            store.put("run", "a", 1)
            assert store.get("log", "put") == 1
        assert writing.outcomes == [False]


class TestForks:
    def test_a_child_is_told_of_its_own_store_and_of_none_of_its_parents(
        self, file_path: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        def in_child(store: ContextStore, recorder: Recorder) -> None:
            told = len(recorder.events)
            for call in (store.stats, lambda: store.put("run", "b", 1), lambda: store.get("run", "a")):
                with pytest.raises(ForkedProcessError):
                    call()
            assert len(recorder.events) == told
            with ContextStore(tmp_path / "of the child.db", observers=[recorder]) as own:
                own.put("run", "a", 1)
            assert recorder.last().location == str(tmp_path / "of the child.db")

        recorder = Recorder()
        with ContextStore(file_path, observers=[recorder]) as store:
            store.put("run", "a", 1)
            _forked(lambda: in_child(store, recorder))
            store.put("run", "c", 1)
            assert recorder.last().node_id == "c"

    def test_a_fork_within_an_observer_leaves_both_usable(
        self, file_path: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        class Forking(Observer):
            def on_operation(self, event: OperationEvent, /) -> None:
                if event.node_id == "fork":
                    _forked(self.use_another)

            def use_another(self) -> None:
                with ContextStore(tmp_path / "of the child.db") as own:
                    own.put("run", "a", 1)
                    assert own.get("run", "a") == 1

        with ContextStore(file_path, observers=[Forking()]) as store:
            store.put("run", "fork", 1)
            with pytest.raises(AlreadyExistsError):
                store.put("run", "fork", 1)
            assert store.get("run", "fork") == 1


def _forked(work: Callable[[], object]) -> None:
    """Do it in a forked child, which has to end well."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_finalizer_in_an_observer_that_calls_the_store_is_refused_and_nothing_hangs() -> None:
    outcomes: list[Any] = []

    class Last:
        def __del__(self) -> None:
            try:
                store.put("last", "one", 1)
            except WrongLoopError:
                outcomes.append(WrongLoopError)

    class Dropping(Observer):
        def on_operation(self, event: OperationEvent, /) -> None:
            if event.flow_run_id == "run":
                Last()

    with ContextStore(":memory:", observers=[Dropping()]) as store:
        store.put("run", "a", 1)
    assert outcomes == [WrongLoopError]

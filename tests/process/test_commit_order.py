"""ContextStore: who watches is told of outputs in the order of their commits, whichever threads have committed them."""

from __future__ import annotations

import contextlib
import pathlib
import queue
import random
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, StoreClosedError
from contextstore._engine.operations import PutOutput

from ..support.doubles import core_of
from ..support.portions import some
from .threads import HANG, in_thread, run_threads, wait_until


class Watcher:
    """A thread that watches a run."""

    def __init__(self, store: ContextStore) -> None:
        self._told: queue.Queue[str] = queue.Queue()
        self._store = store
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        wait_until(lambda: core_of(store)._session.subscriptions._all())

    def _watch(self) -> None:
        with contextlib.suppress(StoreClosedError):
            for output in self._store.watch("run"):
                self._told.put(output.node_id)

    def take(self, count: int) -> list[str]:
        return [self._told.get(timeout=HANG) for _ in range(count)]


@pytest.fixture(name="begun")
def begun_store(store: ContextStore) -> ContextStore:
    for n in range(5):  # the first ones make the run, and have the writer grow the WAL ahead
        store.put("run", f"first {n}", 0)
    return store


def ask_no_poller(store: ContextStore) -> None:
    """It would find what threads have committed, sooner or later, and in the right order."""
    feed: Any = core_of(store)._session.engine.feed

    async def poll(cursor: Any, _: Any) -> tuple[Any, list[Any]]:
        return cursor, []

    feed.poll = poll


class StopsBehindItsCommit:
    """The thread that puts "a": it stands still once that is committed, and the next thread may commit."""

    def __init__(self, store: ContextStore, then: Callable[[], None] = lambda: None) -> None:
        writer: Any = core_of(store)._session.writer
        note, is_committed, self._go_on = writer._note_inline, threading.Event(), threading.Event()

        def note_late(put: Any, epoch: Any) -> None:
            if put.node_id == "a":
                is_committed.set()
                assert self._go_on.wait(HANG)
                then()
            note(put, epoch)

        writer._note_inline = note_late
        self.outcome: list[Any] = []
        self._thread = threading.Thread(target=self._put, args=(store,), daemon=True)
        self._thread.start()
        assert is_committed.wait(HANG)

    def _put(self, store: ContextStore) -> None:
        try:
            self.outcome.append(store.put("run", "a", 1))
        except BaseException as error:
            self.outcome.append(error)

    def go_on(self) -> Any:
        self._go_on.set()
        self._thread.join(HANG)
        return self.outcome[0]


def groups_of(store: ContextStore) -> list[list[str]]:
    """The nodes that the writer's thread commits from now on, by their commits."""
    engine: Any = core_of(store)._session.engine
    commit = engine.commit
    groups: list[list[str]] = []

    async def noted(units: Any) -> Any:
        outcomes = await commit(units)
        groups.append([operation.node_id for unit in units for operation in unit if isinstance(operation, PutOutput)])
        return outcomes

    engine.commit = noted
    return groups


OTHERS: dict[str, Callable[[ContextStore], None]] = {
    "another thread": lambda store: store.put("run", "b", 2),
    "the writer's thread": lambda store: store.put_many("run", {"b": 2, "c": 3}),
}


@pytest.mark.parametrize("by", OTHERS)
def test_a_thread_that_stands_still_behind_its_commit_is_told_of_before_those_who_commit_later(
    begun: ContextStore, by: str
) -> None:
    ask_no_poller(begun)
    watcher = Watcher(begun)
    watcher.take(5)
    stopped = StopsBehindItsCommit(begun)
    OTHERS[by](begun)
    assert watcher.take(2) == ["a", "b"]
    assert stopped.go_on() is None


def test_a_thread_that_is_interrupted_behind_its_commit_is_told_of_all_the_same(begun: ContextStore) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ask_no_poller(begun)
    watcher = Watcher(begun)
    watcher.take(5)
    stopped = StopsBehindItsCommit(begun, interrupt)
    assert type(stopped.go_on()) is KeyboardInterrupt
    assert watcher.take(1) == ["a"]


def test_a_thread_that_is_interrupted_before_it_tells_is_told_of_with_the_next_commit(
    begun: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriptions: Any = core_of(begun)._session.subscriptions

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    ask_no_poller(begun)
    watcher = Watcher(begun)
    watcher.take(5)
    with monkeypatch.context() as patched:
        patched.setattr(subscriptions, "committed_inline", interrupt)
        with pytest.raises(KeyboardInterrupt):
            begun.put("run", "a", 1)
    begun.put("run", "b", 2)
    assert watcher.take(2) == ["a", "b"]


def test_a_put_that_is_refused_is_told_to_nobody(begun: ContextStore) -> None:
    ask_no_poller(begun)
    watcher = Watcher(begun)
    watcher.take(5)
    with pytest.raises(Exception, match="first 0"):
        begun.put("run", "first 0", "another")
    begun.put("run", "a", 1)
    assert watcher.take(1) == ["a"]


@pytest.mark.parametrize("polls", [True, False], ids=["beside the poller", "without the poller"])
def test_who_watches_eight_threads_sees_the_order_of_their_commits(
    begun: ContextStore, file_path: pathlib.Path, polls: bool
) -> None:
    """Some commit by themselves, and some by the writer's thread, several at once: these come in any order."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    if not polls:
        ask_no_poller(begun)
    watcher = Watcher(begun)
    watcher.take(5)
    groups = groups_of(begun)
    rounds = some(200, 40)

    def work(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        for n in range(rounds):
            node = f"{number} {n}"
            if chance.random() < 0.2:
                with begun.batch() as batch:
                    batch.put("run", node, n)
                    batch.upsert_global(node, n)
            else:
                begun.put("run", node, n)

    assert run_threads(work, 8) == [None] * 8
    with contextlib.closing(sqlite3.connect(file_path)) as plain:
        ids = dict(plain.execute("SELECT node_id, id FROM node_outputs").fetchall())
    for group in groups:
        ids.update(dict.fromkeys(group, min(ids[node] for node in group)))
    told = watcher.take(8 * rounds)
    assert len(set(told)) == 8 * rounds
    assert [ids[node] for node in told] == sorted(ids[node] for node in told), f"seed {seed}"


def test_a_put_that_is_stored_as_its_store_closes_is_no_error(begun: ContextStore, file_path: pathlib.Path) -> None:
    """It has news for one who waits, and the host that would tell of them is at its end."""
    watch = begun.watch("run")
    assert next(watch).node_id == "first 0"
    stopped = StopsBehindItsCommit(begun)
    in_thread(begun.close)
    assert core_of(begun)._session.subscriptions._all()
    assert stopped.go_on() is None
    del watch
    with ContextStore(file_path) as store:
        assert store.get("run", "a") == 1

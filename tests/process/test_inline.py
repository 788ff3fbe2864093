"""ContextStore: a thread that may block reads and commits by itself, and nothing that happens to it meanwhile harms.

In a thread of the caller's there also run finalizers, signal handlers and trace functions, and there come exceptions
from without: Ctrl-C, those that another thread sets, too deep a recursion. Each random test prints its seed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, WrongLoopError

from ..support.doubles import core_of
from ..support.portions import some
from ..support.processes import Child, run
from .test_interrupts import at_every_instruction, interruptions, works_on
from .threads import in_thread, open_files, own_threads, run_threads

# Between the making of a coroutine and its first step it is dropped, and says so.
dropped = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def inline_commits(store: ContextStore) -> int:
    core: Any = core_of(store)
    return int(core._session.writer.inline_commits)


@pytest.fixture(name="traced")
def leads_though_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test may inject where a debugger would stop."""
    monkeypatch.setattr("contextstore._sqlite.lending.gettrace", lambda: None)


@pytest.fixture(name="begun")
def begun_store(store: ContextStore) -> ContextStore:
    n = 0
    while not inline_commits(store):  # the first one makes the run, and then the writer grows the WAL ahead
        store.put("run", f"first {n}", 0)
        n += 1
    core_of(store)._session.writer.inline_commits = 0
    return store


def test_a_put_is_committed_by_the_thread_that_makes_it(begun: ContextStore) -> None:
    for n in range(5):
        begun.put("run", f"{n}", n)
    assert in_thread(lambda: begun.put("run", "of another thread", 1)) is None
    assert inline_commits(begun) == 6
    assert begun.stats().commits == begun.stats().writes
    assert len(begun.list_keys("run")) >= 7


def test_what_a_thread_has_committed_is_there_for_every_other_connection(
    begun: ContextStore, file_path: pathlib.Path
) -> None:
    begun.put("run", "node", {"rows": 3})
    assert inline_commits(begun) == 1
    with contextlib.closing(sqlite3.connect(file_path)) as plain:
        assert plain.execute("SELECT value FROM outputs WHERE node_id = 'node'").fetchall() == [('{"rows":3}',)]
    with ContextStore(file_path) as other:
        assert other.get("run", "node") == {"rows": 3}


def test_a_waiting_thread_is_told_of_a_put_that_another_thread_commits(begun: ContextStore) -> None:
    waiting = threading.Thread(target=lambda: begun.wait_for("run", "node", timeout=30), daemon=True)
    waiting.start()
    time.sleep(0.05)
    begun.put("run", "node", 1)
    waiting.join(30)
    assert not waiting.is_alive()
    assert inline_commits(begun) == 1


def test_a_put_that_was_committed_by_its_thread_is_answered_from_memory(begun: ContextStore) -> None:
    begun.put("run", "node", [1])
    before = begun.stats().cache_hits
    assert begun.get("run", "node") == [1]
    assert begun.stats().cache_hits == before + 1


def test_where_sqlite_lets_no_connection_pass_between_threads_all_is_done_by_the_stores_own(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "threadsafety", 1)
    with ContextStore(file_path, cache_bytes=0) as store:
        for n in range(20):
            store.put("run", f"{n}", n)
            assert store.get("run", f"{n}") == n
        assert inline_commits(store) == 0


def test_a_debugger_never_stops_a_thread_that_holds_the_lock(begun: ContextStore) -> None:
    def trace(*_: object) -> None:
        """As a debugger that goes on."""

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        begun.put("run", "node", 1)
    finally:
        sys.settrace(before)
    assert inline_commits(begun) == 0
    assert begun.get("run", "node") == 1


@at_every_instruction
def test_a_fork_at_any_instruction_of_a_commit_leaves_both_processes_with_what_was_acknowledged(
    file_path: pathlib.Path,
) -> None:
    """By the committing thread, as a signal handler or a finalizer would. The child opens the file, or says why not."""
    program = """
        from contextstore._sqlite import lending
        from tests.process.test_interrupts import Interrupt, places
        lending.gettrace = lambda: None  # else it would not commit by itself
        warnings.simplefilter("ignore")

        class Fork(Interrupt):
            child = None

            def strike(self):
                self.child = os.fork()
                if self.child == 0:
                    signal.alarm(50)
                    try:
                        with ContextStore(sys.argv[1]) as store:
                            store.put("of children", str(os.getpid()), 1)
                    except BaseException as error:
                        print(self.where, repr(error), file=sys.stderr)
                        os._exit("forked" not in str(error))
                    os._exit(0)

        store = ContextStore(sys.argv[1])
        store.put("run", "first", 0)
        store.put("run", "second", 0)
        children = 0
        for at in places():
            fork = Fork(at)
            fork.run(lambda: store.put("run", f"{at}", "x" * 2000))
            if fork.child is None:
                break
            children += 1
            assert os.waitpid(fork.child, 0)[1] == 0, fork.where
            assert store.get("run", f"{at}") == "x" * 2000, fork.where
        assert store._core.session.writer.inline_commits > 2
        assert children > 5
        say(children, len(store.list_keys("of children")))
        assert store.check().ok
        store.close()
    """
    children, wrote = map(int, run(program, file_path)[-1].split())
    assert 0 < wrote <= children


# -- what comes from without -------------------------------------------------------------------------------------------

AFTERWARDS = """
        with ContextStore(sys.argv[1], timeout=2) as other:
            other.put("other", "node", 1)  # it would wait for the lock
            assert set(acknowledged) <= set(other.list_keys("run"))
        store.put("run", "last", 1)
        store.close()
        with ContextStore(sys.argv[1]) as store:
            assert store.get("run", "last") == 1
            assert store.check().ok
"""


@at_every_instruction
@pytest.mark.usefixtures("traced")
def test_an_interrupt_at_any_instruction_of_a_commit_leaves_the_store_usable_and_its_file_unlocked(
    begun: ContextStore, file_path: pathlib.Path
) -> None:
    with ContextStore(file_path, timeout=2) as other:
        for at, where in interruptions(lambda at: begun.put("run", f"{at}", "x" * 2000)):
            other.put("other", f"{at}", at)  # it would wait for the lock
            assert works_on(begun), (at, where)
            assert begun.get("run", f"{at}", default="x" * 2000) == "x" * 2000
    assert inline_commits(begun) > 0


def test_a_kill_while_a_thread_commits_loses_nothing_acknowledged_and_locks_nothing(file_path: pathlib.Path) -> None:
    program = """
        store = ContextStore(sys.argv[1])
        n = 0
        while True:
            store.put(sys.argv[2], f"{n:06}", n)
            say(n, store._core.session.writer.inline_commits)
            n += 1
    """
    for run_id in ("first", "second", "third"):
        with Child(program, file_path, run_id) as child:
            said = [child.hear()]
            while int(said[-1].split()[1]) < 20:
                said.append(child.hear())
            child.kill()
            said += child.hear_all()
        with ContextStore(file_path, timeout=5) as store:
            assert len(said) <= len(store.list_keys(run_id)) <= len(said) + 1
            assert store.check().ok


def test_exceptions_that_another_thread_sets_lose_nothing_and_lock_nothing(file_path: pathlib.Path) -> None:
    program = """
        import contextlib, ctypes, itertools, random
        seed = random.randrange(2**32)
        print("seed", seed, file=sys.stderr)
        chance = random.Random(seed)
        sys.unraisablehook = threading.excepthook = lambda *_: None  # it may come between two calls, too
        warnings.simplefilter("ignore")

        class Blow(BaseException):
            pass

        store = ContextStore(sys.argv[1])
        store.put("run", "first", 0)
        acknowledged, done, numbers = ["first"], threading.Event(), itertools.count()

        def puts():
            while not done.is_set():
                with contextlib.suppress(Blow):
                    n = next(numbers)
                    store.put("run", f"{n}", n)
                    acknowledged.append(f"{n}")
                    store.get("run", f"none {n}")

        thread = threading.Thread()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline or store._core.session.writer.inline_commits < 20:
            if not thread.is_alive():  # the first one, or the one before was hit between two calls
                thread = threading.Thread(target=puts)
                thread.start()
            time.sleep(chance.random() * 0.002)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Blow))
        done.set()
        thread.join()
    """
    run(program.replace("SECONDS", str(some(3, 1))) + AFTERWARDS, file_path)


def test_ctrl_c_at_any_moment_of_a_main_thread_that_puts_loses_nothing_and_locks_nothing(
    file_path: pathlib.Path,
) -> None:
    program = """
        import json, random
        seed = random.randrange(2**32)
        print("seed", seed, file=sys.stderr)
        chance = random.Random(seed)
        store = ContextStore(sys.argv[1])
        store.put("run", "first", 0)
        acknowledged, interrupts, n = ["first"], 0, 0
        deadline, done = time.monotonic() + SECONDS, threading.Event()
        is_in_call = False

        def interrupt():
            while not done.is_set():
                time.sleep(chance.random() * 0.003)
                os.kill(os.getpid(), signal.SIGINT)

        def raise_in_call(*_):
            global is_in_call
            if is_in_call:
                is_in_call = False
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, raise_in_call)
        thread = threading.Thread(target=interrupt)
        thread.start()
        while time.monotonic() < deadline or min(interrupts, store._core.session.writer.inline_commits) < 20:
            try:
                n += 1
                is_in_call = True
                store.put("run", f"{n}", n)
                acknowledged.append(f"{n}")
                store.get("run", f"none {n}")
                is_in_call = False
            except KeyboardInterrupt:
                interrupts += 1
        done.set()
        thread.join()
    """
    run(program.replace("SECONDS", str(some(4, 1))) + AFTERWARDS, file_path)


def test_a_finalizer_that_calls_a_store_whose_thread_commits_is_refused_and_never_waits(
    begun: ContextStore, file_path: pathlib.Path
) -> None:
    """Up to 3.11 the collector runs at any allocation, and later between any two steps."""
    with ContextStore(file_path, timeout=2) as other:
        other.put("other", "first", 1)
        outcomes: dict[str, int] = {}

        class Cycle:
            def __init__(self) -> None:
                self.self = self

            def __del__(self) -> None:
                for store, run_id in ((begun, "run"), (other, "other")):
                    try:
                        store.put(run_id, os.urandom(8).hex(), 1)
                        outcome = "stored"
                    except WrongLoopError:
                        outcome = "refused"
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1

        before = gc.get_threshold()
        gc.set_threshold(3)
        try:
            for n in range(400):
                Cycle()
                begun.put("run", f"{n}", [n])
                begun.get("run", f"none {n}")
        finally:
            gc.set_threshold(*before)
            gc.collect()
        assert outcomes["stored"] > 50, outcomes
        assert len([node for node in begun.list_keys("run") if len(node) < 4]) == 400
        assert works_on(begun)


def test_a_finalizer_in_the_middle_of_filling_the_cache_may_wait_for_the_thread_that_commits(
    begun: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    core: Any = core_of(begun)
    core._session.cache.clear()
    done: list[str] = []

    class Cycle:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            begun.put_many("of a finalizer", {"one": 1, "two": 2})
            done.append("put")

    def own(key: tuple[str, str]) -> tuple[str, str]:
        if not done:
            Cycle()
            gc.collect()
        return key

    monkeypatch.setattr("contextstore._dispatch.cache._own", own)
    assert in_thread(lambda: begun.get("run", "first 0"), daemon=True) == 0
    assert done == ["put"]
    assert begun.get_run("of a finalizer") == {"one": 1, "two": 2}


@dropped
@pytest.mark.parametrize("call", ["put", "get"])
def test_a_call_near_the_limit_of_recursion_is_made_whole_or_not_at_all(begun: ContextStore, call: str) -> None:
    def deep(frames: int, then: Callable[[], Any]) -> Any:
        return then() if frames == 0 else deep(frames - 1, then)

    stored = refused = 0
    for left in range(5, 120):
        free = sys.getrecursionlimit() - _depth() - left
        try:
            if call == "put":
                deep(free, lambda left=left: begun.put("run", f"{left}", left))
            else:
                core: Any = core_of(begun)
                core._session.cache.clear()
                assert deep(free, lambda: begun.get("run", "first 0")) == 0
            stored += 1
        except RecursionError:
            refused += 1
            if call == "put":
                assert not in_thread(lambda left=left: begun.exists("run", f"{left}")), left
    assert stored > 20
    assert refused > 5
    assert works_on(begun)


def _depth() -> int:
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    return depth


def test_threads_that_put_and_read_at_once_are_all_answered_rightly(begun: ContextStore) -> None:
    def work(number: int) -> int:
        for n in range(50):
            begun.put("run", f"{number} {n}", [number, n])
            assert begun.get("run", f"{number} {n}") == [number, n]
            assert begun.get("run", f"{number} none {n}") is None
        return number

    assert run_threads(work, 8) == list(range(8))
    assert len(begun.list_keys("run")) > 400


def test_nothing_that_was_lent_is_left_when_the_store_has_closed(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "first", 0)
        run_threads(lambda n: (store.put("run", f"{n}", n), store.get("run", f"none {n}")), 8)
    assert (own_threads(file_path), open_files(file_path)) == ([], [])
    assert not pathlib.Path(f"{file_path}-wal").exists()

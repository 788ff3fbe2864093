"""ContextStore: what comes in the middle of a thread's own read, be it a signal handler, a finalizer or a fork.

Each program makes its call from a place that a handler or a finalizer may come to: they run between any two steps.
What a thread has borrowed comes to an end with the store, also where memory or room for more connections is wanting.
"""

from __future__ import annotations

import pathlib
import sqlite3
import threading
import time
from typing import Any

import pytest

from contextstore import ContextStore, StorageError, StoreClosedError
from contextstore._sqlite import lending
from contextstore._sqlite.reads import fetch_output

from ..support.doubles import core_of
from ..support.processes import run
from .threads import in_thread, open_files, run_threads

_BEGUN = """
    import contextlib, sqlite3
    from contextstore._dispatch import cache
    from contextstore._sqlite import file, lending, reads

    store = ContextStore(sys.argv[1])
    store.put("run", "node", 1)

    def in_the_middle_of_a_get(module, name, call):
        function = getattr(module, name)

        def calls_then(*args):
            if threading.current_thread() is threading.main_thread():
                setattr(module, name, function)
                call()
            return function(*args)

        store._core.session.cache.clear()
        setattr(module, name, calls_then)
        assert store.get("run", "node") == 1
        assert getattr(module, name) is function
"""


def test_a_handler_that_closes_the_store_in_the_middle_of_a_read_does_not_wait_for_it(file_path: pathlib.Path) -> None:
    program = f"""{_BEGUN}
    began = time.monotonic()
    in_the_middle_of_a_get(reads, "read_output", store.close)
    assert time.monotonic() - began < 10
    """
    run(program, file_path)
    assert not pathlib.Path(f"{file_path}-wal").exists()


def test_a_signal_handler_may_write_and_close_where_a_commit_of_its_thread_is_over(file_path: pathlib.Path) -> None:
    """Where it is not over, the call is refused and does not wait."""
    program = f"""{_BEGUN}
    from contextstore._process.own_threads import OWNERS

    store.put("run", "second", 1)
    calls, acknowledged = [], []
    is_at_work = True

    def write(*_):
        committer = OWNERS.get(threading.get_ident())
        where = "beside" if committer is None else "behind" if committer._lent().has_committed else "within"
        try:
            store.put("of a handler", os.urandom(8).hex(), 1)
            calls.append((where, "stored"))
        except errors.WrongLoopError:
            calls.append((where, "refused"))
        if is_at_work:
            signal.setitimer(signal.ITIMER_REAL, 0.002)  # not before, or handlers would pile up

    deadline = time.monotonic() + 1
    signal.signal(signal.SIGALRM, write)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    while time.monotonic() < deadline or calls.count(("behind", "stored")) < 5:
        store.put("run", f"{{len(acknowledged)}}", 1)
        acknowledged.append(1)
    is_at_work = False
    time.sleep(0.1)  # the last one may be on its way
    assert set(calls) <= {{("beside", "stored"), ("behind", "stored"), ("within", "refused")}}, calls
    stored = [where for where, outcome in calls if outcome == "stored"]
    assert len(store.list_keys("of a handler")) == len(stored)
    assert len(store.list_keys("run")) == len(acknowledged) + 2

    def close(*_):
        began = time.monotonic()
        try:
            store.close()
            closed.append(time.monotonic() - began)
        except errors.WrongLoopError:
            signal.setitimer(signal.ITIMER_REAL, 0.002)

    closed = []
    signal.signal(signal.SIGALRM, close)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    with contextlib.suppress(StoreClosedError):
        while True:
            store.put("run", f"{{len(acknowledged)}}", 1)
            acknowledged.append(1)
    assert closed, "it was refused each time"
    assert closed[0] < 10, closed
    say(len(acknowledged) + 2)
    """
    (acknowledged,) = run(program, file_path)
    with ContextStore(file_path, timeout=2) as store:
        assert int(acknowledged) <= len(store.list_keys("run")) <= int(acknowledged) + 1
        assert store.check().ok


def test_another_store_may_be_closed_and_opened_while_a_thread_makes_its_connection(file_path: pathlib.Path) -> None:
    program = f"""{_BEGUN}
    other = ContextStore(sys.argv[1] + "-other")
    other.open()

    def change():
        other.close()
        ContextStore(sys.argv[1] + "-another").open()

    in_the_middle_of_a_get(file, "set_up_reader", change)
    store.close()
    """
    run(program, file_path)


def test_a_write_by_the_stores_own_thread_may_come_while_a_reading_thread_fills_the_cache(
    file_path: pathlib.Path,
) -> None:
    program = f"""{_BEGUN}
    in_the_middle_of_a_get(cache, "_size", lambda: store.put_global("key", 1))
    in_the_middle_of_a_get(cache, "_size", lambda: store.delete_run("run"))
    assert store.get("run", "node") is None
    store.close()
    """
    run(program, file_path)


def test_a_child_that_is_forked_where_a_reads_error_is_handled_may_open_the_file(file_path: pathlib.Path) -> None:
    program = f"""{_BEGUN}
    def fail():
        raise KeyboardInterrupt

    try:
        in_the_middle_of_a_get(reads, "read_output", fail)
    except KeyboardInterrupt:
        child = os.fork()
        if child == 0:
            with ContextStore(sys.argv[1]) as store:
                store.put("run", "of the child", 1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert store.get("run", "of the child") == 1
    store.close()
    """
    run(program, file_path)


def lender_with_a_writer(store: ContextStore) -> Any:
    """After puts of which this thread has committed the last ones itself."""
    for node in ("first", "second", "third"):
        store.put("run", node, 1)
    return core_of(store)._session.engine.inline


def test_a_fork_does_not_wait_for_a_writer_that_waits_for_a_thread_which_commits(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer and the fork wait for the same commit; the fork comes first, and waits for the writer then."""
    with ContextStore(file_path) as store:
        lender = lender_with_a_writer(store)
        (lent,) = lender._writers
        monkeypatch.setattr(lending, "_LONGEST_COMMIT", 60)
        lent.lock.is_held = True  # as of a thread in the middle of a commit
        with lent.busy:  # as a fork has it
            threading.Timer(0.1, setattr, (lent.lock, "is_held", False)).start()
            began = time.monotonic()
            assert not lender.wait_for_borrower()
            assert time.monotonic() - began < 30


def test_threads_that_come_at_once_are_lent_no_more_connections_than_a_few(file_path: pathlib.Path) -> None:
    with ContextStore(file_path, cache_bytes=0) as store:
        store.put("run", "node", 1)
        store.put("run", "second", 1)
        all_at_once = threading.Barrier(40)

        def work(number: int) -> None:
            all_at_once.wait()
            store.put("run", f"{number}", 1)
            assert store.get("run", f"{number}") == 1

        run_threads(work, 40)
        assert len(open_files(file_path)) < 40


@pytest.mark.parametrize("timeout", [0, 5])
def test_what_a_thread_reads_with_as_the_store_closes_is_closed_with_it_or_by_the_thread(
    file_path: pathlib.Path, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reading, go_on = threading.Event(), threading.Event()
    with ContextStore(file_path, timeout=5) as store:
        store.put("run", "node", 1)
    store = ContextStore(file_path, timeout=timeout, cache_bytes=0)
    store.open()

    def fetch_late(*args: Any) -> Any:
        is_reading.set()
        go_on.wait(30)
        return fetch_output(*args)

    monkeypatch.setattr("contextstore._sqlite.lending.fetch_output", fetch_late)

    def get() -> None:
        try:
            assert store.get("run", "node") == 1
        except StoreClosedError:
            pass

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    assert is_reading.wait(30)
    if timeout:
        threading.Timer(0.3, go_on.set).start()
    store.close()
    go_on.set()
    thread.join(30)
    assert open_files(file_path) == []


def test_a_put_for_which_sqlite_has_no_memory_is_one_of_unknown_outcome(file_path: pathlib.Path) -> None:
    program = f"""{_BEGUN}
    from contextstore import StorageError

    store.put("run", "small", 1)
    with contextlib.closing(sqlite3.connect(":memory:")) as any_connection:
        any_connection.execute("PRAGMA hard_heap_limit = 2000000")  # of the process
    try:
        store.put("run", "large", "x" * 5_000_000)
    except StorageError as error:
        assert error.outcome_unknown
    else:
        raise AssertionError("there was memory enough")
    store.put("run", "small again", 1)
    assert store.list_keys("run") == ["node", "small", "small again"]
    store.close()
    """
    run(program, file_path)


def test_a_put_under_which_its_connection_is_closed_is_told_that_the_store_is_closed(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ContextStore(file_path)
    for node in ("first", "second", "third"):
        store.put("run", node, 1)
    lender: Any = core_of(store)._session.engine.inline
    borrow = lender._borrow_writer

    def closed_meanwhile() -> Any:
        lent = borrow()
        assert lent is not None
        in_thread(store.close)
        assert lent.has_committed  # so that a finalizer here is let in, to be told the same
        return lent

    monkeypatch.setattr(lender, "_borrow_writer", closed_meanwhile)
    with pytest.raises(StoreClosedError):
        store.put("run", "late", 1)
    with ContextStore(file_path) as again:
        assert again.list_keys("run") == ["first", "second", "third"]


def test_a_connection_over_which_a_call_has_failed_is_closed_at_once(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ContextStore(file_path) as store:
        lender = lender_with_a_writer(store)
        assert store.get("run", "none") is None
        (reader,), (writer,) = lender._readers, lender._writers

        def fail(*_: object) -> None:
            raise StorageError("a disk that fails", outcome_unknown=True)

        monkeypatch.setattr(lending, "fetch_output", fail)
        monkeypatch.setattr(lending, "put_alone", fail)
        with pytest.raises(StorageError) as kept_read:  # with its frames, and so with the connection
            store.get("run", "none")
        with pytest.raises(StorageError) as kept_put:
            store.put("run", "fourth", 1)
        for lent in (reader, writer):
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                lent.connection.execute("SELECT 1")
        assert not writer.lock.is_held
        monkeypatch.undo()
        store.put("run", "fourth", 1)
        assert store.get("run", "fourth") == 1
        assert kept_read.tb is not kept_put.tb

"""ContextStore: closed under load, collected, or never opened; nobody waits for ever, and nothing is left."""

from __future__ import annotations

import gc
import os
import pathlib
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, StorageError, StoreClosedError, StoreNotFoundError, errors

from ..support.doubles import core_of
from .threads import open_files, own_threads, run_threads, wait_until

# ------------------------------------------------------------------------------------------------------------- the end


def close_with_others_in_calls(store: ContextStore) -> list[str]:
    acknowledged: list[str] = []

    def write() -> None:
        while True:
            node = os.urandom(8).hex()
            store.put("run", node, 1)
            acknowledged.append(node)

    def read() -> None:
        while True:
            store.get("run", "missing")
            store.list_keys("run", prefix="1")
            store.get_global("key")

    def wait() -> None:
        store.wait_for("run", "never")

    def close() -> None:
        wait_until(lambda: len(acknowledged) > 20)
        store.close()

    calls = [write] * 4 + [read] * 3 + [wait, close]
    outcomes = run_threads(lambda number: calls[number](), len(calls))
    assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 8 + [type(None)]
    return acknowledged


def test_close_with_other_threads_in_calls_ends_each_call_with_a_result_or_an_error(file_path: pathlib.Path) -> None:
    for _ in range(5):
        store = ContextStore(file_path, cache_bytes=0)
        store.open()
        acknowledged = close_with_others_in_calls(store)
        assert (own_threads(file_path), open_files(file_path)) == ([], [])
        with ContextStore(file_path) as again:
            assert set(acknowledged) <= set(again.list_keys("run"))


def test_close_in_several_threads_at_once_returns_in_each_when_all_is_gone(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.put("run", "node", 1)

    def close(_: int) -> Any:
        store.close()
        return own_threads(file_path), open_files(file_path)

    assert run_threads(close, 8) == [([], [])] * 8
    store.close()


def test_after_close_every_call_is_refused_and_nothing_is_left(file_path: pathlib.Path) -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        assert store.get("run", "node") == 1
        assert len(open_files(file_path)) >= 4
    calls: list[Callable[[], Any]] = [
        store.open,
        lambda: store.get("run", "node"),
        lambda: store.put("run", "other", 1),
        lambda: store.list_keys("run"),
        lambda: store.get_global("key"),
        lambda: store.stats(),
        lambda: store.__enter__(),
    ]
    for call in calls:
        with pytest.raises(StoreClosedError, match="is closed"):
            call()
    store.close()
    assert (own_threads(file_path), open_files(file_path)) == ([], [])
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() <= threads + 1  # the one that watches for the end of the interpreter


def test_a_block_left_by_an_exception_closes_the_store_and_passes_the_exception_on(file_path: pathlib.Path) -> None:
    with pytest.raises(ZeroDivisionError), ContextStore(file_path) as store:  # noqa: PT012
        store.put("run", "node", 1)
        raise ZeroDivisionError
    with pytest.raises(StoreClosedError):
        store.get("run", "node")
    assert (own_threads(file_path), open_files(file_path)) == ([], [])


def test_a_store_that_was_never_opened_closes_and_stays_closed(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.close()
    with pytest.raises(StoreClosedError):
        store.open()
    assert not file_path.exists()


def test_close_while_others_open_ends_with_every_call_answered(file_path: pathlib.Path) -> None:
    for _ in range(20):
        store = ContextStore(file_path)
        *outcomes, closed = run_threads(
            lambda number, store=store: store.close() if number == 4 else store.put("run", os.urandom(8).hex(), 1), 5
        )
        assert all(outcome is None or isinstance(outcome, StoreClosedError) for outcome in outcomes)
        assert closed is None
        store.close()
        assert (own_threads(file_path), open_files(file_path)) == ([], [])


def test_a_store_that_is_collected_ends_and_warns(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.put("run", "node", 1)
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del store
        gc.collect()
    wait_until(lambda: not own_threads(file_path))
    assert open_files(file_path) == []


@pytest.mark.filterwarnings("ignore:.*was not closed:ResourceWarning")
@pytest.mark.parametrize("is_closed", [True, False])
def test_what_a_store_has_in_memory_goes_with_it_and_does_not_wait_for_the_collector(
    file_path: pathlib.Path, is_closed: bool
) -> None:
    gc.collect()
    gc.disable()
    try:
        store = ContextStore(file_path)
        store.put("run", "node", 1)
        session: Any = core_of(store)._session
        kept = [weakref.ref(part) for part in (session, session.writer, session.reader, session.cache)]
        if is_closed:
            store.close()
        del session, store
        wait_until(lambda: not any(part() for part in kept))
    finally:
        gc.enable()


def test_a_warning_that_is_an_error_does_not_keep_a_collected_store_from_ending(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.put("run", "node", 1)
    unraised: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: unraised.append(args.exc_type)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del store
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert unraised == [ResourceWarning]
    wait_until(lambda: not own_threads(file_path))


# ------------------------------------------------------------------------------------------------------ a failing open


def test_each_thread_that_finds_the_opening_failed_gets_an_error_of_its_own(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "no folder" / "store.db"
    store = ContextStore(path)
    outcomes = run_threads(lambda _: store.put("run", "node", 1), 12)
    assert {type(outcome) for outcome in outcomes} == {StoreNotFoundError}
    assert len({id(outcome) for outcome in outcomes}) == 12
    path.parent.mkdir()
    store.put("run", "node", 1)
    assert store.get("run", "node") == 1
    store.close()


def test_a_failed_opening_leaves_no_thread_and_no_file_open(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, and long enough to be taken for one by nobody" * 20)
    files = len(os.listdir("/proc/self/fd"))
    store = ContextStore(path)
    for _ in range(3):
        with pytest.raises(errors.StorageError):
            store.open()
    wait_until(lambda: not own_threads(path))
    assert len(os.listdir("/proc/self/fd")) == files
    store.close()


def test_where_no_thread_can_be_had_opening_fails_and_is_tried_anew(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ContextStore(file_path)
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def failing(thread: threading.Thread) -> None:
        if failures and "contextstore" in thread.name:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with pytest.raises(StorageError, match="can't start new thread"):
        store.open()
    store.put("run", "node", 1)
    store.close()

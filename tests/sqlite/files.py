"""Stores on files, and how to look at these files: plain ``sqlite3``, plain ``os``, and somebody without rights."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import pathlib
import pickle
import sqlite3
import stat
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pytest

from contextstore import AsyncContextStore, ContextStore, ContextStoreError

NOBODY = 65534


class OnALoop:
    """An AsyncContextStore with the calls of ContextStore: each runs on an event loop kept for it."""

    def __init__(self, store: AsyncContextStore) -> None:
        self._store = store
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._runner.run(getattr(self._store, name)(*args, **kwargs))

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def dispose(self) -> None:
        self.close()
        self._runner.close()

    def get_at_once(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        async def get_all() -> list[Any]:
            return await asyncio.gather(*(self._store.get(*key) for key in keys), return_exceptions=True)

        return self._runner.run(get_all())


class Blocking(ContextStore):
    def dispose(self) -> None:
        self.close()

    def get_at_once(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
            futures = [pool.submit(self.get, *key) for key in keys]
        return [future.exception() or future.result() for future in futures]


Make = Callable[..., Any]


@contextlib.contextmanager
def _closing_all(face: str) -> Iterator[Make]:
    with contextlib.ExitStack() as made:

        def make_one(target: Any, **options: Any) -> Any:
            store = Blocking(target, **options) if face == "sync" else OnALoop(AsyncContextStore(target, **options))
            made.callback(store.dispose)
            return store

        yield make_one


def run_in_child(job: Callable[[], Any], before: Callable[[], None] = lambda: None) -> Any:
    """What ``job()`` returns or raises in a forked child, or the signal that killed it, as a negative number.

    Forked and not started anew: a child without rights may not be able to read the interpreter.
    """
    with ContextStore(":memory:") as store:  # whatever is imported late is imported now
        store.list_keys("run")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            before()
            try:
                answer = (True, job())
            except Exception as error:
                traceback.print_exc()
                answer = (False, error)
            os.write(writing, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answered = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not answered:
        return status
    succeeded, result = pickle.loads(answered)
    if not succeeded:
        raise result
    return result


def _become_nobody() -> None:
    if os.getuid() == 0:  # root ignores permissions
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


as_nobody = functools.partial(run_in_child, before=_become_nobody)


def seen_in(folder: pathlib.Path) -> dict[str, tuple[int, Any]]:
    """Everything in the folder: modes and contents."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def left_as_it_was(folder: pathlib.Path) -> Iterator[None]:
    """The block changes no file in the folder, and leaves none there. A lock file may get another stamp."""
    before = seen_in(folder)
    yield
    after = seen_in(folder)
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name] and not name.endswith("-lock")] == []


def refused(make: Make, target: Any, error: type[ContextStoreError], match: str, **options: Any) -> ContextStoreError:
    """Opening raises this, and so does the next call."""
    store = make(target, **options)
    with pytest.raises(error, match=match) as caught:
        store.open()
    assert type(caught.value) is error
    with pytest.raises(error, match=match):
        store.get("run", "node")
    store.close()
    return caught.value


def plain(path: Any) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def make_sample(path: Any, outputs: int = 40) -> dict[str, Any]:
    """A store of some pages. Returns what is in it, by node of the run "run"."""
    expected: dict[str, Any] = {f"node-{i:03}": {"i": i, "text": f"{i:03}" * 100} for i in range(outputs)}
    expected["bytes"] = b"\x00\x01" * 5000
    with ContextStore(path) as store:
        store.put_many("run", expected)
        store.put_global("key", {"global": True})
    return expected


def names_in(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


ALL_FILES = ["store.db", "store.db-lock", "store.db-shm", "store.db-wal"]


def contents(path: pathlib.Path) -> list[str]:
    with plain(path) as connection:
        connection.text_factory = lambda text: text.decode(errors="backslashreplace")
        (version,) = connection.execute("PRAGMA user_version").fetchall()[0]
        dump = [line for line in connection.iterdump() if "sqlite_sequence" not in line]  # it counts refused puts too
        return [f"version {version}", *dump]


@contextlib.contextmanager
def mode_of(path: pathlib.Path, mode: int) -> Iterator[None]:
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


def _open(path: pathlib.Path) -> None:
    with ContextStore(path):
        pass

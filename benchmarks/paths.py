"""The path of a call: which functions of the package run for it, in all threads, until it has answered.

- A call is a function's. A coroutine that goes on counts as called again; lambdas and comprehensions do not count,
  which some Pythons run within their function and others do not.
- A change of file is a call whose file is not that of the call before it, in whatever thread that was.
- Every call has been made before with other keys, so that all that is opened at the first of a kind is open.
- The other threads rest before each call of theirs. So the caller goes on the moment it may, the order of calls is the
  same each time, and what a thread tidies up after the answer is not counted.
- What a timer of an event loop starts is not counted: how often it does depends on how quick the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import contextstore
from contextstore import AsyncContextStore, ContextStore

PACKAGE = str(pathlib.Path(contextstore.__file__).parent)
TIMES = 7
REST = 0.001  # seconds
VALUE = {"rows": 3}


class Call(NamedTuple):
    file: str
    function: str
    line: int


class Recorder:
    """Writes down the calls of the package's functions, while it is told to."""

    def __init__(self) -> None:
        self.paths: list[list[Call]] = []
        self._path: list[Call] | None = None
        self._caller = 0

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """In this thread, and in those that are started meanwhile."""
        self._caller = threading.get_ident()
        before, before_of_new = sys.getprofile(), threading.getprofile()
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(before_of_new)

    @contextlib.contextmanager
    def path(self) -> Iterator[None]:
        path: list[Call] = []
        self._path = path
        try:
            yield
        finally:
            self._path = None
        self.paths.append(path)
        time.sleep(0.02)  # for what comes after the answer

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if (path := self._path) is None or event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<") and not _is_of_timer(frame):
            if threading.get_ident() != self._caller:
                time.sleep(REST)
            if self._path is path:
                path.append(Call(code.co_filename, code.co_qualname, code.co_firstlineno))


def _is_of_timer(frame: FrameType) -> bool:
    caller: FrameType | None = frame
    while caller is not None and caller.f_code is not asyncio.Handle._run.__code__:
        caller = caller.f_back
    return caller is not None and isinstance(caller.f_locals["self"], asyncio.TimerHandle)


def figures(paths: list[list[Call]]) -> dict[str, float]:
    return {
        "calls": statistics.median(map(len, paths)),
        "functions": statistics.median(len(set(path)) for path in paths),
        "files": statistics.median(len({call.file for call in path}) for path in paths),
        "changes_of_file": statistics.median(
            sum(one.file != other.file for one, other in itertools.pairwise(path)) for path in paths
        ),
    }


def measure() -> dict[str, dict[str, float]]:
    """For each of the calls: how many calls, functions, files and changes of file its path has."""
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "flows.db")
        for face, call in (("async", _of_async_face), ("sync", _of_sync_face)):
            put, get = Recorder(), Recorder()
            with put.installed():
                call(path, f"{face} put", put)
            with get.installed():
                call(path, f"{face} put", get, is_get=True)
            measured |= {f"{face} put": figures(put.paths), f"{face} get, cold": figures(get.paths)}
    return measured


def _of_async_face(path: pathlib.Path, run: str, recorder: Recorder, is_get: bool = False) -> None:
    async def calls() -> None:
        async with AsyncContextStore(path) as store:
            for number in range(2 * TIMES):
                with recorder.path() if number >= TIMES else contextlib.nullcontext():
                    if is_get:
                        await store.get(run, f"node {number}")
                    else:
                        await store.put(run, f"node {number}", VALUE)

    asyncio.run(calls())


def _of_sync_face(path: pathlib.Path, run: str, recorder: Recorder, is_get: bool = False) -> None:
    with ContextStore(path) as store:
        for number in range(2 * TIMES):
            with recorder.path() if number >= TIMES else contextlib.nullcontext():
                if is_get:
                    store.get(run, f"node {number}")
                else:
                    store.put(run, f"node {number}", VALUE)


def modules_of(path: list[Call]) -> list[str]:
    """The modules that a path comes through, as ``folder/name``, in the order in which it first comes there."""
    files = dict.fromkeys(call.file for call in path)
    return [str(pathlib.Path(file).relative_to(PACKAGE).with_suffix("")) for file in files]


def awaited(is_get: bool = False) -> list[str]:
    """The modules that most awaited puts, or cold gets, of a store in a file come through."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "flows.db")
        recorder = Recorder()
        with recorder.installed():
            _of_async_face(path, "run", Recorder() if is_get else recorder)
        if is_get:
            with recorder.installed():
                _of_async_face(path, "run", recorder, is_get=True)
        return list(statistics.mode(tuple(modules_of(path)) for path in recorder.paths))
